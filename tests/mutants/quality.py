"""Mutants of the comparison with other programs."""

from tests.mutants.mutant import in_file

_QUALITY_TESTS = "tests/experiments/test_benchmark_quality.py::test_"
MUTANTS = (
    *in_file(
        "experiments/benchmark_quality.py",
        (
            "higher = max(near, key=value)",
            "higher = max(near[:2], key=value)",
            _QUALITY_TESTS + "walks_end_at_the_highest_of_one_hill",
        ),
        (
            "seconds=one.seconds + maps.seconds",
            "seconds=maps.seconds",
            _QUALITY_TESTS + "programs_that_fail_leave_the_rest_of_the_rows",
        ),
        (
            "elif (name, method) in finished:",
            "elif False:",
            _QUALITY_TESTS + "rows_hold_the_best_weight_the_default_and_what_is_missing",
        ),
    ),
    *in_file(
        "experiments/pipeline/quality_cases.py",
        (
            "rest = round(mask.size / acceleration) - mask.sum()",
            "rest = round(mask.size / acceleration)",
            _QUALITY_TESTS + "single_samples_are_drawn_to_the_factor",
        ),
        (
            "image, rng = image / image.max(),",
            "image, rng = image,",
            _QUALITY_TESTS + "magnitudes_of_a_group_become_coils_with_noise",
        ),
    ),
    *in_file(
        "experiments/pipeline/quality_report.py",
        (
            "reached = sum(gap >= -limit for gap in gaps.values())",
            "reached = sum(gap >= limit for gap in gaps.values())",
            _QUALITY_TESTS + "the_summary_counts_cases_within_the_goal",
        ),
    ),
)
