"""Schedules: how far and how fast each client works in each round."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.types import Variables

RATE = 0.05
START = np.array([0.3, -0.7])
STEPS = np.array([[1, 2, 3, 4], [8, 0, 1, 5], [2, 9, 9, 3]])
RATES = np.array([[1.0, 0.5, 2.0, 0.0], [0.1, 1.0, 1.0, 0.3], [0.7, 0.2, 1.0, 1.5]], np.float32)


def given(context):
    place = context.round, context.client
    return fl.Work(jnp.asarray(RATES)[place], jnp.asarray(STEPS)[place])


def full(context):
    return fl.Work(jnp.float32(1), jnp.int32(1000))


def test_rates_and_steps_of_each_client_and_round(fx):
    """Closed form of gradient descent, and the true numbers of steps and examples in the report."""
    algorithm = fl.fedavg(fx.quad, optax.sgd(RATE), weighting=fx.fixed_weights)._replace(schedule=given)
    states, infos = fx.trajectory(fx.quad, algorithm, 3)(fx.quad_data())
    w = START
    for number, found in enumerate(states.variables.params["w"]):
        taken = np.minimum(STEPS[number], fx.tau)
        rho = (1 - RATE * RATES[number] * fx.a) ** taken
        w = (fx.p[:, None] * (fx.b + rho[:, None] * (w - fx.b))).sum(0)
        np.testing.assert_allclose(found, w, rtol=1e-5)
        for name in ("steps", "examples"):
            np.testing.assert_array_equal(infos.client_metrics[name][0][number], taken)
            assert float(infos.metrics[name][0][number]) == taken.sum()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quad", pytest.param("regression", marks=pytest.mark.slow)])
def test_a_schedule_of_full_work_is_none(fx, name):
    """Bitwise, with a stateful optimizer and ragged clients."""
    results = []
    task = getattr(fx, name)
    data = fx.regression_data([5, 3, 1]) if name == "regression" else fx.quad_data()
    for schedule in (None, full):
        algorithm = fl.fedbn(task, optax.adam(0.05), keep_optimizer=True)._replace(schedule=schedule)
        results.append(fx.trajectory(task, algorithm, 2, batch_size=2, epochs=2)(data))
    fx.assert_equal(*results)


@pytest.mark.parametrize(
    ("momentum", "strength"), [(0.6, 0.0), pytest.param(0.0, 3.0, marks=pytest.mark.slow)]
)
def test_fednova_knows_rates_and_steps(fx, momentum, strength):
    """On linear objectives c_i is what carries a client along its gradient, whatever its rate."""
    algorithm = fl.fednova(
        fx.linear, RATE, momentum=momentum, strength=strength, weighting=fx.fixed_weights
    )._replace(schedule=given)
    states, _ = fx.trajectory(fx.linear, algorithm, 1)(fx.quad_data(), Variables({"w": jnp.zeros(2)}, {}))
    taken, weights = np.minimum(STEPS[0], fx.tau), []
    for number, rate in zip(taken, RATES[0], strict=True):
        place = velocity = 0.0
        for _ in range(number):
            velocity = momentum * velocity + 1.0 + strength * place
            place -= RATE * rate * velocity
        weights.append(-place / RATE)
    weights = np.array(weights)
    effective = (fx.p * (taken * RATES[0] if strength else weights)).sum()
    moved = (weights > 0)[:, None] * fx.b
    expected = -RATE * effective * (fx.p[:, None] * moved).sum(0)
    np.testing.assert_allclose(states.variables.params["w"][0], expected, rtol=1e-5)


@pytest.mark.slow
def test_scaffold_knows_rates_and_steps(fx):
    """Option 2 divides by the path length; a client that did not move keeps its control variate."""
    algorithm = fl.scaffold(fx.linear, RATE)._replace(schedule=given)
    states, _ = fx.trajectory(fx.linear, algorithm, 1)(fx.quad_data(), Variables({"w": jnp.zeros(2)}, {}))
    moved = (np.minimum(STEPS[0], fx.tau) * RATES[0] > 0)[:, None]
    np.testing.assert_allclose(states.client.method["w"][0], moved * fx.b, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ditto", "pfedme", "fedrep"])
def test_other_local_work_follows_the_schedule(fx, name):
    """Nothing moves at rate 0, and the cut steps are not counted."""
    algorithm = {
        "ditto": fl.ditto(fx.quad, optax.sgd(RATE)),
        "pfedme": fl.pfedme(fx.quad, RATE),
        "fedrep": fl.fedrep(fx.quad, optax.sgd(RATE), head=Variables(False, True), head_steps=1),
    }[name]

    def still(context):
        return fl.Work(jnp.float32(0), jnp.int32(2))

    run = fx.trajectory(fx.quad, algorithm._replace(schedule=still), 1)
    states, infos = run(fx.quad_data())
    np.testing.assert_array_equal(infos.client_metrics["steps"][0][0], np.minimum(fx.tau, 2))
    np.testing.assert_array_equal(states.variables.params["w"][0], START.astype(np.float32))
    if name == "ditto":
        np.testing.assert_array_equal(
            states.client.method.params["w"][0], np.tile(START, (4, 1)).astype(np.float32)
        )


@pytest.mark.slow
def test_private_training_follows_the_rate(fx):
    """Without noise and clipping DP-SGD moves half as far at half the rate."""
    moved = []
    for rate in (1.0, 0.5):
        algorithm = fl.dp_fedavg(
            fx.linear,
            optax.sgd(RATE),
            clipping_norm=1e6,
            noise_multiplier=0.0,
            expected_batch_size=4.0,
            padded_batch_size=8,
            steps=2,
        )
        algorithm = algorithm._replace(schedule=lambda c, r=rate: fl.Work(jnp.float32(r), jnp.int32(2)))
        round = fl.make_round(algorithm)
        state = fl.init_state(algorithm, Variables({"w": jnp.zeros(2)}, {}), fx.quad_data())
        moved.append(round(state, fx.quad_data(), jax.random.key(0))[0].variables.params["w"])
    np.testing.assert_allclose(moved[1], 0.5 * moved[0], rtol=1e-5)


def test_random_schedules_and_channels_use_keys_of_their_own(fx):
    """Otherwise noise would repeat who is slow."""
    seen = []

    def spy(name):
        def record(context):
            jax.debug.callback(lambda k: seen.append((name, *map(int, k))), jax.random.key_data(context.key))

        return record

    def schedule(context):
        spy("schedule")(context)
        return full(context)

    def encode(upload, state, context):
        spy("channel")(context)
        return upload, state, {}

    channel = fl.clip(1.0)._replace(encode=encode)
    algorithm = fl.fedavg(fx.quad, optax.sgd(RATE), channel=channel)._replace(schedule=schedule)
    jax.block_until_ready(fx.trajectory(fx.quad, algorithm, 1)(fx.quad_data(counts=np.ones(4, int))))
    jax.effects_barrier()
    assert {name for name, *_ in seen} == {"schedule", "channel"}
    assert len({key for _, *key in map(lambda s: (s[0], s[1:]), seen) for key in map(tuple, key)}) == 8
