"""Mutants of the survey's frameworks: contributions, shared amplitudes and deputies."""

from tests.mutants.mutant import in_file

_FEDCE = "tests/federated/test_fedce.py::test_"
_PRR_FL = "tests/federated/test_prr_fl.py::test_"
_EQUATIONS = "rounds_are_those_of_the_equations"
MUTANTS = (
    *in_file(
        "fedrecon/federated/reducers/contributions.py",
        ("a, e = _shares(1 - cosine, included)", "a, e = _shares(1 + cosine, included)", _FEDCE + _EQUATIONS),
        (
            "lambda g, x: g[None] - along(before, x) * x",
            "lambda g, x: g[None] - 0 * along(before, x) * x",
            _FEDCE + _EQUATIONS,
        ),
        (
            "jnp.where(included, jnp.maximum(part, _FLOOR), 0)",
            "jnp.where(included, part, 0)",
            _FEDCE + "shares_have_a_floor_and_add_to_one",
        ),
        (
            "return c / jnp.maximum(c.sum(), _FLOOR)",
            "return c",
            _FEDCE + "shares_have_a_floor_and_add_to_one",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/fedce.py",
        (
            "jnp.where(first | skipped, 0, found)",
            "jnp.where(skipped, 0, found)",
            _FEDCE + _EQUATIONS,
        ),
        ("(t - coefficient * x) /", "(t - x) /", _FEDCE + "the_minus_model_is_the_mean_of_the_others"),
        (
            "lambda w, d: (w + d).astype(w.dtype)",
            "lambda w, d: w.astype(w.dtype)",
            _FEDCE + "the_minus_model_is_the_mean_of_the_others",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/deputies.py",
        (
            "(deputy < thresholds[1] * personal)",
            "(deputy < thresholds[0] * personal)",
            _PRR_FL + "stages_follow_the_table",
        ),
        (
            "recover = (stage == 0) | (deputy",
            "recover = (stage == 0) & (deputy",
            _PRR_FL + "stages_follow_the_table",
        ),
        (
            "jnp.where(memory.stage <= EXCHANGE, taught",
            "jnp.where(memory.stage <= RECOVER, taught",
            _PRR_FL + _EQUATIONS,
        ),
        ("jnp.where(memory.stage >= EXCHANGE, learned, 0)", "learned", _PRR_FL + _EQUATIONS),
        (
            "divergence(log_of(teacher), log_of(student))",
            "divergence(log_of(student), log_of(teacher))",
            _PRR_FL + _EQUATIONS,
        ),
        ("ended = steps % jnp.maximum", "ended = steps < jnp.maximum", _PRR_FL + _EQUATIONS),
    ),
    *in_file(
        "fedrecon/federated/reducers/amplitudes.py",
        (
            "part = start + jnp.minimum(context.round / rounds, 1.0)",
            "part = start - jnp.minimum(context.round / rounds, 1.0)",
            _PRR_FL + "the_shared_part_grows_with_rounds_and_absent_clients_have_none",
        ),
        (
            "return shared_amplitudes(x, part, included)",
            "return shared_amplitudes(x, part)",
            _PRR_FL + "the_shared_part_grows_with_rounds_and_absent_clients_have_none",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/prr_fl.py",
        ("start = merge(batches.answer, variables)", "start = variables", _PRR_FL + _EQUATIONS),
    ),
    *in_file(
        "fedrecon/tasks/unit_scores.py",
        (
            "each.sum() / jnp.maximum(occurs.sum(), 1)",
            "each.sum() / classes",
            "tests/tasks/test_unit_scores.py::test_macro_f1_is_the_mean_over_classes_that_occur",
        ),
    ),
)
