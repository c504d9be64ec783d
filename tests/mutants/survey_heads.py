"""Mutants of channels selected by site and of heads that calibrate each other."""

from tests.mutants.mutant import in_file

_LC_FED = "tests/federated/test_lc_fed.py::test_"
MUTANTS = (
    *in_file(
        "fedrecon/tasks/site_heads.py",
        (
            "g(x.mean((1, 2))) + g(x.max((1, 2)))",
            "g(x.mean((1, 2))) + g(x.mean((1, 2)))",
            _LC_FED + "channels_are_selected_by_the_equations",
        ),
        (
            "_WINDOW, _SIGMA, _LEAST = 31, 6.0, 0.2",
            "_WINDOW, _SIGMA, _LEAST = 31, 3.0, 0.2",
            _LC_FED + "heads_are_calibrated_by_the_equations",
        ),
        ("(u == near) & (u > _LEAST)", "(u == near)", _LC_FED + "heads_are_calibrated_by_the_equations"),
    ),
    *in_file(
        "fedrecon/federated/methods/lc_fed.py",
        (
            '(found["round"] >= warmup)',
            '(found["round"] > warmup)',
            _LC_FED + "heads_are_published_and_calibrations_stay",
        ),
        (
            "x.at[place].set(y, mode",
            "x.at[place].add(y, mode",
            _LC_FED + "heads_are_published_and_calibrations_stay",
        ),
        (
            "chosen = in_turn(optimizer, head, steps) if private_heads else optimizer",
            "chosen = optimizer",
            _LC_FED + "the_body_is_frozen_while_heads_train",
        ),
    ),
)
