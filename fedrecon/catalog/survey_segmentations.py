"""Rows of the review's applications that segment tumors, organs and prostates (of its Table 1)."""

from fedrecon.catalog.commands import on_hearts
from fedrecon.catalog.entry import Entry
from fedrecon.federated.methods.agreed_intensities import agree, clipped_task
from fedrecon.federated.methods.kades import kades
from fedrecon.federated.methods.pati import pati
from fedrecon.federated.methods.sheller import sheller
from fedrecon.federated.methods.wang import wang
from fedrecon.tasks import without_absent_classes

_KADES = "tests/federated/test_kades.py::test_"
_PATI = "tests/federated/test_pati.py::test_"
_SHELLER = "tests/federated/test_sheller.py::test_"
_WANG = "tests/federated/test_wang.py::test_"

SEGMENTATIONS = (
    Entry(
        "sheller",
        sheller,
        "Sheller et al. 2020, Sci. Rep. 10:12598",
        "averages, visits or cycles of visits by `--topology`; early stopping at each institution",
        survey_row="Sheller",
        tests=(
            _SHELLER + "a_single_pass_goes_on_from_what_early_stopping_kept",
            _SHELLER + "of_one_institution_all_schedules_are_the_same",
            _SHELLER + "visits_forget_the_first_institution_and_averaging_does_not",
            _SHELLER + "cycles_in_another_order_vary_more_from_round_to_round_than_averages",
            _SHELLER + "without_patience_it_is_fedavg_bit_for_bit",
            "tests/federated/test_ring.py::test_equals_centralized_training_over_the_concatenated_batches",
        ),
        command=on_hearts(
            "sheller",
            "--topology=ring --visits=shuffled --patience=5 --optimizer=adam --learning_rate=0.003",
        ),
        needs=("validation",),
    ),
    Entry(
        "wang",
        wang,
        "Wang et al. 2020, Automated Pancreas Segmentation Using Multi-institutional Collaborative Deep "
        "Learning, DART",
        "sites of disjoint case mixes; the Dice of a class that a case lacks is left out",
        survey_row="Wang",
        tests=(
            _WANG + "a_class_that_a_case_lacks_is_left_out_whatever_is_predicted",
            _WANG + "sites_tell_together_what_neither_tells_alone",
            _WANG + "it_is_fedavg_by_size_or_equally",
            "tests/data/test_partition.py::test_case_types_are_the_classes_that_patients_have",
        ),
        command="experiments.train_federated --workdir=runs/wang --task=segmentation "
        "--cohort=simulated_mri --partition=case_type --algorithm=wang --optimizer=adam "
        "--learning_rate=0.003",
        needs=("segmentation",),
        task=without_absent_classes,
    ),
    Entry(
        "kades",
        kades,
        "Kades et al. 2022, Towards Real-World Federated Learning in Medical Image Analysis Using Kaapana, "
        "DeCaF",
        "a fingerprint of intensities and the initial weights before the rounds; rates of one training",
        survey_row="Kades",
        tests=(
            "tests/alignment/test_intensities.py::test_pooled_moments_are_those_of_all_pixels",
            "tests/alignment/test_intensities.py::test_counts_find_the_percentiles_of_all_pixels_exactly",
            _KADES + "all_sites_clip_and_scale_by_the_foreground_of_all",
            _KADES + "everybody_starts_from_the_mean_of_what_sites_draw",
            _KADES + "labels_that_do_not_agree_and_other_mistakes_are_refused",
            _KADES + "the_rate_at_the_end_of_a_round_is_that_of_one_training",
            _KADES + "rounds_of_one_client_are_one_training",
            _KADES + "of_a_constant_rate_it_is_fedavg_bit_for_bit",
        ),
        command=on_hearts(
            "kades",
            "--algorithm.fingerprint=accurate --algorithm.average_initial=true --optimizer=momentum "
            "--learning_rate=0.01",
        ),
        needs=("rounds", "segmentation"),
        linear=False,
        task=clipped_task,
        before=agree,
    ),
    Entry(
        "pati",
        pati,
        "Pati et al. 2022, Nat. Commun. 13:7346",
        "sites join over time, and the consensus model that they score best is kept",
        survey_row="Pati",
        tests=(
            "tests/tasks/test_regions.py::test_regions_of_a_tumor_by_hand",
            _PATI + "weights_are_sizes_among_those_present",
            _PATI + "a_later_and_worse_round_is_not_kept",
            _PATI + "the_score_is_the_mean_by_weights_of_those_of_sites",
            _PATI + "every_region_keeps_its_own_best_model",
            _PATI + "the_rounds_are_those_of_fedavg_bit_for_bit",
        ),
        command=on_hearts(
            "pati",
            "--algorithm.founders=2 --algorithm.join_every=4 --optimizer=adam --learning_rate=0.003",
        ),
        needs=("clients", "score", "validation", "classification", "segmentation"),
        fixes=("sampler",),
    ),
)
