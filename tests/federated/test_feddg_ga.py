"""FedDG-GA: weights by the gaps of losses, by the equations of the paper."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.feddg_ga import adjusted, by_gaps, feddg_ga
from fedrecon.types import Variables

RATE, START = 0.05, np.array([0.3, -0.7])


def algorithm(fx, **options):
    return feddg_ga(fx.quad, optax.sgd(RATE), **{"clients": 4, "rounds": 6, "step_size": 0.3} | options)


def rounds(fx, method, count, state=None, data=None, **options):
    data = fx.quad_data() if data is None else data
    run = fl.make_round(method, batch_size=1, epochs=1, donate=False, **options)
    state = fl.init_state(method, Variables({"w": jnp.asarray(START)}, {}), data) if state is None else state
    found = []
    for _ in range(count):
        state, info = run(state, data, jax.random.key(3))
        found.append((state, info))
    return found


@functools.cache
def four_rounds(fx):
    return rounds(fx, algorithm(fx), 4)


def by_hand(fx, count, d, total, clients=range(4), weights=None):
    """The model and the weights of each round, in double precision."""
    w, n = START, len(clients)
    a, gap = np.full(n, 1 / n), None
    pull, target, tau = (x[list(clients)].astype(float) for x in (fx.a, fx.b, fx.tau))

    def loss(models):
        return 0.5 * pull * ((models - target) ** 2).sum(-1)

    for r in range(count):
        if gap is not None:
            away = gap - gap.mean()
            a = np.maximum(a + (1 - (r - 1) / total) * d * away / np.abs(away).max(), 0)
            a = a / a.sum()
        local = target + ((1 - RATE * pull) ** tau)[:, None] * (w - target)
        w = a @ local
        gap = loss(w) - loss(local)
        yield w, a


def test_rounds_are_those_of_the_equations(fx):
    for (state, info), (w, a) in zip(four_rounds(fx), by_hand(fx, 4, 0.3, 6), strict=True):
        np.testing.assert_allclose(state.variables.params["w"], w, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(info.reduce["weight"], a, rtol=1e-5, atol=1e-5)
        # The model, its weight and the gap.
        np.testing.assert_array_equal(info.bytes_up, 4 * (2 + 1 + 1))
        np.testing.assert_array_equal(info.bytes_down, 4 * 2)
    assert np.abs(a - 0.25).max() > 0.1


def test_weights_by_hand():
    everybody = np.ones(3, bool)
    found = adjusted(jnp.ones(3), jnp.array([4.0, 1.0, 1.0]), everybody, jnp.float32(0.5))
    np.testing.assert_allclose(found, [1.5, 0.75, 0.75], rtol=1e-6)
    # Nobody weighs less than nothing, and the sum stays.
    found = adjusted(jnp.ones(3), jnp.array([4.0, 1.0, -5.0]), everybody, jnp.float32(2.0))
    expected = np.array([1 + 2 * 4 / 5, 1 + 2 * 1 / 5, 0])
    np.testing.assert_allclose(found, expected * 3 / expected.sum(), rtol=1e-6)
    # Gaps that are alike move nobody, nor does one that is not known.
    np.testing.assert_array_equal(adjusted(jnp.ones(3), jnp.full(3, 2.0), everybody, jnp.float32(0.5)), 1)
    known = np.array([True, True, False])
    found = adjusted(jnp.array([0.5, 1.5, 1.0]), jnp.array([3.0, 1.0, 1e6]), known, jnp.float32(0.25))
    np.testing.assert_allclose(found, [0.75, 1.25, 1.0], rtol=1e-6)


def test_the_step_falls_to_nothing(fx):
    """Over R rounds linearly; weights stay from then on."""
    reducer = by_gaps(3, 4, 0.1, lambda scalars: scalars)
    sent = fl.Upload(
        Variables({"w": jnp.zeros((3, 1))}, {}),
        fl.Message(scalars={"gap": jnp.array([3.0, 1.0, 2.0])}),
        jnp.ones(3),
    )
    state, moved = reducer.init(sent), []
    for number in range(7):
        context = fl.Context(jnp.int32(number), jax.random.key(0), rows=jnp.arange(3))
        after = reducer.reduce(sent, jnp.ones(3, bool), state, context).state
        moved.append(float(after.weight[0] - state.weight[0]) / 3)
        state = after
    np.testing.assert_allclose(moved, [0, 0.1, 0.075, 0.05, 0.025, 0, 0], atol=1e-6)


def test_who_missed_a_round_keeps_its_weight(fx):
    """Client 0 sits out the second of three rounds: its gap of the first one tells nothing any more."""

    def alternate(key, round, history):
        return jnp.arange(4) != jnp.where(round == 1, 0, 4)

    one, two, three = (info.reduce["weight"] for _, info in rounds(fx, algorithm(fx, sampler=alternate), 3))
    np.testing.assert_array_equal(one, 0.25)
    assert two[0] == three[0] == np.float32(0.25)
    np.testing.assert_allclose(two.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(three.sum(), 1, rtol=1e-6)
    assert np.abs(np.asarray(three - two)[1:]).min() > 1e-3


def test_gaps_are_of_the_validation_split(fx):
    """Targets there are others', and only they matter to weights."""
    split = fl.place(fx.quad_data(), validation=fx.quad_data(b=fx.b + 2))
    (first, _), (_, info) = rounds(fx, algorithm(fx), 2, data=split)
    shrink = ((1 - RATE * fx.a.astype(float)) ** fx.tau)[:, None]
    local, w = fx.b + shrink * (START - fx.b), np.asarray(first.variables.params["w"], float)

    def loss(models):
        return 0.5 * fx.a * ((models - fx.b - 2) ** 2).sum(-1)

    away = loss(w) - loss(local)
    away -= away.mean()
    a = np.maximum(0.25 + 0.3 * away / np.abs(away).max(), 0)
    np.testing.assert_allclose(info.reduce["weight"], a / a.sum(), rtol=1e-5)


