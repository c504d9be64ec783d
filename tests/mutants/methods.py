"""Mutants of federated methods, reducers and topologies."""

from tests.mutants.federated import recorded
from tests.mutants.mutant import in_file

_F = "tests/federated/"
_ROBUST = _F + "test_robust.py::test_"
_PAPERS = _ROBUST + "reducers_are_those_of_the_papers"
_SCREENING = _F + "test_screening.py::test_"
_SERVER = _F + "test_algorithms_server.py::test_"
_PERSONAL = _F + "test_algorithms_personal.py::test_"
_DRIFT = _F + "test_algorithms_drift.py::test_"
_ASYNCHRONOUS = _F + "test_asynchronous.py::test_"

_METHODS = (
    *in_file(
        "fedrecon/federated/methods/fedprox.py",
        ("* (p - w),", "* p,", _DRIFT + "fedprox_solves_the_proximal_problem"),
    ),
    *in_file(
        "fedrecon/federated/methods/scaffold.py",
        ("lambda g, c, own: g + c - own", "lambda g, c, own: g - c + own", recorded("scaffold")),
        # Option 1: the gradient at the trained model instead of the received one.
        (
            "mean_gradient(context, context.received)",
            "mean_gradient(context, result.variables)",
            _F
            + "test_algorithms_drift.py::test_scaffold_first_option_takes_the_gradient_at_the_received_model",
        ),
        ("c + d / context.clients", "c + d / context.participants", recorded("scaffold")),
        ("path = context.steps * learning_rate", "path = context.steps", recorded("scaffold")),
    ),
    *in_file(
        "fedrecon/federated/methods/feddyn.py",
        ("(g - strength * d).astype", "(g + strength * d).astype", recorded("feddyn")),
        ("strength * (participants / clients) * g", "strength * g", recorded("feddyn")),
        ("(g + h / strength)", "(g + h)", recorded("feddyn")),
    ),
    *in_file(
        "fedrecon/federated/methods/fednova.py",
        (
            "(1 - momentum**steps)",
            "(1 - momentum ** (steps - 1))",
            _DRIFT + "fednova_normalizer_is_that_of_steps_one_by_one",
        ),
        (
            "effective = context.steps if strength else normalizer",
            "effective = normalizer",
            recorded("fednova_proximal"),
        ),
        (
            "-jnp.expm1(steps * jnp.log1p(-shrink)) / shrink",
            "-jnp.expm1(steps * jnp.log1p(-shrink))",
            _DRIFT + "fednova_normalizer_is_that_of_steps_one_by_one",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/qfedavg.py",
        (
            "fairness * loss ** (fairness - 1) * squared",
            "loss ** (fairness - 1) * squared",
            _F + "test_algorithms_server.py::test_qfedavg_takes_each_clients_own_loss",
        ),
        (
            "power = loss**fairness",
            "power = loss",
            _F + "test_algorithms_server.py::test_qfedavg_takes_each_clients_own_loss",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/afl.py",
        (
            "(jnp.cumsum(u) - 1) / jnp.arange(1, len(v) + 1)",
            "(jnp.cumsum(u) - 1) / jnp.arange(len(v)).clip(1)",
            _SERVER + "projection_to_the_simplex",
        ),
        (
            "weight = clients * context.broadcast[number]",
            "weight = context.broadcast[number]",
            _SERVER + "a_round_of_afl_is_fedavg_and_evaluation_is_of_the_average",
        ),
        (
            "(p + u - a) / count",
            "(p - a) / count",
            _F + "test_algorithms_server.py::test_afl_finds_the_minimax_model",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/fedopt.py",
        (
            "jnp.sign(v - squared)",
            "jnp.sign(squared - v)",
            _F + "test_algorithms_server.py::test_adaptive_servers_follow_their_recursions",
        ),
        (
            "(jnp.sqrt(v) + floor)",
            "(jnp.sqrt(v + floor))",
            _SERVER + "adaptive_servers_follow_their_recursions",
        ),
        (
            "optax.scale(1 - dampening)",
            "optax.scale(dampening)",
            _F + "test_algorithms_server.py::test_fedavgm_dampening_and_nesterov",
        ),
        (
            "jnp.sqrt(1 - second_decay**count) / (1 - first_decay**count)",
            "jnp.sqrt(1 - second_decay**count)",
            _SERVER + "bias_correction_is_that_of_adam",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/ditto.py",
        ("(g + strength * (v - w)).astype", "(g - strength * (v - w)).astype", recorded("ditto", "ring")),
        (
            "select(all_finite(memory.model), memory.model, memory.before)",
            "memory.model",
            _PERSONAL + "ditto_keeps_a_finite_personal_model",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/pfedme.py",
        (
            "strength * (y - t), params, theta)",
            "strength * (t - y), params, theta)",
            recorded("pfedme", "gossip"),
        ),
        ("+ weight_decay * t)", ")", recorded("pfedme", "gossip")),
        (
            'discloses="own models that come from single examples"',
            'discloses=""',
            _F + "test_combine.py::test_what_discloses_or_contradicts_is_refused",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/fedrep.py",
        ("state.count < head_steps, move_head", "state.count <= head_steps, move_head", recorded("fedrep")),
        (
            "_only(optimizer, chosen), _only(optimizer, _body(chosen))",
            "_only(optimizer, _body(chosen)), _only(optimizer, chosen)",
            _PERSONAL + "fedrep_trains_the_head_and_then_the_body",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/moon.py",
        ("jnp.concatenate([new[None], old[:-1]])", "jnp.concatenate([old[1:], new[None]])", recorded("moon")),
        ("/ norms / temperature", "/ norms", _PERSONAL + "contrastive_loss"),
        ("former_models.filled + 1, pool)", "former_models.filled, pool)", recorded("moon")),
    ),
)

_REDUCERS = (
    *in_file(
        "fedrecon/federated/reducers/robust.py",
        ("_between(x, (count - 1) // 2, count // 2)", "_between(x, count // 2, count // 2)", _PAPERS),
        ("return _between(x, cut, count - 1 - cut)", "return _between(x, cut, count - cut)", _PAPERS),
        # Krum with one client too few for its guarantee.
        (
            "arrived.sum() >= 2 * byzantine + 3",
            "arrived.sum() >= 2 * byzantine + 2",
            _ROBUST + "too_few_clients_reduce_to_nothing",
        ),
        (
            "arrived.sum() >= 4 * byzantine + 3)",
            "arrived.sum() >= 4 * byzantine + 2)",
            _ROBUST + "too_few_clients_reduce_to_nothing",
        ),
        ("included.sum() - byzantine - 2, 1)", "included.sum() - byzantine - 1, 1)", _PAPERS),
        ("(number < count - 2 * byzantine)", "(number < count - byzantine)", _PAPERS),
        (
            "beta = weight / jnp.maximum(distances(v), floor)",
            "beta = 1 / jnp.maximum(distances(v), floor)",
            _ROBUST + "geometric_median",
        ),
        ("x / along(safe, x), 0)", "x, 0)", _ROBUST + "generic_properties_of_reducers"),
        ("jnp.maximum(chosen.sum() - 1, 0) // 2", "chosen.sum() // 2", _SCREENING + "who_is_flagged"),
    ),
    *in_file(
        "fedrecon/federated/reducers/screening.py",
        (
            "inner.reduce(uploads, passed, state, context)",
            "inner.reduce(uploads, included, state, context)",
            _SCREENING + "screening_comes_before_another_reducer",
        ),
        # The median of those who were flagged already, too.
        (
            "_cosines(updates, norms, passed, context)",
            "_cosines(updates, norms, included, context)",
            _SCREENING + "who_is_flagged",
        ),
    ),
)

_TOPOLOGIES = (
    *in_file(
        "fedrecon/federated/topologies/asynchronous.py",
        (
            "(discount * d).astype(d.dtype), delta))",
            "d, delta))",
            _ASYNCHRONOUS + "every_update_counts_once_with_its_discount",
        ),
        (
            "behind = scale(upload.weight, jax.tree.map(jnp.subtract, received, current))",
            "behind = jax.tree.map(jnp.subtract, received, current)",
            _ASYNCHRONOUS + "fedasync_mixes_the_clients_model_into_the_servers",
        ),
        (
            "select(included, after, before)",
            "after",
            _ASYNCHRONOUS + "who_fails_or_is_empty_leaves_no_trace_and_a_state_resumes",
        ),
        (
            'jnp.where(included, x, 0), record["metrics"])',
            'x, record["metrics"])',
            _ASYNCHRONOUS + "who_fails_or_is_empty_leaves_no_trace_and_a_state_resumes",
        ),
    ),
    *in_file(
        "fedrecon/federated/topologies/ring.py",
        (
            "traveling = select(included, (shared, carried), traveling)",
            "traveling = (shared, carried)",
            _F + "test_ring.py::test_who_is_empty_absent_or_fails_is_passed_over",
        ),
        ("outputs = jax.lax.cond(sampled[client]", "outputs = jax.lax.cond(True", recorded("ditto", "ring")),
    ),
    *in_file(
        "fedrecon/federated/topologies/gossip.py",
        (
            "jnp.tensordot(matrix, x.astype",
            "jnp.tensordot(matrix / 2, x.astype",
            _F + "test_gossip.py::test_mixing_preserves_the_mean_and_contracts_the_distance",
        ),
        (
            "bytes_up=edges.sum(0, dtype=jnp.uint32)",
            "bytes_up=matrix.sum(0).astype(jnp.uint32)",
            recorded("pfedme", "gossip"),
        ),
    ),
    *in_file(
        "fedrecon/federated/topologies/streaming.py",
        (
            "prefetched = following is not None and np.array_equal(following[0], numbers)",
            "prefetched = following is not None",
            _F + "test_streaming.py::test_rounds_equal_those_in_memory_bit_for_bit",
        ),
        (
            "host[numbers] = np.asarray(new)[: len(numbers)]",
            "host[: len(numbers)] = np.asarray(new)[: len(numbers)]",
            recorded("moon", "streamed"),
        ),
        (
            "ClientRow(loaded.examples, loaded.valid, None, *shared)",
            "ClientRow(loaded.examples, loaded.valid, None, (), shared[1])",
            _F + "test_parts.py::test_streamed_clients_know_frozen_leaves_and_public_arrays",
        ),
    ),
)

MUTANTS = _METHODS + _REDUCERS + _TOPOLOGIES
