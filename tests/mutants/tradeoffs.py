"""Mutants of trade-offs."""

from tests.mutants.mutant import in_file

_PARETO = "tests/evaluation/test_pareto.py::test_"
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
)
