"""Mutants of what methods do before their rounds, and of HarmoFL."""

from tests.mutants.mutant import in_file

_BEFORE = "tests/training/test_before_rounds.py::test_"
_FEDDG = "tests/federated/test_feddg.py::test_"
_BOUNDARIES = "tests/alignment/test_boundaries.py::test_"
_HARMO = "tests/federated/test_harmofl.py::test_"
MUTANTS = (
    *in_file(
        "fedrecon/training/before_rounds.py",
        (
            "if before is None or done or not records:",
            "if before is None or not records:",
            _BEFORE + "the_model_starts_from_what_was_exchanged_and_hands_it_out",
        ),
        (
            "Variables(*({**own, **plain} for",
            "Variables(*({**plain, **own} for",
            _BEFORE + "the_network_starts_as_given_and_the_rest_as_drawn",
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
        "fedrecon/federated/methods/mean_amplitude.py",
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
    ),
    *in_file(
        "fedrecon/federated/methods/harmofl.py",
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
    *in_file(
        "fedrecon/federated/methods/spectra.py",
        (
            "!= client) & (bank.count > 0)",
            "!= client)",
            _FEDDG + "own_spectra_and_absent_ones_are_never_taken",
        ),
        (
            "(jnp.arange(len(bank.count)) != client) & (bank.count > 0)",
            "bank.count > 0",
            _FEDDG + "own_spectra_and_absent_ones_are_never_taken",
        ),
        (
            "+ jnp.where(valid, 0, 2)",
            "+ jnp.where(valid, 2, 0)",
            _FEDDG + "spectra_are_sent_once_and_are_those_of_the_window_alone",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/feddg.py",
        (
            "second = value_and_grad(ahead, stats",
            "second = value_and_grad(params, stats",
            _FEDDG + "a_step_is_that_of_the_equations_in_first_order",
        ),
        (
            "for structure in range(1, classes)",
            "for structure in range(classes)",
            _FEDDG + "a_step_is_that_of_the_equations_in_first_order",
        ),
        (
            "low = [(whole - size) // 2",
            "low = [(whole - size)",
            _FEDDG + "a_step_is_that_of_the_equations_in_first_order",
        ),
    ),
    *in_file(
        "fedrecon/alignment/boundaries.py",
        (
            "eroded = -_largest(-inside, 1)",
            "eroded = -_largest(-inside, 2)",
            _BOUNDARIES + "rings_are_those_of_erosion_and_dilation",
        ),
        (
            "others & (kind[:, None] == kind), others,",
            "others & (kind[:, None] == kind), others & (kind[:, None] != kind),",
            _BOUNDARIES + "the_contrast_is_the_published_one",
        ),
    ),
)
