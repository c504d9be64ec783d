"""Mutants of what methods do before their rounds, and of HarmoFL."""

from tests.mutants.mutant import in_file

_BEFORE = "tests/training/test_before_rounds.py::test_"
_HARMO = "tests/federated/test_harmofl.py::test_"
MUTANTS = (
    *in_file(
        "fedrecon/training/before_rounds.py",
        (
            "if before is None or done or not records:",
            "if before is None or not records:",
            _BEFORE + "a_run_that_goes_on_is_the_one_that_was_not_interrupted",
        ),
        (
            "Variables(*({**own, **plain} for",
            "Variables(*({**plain, **own} for",
            _BEFORE + "a_model_of_the_network_alone_or_of_the_same_method_may_start_it",
        ),
    ),
    *in_file(
        "fedrecon/training/finetuning.py",
        (
            "if name in names else kind",
            "if name not in names else kind",
            _BEFORE + "the_model_starts_from_what_was_exchanged_and_hands_it_out",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/harmofl.py",
        (
            "rate = jnp.where(first, 1.0, decay) * own.any()",
            "rate = jnp.where(first, 1.0, decay)",
            _HARMO + "the_server_gets_the_mean_of_running_means_once",
        ),
        (
            "order = jnp.argsort(~row.valid, stable=True)",
            "order = jnp.argsort(row.valid, stable=True)",
            _HARMO + "the_server_gets_the_mean_of_running_means_once",
        ),
        (
            "value_and_grad(ahead, stats",
            "value_and_grad(params, stats",
            _HARMO + "steps_are_those_of_the_perturbed_gradient",
        ),
        (
            "weighting = by_examples if by_size else equal",
            "weighting = by_examples",
            _HARMO + "one_round_is_that_of_the_equations",
        ),
    ),
)
