"""What makes images and representations of different sites alike: pure functions of arrays.

Frequency space: amplitudes of images are swapped, mixed and averaged, phases stay. Contrast: InfoNCE with
several positives, banks of representations with tags, momentum encoders. Adversarial games:
discriminators and those whom they judge, with an optimizer each; generators of images, and translators from
one site to another; simulators of labeled images, and statistical shape models.
Representations: their dissimilarities, and Gaussians that stand for them. Intensities: moments and
percentiles of all sites from those of each.
"""

from fedrecon.alignment.adversarial import (
    Domain,
    Player,
    critic_loss,
    discriminated,
    domain_loss,
    gradient_penalty,
    misled,
    moved,
    new_perceptron,
    new_player,
    perceptron,
)
from fedrecon.alignment.boundaries import boundary_contrast, boundary_rings
from fedrecon.alignment.contrast import Bank, Contrast, empty_bank, info_nce, momentum, pushed, unit
from fedrecon.alignment.frequency import amplitude, frequency_window, shared_amplitudes, with_amplitude
from fedrecon.alignment.generation import selected, train_generator
from fedrecon.alignment.intensities import (
    Intensities,
    not_above,
    pooled_intensities,
    pooled_percentiles,
    site_intensities,
)
from fedrecon.alignment.representations import (
    dissimilarities,
    gaussian_draws,
    rank_correlation,
    signed_power,
)
from fedrecon.alignment.shape_models import ShapeModel, shape_model, signed_distances
from fedrecon.alignment.simulators import (
    PRIVATE_PARTS,
    SHARED_PARTS,
    new_simulator,
    simulated_pairs,
    simulator_losses,
)
from fedrecon.alignment.translation import new_translator, train_translator, translated

__all__ = [
    "PRIVATE_PARTS",
    "SHARED_PARTS",
    "Bank",
    "Contrast",
    "Domain",
    "Intensities",
    "Player",
    "ShapeModel",
    "amplitude",
    "boundary_contrast",
    "boundary_rings",
    "critic_loss",
    "discriminated",
    "dissimilarities",
    "domain_loss",
    "empty_bank",
    "frequency_window",
    "gaussian_draws",
    "gradient_penalty",
    "info_nce",
    "misled",
    "momentum",
    "moved",
    "new_perceptron",
    "new_player",
    "new_simulator",
    "new_translator",
    "not_above",
    "perceptron",
    "pooled_intensities",
    "pooled_percentiles",
    "pushed",
    "rank_correlation",
    "selected",
    "shape_model",
    "shared_amplitudes",
    "signed_distances",
    "signed_power",
    "simulated_pairs",
    "simulator_losses",
    "site_intensities",
    "train_generator",
    "train_translator",
    "translated",
    "unit",
    "with_amplitude",
]
