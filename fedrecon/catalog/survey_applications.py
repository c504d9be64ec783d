"""Rows of the review's applications, which apply federated averaging to a clinical task (its Table 1)."""

from fedrecon.catalog.commands import on_clinical_ct, on_radiographs, on_retina
from fedrecon.catalog.entry import Entry
from fedrecon.catalog.survey_segmentations import SEGMENTATIONS
from fedrecon.catalog.survey_synthesis import FEW_LABELS
from fedrecon.federated.methods.fedvss import fedvss
from fedrecon.federated.methods.nalawade import nalawade
from fedrecon.federated.methods.yang import yang
from fedrecon.tasks import massive_training_task

_FEDVSS = "tests/federated/test_fedvss.py::test_"
_NALAWADE = "tests/federated/test_nalawade.py::test_"
_YANG = "tests/tasks/test_massive_training.py::test_"

SURVEY_APPLICATIONS = (
    Entry(
        "fedvss",
        fedvss,
        "Zhu and Luo 2022, Federated Medical Image Analysis with Virtual Sample Synthesis, MICCAI",
        "clients also train on virtual samples, where their model is least smooth and the shared one surer",
        survey_row="FedVSS",
        tests=(
            _FEDVSS + "the_objective_is_that_of_the_equations",
            _FEDVSS + "samples_lie_at_their_radii",
            _FEDVSS + "predictions_change_more_than_in_a_random_direction",
            _FEDVSS + "the_received_model_is_surer_of_its_samples",
            _FEDVSS + "no_gradient_reaches_the_received_model",
            _FEDVSS + "without_weights_it_is_fedavg_bit_for_bit",
        ),
        command=on_radiographs("fedvss", "--optimizer=adam --learning_rate=0.003"),
        needs=("classification",),
    ),
    Entry(
        "nalawade",
        nalawade,
        "Nalawade et al. 2022, FeTS challenge task 1, as reviewed by Liu, Dai and Chen 2025",
        "weights by the validation scores of locally trained models",
        survey_row="Nalawade",
        tests=(
            _NALAWADE + "the_mean_is_that_of_the_equations",
            _NALAWADE + "equal_scores_weigh_the_same_and_none_weighs_nothing",
            _NALAWADE + "who_scores_nothing_leaves_no_trace",
            _NALAWADE + "scores_are_of_the_trained_model_on_the_validation_split",
            _NALAWADE + "by_sizes_alone_it_is_fedavg_bit_for_bit",
            _NALAWADE + "a_client_with_false_targets_weighs_least_and_the_mean_is_nearer_to_the_truth",
        ),
        command=on_retina("nalawade", "--optimizer=adam --learning_rate=0.003"),
        needs=("score", "validation", "classification", "segmentation"),
        fixes=("weighting",),
    ),
    Entry(
        "yang",
        yang,
        "Yang et al. 2022, Federated Tumor Segmentation with Patch-Wise Deep Learning Model, MLMI",
        "a small network of patches, which finds the likelihood of their centers, in place of a U-Net",
        survey_row="Yang",
        tests=(
            _YANG + "centers_of_patches_are_the_image",
            _YANG + "a_linear_network_recovers_a_convolution",
            _YANG + "training_ends_at_the_least_squares_of_its_patches",
            _YANG + "the_network_at_every_pixel_is_that_of_each_patch",
            _YANG + "uploads_are_less_than_a_hundredth_of_a_unets",
        ),
        command=on_clinical_ct(
            "yang",
            "--optimizer=adam --learning_rate=0.01 --epochs=4 --rounds=200 --algorithm.hidden=50"
            " --algorithm.layers=2",
        ),
        needs=("segmentation",),
        task=massive_training_task,
    ),
    *SEGMENTATIONS,
    *FEW_LABELS,
)
