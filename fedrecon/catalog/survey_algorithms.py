"""Rows of the algorithms in the review of Liu, Dai and Chen 2025 (its Table 2, improved algorithms)."""

from fedrecon.catalog.commands import on_radiographs, on_retina
from fedrecon.catalog.entry import Entry
from fedrecon.catalog.survey_contrast import CONTRASTIVE
from fedrecon.federated.methods.fedacs import fedacs
from fedrecon.federated.methods.fedcl import fedcl
from fedrecon.federated.methods.feddg import feddg
from fedrecon.federated.methods.fednorm import fednorm
from fedrecon.federated.methods.fl_mrcm import fl_mrcm
from fedrecon.federated.methods.ji import ji
from fedrecon.federated.methods.li_moe import li_moe
from fedrecon.federated.methods.spectra import exchange_spectra
from fedrecon.federated.methods.tuladhar import tuladhar
from fedrecon.tasks import mixture_of_experts

_LI = "tests/federated/test_li_moe.py::test_"
_MRCM = "tests/federated/test_fl_mrcm.py::test_"

SURVEY_ALGORITHMS = (
    Entry(
        "tuladhar",
        tuladhar,
        "Tuladhar et al. 2022, as reviewed by Liu, Dai and Chen 2025, filled in",
        "less local work and lower rates by round; weights by size, validation score and distance",
        survey_row="Tuladhar",
        tests=(
            "tests/federated/test_tuladhar.py::test_of_examples_alone_it_is_fedavg_bit_for_bit",
            "tests/federated/test_tuladhar.py::test_steps_are_those_of_the_table",
            "tests/federated/test_tuladhar.py::test_the_optimizer_sees_the_rate_of_the_round",
            "tests/federated/test_tuladhar.py::test_weights_are_means_of_shares",
            "tests/federated/test_tuladhar.py::test_an_outlier_weighs_less_by_its_distance",
            "tests/federated/test_tuladhar.py::test_a_round_is_that_of_the_equations",
        ),
        command=on_retina("tuladhar", "--optimizer=adam --epochs=2 --learning_rate=0.003"),
        needs=("score", "validation", "classification", "segmentation"),
        fixes=("reduce",),
        linear=False,
    ),
    Entry(
        "ji",
        ji,
        "Ji et al. 2021, as reviewed by Liu, Dai and Chen 2025, filled in",
        "clients whose rounds take longer than the mean are left out; attention in the network",
        survey_row="Ji",
        tests=(
            "tests/federated/test_ji.py::test_equal_times_are_fedavg_bit_for_bit",
            "tests/federated/test_ji.py::test_a_slow_client_is_left_out_and_rounds_are_shorter",
            "tests/federated/test_ji.py::test_the_set_is_never_empty_and_the_fastest_are_waited_for",
            "tests/federated/test_ji.py::test_the_rule_by_hand",
            "tests/models/test_named_networks.py::test_cbam_weighs_channels_and_then_pixels",
            "tests/models/test_named_networks.py::test_gates_of_cbam",
        ),
        command=on_radiographs("ji", "--network=resnet18-cbam --clock=wait --clock.speed_spread=1"),
        fixes=("sampler",),
    ),
    Entry(
        "fednorm",
        fednorm,
        "FedNorm, FeTS challenge 2021, as reviewed by Liu, Dai and Chen 2025, filled in",
        "FedNova of clients that are not slow, which adapt normalization layers to their test images",
        survey_row="FedNorm",
        tests=(
            "tests/federated/test_fednorm.py::test_the_update_is_the_normalized_sum_of_gradients",
            "tests/federated/test_fednorm.py::test_without_pruning_it_is_fednova_and_with_equal_steps_fedavg",
            "tests/federated/test_fednorm.py::test_tensors_of_unit_length_have_the_mean_length",
            "tests/federated/test_fednorm.py::test_pruning_raises_the_convergence_score",
            "tests/federated/test_fednorm.py::test_entropy_falls_at_test_time_and_other_leaves_stay",
            "tests/evaluation/test_clocks.py::test_the_convergence_score_is_the_area_under_the_best_so_far",
            "tests/evaluation/test_clocks.py::"
            "test_the_convergence_score_of_a_constant_is_itself_and_faster_is_no_worse",
        ),
        command=on_retina("fednorm", "--learning_rate=0.05 --clock=wait --clock.speed_spread=1"),
        needs=("classification", "segmentation"),
        rate="learning_rate",
        fixes=("sampler",),
        personal=True,
    ),
    Entry(
        "fedacs",
        fedacs,
        "Gu et al. 2022, as reviewed by Liu, Dai and Chen 2025, filled in",
        "clients of a low loss take part first, harder ones as rounds go on",
        survey_row="FedACS",
        tests=(
            "tests/federated/test_fedacs.py::test_everybody_without_preference_is_fedavg_bit_for_bit",
            "tests/federated/test_fedacs.py::"
            "test_without_preference_draws_are_in_proportion_to_sizes_without_replacement",
            "tests/federated/test_fedacs.py::test_the_pool_grows_from_the_easiest_to_all",
            "tests/federated/test_fedacs.py::test_chances_fall_with_difficulty_and_turn_round",
            "tests/federated/test_fedacs.py::"
            "test_a_client_of_noisy_labels_comes_late_and_early_rounds_are_better",
            "tests/federated/test_fedacs.py::test_unbiased_weights_are_sizes_over_chances",
        ),
        command=on_radiographs("fedacs"),
        needs=("sizes", "rounds"),
        fixes=("sampler", "weighting"),
        linear=False,
    ),
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
