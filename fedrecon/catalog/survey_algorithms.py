"""Rows of the algorithms in the review of Liu, Dai and Chen 2025 (its Table 2, improved algorithms)."""

from fedrecon.catalog.commands import on_radiographs, on_retina
from fedrecon.catalog.entry import Entry
from fedrecon.federated.methods.fedcl import fedcl
from fedrecon.federated.methods.feddg import feddg
from fedrecon.federated.methods.spectra import exchange_spectra

SURVEY_ALGORITHMS = (
    Entry(
        "feddg",
        feddg,
        "Liu et al. 2021, CVPR, arXiv:2103.06030",
        "steps also see images with amplitudes of other sites, and contrast what is at boundaries",
        survey_row="FedDG",
        tests=(
            "tests/federated/test_feddg.py::test_amplitudes_are_mixed_inside_the_window_and_phases_stay",
            "tests/federated/test_feddg.py::test_a_step_is_that_of_the_equations_in_first_order",
            "tests/federated/test_feddg.py::test_alone_it_is_averaging_with_gradients_counted_twice",
            "tests/federated/test_feddg.py::test_spectra_are_sent_once_and_are_those_of_the_window_alone",
            "tests/alignment/test_boundaries.py::test_the_contrast_is_the_published_one",
        ),
        command=on_retina("feddg"),
        needs=("maps", "exchanged", "segmentation"),
        linear=False,
        before=exchange_spectra,
    ),
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
