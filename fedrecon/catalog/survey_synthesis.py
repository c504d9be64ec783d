"""Rows of the review's applications that make up for labels: pseudo-labels and simulated pairs."""

from fedrecon.catalog.commands import on_hearts
from fedrecon.catalog.entry import Entry
from fedrecon.federated.methods.pan import pan

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
)
