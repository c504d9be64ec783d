"""FedACS: the pool of easy clients, chances in it, and FedAvg where everybody takes part."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from fedrecon import federated as fl
from fedrecon.errors import ArgumentError
from fedrecon.federated.methods.fedacs import Difficulty, curriculum, fedacs
from fedrecon.federated.sampling import Observed
from fedrecon.types import Variables
from tests.federated.conftest import QUAD

KEY = jax.random.key(3)
SIZES = (1, 5, 3, 8)
START = Variables({"w": jnp.array([0.3, -0.7])}, {})
# Of eight clients; the second and the fifth are equally hard.
LOSSES = np.array([0.4, 0.9, 0.1, 2.0, 0.9, 0.5, 0.05, 1.2], np.float32)


def history(losses):
    clients = len(losses)
    memory = Difficulty(jnp.asarray(losses, jnp.float32), jnp.ones(clients, bool))
    return fl.History(
        jnp.zeros(clients, jnp.int32), jnp.full(clients, -1, jnp.int32), jnp.zeros(clients), memory
    )


@functools.cache
def compiled_draws(sampler):
    return jax.jit(jax.vmap(sampler, in_axes=(0, None, None)))


def draws(sampler, round, losses, count=4000):
    return np.asarray(
        compiled_draws(sampler)(jax.random.split(KEY, count), jnp.int32(round), history(losses))
    )


def run(fx, algorithm, rounds=4, data=None, **options):
    data = data or fx.quad_data()
    round = fl.make_round(algorithm, batch_size=1, epochs=1, **options)
    return fl.run_rounds(round, rounds)(fl.init_state(algorithm, START, data), data, KEY)


@pytest.mark.parametrize("parallel", ["scan", pytest.param("vmap", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_everybody_without_preference_is_fedavg_bit_for_bit(fx, parallel):
    own = fedacs(fx.quad, optax.sgd(0.1), sizes=SIZES, rounds=8, cohort=4, start=1.0, preference=0.0)
    state, info = run(fx, own, parallel=parallel)
    expected, _ = run(fx, fl.fedavg(fx.quad, optax.sgd(0.1)), parallel=parallel)
    fx.assert_equal(state.variables, expected.variables)
    # The model, its weight and the loss.
    np.testing.assert_array_equal(info.bytes_up, 4 * (2 + 1 + 1))
    np.testing.assert_array_equal(info.bytes_down, 4 * 2)


def test_without_preference_draws_are_in_proportion_to_sizes_without_replacement():
    sizes = np.array([1.0, 2, 3, 4, 2])
    sampler = curriculum(2, sizes, start=1.0, preference=0.0)
    chosen = draws(sampler, 0, np.arange(5.0))
    np.testing.assert_array_equal(chosen.sum(1), 2)
    # Pairs: the first in proportion to sizes, the second to those that are left.
    p = sizes / sizes.sum()
    pairs = {(i, j): p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i in range(5) for j in range(i)}
    counts = [(chosen[:, i] & chosen[:, j]).sum() for i, j in pairs]
    assert stats.chisquare(counts, 4000 * np.array(list(pairs.values()))).pvalue > 1e-3


def test_the_pool_grows_from_the_easiest_to_all():
    sampler = curriculum(2, np.ones(8), start=0.4, growth_rounds=10)
    order = np.argsort(LOSSES, kind="stable")
    for round, size in ((0, 4), (5, 6), (9, 8), (10, 8), (50, 8)):
        chances = np.asarray(sampler.chances(round, history(LOSSES)))
        assert np.isclose(chances.sum(), 1) and set(np.flatnonzero(chances)) == set(order[:size])
        assert set(np.flatnonzero(draws(sampler, round, LOSSES).any(0))) == set(order[:size])
    # No pool is smaller than the cohort.
    half = fedacs(QUAD, optax.sgd(0.1), sizes=np.ones(8), rounds=21, cohort=2).sampler
    np.testing.assert_array_equal(
        half.chances(10, history(LOSSES)),
        curriculum(2, np.ones(8), growth_rounds=11).chances(10, history(LOSSES)),
    )
    few = curriculum(6, np.ones(8), start=0.1)
    assert (draws(few, 0, LOSSES).sum(1) == 6).all()


def test_chances_fall_with_difficulty_and_turn_round():
    sizes = np.arange(1.0, 9)
    sampler = curriculum(2, sizes, start=1.0, growth_rounds=10, preference=1.5, final_preference=-0.5)
    z = (LOSSES - LOSSES.mean()) / LOSSES.std()
    for round, beta in ((0, 1.5), (4, 0.9), (10, -0.5), (30, -0.5)):
        expected = sizes * np.exp(-beta * z)
        found = sampler.chances(round, history(LOSSES))
        np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-5)
    # Losses that are all the same prefer nobody.
    np.testing.assert_allclose(sampler.chances(0, history(np.full(8, 3.0))), sizes / 36, rtol=1e-6)


def test_the_mean_difficulty_of_those_drawn_does_not_fall_over_rounds():
    sampler = curriculum(3, np.ones(8), start=0.5, growth_rounds=10)
    means = [(draws(sampler, round, LOSSES) @ LOSSES).mean() / 3 for round in range(0, 13, 3)]
    error = 4 * LOSSES.std() / np.sqrt(3 * 4000)
    assert (np.diff(means) > -error).all() and means[-1] > means[0] + 0.2


def test_difficulties_are_moving_averages_of_losses_under_the_received_model(fx):
    algorithm = fedacs(fx.quad, optax.sgd(0.1), sizes=SIZES, rounds=8, cohort=4)
    data = fx.quad_data()
    round = fl.make_round(algorithm, batch_size=1, epochs=1)
    state, expected = fl.init_state(algorithm, START, data), np.zeros(4)
    np.testing.assert_array_equal(state.history.memory.loss, 0)
    for number in range(3):
        w = np.asarray(state.variables.params["w"])
        now = 0.5 * fx.a * ((w - fx.b) ** 2).sum(-1)
        expected = now if number == 0 else (expected + now) / 2
        state, _ = round(state, data, KEY)
        np.testing.assert_allclose(state.history.memory.loss, expected, rtol=1e-5)
    memory = algorithm.sampler.init(3)
    metrics = {"incoming_loss": (jnp.array([4.0, 0.0, 9.0]), jnp.array([2.0, 0.0, 3.0]))}
    joined = jnp.array([True, False, False])
    memory = algorithm.sampler.observe(memory, Observed(jnp.int32(0), joined, metrics))
    assert memory.loss.tolist() == [2, 0, 0] and memory.told.tolist() == [True, False, False]


def test_unbiased_weights_are_sizes_over_chances(fx):
    algorithm = fedacs(fx.quad, optax.sgd(0.1), sizes=SIZES, rounds=8, cohort=2, start=1.0, unbiased=True)
    data = fx.quad_data()
    round = fl.make_round(algorithm, batch_size=1, epochs=1, donate=False)
    state, _ = round(fl.init_state(algorithm, START, data), data, KEY)
    chances = np.asarray(algorithm.sampler.chances(state.round, state.history))
    new, info = round(state, data, KEY)
    who = np.asarray(info.participated)
    w = np.asarray(state.variables.params["w"])
    local = fx.b + ((1 - 0.1 * fx.a) ** SIZES)[:, None] * (w - fx.b)
    weights = who * np.array(SIZES) / (4 * chances)
    expected = (weights[:, None] * local).sum(0) / weights.sum()
    np.testing.assert_allclose(new.variables.params["w"], expected, rtol=2e-5)


@pytest.mark.slow
def test_it_resumes_bit_for_bit(fx):
    algorithm = fedacs(fx.quad, optax.sgd(0.1), sizes=SIZES, rounds=8, growth_rounds=4)
    whole, _ = run(fx, algorithm, 5)
    state, _ = run(fx, algorithm, 2)
    state = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state)
    round = fl.make_round(algorithm, batch_size=1, epochs=1)
    state, _ = fl.run_rounds(round, 3)(state, fx.quad_data(), KEY)
    fx.assert_equal(state, whole)


@pytest.mark.slow
def test_a_client_of_noisy_labels_comes_late_and_early_rounds_are_better(fx):
    """Seven clients agree, one has its targets elsewhere: distances from the optimum in rounds 4 to 8."""
    optimizer = optax.sgd(0.3)
    algorithms = (
        fedacs(fx.quad, optimizer, sizes=np.full(8, 4), rounds=100, cohort=3),
        fl.fedavg(fx.quad, optimizer, sampler=fl.uniform_clients(3)),
    )
    rounds = [fl.make_round(algorithm, batch_size=1, epochs=1) for algorithm in algorithms]
    gains = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        b = rng.normal(size=(8, 2)) * 0.3 + [1.0, -2.0]
        b[rng.integers(8)] += rng.choice([-1, 1], 2) * 6
        data = fx.quad_data(np.ones(8, np.float32), b.astype(np.float32), np.full(8, 4))
        far = []
        for algorithm, round in zip(algorithms, rounds, strict=True):
            state, found = fl.init_state(algorithm, START, data), []
            for _ in range(8):
                state, _ = round(state, data, jax.random.key(seed))
                found.append(np.linalg.norm(np.asarray(state.variables.params["w"]) - np.median(b, 0)))
            far.append(np.mean(found[3:]))
        gains.append(far[1] - far[0])
    # Twice the standard error of the mean.
    assert np.mean(gains) > 2 * np.std(gains, ddof=1) / np.sqrt(len(gains))


def test_what_makes_no_sense_is_refused(fx):
    for options, words in (
        ({"cohort": 5}, "cohort"),
        ({"start": 0.0}, "start"),
        ({"growth_rounds": -1}, "growth_rounds"),
        ({"preference": -1.0}, "preference"),
    ):
        with pytest.raises(ArgumentError, match=words):
            fedacs(fx.quad, optax.sgd(0.1), sizes=SIZES, rounds=8, **options)
    weighed = fl.fedavg(fx.quad, optax.sgd(0.1), weighting=fl.sampling.by_chance)
    with pytest.raises(ArgumentError, match="sampler: expected one that tells"):
        run(fx, weighed)
