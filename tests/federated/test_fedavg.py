"""Federated averaging against closed forms, and the properties of its aggregation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.local import LocalState
from fedrecon.types import Variables

KEY = jax.random.key(7)
RATE = 0.05


def run(algorithm, variables, data, rounds=1, **options):
    state = fl.init_state(algorithm, variables, data, options.get("mesh"))
    return program(algorithm, rounds, **options)(state, data, KEY)


@functools.cache
def program(algorithm, rounds, batch_size=1, **options):
    round = fl.make_round(algorithm, batch_size=batch_size, epochs=1, **options)
    return round if rounds == 1 else fl.run_rounds(round, rounds)


def start(w=(0.3, -0.7)):
    return Variables({"w": jnp.asarray(w)}, {})


def test_every_round_is_the_closed_form_and_they_end_at_the_fixed_point(fx):
    algorithm = fl.fedavg(fx.quad, optax.sgd(RATE), weighting=fx.fixed_weights)
    states, _ = fx.trajectory(fx.quad, algorithm, 400)(fx.quad_data())
    rho = (1 - RATE * fx.a[:, None]) ** fx.tau[:, None]
    w = np.array([0.3, -0.7])
    for found in states.variables.params["w"][:3]:
        w = (fx.p[:, None] * (fx.b + rho * (w - fx.b))).sum(0)
        np.testing.assert_allclose(found, w, rtol=1e-5)
    k = fx.p[:, None] * (1 - rho)
    np.testing.assert_allclose(states.variables.params["w"][-1], (k * fx.b).sum(0) / k.sum(0)[0], rtol=1e-5)


def test_one_full_batch_step_is_pooled_gradient_descent(fx):
    data = fx.quad_data()
    state, _ = run(fx.averaging, start(), data, batch_size=8)
    pooled = {
        name: x.reshape(1, -1, *x.shape[2:])[:, np.asarray(data.valid).ravel()]
        for name, x in data.examples.items()
    }
    batch = {name: x[0] for name, x in pooled.items()} | {"valid": jnp.ones(fx.tau.sum(), bool)}
    gradient = jax.grad(lambda p: fx.quad.loss(p, {}, batch, KEY)[0])(start().params)
    expected = jax.tree.map(lambda w, g: w - RATE * g, start().params, gradient)
    fx.assert_close(state.variables.params, expected, 1e-6)
    central, _ = run(fx.averaging, start(), fx.clients(pooled, batch["valid"][None]), batch_size=17)
    fx.assert_close(central.variables, state.variables, 1e-6)


def test_permuting_clients_changes_nothing(fx):
    order = np.array([2, 0, 3, 1])
    algorithm = fx.averaging
    state, _ = run(algorithm, start(), fx.quad_data(), rounds=3)
    permuted = fx.quad_data(fx.a[order], fx.b[order], fx.tau[order])
    other, _ = run(algorithm, start(), permuted, rounds=3)
    fx.assert_close(state.variables, other.variables, 1e-6)


def test_translation_equivariance(fx):
    shift = np.array([3.0, -5.0], np.float32)
    algorithm = fx.averaging
    state, _ = run(algorithm, start(), fx.quad_data(), rounds=3)
    moved, _ = run(algorithm, start(np.array([0.3, -0.7]) + shift), fx.quad_data(b=fx.b + shift), rounds=3)
    np.testing.assert_allclose(
        moved.variables.params["w"], state.variables.params["w"] + shift, rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
def test_equal_clients_give_that_client_and_one_client_its_own_model(fx):
    algorithm = fx.averaging
    four = fx.quad_data(np.full(4, 2.0, np.float32), np.tile(fx.b[1], (4, 1)), np.full(4, 5))
    one = fx.quad_data(np.full(1, 2.0, np.float32), fx.b[1:2], np.full(1, 5))
    many, _ = run(algorithm, start(), four)
    single, _ = run(algorithm, start(), one)
    fx.assert_close(many.variables, single.variables, 1e-6)
    rho = (1 - RATE * 2.0) ** 5
    expected = fx.b[1] + rho * (np.array([0.3, -0.7]) - fx.b[1])
    np.testing.assert_allclose(single.variables.params["w"], expected, rtol=1e-6)


def test_scaling_all_weights_changes_nothing(fx):
    algorithm = fx.averaging
    scaled = fl.fedavg(fx.quad, optax.sgd(RATE), weighting=lambda weight, context: 1e-3 * weight)
    state, _ = run(algorithm, start(), fx.quad_data(), rounds=3)
    other, _ = run(scaled, start(), fx.quad_data(), rounds=3)
    fx.assert_close(state.variables, other.variables, 1e-6)


def test_equal_weighting_ignores_sizes_but_not_emptiness(fx):
    counts = np.array([1, 5, 0, 8])
    algorithm = fl.fedavg(fx.quad, optax.sgd(RATE), weighting=fl.equal)
    state, info = run(algorithm, start(), fx.quad_data(counts=counts))
    rho = (1 - RATE * fx.a[:, None]) ** counts[:, None]
    local = fx.b + rho * (np.array([0.3, -0.7]) - fx.b)
    np.testing.assert_allclose(state.variables.params["w"], local[[0, 1, 3]].mean(0), rtol=1e-5)
    np.testing.assert_array_equal(state.history.participations, [1, 1, 0, 1])
    assert not info.excluded.any()


@pytest.mark.slow
def test_server_momentum_displacement(fx):
    """A constant update for T rounds moves by the update times sum_k (1 - beta^k) / (1 - beta)."""
    beta, rounds = 0.9, 6
    linear = fx.quad._replace(
        loss=lambda params, stats, batch, key: ((params["w"] * batch["b"][0]).sum(), (stats, {}))
    )
    momentum = fl.fedavg(linear, optax.sgd(RATE), server_optimizer=optax.sgd(1.0, momentum=beta))
    state, _ = run(momentum, start(), fx.quad_data(), rounds=rounds)
    weights = fx.tau / fx.tau.sum()
    update = -RATE * (weights[:, None] * fx.tau[:, None] * fx.b).sum(0)
    factor = sum((1 - beta**k) / (1 - beta) for k in range(1, rounds + 1))
    np.testing.assert_allclose(
        state.variables.params["w"], np.array([0.3, -0.7]) + factor * update, rtol=1e-5
    )
    without = fl.fedavg(linear, optax.sgd(RATE), server_optimizer=optax.sgd(1.0, momentum=0.0))
    fx.assert_close(
        run(without, start(), fx.quad_data(), rounds=3)[0].variables,
        run(fl.fedavg(linear, optax.sgd(RATE)), start(), fx.quad_data(), rounds=3)[0].variables,
        1e-6,
    )


def test_statistics_are_averaged_and_counters_advance(fx):
    counts = [6, 2]
    data = fx.regression_data(counts)
    variables = fx.regression.init(jax.random.key(0))
    algorithm = fl.fedavg(fx.regression, optax.sgd(0.1), server_optimizer=optax.sgd(0.5))
    state, _ = run(algorithm, variables, data, batch_size=6)
    means = [np.asarray(data.examples["x"][i, :n]).mean(0) for i, n in enumerate(counts)]
    expected = 0.1 * (6 * means[0] + 2 * means[1]) / 8
    np.testing.assert_allclose(state.variables.stats["mean"], expected, rtol=1e-5)
    assert int(state.variables.stats["count"]) == 1


@pytest.mark.slow
def test_a_robust_reducer_sees_individual_updates(fx):
    """Coordinate-wise median through ``reduce``: one client cannot move it far, and one alone is returned."""

    def median(uploads, included):
        weight = uploads.weight.reshape(-1, 1)
        values = jax.tree.map(lambda x: jnp.where(included[:, None], x / weight, jnp.nan), uploads.delta)
        delta = jax.tree.map(lambda x: jnp.nanmedian(x, axis=0), values)
        return uploads._replace(delta=delta, weight=jnp.float32(1))

    algorithm = fl.fedavg(fx.quad, optax.sgd(RATE), reduce=median)
    b = fx.b.copy()
    b[3] = 1e6
    state, _ = run(algorithm, start(), fx.quad_data(np.ones(4, np.float32), b, np.full(4, 2)))
    rho = (1 - RATE) ** 2
    local = b + rho * (np.array([0.3, -0.7]) - b)
    np.testing.assert_allclose(state.variables.params["w"], np.median(local, axis=0), rtol=1e-5)
    data = fx.quad_data(np.ones(4, np.float32), b, np.full(4, 2))
    other, _ = run(algorithm, start(), data, mesh=fl.client_mesh(), parallel="vmap")
    fx.assert_close(other.variables, state.variables, 1e-6)


def scaffold(task, rate):
    """SCAFFOLD (Karimireddy et al. 2020, option II), to show that the engine's hooks carry it."""

    def update(variables, broadcast, client_state, batches, valid, key):
        correction = jax.tree.map(jnp.subtract, broadcast, client_state)

        def loss(params, stats, batch, key):
            value, aux = task.loss(params, stats, batch, key)
            return value + optax.tree.vdot(params, correction), aux

        local = fl.local_training(loss, optax.sgd(rate))
        result = local.update(variables, broadcast, LocalState(), batches, valid, key)
        steps = jnp.maximum(result.metrics["steps"][0], 1)
        message = jax.tree.map(lambda c, d: -c - d / (steps * rate), broadcast, result.delta.params)
        control = jax.tree.map(jnp.add, client_state, message)
        return result._replace(client_state=control, message=fl.Message(summed=message))

    def receive(state, message, context):
        return jax.tree.map(lambda c, m: c + m / context.clients, state, message.summed)

    zeros = lambda variables: jax.tree.map(jnp.zeros_like, variables.params)  # noqa: E731
    return fl.fedavg(task, optax.sgd(rate), weighting=fl.equal)._replace(
        client=fl.ClientUpdate(zeros, update),
        exchange=fl.Exchange(zeros, lambda state: state, receive),
    )


