"""Rows of the algorithms in the review of Liu, Dai and Chen 2025 (its Table 2, improved algorithms)."""

from fedrecon.catalog.commands import on_radiographs
from fedrecon.catalog.entry import Entry
from fedrecon.federated.methods.fedcl import fedcl

SURVEY_ALGORITHMS = (
    Entry(
        "fedcl",
        fedcl,
        "Liu et al. 2023, Pattern Recognition 143:109739",
        "representations are drawn to the global model's and away from those of the global model before",
        survey_row="FedCL",
        tests=(
            "tests/federated/test_fedcl.py::test_the_negative_is_the_model_received_in_the_round_before",
            "tests/federated/test_fedcl.py::test_equal_models_give_log_two_and_no_gradient",
            "tests/federated/test_fedcl.py::test_nothing_is_sent_but_the_model",
            "tests/federated/test_fedcl.py::test_the_second_round_differs_from_averaging",
        ),
        command=on_radiographs("fedcl"),
        needs=("represent",),
    ),
)
