"""FedALA: models mixed element by element before training, by the equations of the paper."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.fedala import fedala
from fedrecon.federated.methods.local_aggregation import aggregated, sample
from fedrecon.types import Variables

RATE = 0.05
# Of F_i(w, h) = a_i / 2 (|w + h - b_i|^2 + |h|^2) the upper layer is h.
HEAD = Variables({"w": False, "h": True}, False)
START = {"w": np.array([0.3, -0.7]), "h": np.array([0.5, -0.25])}


def algorithm(fx, **options):
    options = {"head": HEAD, "weight_rate": 0.5, "part": 1.0, "threshold": 0.0, "passes": 3} | options
    return fedala(fx.pair, optax.sgd(RATE), **options)


def rounds(fx, method, count, state=None, data=None, task=None, **options):
    data = fx.quad_data() if data is None else data
    run = fl.make_round(method, **({"batch_size": 1, "epochs": 1, "donate": False} | options))
    if state is None:
        start: Any = Variables({name: jnp.asarray(x) for name, x in START.items()}, {})
        state = fl.init_state(method, start if task is None else task.init(jax.random.key(1)), data)
    found = []
    for _ in range(count):
        state, info = run(state, data, jax.random.key(3))
        found.append((state, info))
    return found


@functools.cache
def three_rounds(fx):
    return rounds(fx, algorithm(fx), 3)


def by_hand(fx, count, eta, passes):
    """Client by client and step by step in double precision: the model, own h (4, 2) and W (4, 2)."""
    w, h = START["w"], START["h"]
    own, weights = np.tile(h, (4, 1)), np.ones((4, 2))
    for r in range(count):
        sent = []
        for i in range(4):
            a, b = float(fx.a[i]), fx.b[i].astype(float)
            for _ in range((0, passes, 1)[min(r, 2)] * fx.tau[i]):
                mixed = own[i] + (h - own[i]) * weights[i]
                slope = a * (w + mixed - b + mixed) * (h - own[i])
                weights[i] = np.clip(weights[i] - eta * slope, 0, 1)
            lower, upper = w, own[i] + (h - own[i]) * weights[i]
            for _ in range(fx.tau[i]):
                away = lower + upper - b
                lower, upper = lower - RATE * a * away, upper - RATE * a * (away + upper)
            own[i] = upper
            sent.append((lower, upper))
        w, h = (np.average([pair[k] for pair in sent], axis=0, weights=fx.tau) for k in (0, 1))
        yield w, h, own.copy(), weights.copy()


def test_rounds_are_those_of_the_equations(fx):
    for (state, info), (w, h, own, weights) in zip(three_rounds(fx), by_hand(fx, 3, 0.5, 3), strict=True):
        np.testing.assert_allclose(state.variables.params["w"], w, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(state.variables.params["h"], h, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(state.client.model["h"], own, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(state.client.weights["h"], weights, rtol=1e-5, atol=1e-5)
        # Nothing but the local model and its weight travels.
        np.testing.assert_array_equal(info.bytes_up, 4 * 4 + 4)
        np.testing.assert_array_equal(info.bytes_down, 4 * 4)
    np.testing.assert_array_equal(three_rounds(fx)[0][0].client.weights["h"], 1)
    assert state.client.weights["w"] is None and (weights < 0.99).any()


def test_clients_evaluate_with_the_aggregated_model(fx):
    state = three_rounds(fx)[-1][0]
    for i in range(4):
        found = fl.client_variables(algorithm(fx), state, i).params
        np.testing.assert_array_equal(found["w"], state.variables.params["w"])
        mine, given, w = (np.asarray(x) for x in (state.client.model["h"][i], state.variables.params["h"],
                                                  state.client.weights["h"][i]))  # fmt: skip
        np.testing.assert_allclose(found["h"], mine + (given - mine) * w, rtol=1e-5, atol=1e-6)


def test_ones_are_the_received_model_exactly():
    mine, given = (
        {"a": jnp.array([0.1, 1e8]), "b": jnp.ones(1)},
        {"a": jnp.array([0.7, 0.3]), "b": jnp.zeros(1)},
    )
    found = aggregated({"a": jnp.ones(2), "b": None}, mine, given)
    np.testing.assert_array_equal(found["a"], given["a"])
    np.testing.assert_array_equal(found["b"], 0)
    kept = aggregated({"a": jnp.zeros(2), "b": None}, mine, given)["a"]
    np.testing.assert_allclose(kept, mine["a"], rtol=1e-6)


def test_the_sample_is_a_part_of_the_examples():
    present = jnp.arange(9) < 7
    batches = fl.Batches({}, jnp.zeros((3, 2), int), present.sum(), present, jnp.int32(0))
    seen = []
    for number in range(2):
        places, mask = sample(batches, 0.5, jax.random.key(number))
        assert places.shape == mask.shape == (5, 2)
        seen.append(np.sort(np.asarray(places)[np.asarray(mask)]))
        # Four of seven, no padding among them, none twice.
        assert len(set(seen[-1])) == 4 and seen[-1].max() < 7
    assert (seen[0] != seen[1]).any()
    assert int(sample(batches, 1.0, jax.random.key(0))[1].sum()) == 7


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"weight_rate": 0.0}, {"head": Variables(False, False)}])
def test_without_a_rate_or_upper_layers_it_is_averaging_bit_for_bit(fx, changes):
    head = {"head": Variables({"dense": True, "norm": True}, False)}
    data, optimizer = fx.regression_data([5, 3, 1]), optax.adam(0.05)
    found = [
        rounds(fx, method, 3, data=data, task=fx.regression, batch_size=2, epochs=2)[-1][0].variables
        for method in (
            fedala(fx.regression, optimizer, **(head | changes)),
            fl.fedavg(fx.regression, optimizer),
        )
    ]
    fx.assert_equal(*found)


@pytest.mark.slow
def test_the_second_round_goes_on_until_losses_settle(fx):
    """At a threshold that any losses meet that is eleven passes, of which the first ten fill the window."""
    ends = [
        rounds(fx, algorithm(fx, **options), 2)[-1][0].client.weights["h"]
        for options in ({"threshold": 1e9, "passes": 50}, {"threshold": 0.0, "passes": 11})
    ]
    fx.assert_equal(*ends)
    fewer = rounds(fx, algorithm(fx, passes=10), 2)[-1][0].client.weights["h"]
    assert np.abs(fewer - ends[0]).max() > 1e-6


@pytest.mark.slow
def test_scanned_clients_and_clients_at_once_are_equal_and_resuming_is_exact(fx):
    whole = three_rounds(fx)[-1][0]
    fx.assert_close(rounds(fx, algorithm(fx), 3, parallel="vmap")[-1][0], whole, 1e-6)
    half = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), three_rounds(fx)[0][0])
    fx.assert_equal(rounds(fx, algorithm(fx), 2, half)[-1][0], whole)


@pytest.mark.slow
def test_further_methods_go_along(fx):
    together = algorithm(fx, method=fl.proximal(0.0))
    found, expected = (rounds(fx, method, 3)[-1][0] for method in (together, algorithm(fx)))
    fx.assert_close(found.variables, expected.variables, 1e-6)


def test_options_out_of_range_are_refused(fx):
    for name, value in (
        ("weight_rate", -1.0),
        ("part", 0.0),
        ("part", 1.1),
        ("threshold", -1),
        ("passes", 0),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            algorithm(fx, **{name: value})
