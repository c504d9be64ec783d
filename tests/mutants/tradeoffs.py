"""Mutants of trade-offs, and of the program that shows them over all problems."""

from tests.mutants.mutant import in_file

_PARETO = "tests/evaluation/test_pareto.py::test_"
_MULTITASK = "tests/experiments/test_multitask.py::test_"
_FIGURE = "tests/reporting/test_tradeoffs.py::test_"
MUTANTS = (
    *in_file(
        "fedrecon/evaluation/pareto.py",
        (
            "less = (values[:, None] < values).any(2)",
            "less = (values[:, None] <= values).any(2)",
            _PARETO + "a_front_is_what_nothing_beats_and_says_who_beats_the_rest",
        ),
        (
            "known & ~dominates(points, better).any(0)",
            "known & ~dominates(points, better).any(1)",
            _PARETO + "a_front_is_what_nothing_beats_and_says_who_beats_the_rest",
        ),
        (
            "return known & ~",
            "return ~",
            _PARETO + "points_without_a_value_are_on_no_front_and_infinite_ones_are_compared",
        ),
        ("costs[:, -1] <= level, :-1]", "costs[:, -1] == level, :-1]", _PARETO + "volumes_by_hand"),
    ),
    *in_file(
        "fedrecon/reporting/tradeoffs.py",
        (
            "for p in points if p.on_front)",
            "for p in points)",
            _FIGURE + "points_of_the_front_are_full_and_joined_and_lines_cross_the_panel",
        ),
        (
            "if np.isfinite(point.score) and not",
            "if not",
            _FIGURE + "infinite_and_zero_costs_have_ticks_and_what_has_no_score_is_left_out",
        ),
    ),
    *in_file(
        "experiments/pipeline/multitask_report.py",
        (
            'if row.get("exchanges") and "score" in row]',
            'if "score" in row and "bytes_up" in row]',
            _MULTITASK + "fronts_name_what_no_federation_beats_and_comparators_are_on_none",
        ),
        (
            "(floor, max(cost for _, cost in points))",
            "(floor, 1 + max(cost for _, cost in points))",
            _MULTITASK + "fronts_name_what_no_federation_beats_and_comparators_are_on_none",
        ),
        (
            "in evaluation.holm(tests).items():",
            "in tests.items():",
            _MULTITASK + "differences_are_tested_over_the_same_patients_and_corrected",
        ),
        (
            'none = sum(bool(row.get("refused")) or math.isnan(row["score"])',
            'none = sum(bool(row.get("refused"))',
            _MULTITASK + "the_table_counts_what_has_no_score",
        ),
    ),
    *in_file(
        "experiments/pipeline/multitask_report.py",
        (
            'row["bytes_up"] >= (dense',
            'row["bytes_up"] < (dense',
            _MULTITASK + "the_table_counts_what_has_no_score",
        ),
        (
            'row.get("features") == ["codec"] and',
            'row.get("features") and',
            _MULTITASK + "the_table_counts_what_has_no_score",
        ),
    ),
    *in_file(
        "experiments/pipeline/multitask_scores.py",
        (
            "means = [_mean(values) for values in by_patient.values()]",
            "means = [value for values in by_patient.values() for value in values]",
            _MULTITASK + "a_patient_of_several_seeds_counts_once_in_a_test",
        ),
        (
            "values = each.patients or [each.value] * len(of_seed)",
            "values = each.patients",
            _MULTITASK + "seeds_with_other_patients_are_joined_by_name",
        ),
        (
            "value = low = high = -math.inf",
            "low = high = -math.inf",
            _MULTITASK + "scores_are_of_patients_with_the_structure_and_networks_that_fail_diverged",
        ),
    ),
    *in_file(
        "experiments/pipeline/federated_data.py",
        (
            "tuple(name + suffix for name in of)",
            "tuple(name for name in of)",
            _MULTITASK + "simulated_patients_of_another_seed_are_others_and_names_follow_volumes",
        ),
        (
            "np.unique(pooled.patients[members]).tolist()",
            "pooled.patients[members].tolist()",
            _MULTITASK + "simulated_patients_of_another_seed_are_others_and_names_follow_volumes",
        ),
        (
            "[np.unique(v[ok]) for v, ok in zip(test.examples",
            "[np.unique(v[ok])[::-1] for v, ok in zip(test.examples",
            _MULTITASK + "patients_of_files_keep_their_names_with_every_seed",
        ),
    ),
    *in_file(
        "experiments/pipeline/multitask_joint.py",
        (
            'if record["stage"] in names]',
            "if True]",
            _MULTITASK + "joint_rows_score_patients_and_cost_all_that_they_are_trained_by",
        ),
        (
            "dice = 2 * part / (1 + part)",
            "dice = part / (1 + part)",
            _MULTITASK + "joint_rows_score_patients_and_cost_all_that_they_are_trained_by",
        ),
        (
            "own = dice[(site_of == site) & ~np.isnan(dice)]",
            "own = dice[~np.isnan(dice)]",
            _MULTITASK + "joint_rows_score_patients_and_cost_all_that_they_are_trained_by",
        ),
    ),
    *in_file(
        "experiments/pipeline/multitask_problems.py",
        (
            '"": {"channels": 4, "pools": 1,',
            '"": {"channels": 2, "pools": 1,',
            _MULTITASK + "the_smoke_preset_has_matrices_that_power_sgd_compresses",
        ),
        (
            "finetune_options=dotted.get(kind, ())",
            "finetune_options=dotted.get(codec, ())",
            _MULTITASK + "rows_of_fine_tuning_are_of_images_and_start_from_a_model_trained_without_labels",
        ),
        (
            'changes = {**changes, "dp_batch_size": base.batch_size}',
            "changes = {**changes}",
            _MULTITASK + "every_problem_has_the_same_rows_and_one_with_all_at_once",
        ),
        (
            "if federation.dp_microbatch_size == default.federation.dp_microbatch_size:",
            "if True:",
            _MULTITASK + "every_problem_has_the_same_rows_and_one_with_all_at_once",
        ),
        (
            "communication.named_codec(name).sums]",
            "True]",
            _MULTITASK + "what_excludes_each_other_at_once_is_a_row_that_says_so",
        ),
    ),
)
