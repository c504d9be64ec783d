"""Rows of the review's applications, which apply federated averaging to a clinical task (its Table 1)."""

from fedrecon.catalog.commands import on_radiographs
from fedrecon.catalog.entry import Entry
from fedrecon.federated.methods.fedvss import fedvss

_FEDVSS = "tests/federated/test_fedvss.py::test_"

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
)