@pytest.mark.slow
def test_without_a_step_it_is_averaging_with_equal_weights_bit_for_bit(fx):
    data = fx.regression_data([5, 3, 1])
    found = []
    for method in (
        feddg_ga(fx.regression, optax.adam(0.05), clients=3, rounds=3, step_size=0.0),
        fl.fedavg(fx.regression, optax.adam(0.05), weighting=fl.equal),
    ):
        run = fl.make_round(method, batch_size=2, epochs=2, donate=False)
        state = fl.init_state(method, fx.regression.init(jax.random.key(1)), data)
        for _ in range(3):
            state, info = run(state, data, jax.random.key(3))
        found.append(state.variables)
        assert info.applied
    fx.assert_equal(*found)


@pytest.mark.slow
def test_gaps_even_out(fx):
    """Of two sites the weight goes to the one that loses more by averaging, until both lose as much."""
    data = fx.quad_data(np.array([1.0, 3.0], np.float32), fx.b[:2], np.array([1, 1]))
    method = algorithm(fx, clients=2, rounds=200, step_size=0.05)
    plain = fl.fedavg(fx.quad, optax.sgd(RATE), weighting=fl.equal)
    spread = []
    for one in (method, plain):
        w = np.asarray(rounds(fx, one, 200, data=data)[-1][0].variables.params["w"])
        pull = np.array([1, 3])
        # E_i(w) - E_i(w_i) of a local step from w.
        gaps = 0.5 * pull * (1 - (1 - RATE * pull) ** 2) * ((w - fx.b[:2]) ** 2).sum(1)
        spread.append(abs(gaps[0] - gaps[1]))
    assert spread[0] < 0.2 * spread[1], spread


@pytest.mark.slow
def test_scanned_clients_and_clients_at_once_are_equal_and_resuming_is_exact(fx):
    whole = four_rounds(fx)[-1][0]
    fx.assert_close(rounds(fx, algorithm(fx), 4, parallel="vmap")[-1][0], whole, 1e-6)
    half = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), four_rounds(fx)[1][0])
    fx.assert_equal(rounds(fx, algorithm(fx), 2, half)[-1][0], whole)


@pytest.mark.slow
def test_further_methods_go_along(fx):
    together = algorithm(fx, method=fl.proximal(0.0))
    found, expected = (rounds(fx, method, 2)[-1][0] for method in (together, algorithm(fx)))
    fx.assert_close(found.variables, expected.variables, 1e-6)


def test_options_out_of_range_are_refused(fx):
    for name, value in (("step_size", -0.1), ("rounds", 0)):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            algorithm(fx, **{name: value})
