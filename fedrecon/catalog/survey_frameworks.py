"""Rows of the frameworks in the review of Liu, Dai and Chen 2025 (its Table 2, improved frameworks)."""

from fedrecon import communication, privacy
from fedrecon.catalog.commands import on_radiographs, on_retina
from fedrecon.catalog.entry import Entry
from fedrecon.federated.methods.braintorrent import braintorrent
from fedrecon.federated.methods.elayan import elayan
from fedrecon.federated.methods.fedbiomed import fedbiomed
from fedrecon.federated.methods.fedce import fedce
from fedrecon.federated.methods.harmofl import harmofl, harmofl_scaffold
from fedrecon.federated.methods.iop_fl import iop_fl
from fedrecon.federated.methods.lc_fed import lc_fed
from fedrecon.federated.methods.mean_amplitude import mean_amplitude, normalized_task
from fedrecon.federated.methods.prr_fl import prr_fl
from fedrecon.federated.methods.vafl import harmonize, harmonized_task, vafl
from fedrecon.tasks import site_task

_SERVER = ("server_optimizer",)
_BRAINTORRENT = "tests/federated/test_pulling.py::test_"
_FEDCE = "tests/federated/test_fedce.py::test_"
_IOP_FL = "tests/federated/test_iop_fl.py::test_"
_PRR_FL = "tests/federated/test_prr_fl.py::test_"

_VAFL = "tests/federated/test_vafl.py::test_"

