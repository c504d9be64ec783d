"""APFL: averaging, and private models mixed with the shared one, by the equations of the paper."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.apfl import apfl
from fedrecon.types import Variables

RATE = 0.05
START = np.array([0.3, -0.7])


def rounds(fx, algorithm, count, state=None, data=None, **options):
    data = fx.quad_data() if data is None else data
    run = fl.make_round(algorithm, **({"batch_size": 1, "epochs": 1, "donate": False} | options))
    state = (
        fl.init_state(algorithm, Variables({"w": jnp.asarray(START)}, {}), data) if state is None else state
    )
    found = []
    for _ in range(count):
        state, info = run(state, data, jax.random.key(3))
        found.append((state, info))
    return found


@functools.cache
def adaptive(fx):
    return apfl(fx.quad, optax.sgd(RATE), mixing=0.4, mixing_rate=0.02)


@functools.cache
def three_rounds(fx):
    return rounds(fx, adaptive(fx), 3)


def by_hand(fx, count, mixing, mixing_rate):
    """Client by client and step by step in double precision: w, v (4, 2) and alpha (4,) of each round."""
    w, v, alpha = START, np.tile(START, (4, 1)), np.full(4, mixing)
    for _ in range(count):
        local = np.tile(w, (4, 1))
        for i in range(4):
            a, b = float(fx.a[i]), fx.b[i].astype(float)
            for step in range(fx.tau[i]):
                slope_at_mixture = a * (alpha[i] * v[i] + (1 - alpha[i]) * local[i] - b)
                change = (v[i] - local[i]) @ slope_at_mixture
                local[i] = local[i] - RATE * a * (local[i] - b)
                v[i] = v[i] - RATE * alpha[i] * slope_at_mixture
                if step == 0:
                    alpha[i] = np.clip(alpha[i] - mixing_rate * change, 0, 1)
        w = np.average(local, axis=0, weights=fx.tau)
        yield w, v.copy(), alpha.copy()


def test_rounds_are_those_of_the_equations(fx):
    for (state, info), (w, v, alpha) in zip(three_rounds(fx), by_hand(fx, 3, 0.4, 0.02), strict=True):
        np.testing.assert_allclose(state.variables.params["w"], w, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(state.client.method.model.params["w"], v, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(state.client.method.mixing, alpha, rtol=1e-5, atol=1e-5)
        # Nothing but the local model and its weight travels.
        np.testing.assert_array_equal(info.bytes_up, 4 * 2 + 4)
        np.testing.assert_array_equal(info.bytes_down, 4 * 2)
    # In the first round v and w start alike, and nothing speaks for either.
    np.testing.assert_allclose(three_rounds(fx)[0][0].client.method.mixing, 0.4, rtol=1e-6)
    assert np.abs(alpha - 0.4).min() > 1e-4


def test_clients_evaluate_with_the_mixture(fx):
    state = three_rounds(fx)[-1][0]
    own, w = state.client.method, np.asarray(state.variables.params["w"])
    for i in range(4):
        found = fl.client_variables(adaptive(fx), state, i).params["w"]
        alpha = float(own.mixing[i])
        expected = alpha * np.asarray(own.model.params["w"][i]) + (1 - alpha) * w
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
def test_the_mixture_settles_where_the_client_wants_it(fx):
    """At steps of one a round, with alpha = 1/2 held: v + w* = 2 b_i, the mixture is the client's optimum."""
    algorithm = apfl(fx.quad, optax.sgd(0.2), mixing=0.5, mixing_rate=0.0)
    states, _ = fx.trajectory(fx.quad, algorithm, 400, batch_size=1, steps=1)(fx.quad_data())
    last = jax.tree.map(lambda x: x[-1], states)
    for i in range(4):
        np.testing.assert_allclose(fl.client_variables(algorithm, last, i).params["w"], fx.b[i], atol=1e-3)


def test_alpha_stays_between_zero_and_one(fx):
    """A huge rate takes alpha to one of its bounds, and no further."""
    state = rounds(fx, apfl(fx.quad, optax.sgd(RATE), mixing=0.4, mixing_rate=1e4), 2)[-1][0]
    assert set(np.asarray(state.client.method.mixing)) <= {0.0, 1.0}


@pytest.mark.slow
def test_the_shared_model_is_that_of_averaging_bit_for_bit(fx):
    """Whatever the mixture; without one, clients evaluate with it, too."""
    data = fx.regression_data([5, 3, 1])
    found = []
    for algorithm in (
        apfl(fx.regression, optax.adam(0.05), mixing=0.0, mixing_rate=0.0),
        apfl(fx.regression, optax.adam(0.05), mixing=0.7),
        fl.fedavg(fx.regression, optax.adam(0.05)),
    ):
        run = fl.make_round(algorithm, batch_size=2, epochs=2, donate=False)
        state = fl.init_state(algorithm, fx.regression.init(jax.random.key(1)), data)
        for _ in range(2):
            state, info = run(state, data, jax.random.key(3))
        found.append((algorithm, state, info))
    (without, plain, _), (_, ours, info), (_, theirs, expected) = found
    fx.assert_equal(ours.variables, theirs.variables)
    fx.assert_equal(plain.variables, theirs.variables)
    fx.assert_equal(info.bytes_up, expected.bytes_up)
    for i in range(3):
        fx.assert_equal(fl.client_variables(without, plain, i).params, theirs.variables.params)


@pytest.mark.slow
def test_all_mixing_is_training_alone(fx):
    data, found = fx.regression_data([6, 4, 3]), []
    for algorithm in (
        apfl(fx.regression, optax.adam(0.05), mixing=1.0, mixing_rate=0.0),
        fl.local_only(fx.regression, optax.adam(0.05), keep_optimizer=False),
    ):
        states, _ = fx.trajectory(fx.regression, algorithm, 3, batch_size=2, epochs=1)(data)
        last = jax.tree.map(lambda x: x[-1], states)
        found.append([fl.client_variables(algorithm, last, i) for i in range(3)])
    fx.assert_close(*found, 1e-6)


@pytest.mark.slow
def test_scanned_clients_and_clients_at_once_are_equal_and_resuming_is_exact(fx):
    whole = three_rounds(fx)
    fx.assert_close(rounds(fx, adaptive(fx), 3, parallel="vmap")[-1][0], whole[-1][0], 1e-6)
    half = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), whole[0][0])
    fx.assert_equal(rounds(fx, adaptive(fx), 2, half)[-1][0], whole[-1][0])


def test_a_private_model_that_diverges_stays_as_it_was(fx):
    algorithm = apfl(fx.quad, optax.sgd(0.1), personal_optimizer=optax.sgd(1e25))
    state, info = rounds(fx, algorithm, 3)[-1]
    assert info.applied.all() and not info.excluded.any()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.client))


def test_a_schedule_is_one_of_alpha_too(fx):
    """At rate 0 nothing moves, neither v nor alpha."""
    algorithm = adaptive(fx)._replace(schedule=lambda context: fl.Work(jnp.float32(0), jnp.int32(100)))
    before = three_rounds(fx)[0][0]
    fx.assert_close(rounds(fx, algorithm, 1, before)[-1][0].client.method, before.client.method, 1e-7)


def test_options_out_of_range_are_refused(fx):
    with pytest.raises(ValueError, match=r"^mixing: expected a number in \[0, 1\], found 1.5"):
        apfl(fx.quad, optax.sgd(RATE), mixing=1.5)
    with pytest.raises(ValueError, match=r"^mixing_rate: expected a number of at least 0, found -1"):
        apfl(fx.quad, optax.sgd(RATE), mixing_rate=-1)
