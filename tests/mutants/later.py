"""Mutants of methods after the review: mixtures of models, aggregation by element, weights by gaps."""

from tests.mutants.mutant import in_file

_APFL = "tests/federated/test_apfl.py::test_"
_GA = "tests/federated/test_feddg_ga.py::test_"
_ALA = "tests/federated/test_fedala.py::test_"
_EQUATIONS = "rounds_are_those_of_the_equations"
MUTANTS = (
    *in_file(
        "fedrecon/federated/methods/apfl.py",
        (
            "(mixing * v + (1 - mixing) * w)",
            "((1 - mixing) * v + mixing * w)",
            _APFL + "clients_evaluate_with_the_mixture",
        ),
        ("lambda g: (alpha * g)", "lambda g: (1 * g)", _APFL + _EQUATIONS),
        ("(g * (v - w)).sum()", "(g * (w - v)).sum()", _APFL + _EQUATIONS),
        ('batch["valid"].any() & ~memory.begun', 'batch["valid"].any()', _APFL + _EQUATIONS),
        (
            "jnp.clip(alpha - rate * slope, 0, 1)",
            "alpha - rate * slope",
            _APFL + "alpha_stays_between_zero_and_one",
        ),
        (
            "select(all_finite(memory.now), memory.now, memory.before)",
            "memory.now",
            _APFL + "a_private_model_that_diverges_stays_as_it_was",
        ),
        (
            "(1.0 if context.rate is None else context.rate)",
            "1.0",
            _APFL + "a_schedule_is_one_of_alpha_too",
        ),
        (
            "Mixture(model, new_alpha), params, state",
            "Mixture(model, new_alpha), memory.shared, state",
            _APFL + _EQUATIONS,
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/ditto.py",
        (
            "updates = jax.tree.map(lambda u: (u * context.rate).astype(u.dtype), updates)",
            "updates = jax.tree.map(lambda u: u.astype(u.dtype), updates)",
            _APFL + "a_schedule_is_one_of_alpha_too",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/feddg_ga.py",
        (
            "jnp.where(known, gap, 0).sum() / jnp",
            "0 * jnp.where(known, gap, 0).sum() / jnp",
            _GA + "weights_by_hand",
        ),
        ("away = jnp.where(known, away, 0)", "away = jnp.where(True, away, 0)", _GA + "weights_by_hand"),
        ("jnp.where(most > 0, most, 1), 0)", "jnp.where(most > 0, most, 1), -9)", _GA + "weights_by_hand"),
        ("(context.round - 1) / rounds", "context.round / rounds", _GA + "the_step_falls_to_nothing"),
        (
            "joined & included, clients * step",
            "included, clients * step",
            _GA + "who_missed_a_round_keeps_its_weight",
        ),
        ("joined & included, clients * step", "joined & included, step", _GA + _EQUATIONS),
        (
            "judged(context, context.received) - loss",
            "loss - judged(context, context.received)",
            _GA + _EQUATIONS,
        ),
        (
            "if batch is None:",
            "if batch is None or True:",
            _GA + "gaps_are_of_the_validation_split",
        ),
        (
            "jnp.zeros(clients, bool).at[place].set(True",
            "state.joined.at[place].set(True",
            _GA + "who_missed_a_round_keeps_its_weight",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/local_aggregation.py",
        (
            "(given + (1 - w) * (mine - given))",
            "(given + w * (mine - given))",
            _ALA + "ones_are_the_received_model_exactly",
        ),
        ("jnp.clip(w - rate * g, 0, 1)", "w - rate * g", _ALA + _EQUATIONS),
        ("jnp.where(state.rounds == 1, passes, 1)", "passes", _ALA + _EQUATIONS),
        (
            "last=~batches.present",
            "last=batches.present",
            _ALA + "the_sample_is_a_part_of_the_examples",
        ),
        (
            "jnp.ceil(part * batches.count",
            "jnp.floor(part * batches.count",
            _ALA + "the_sample_is_a_part_of_the_examples",
        ),
        ("d + (new - old)", "d + 0 * (new - old)", _ALA + _EQUATIONS),
        (
            "result.variables.params, weights, state.rounds + 1",
            "start.params, weights, state.rounds + 1",
            _ALA + _EQUATIONS,
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/fedala.py",
        (
            "params = aggregated(state.weights, state.model, variables.params)",
            "params = variables.params",
            _ALA + "clients_evaluate_with_the_aggregated_model",
        ),
    ),
)
