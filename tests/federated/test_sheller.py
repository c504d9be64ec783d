"""Sheller: averaging, visits and cycles of visits, and early stopping at each institution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.sheller import sheller
from fedrecon.federated.topologies import make_ring_round
from fedrecon.types import Variables

RATE = 0.1
START = Variables({"w": jnp.array([0.3, -0.7])}, {})
# Passes of one step each, of clients with one example.
ONE = np.ones(4, int)
KEY = jax.random.key(3)


@functools.cache
def program(fx, topology, patience=0, epochs=1, order="fixed"):
    own = sheller(fx.quad, optax.sgd(RATE), patience=patience)
    if topology == "star":
        return own, fl.make_round(own, batch_size=1, epochs=epochs, donate=False)
    return own, make_ring_round(own, batch_size=1, epochs=epochs, order=order, donate=False)


def models(fx, data, rounds, topology, validation=None, start=START, **how):
    """The model after each round."""
    own, round = program(fx, topology, **how)
    placed = fl.place(data, validation=validation)
    state, found = fl.init_state(own, start, placed), []
    for _ in range(rounds):
        state, info = round(state, placed, KEY)
        found.append(np.asarray(state.variables.params["w"]))
    return np.stack(found), info


def losses(fx, w):
    """Of models (..., 2) at each institution."""
    return 0.5 * fx.a * ((np.asarray(w)[..., None, :] - fx.b) ** 2).sum(-1)


def visit(w, a, b, target, patience, epochs):
    """Training at one institution until its validation loss, towards ``target``, has not fallen for long."""
    best, least, waited = w, np.inf, 0
    for _ in range(epochs):
        w = w - RATE * a * (w - b)
        loss = ((w - target) ** 2).sum()
        if loss < least:
            best, least, waited = w, loss, 0
        else:
            waited += 1
        if waited == patience:
            break
    return best


@pytest.mark.parametrize("patience", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_single_pass_goes_on_from_what_early_stopping_kept(fx, patience):
    """IIL: losses that rise, that rise and fall again lower, that fall all the time."""
    a = np.array([1.0, 19.0, 0.5, 3.0], np.float32)
    w, targets = np.asarray(START.params["w"], float), fx.b + np.array([[-1, 1], [0, 0], [1.5, 0], [0, 0]])
    ends = []
    for i in range(4):
        if i == 1:
            # Steps go to and fro, with -0.9 of the distance left.
            targets[1] = fx.b[1] - 0.7 * (w - fx.b[1])
        ends.append([visit(w, a[i], fx.b[i], targets[i], p, 12) for p in (patience, 12)])
        w = ends[-1][0]
    assert np.allclose(*ends[0]) and np.allclose(*ends[3])
    assert np.allclose(*ends[1]) == (patience == 3)
    data, seen = (fx.quad_data(a=a, b=b, counts=ONE) for b in (fx.b, targets.astype(np.float32)))
    found, info = models(fx, data, 1, "ring", seen, patience=patience, epochs=12)
    np.testing.assert_allclose(found[-1], w, rtol=1e-4)
    # The model alone, and no word of the validation.
    np.testing.assert_array_equal(info.bytes_up, [4 * 2] * 4)


def test_passes_end_with_the_last_batch_of_the_examples(fx):
    """Three steps a pass: a model inside of a pass is never kept."""
    three = np.full(4, 3)
    target = np.asarray(START.params["w"])
    seen = fx.quad_data(b=np.tile(target, (4, 1)), counts=three)
    found, _ = models(fx, fx.quad_data(counts=three), 1, "star", seen, patience=2, epochs=2)
    # The nearest to the start is the model after the first pass.
    after = fx.b + ((1 - RATE * fx.a) ** 3)[:, None] * (target - fx.b)
    np.testing.assert_allclose(found[-1], after.mean(0), rtol=1e-5)


@pytest.mark.slow
def test_of_one_institution_all_schedules_are_the_same(fx):
    data = jax.tree.map(lambda x: x[1:2], fx.quad_data())
    expected = fx.b[1] + (1 - RATE * fx.a[1]) ** (5 * 3) * (np.asarray(START.params["w"]) - fx.b[1])
    for topology, rounds, epochs in (("star", 3, 1), ("ring", 3, 1), ("ring", 1, 3)):
        found, _ = models(fx, data, rounds, topology, epochs=epochs)
        np.testing.assert_allclose(found[-1], expected, rtol=1e-5)
    own = fl.local_only(fx.quad, optax.sgd(RATE))
    state, _ = fl.make_round(own, batch_size=1, epochs=3)(fl.init_state(own, START, data), data, KEY)
    np.testing.assert_allclose(state.private.params["w"][0], expected, rtol=1e-5)


def test_visits_forget_the_first_institution_and_averaging_does_not(fx):
    data, far = fx.quad_data(counts=ONE), np.array([8.0, 9.0], np.float32)
    start = Variables({"w": jnp.asarray(far)}, {})
    single, _ = models(fx, data, 1, "ring", epochs=12, start=start)
    first = visit(far, fx.a[0], fx.b[0], fx.b[0], 12, 12)
    assert losses(fx, single[-1])[0] > 1.2 * losses(fx, first)[0]
    averaged, _ = models(fx, data, 24, "star", start=start)
    assert (np.diff(losses(fx, averaged)[:, 0]) < 0).all()


def test_cycles_in_another_order_vary_more_from_round_to_round_than_averages(fx):
    data = fx.quad_data(counts=ONE)
    cycles, _ = models(fx, data, 48, "ring", order="shuffled")
    averages, _ = models(fx, data, 48, "star")
    spread = [losses(fx, found[24:]).sum(-1).var() for found in (cycles, averages)]
    assert spread[0] > 10 * spread[1]


def test_without_patience_it_is_fedavg_bit_for_bit(fx):
    own, _ = program(fx, "star")
    assert own.exchange.broadcast(own.exchange.init(START)) == () and own.reduce is None
    with pytest.raises(ValueError, match=r"^patience: expected an integer of at least 1, found -1"):
        sheller(fx.quad, optax.sgd(RATE), patience=-1)
    data, plain = fx.quad_data(counts=ONE), fl.fedavg(fx.quad, optax.sgd(RATE))
    ours, _ = models(fx, data, 1, "star")
    expected, _ = fl.make_round(plain, batch_size=1, epochs=1)(fl.init_state(plain, START, data), data, KEY)
    np.testing.assert_array_equal(ours[-1], expected.variables.params["w"])
