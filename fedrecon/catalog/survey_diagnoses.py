"""Rows of the review's applications that diagnose from images (its Table 1)."""

from fedrecon.catalog.commands import on_densities, on_slides, trained
from fedrecon.catalog.entry import Entry
from fedrecon.federated.methods.baid import baid
from fedrecon.federated.methods.banerjee import banerjee
from fedrecon.federated.methods.label_counts import exchange_counts
from fedrecon.federated.methods.priya import priya
from fedrecon.federated.methods.roth import roth
from fedrecon.federated.methods.wei import wei
from fedrecon.tasks import class_scores_task, ordered_task

_ROTH = "tests/federated/test_roth.py::test_"
_SLIDES = "tests/data/test_histology.py::test_"
_BANERJEE = "tests/federated/test_banerjee.py::test_"
_COUNTS = "tests/federated/test_label_counts.py::test_"

SURVEY_DIAGNOSES = (
    Entry(
        "baid",
        baid,
        "Baid et al. 2022, arXiv:2203.16622",
        "nothing in the rounds: tiles of slides, clients that are organs, and maps of whole slides",
        survey_row="Baid",
        tests=(
            _SLIDES + "each_pixel_of_tissue_is_in_one_tile_and_background_in_none",
            _SLIDES + "probabilities_of_tiles_are_a_map_of_the_slide",
            _SLIDES + "tiles_of_a_slide_are_of_one_client_and_one_part",
            _SLIDES + "stains_are_normalized_by_slide",
            _SLIDES + "federated_areas_are_those_of_pooled_tiles",
        ),
        command=on_slides("baid", "--optimizer=adam --learning_rate=0.003"),
        needs=("classification",),
        task=class_scores_task,
    ),
    Entry(
        "banerjee",
        banerjee,
        "Banerjee et al. 2020, Multi-diseases Classification from Chest-X-ray, Australasian AI Conference",
        "clients descend with momentum from a pretrained network with a new head",
        survey_row="Banerjee",
        tests=(
            _BANERJEE + "rounds_are_those_of_momentum",
            _BANERJEE + "a_related_start_reaches_the_target_in_no_more_rounds",
            "tests/training/test_initial.py::test_a_new_head_is_drawn_and_the_rest_is_the_model_s",
            "tests/tasks/test_grad_cam.py::test_of_a_linear_layer_it_is_the_class_activation_map",
        ),
        command=trained(
            "banerjee",
            "--task=classification --cohort=pneumonia --partition=quantity --concentration=10 --clients=4",
            "--learning_rate=0.01 --initialize_from=RUN --new_head",
        ),
        rate="learning_rate",
        needs=("classification",),
    ),
    Entry(
        "roth",
        roth,
        "Roth et al. 2020, arXiv:2009.01871",
        "clients weigh by their iterations and keep their best local model, by kappa of ordered classes",
        survey_row="Roth",
        tests=(
            _ROTH + "models_are_averaged_by_iterations",
            _ROTH + "clients_keep_the_round_with_the_best_score",
            _ROTH + "federated_models_agree_better_at_other_sites_than_local_ones",
            "tests/tasks/test_further_metrics.py::test_kappa_is_that_of_the_definition",
            "tests/evaluation/test_cross_site.py::test_the_matrix_is_of_models_and_sites",
            "tests/evaluation/test_cross_site.py::test_distances_of_classes_cost_linearly",
        ),
        command=on_densities("roth", "--optimizer=adam --learning_rate=0.003"),
        needs=("classification", "validation"),
        personal=True,
        task=ordered_task,
    ),
    Entry(
        "wei",
        wei,
        "Wei et al., reference 19 of Liu, Dai and Chen 2025, the review",
        "classes weigh alike in the cross-entropy, by their numbers at a client or at all",
        survey_row="Wei",
        tests=(
            _COUNTS + "classes_weigh_alike",
            _COUNTS + "counts_are_exchanged_once",
            _COUNTS + "steps_of_wei_are_those_of_the_weighted_loss",
            "tests/tasks/test_further_metrics.py::test_scores_of_classes_are_those_of_pairs_and_counts",
        ),
        command=trained(
            "wei",
            "--task=classification --cohort=xray_pathogens",
            "--optimizer=adam --learning_rate=0.003 --algorithm.prior=global",
        ),
        needs=("classification", "exchanged"),
        linear=False,
        task=class_scores_task,
        before=exchange_counts,
    ),
    Entry(
        "priya",
        priya,
        "Priya and Peter 2022, Complex and Intelligent Systems 8:3121",
        "positives and negatives of every finding weigh alike, by their numbers at a client or at all",
        survey_row="Priya",
        tests=(
            _COUNTS + "positives_weigh_as_much_as_negatives",
            _COUNTS + "a_prior_of_one_half_is_half_the_plain_loss",
            _COUNTS + "counts_are_exchanged_once",
            _COUNTS + "steps_of_priya_are_those_of_the_weighted_loss",
            _COUNTS + "a_rare_finding_is_recalled_more_often_at_an_equal_area",
        ),
        command=trained(
            "priya",
            "--task=fedrecon.tasks.findings:several_findings_task --cohort=xray_findings",
            "--optimizer=adam --learning_rate=0.003 --algorithm.prior=global",
        ),
        needs=("exchanged",),
        linear=False,
        before=exchange_counts,
    ),
)
