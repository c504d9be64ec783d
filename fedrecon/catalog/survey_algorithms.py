"""Rows of the algorithms in the review of Liu, Dai and Chen 2025 (its Table 2, improved algorithms)."""

from fedrecon.catalog.commands import on_radiographs, on_retina
from fedrecon.catalog.entry import Entry
from fedrecon.catalog.survey_contrast import CONTRASTIVE
from fedrecon.federated.methods.fedcl import fedcl
from fedrecon.federated.methods.feddg import feddg
from fedrecon.federated.methods.fl_mrcm import fl_mrcm
from fedrecon.federated.methods.li_moe import li_moe
from fedrecon.federated.methods.spectra import exchange_spectra
from fedrecon.tasks import mixture_of_experts

_LI = "tests/federated/test_li_moe.py::test_"
_MRCM = "tests/federated/test_fl_mrcm.py::test_"

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
    Entry(
        "li_moe",
        li_moe,
        "Li X. et al. 2020, Medical Image Analysis 65:101765, arXiv:2001.05647",
        "noisy uploads, a private expert that a private gate mixes in, encoders that hide their site",
        survey_row="Li-MoE",
        tests=(
            _LI + "with_nothing_of_it_it_is_averaging_bit_for_bit",
            _LI + "what_is_uploaded_differs_from_the_model_by_the_noise",
            _LI + "the_gate_decides_between_the_network_and_the_expert",
            _LI + "gradients_are_those_of_the_equations",
            _LI + "expert_gate_and_images_are_in_no_message",
            _LI + "a_step_hides_the_site_as_the_equations_say",
            _LI + "a_fresh_probe_tells_the_sites_apart_less_well_at_the_same_accuracy",
            "tests/experiments/test_alignment.py::test_li_moe_classifies_with_experts_of_its_own",
        ),
        command=on_radiographs("li_moe"),
        needs=("clients", "represent", "example", "classification"),
        linear=False,
        personal=True,
        releases=False,
        task=mixture_of_experts,
    ),
    Entry(
        "fl_mrcm",
        fl_mrcm,
        "Guo et al. 2021, CVPR, arXiv:2103.02148",
        "source sites align the latents of their reconstructions with those of a target site",
        survey_row="FL-MRCM",
        tests=(
            _MRCM + "without_strength_it_is_averaging_bit_for_bit",
            _MRCM + "a_step_is_that_of_the_published_equations",
            _MRCM + "steps_of_one_side_leave_the_other_as_it_was",
            _MRCM + "the_target_trains_on_the_loss_alone",
            _MRCM + "no_image_is_in_a_message",
            _MRCM + "a_fresh_probe_tells_the_sites_apart_less_well",
            "tests/experiments/test_alignment.py::test_fl_mrcm_reconstructs_across_scanners",
        ),
        command=(
            "experiments.train_federated --workdir=runs/fl_mrcm --task=reconstruction "
            "--cohort=simulated_mri --algorithm=fl_mrcm"
        ),
        needs=("clients", "represent", "example", "reconstruction"),
        linear=False,
    ),
    *CONTRASTIVE,
)
