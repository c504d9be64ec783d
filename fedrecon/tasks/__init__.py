"""Tasks: what is learned, as pure functions, with losses and metrics."""

from fedrecon.tasks.activation_maps import grad_cam
from fedrecon.tasks.classification import classification_task
from fedrecon.tasks.configuration import Fingerprint, configure, fingerprint
from fedrecon.tasks.contrastive import contrastive_task
from fedrecon.tasks.denoising import denoising_task
from fedrecon.tasks.diagnosis import classification_metrics
from fedrecon.tasks.features import bottleneck, layer_features
from fedrecon.tasks.findings import findings_task
from fedrecon.tasks.fingerprints import Configured, configured
from fedrecon.tasks.further_metrics import class_scores_task, ordered_task
from fedrecon.tasks.image_quality import reconstruction_metrics, ssim, volume_scores
from fedrecon.tasks.joint import GROUPS, MODES, joint_task
from fedrecon.tasks.labels import check_labels
from fedrecon.tasks.masked import masked_autoencoding_task
from fedrecon.tasks.massive_training import massive_training_task
from fedrecon.tasks.mixtures import mixture_of_experts
from fedrecon.tasks.module import LOSSES, metric_names, module_task
from fedrecon.tasks.network import map_chunks
from fedrecon.tasks.noise_levels import noise_deviation, noise_level
from fedrecon.tasks.overlap import dice, distance_transform, hausdorff95, segmentation_metrics, surface_dice
from fedrecon.tasks.patches import sliding_window
from fedrecon.tasks.prototypes import nearest_prototype
from fedrecon.tasks.readings import Reading, classification_reading, segmentation_reading
from fedrecon.tasks.reconstruction import (
    ct_measure,
    measure_of,
    mri_measure,
    random_mirrors,
    reconstruction_task,
)
from fedrecon.tasks.reconstruction_losses import RECONSTRUCTION_LOSSES
from fedrecon.tasks.regions import without_absent_classes
from fedrecon.tasks.routing import routed_adaptation
from fedrecon.tasks.scores import lower_is_better, means
from fedrecon.tasks.segmentation import segmentation_task
from fedrecon.tasks.segmentation_losses import (
    boundary_distances,
    segmentation_loss,
)
from fedrecon.tasks.site_heads import site_task
from fedrecon.tasks.surgery import without_batch_normalization
from fedrecon.tasks.survival import concordance, cox_task
from fedrecon.tasks.unit_scores import unit_score
from fedrecon.tasks.variational import variational_autoencoding_task

__all__ = [
    "GROUPS",
    "LOSSES",
    "MODES",
    "RECONSTRUCTION_LOSSES",
    "Configured",
    "Fingerprint",
    "Reading",
    "bottleneck",
    "boundary_distances",
    "check_labels",
    "class_scores_task",
    "classification_metrics",
    "classification_reading",
    "classification_task",
    "concordance",
    "configure",
    "configured",
    "contrastive_task",
    "cox_task",
    "ct_measure",
    "denoising_task",
    "dice",
    "distance_transform",
    "findings_task",
    "fingerprint",
    "grad_cam",
    "hausdorff95",
    "joint_task",
    "layer_features",
    "lower_is_better",
    "map_chunks",
    "masked_autoencoding_task",
    "massive_training_task",
    "means",
    "measure_of",
    "metric_names",
    "mixture_of_experts",
    "module_task",
    "mri_measure",
    "nearest_prototype",
    "noise_deviation",
    "noise_level",
    "ordered_task",
    "random_mirrors",
    "reconstruction_metrics",
    "reconstruction_task",
    "routed_adaptation",
    "segmentation_loss",
    "segmentation_metrics",
    "segmentation_reading",
    "segmentation_task",
    "site_task",
    "sliding_window",
    "ssim",
    "surface_dice",
    "unit_score",
    "variational_autoencoding_task",
    "volume_scores",
    "without_absent_classes",
    "without_batch_normalization",
]