SURVEY_FRAMEWORKS = (
    Entry(
        "feddropoutavg",
        communication.feddropoutavg,
        "Gunesli et al. 2021, arXiv:2111.13230",
        "some clients, and of each model some parameters at random, are left out of the mean",
        survey_row="FedDropoutAvg",
        tests=(
            "tests/federated/test_feddropoutavg.py::test_without_rates_it_is_fedavg_bit_for_bit",
            "tests/federated/test_feddropoutavg.py::test_equal_clients_are_not_shrunk",
            "tests/federated/test_feddropoutavg.py::test_what_both_of_two_drop_stays_exactly",
            "tests/federated/test_feddropoutavg.py::test_clients_take_part_with_the_rate_and_never_nobody",
        ),
        command=on_radiographs("feddropoutavg"),
        fixes=("sampler", "weighting", "channel"),
    ),
    Entry(
        "vafl",
        vafl,
        "Yan et al. 2021, IEEE Journal of Biomedical and Health Informatics 25:2615",
        "images are translated to the manner of synthetic ones of the client with the simplest images",
        survey_row="VAFL",
        tests=(
            _VAFL + "the_simplest_client_is_the_target_and_others_send_four_bytes",
            _VAFL + "without_samples_and_with_identities_it_is_averaging_bit_for_bit",
            _VAFL + "no_selected_sample_is_nearer_than_the_threshold",
            _VAFL + "gradients_of_single_examples_are_clipped_and_noised",
            _VAFL + "a_translator_is_the_identity_at_first_and_its_loss_is_by_hand",
            _VAFL + "translators_and_images_are_in_no_message",
            _VAFL + "translation_halves_the_distance_of_intensities",
            "tests/experiments/test_alignment.py::test_vafl_classifies_translated_images",
        ),
        command=on_radiographs("vafl"),
        needs=("classification",),
        linear=False,
        personal=True,
        releases=False,
        task=harmonized_task,
        before=harmonize,
    ),
    Entry(
        "harmofl",
        harmofl,
        "Jiang, Wang and Dou 2022, AAAI, arXiv:2112.10775",
        "images get the sites' mean amplitude, and gradients are those of perturbed weights",
        survey_row="HarmoFL",
        tests=(
            "tests/federated/test_harmofl.py::test_images_get_the_mean_amplitude_and_keep_their_phases",
            "tests/federated/test_harmofl.py::test_gain_and_offset_of_a_site_are_undone",
            "tests/federated/test_harmofl.py::test_steps_are_those_of_the_perturbed_gradient",
            "tests/federated/test_harmofl.py::test_without_both_parts_it_is_fedavg_bit_for_bit",
            "tests/federated/test_harmofl.py::test_one_round_is_that_of_the_equations",
        ),
        command=on_retina("harmofl"),
        needs=("segmentation", "classification"),
        fixes=("weighting",),
        linear=False,
        task=normalized_task,
        before=mean_amplitude,
    ),
    Entry(
        "harmofl_scaffold",
        harmofl_scaffold,
        "Jiang, Wang and Dou 2022, AAAI, arXiv:2112.10775; Karimireddy et al. 2020, ICML",
        "as harmofl, with the control variates of scaffold",
        needs=("segmentation", "classification"),
        rate="learning_rate",
        linear=False,
        task=normalized_task,
        before=mean_amplitude,
    ),
    Entry(
        "singh",
        privacy.singh,
        "Singh et al. 2022, Future Generation Computer Systems 129:380",
        "a tamper-evident ledger of the rounds, with gateways of devices; no number changes",
        survey_row="Singh",
        tests=(
            "tests/privacy/test_singh.py::test_the_numbers_are_those_of_averaging_bit_for_bit",
            "tests/privacy/test_singh.py::test_a_repeated_run_has_the_digests_of_the_record",
            "tests/privacy/test_singh.py::test_gateways_sign_the_roots_of_their_devices",
            "tests/privacy/test_singh.py::test_proofs_have_at_most_the_stated_length",
            "tests/privacy/test_chain.py::test_every_flipped_bit_is_found",
            "tests/privacy/test_checkpoints.py::test_witnesses_sign_no_record_that_was_rolled_back_or_forked",
        ),
        command=on_radiographs(
            "singh", "--rounds=4 --algorithm.ledger=runs/singh/rounds.jsonl --algorithm.gateways=2"
        ),
        needs=("clients",),
    ),
    Entry(
        "fedce",
        fedce,
        "Jiang et al. 2023, CVPR, arXiv:2303.16520",
        "clients weigh by what they contribute in gradient space and in data space",
        survey_row="FedCE",
        tests=(
            _FEDCE + "rounds_are_those_of_the_equations",
            _FEDCE + "the_minus_model_is_the_mean_of_the_others",
            _FEDCE + "equal_clients_stay_uniform",
            _FEDCE + "the_one_that_is_orthogonal_to_two_equal_ones_contributes_most",
            _FEDCE + "the_first_round_does_not_depend_on_scores",
        ),
        command=on_retina("fedce"),
        needs=("clients", "score", "validation", "classification", "segmentation"),
        fixes=("weighting", "channel", "reduce", *_SERVER),
        linear=False,
    ),
    Entry(
        "iop_fl",
        iop_fl,
        "Jiang et al. 2023, IEEE TMI 42:2106, arXiv:2204.08467",
        "clients also keep a personal model that follows the local one; unseen sites mix all of them",
        survey_row="IOP-FL",
        tests=(
            _IOP_FL + "personal_models_are_those_of_the_equation",
            _IOP_FL + "the_shared_model_is_that_of_averaging_bit_for_bit",
            "tests/tasks/test_routing.py::test_one_expert_alone_is_that_network",
            "tests/tasks/test_routing.py::test_each_example_has_its_own_kernel",
            "tests/tasks/test_routing.py::test_the_shape_term_is_zero_of_constants_and_grows_with_boundaries",
        ),
        command="experiments.leave_one_site_out --workdir=runs/iop_fl --task=segmentation --cohort=retina "
        "--data_dir=$FEDRECON_DATA --algorithm=iop_fl --adapt=routing",
        personal=True,
    ),
    Entry(
        "braintorrent",
        braintorrent,
        "Roy et al. 2019, arXiv:1905.06731",
        "no server: clients take turns and pull the models that are newer than what they have merged",
        survey_row="BrainTorrent",
        tests=(
            _BRAINTORRENT + "turns_are_those_of_the_algorithm",
            _BRAINTORRENT + "with_all_newer_the_merge_is_the_weighted_mean",
            _BRAINTORRENT + "with_nobody_newer_the_model_stays_bit_for_bit",
            _BRAINTORRENT + "who_is_away_stops_nobody",
        ),
        command=on_retina("braintorrent"),
        fixes=("weighting", "channel", "reduce", *_SERVER),
        linear=False,
        topology="braintorrent",
    ),
    Entry(
        "prr_fl",
        prr_fl,
        "Chen Z. et al. 2022, MICCAI, LNCS 13433",
        "clients share amplitudes of their kernels, and a deputy and a personal model teach each other",
        survey_row="PRR-FL",
        tests=(
            _PRR_FL + "rounds_are_those_of_the_equations",
            _PRR_FL + "stages_follow_the_table",
            _PRR_FL + "equal_clients_get_what_they_sent",
            _PRR_FL + "the_shared_part_grows_with_rounds_and_absent_clients_have_none",
            "tests/alignment/test_frequency.py::test_kernels_share_amplitudes_and_keep_phases",
        ),
        command=on_radiographs("prr_fl"),
        needs=("rounds", "score", "validation", "classification", "segmentation"),
        fixes=("weighting", "channel", "reduce", *_SERVER),
        linear=False,
        personal=True,
    ),
    Entry(
        "elayan",
        elayan,
        "Elayan et al. 2022, IEEE Internet of Things Journal 9:8566",
        "a frozen backbone, whose last block thaws later, and device images with labels of the model",
        survey_row="Elayan",
        tests=(
            "tests/federated/test_elayan.py::test_the_backbone_is_bit_identical_and_in_no_message",
            "tests/federated/test_elayan.py::test_the_last_block_rests_and_then_moves_at_a_tenth_of_the_rate",
            "tests/federated/test_elayan.py::test_above_any_probability_it_is_plain_fine_tuning",
            "tests/federated/test_elayan.py::test_no_class_exceeds_its_quota",
            "tests/federated/test_elayan.py::test_images_expire_and_may_enter_again",
            "tests/federated/test_elayan.py::test_guessed_labels_count_half",
        ),
        command=on_radiographs(
            "elayan", "--initialize_from=RUN --algorithm.unlabeled=0.5 --algorithm.unfreeze=5"
        ),
        needs=("head", "classification"),
    ),
    Entry(
        "fedbiomed",
        fedbiomed,
        "Silva et al. 2020, DART, LNCS 12444",
        "nodes with few examples are not available; with fedrecon.nodes, approved plans and owners' policies",
        survey_row="Fed-BioMed",
        tests=(
            "tests/nodes/test_nodes.py::test_a_change_of_one_character_is_refused_and_does_not_run",
            "tests/nodes/test_nodes.py::test_too_few_examples_are_unavailable",
            "tests/nodes/test_nodes.py::test_rounds_of_nodes_are_those_of_the_compiled_simulation",
            "tests/nodes/test_nodes.py::test_the_owner_caps_epochs_and_forces_noise",
            "tests/tasks/test_variational.py::test_federated_bounds_are_those_of_pooled_data",
        ),
        command="experiments.train_federated --workdir=runs/fedbiomed --cohort=xray --data_dir=$FEDRECON_DATA"
        " --task=fedrecon.tasks:variational_autoencoding_task --algorithm=fedbiomed --optimizer=adam"
        " --learning_rate=0.002",
    ),
    Entry(
        "lc_fed",
        lc_fed,
        "Wang et al. 2022, ECCV, arXiv:2207.04655",
        "channels are selected by site, and private heads are calibrated where those of others disagree",
        survey_row="LC-Fed",
        tests=(
            "tests/federated/test_lc_fed.py::test_channels_are_selected_by_the_equations",
            "tests/federated/test_lc_fed.py::test_heads_are_calibrated_by_the_equations",
            "tests/federated/test_lc_fed.py::test_heads_are_published_and_calibrations_stay",
            "tests/federated/test_lc_fed.py::test_the_body_is_frozen_while_heads_train",
            "tests/federated/test_lc_fed.py::test_without_its_parts_it_is_fedavg_bit_for_bit",
        ),
        command=on_retina("lc_fed"),
        needs=("clients", "head_steps", "rounds", "segmentation"),
        fixes=("weighting",),
        linear=False,
        personal=True,
        task=site_task,
    ),
)
