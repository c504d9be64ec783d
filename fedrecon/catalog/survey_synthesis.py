"""Rows of the review's applications that make up for labels: pseudo-labels and simulated pairs."""

from fedrecon.catalog.commands import on_hearts
from fedrecon.catalog.entry import Entry
from fedrecon.federated.methods.fedsim import augmented_task, fedsim, simulate
from fedrecon.federated.methods.pan import pan

_FEDSIM = "tests/federated/test_fedsim.py::test_"
_PAN = "tests/federated/test_pan.py::test_"

FEW_LABELS = (
    Entry(
        "pan",
        pan,
        "Pan, Zhong and Li 2024, Computer Engineering 50:367, 10.19678/j.issn.1000-3428.0068283",
        "images without labels get those of the received model where it is sure, and its features lead",
        survey_row="Pan",
        tests=(
            _PAN + "the_objective_is_that_of_the_equations",
            _PAN + "without_strength_it_is_supervised_fedavg_bit_for_bit",
            _PAN + "without_a_sure_pixel_there_is_nothing_to_learn",
            _PAN + "no_gradient_reaches_the_received_model",
            _PAN + "a_round_is_that_of_numpy",
            "tests/models/test_separated_unet.py::test_masks_are_disjoint_after_the_likeliest_has_won",
            "tests/models/test_separated_unet.py::test_a_decoder_learns_of_its_own_structure_alone",
        ),
        command=on_hearts(
            "pan",
            "--partition=quantity --clients=4 --network=separated-unet --pools=3 --optimizer=adam"
            " --learning_rate=0.003 --algorithm.labeled=0.1",
        ),
        needs=("clients", "rounds", "features", "segmentation"),
    ),
    Entry(
        "fedsim",
        fedsim,
        "Li, Kar, Ravikumar, Frangi and Fidler 2020, MICCAI, arXiv:2009.00668",
        "all learn shapes and materials, each its own renderer, and then also from simulated labeled pairs",
        survey_row="Fed-Sim",
        tests=(
            _FEDSIM + "shapes_and_materials_are_sent_and_nothing_else",
            _FEDSIM + "renderers_discriminators_pairs_and_images_are_in_no_message",
            _FEDSIM + "after_a_round_all_have_the_same_shapes_and_renderers_of_their_own",
            _FEDSIM + "renderers_show_their_sites_intensities",
            _FEDSIM + "half_of_what_is_trained_on_is_simulated",
            _FEDSIM + "without_samples_it_is_fedavg_bit_for_bit",
            "tests/alignment/test_simulators.py::test_the_game_is_that_of_least_squares",
            "tests/alignment/test_shape_models.py::test_between_two_kinds_of_shape_it_draws_what_is_neither",
            "tests/evaluation/test_memorization.py::test_copies_are_found_and_chance_is_not",
        ),
        command=on_hearts(
            "fedsim", "--partition=quantity --clients=4 --optimizer=adam --learning_rate=0.003"
        ),
        needs=("segmentation",),
        linear=False,
        personal=True,
        task=augmented_task,
        before=simulate,
    ),
)