@pytest.mark.slow
def test_messages_and_broadcasts_carry_control_variates(fx):
    """c = mean c_i under partial participation, convergence to the uniform optimum, and doubled bytes."""
    algorithm = scaffold(fx.quad, RATE)._replace(sampler=fl.uniform_clients(2))
    data = fx.quad_data()
    round = fl.make_round(algorithm, batch_size=1, epochs=1, mesh=fl.client_mesh())
    state = fl.init_state(algorithm, start(), data, fl.client_mesh())
    for _ in range(3):
        state, info = round(state, data, KEY)
        mean = jax.tree.map(lambda c: c.mean(0), state.client)
        fx.assert_close(state.exchange, mean, 1e-6)
    assert set(np.asarray(info.bytes_up).tolist()) == {0, 2 * 8 + 4}
    assert set(np.asarray(info.bytes_down).tolist()) == {0, 2 * 8}
    state, _ = fl.run_rounds(round, 600)(state, data, KEY)
    optimum = (fx.a[:, None] * fx.b).sum(0) / fx.a.sum()
    np.testing.assert_allclose(state.variables.params["w"], optimum, atol=1e-3)
    np.testing.assert_allclose(state.client["w"], fx.a[:, None] * (optimum - fx.b), atol=5e-3)


def test_counters_take_the_rounded_mean_of_their_changes(fx):
    """One client takes a step and one takes two, weighted by their examples: 5/3 steps on average."""

    def loss(params, stats, batch, key):
        value, (stats, metrics) = fx.quad.loss(params, stats, batch, key)
        return value, ({"count": stats["count"] + 1}, metrics)

    algorithm = fl.fedavg(fx.quad._replace(loss=loss), optax.sgd(RATE))
    variables = Variables({"w": jnp.zeros(2)}, {"count": jnp.int32(3)})
    state, _ = run(algorithm, variables, fx.quad_data(fx.a[:2], fx.b[:2], np.array([1, 2])))
    assert state.variables.stats["count"] == 3 + 2


@pytest.mark.slow
def test_double_precision(fx, x64):
    """Under x64 the whole round computes in double precision: the closed form holds to 1e-12."""
    data = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(jnp.float64), fx.quad_data())
    variables = Variables({"w": jnp.array([0.3, -0.7], jnp.float64)}, {})
    channel = fl.chain(fl.clip(1e3))
    state, _ = run(fl.fedavg(fx.quad, optax.sgd(RATE), channel=channel), variables, data, rounds=2)
    weights = (fx.tau / fx.tau.sum())[:, None]
    w, a, b = np.array([0.3, -0.7]), fx.a.astype(np.float64), fx.b.astype(np.float64)
    for _ in range(2):
        rho = (1 - RATE * a[:, None]) ** fx.tau[:, None]
        w = (weights * (b + rho * (w - b))).sum(0)
    np.testing.assert_allclose(state.variables.params["w"], w, rtol=1e-12)
