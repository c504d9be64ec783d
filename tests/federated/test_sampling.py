"""Samplers: the distributions they promise, and what they make of the history."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl

KEY = jax.random.key(3)
DRAWS = 4000


def history_of(clients, last_round=None, loss=None):
    return fl.History(
        jnp.zeros(clients, jnp.int32),
        jnp.full(clients, -1, jnp.int32) if last_round is None else jnp.asarray(last_round, jnp.int32),
        jnp.full(clients, jnp.inf) if loss is None else jnp.asarray(loss, jnp.float32),
    )


@functools.cache
def drawing(sampler):
    return jax.jit(jax.vmap(lambda key, history: sampler(key, jnp.int32(0), history), in_axes=(0, None)))


def draws(sampler, history):
    return np.asarray(drawing(sampler)(jax.random.split(KEY, DRAWS), history))


def assert_distributed(counts, probabilities):
    """Chi-square within five standard deviations of its mean."""
    counts, probabilities = np.asarray(counts, float), np.asarray(probabilities, float)
    assert counts[probabilities == 0].sum() == 0
    counts, probabilities = counts[probabilities > 0], probabilities[probabilities > 0]
    expected = counts.sum() * probabilities / probabilities.sum()
    freedom = len(counts) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < freedom + 5 * math.sqrt(2 * max(freedom, 1)), (counts, expected)


def test_poisson_sampling_is_binomial_and_independent():
    taken = draws(fl.sampling.poisson_clients(0.3), history_of(8))
    k = np.arange(9)
    law = [math.comb(8, i) * 0.3**i * 0.7 ** (8 - i) for i in k]
    assert_distributed(np.bincount(taken.sum(1), minlength=9)[:7], law[:7])
    np.testing.assert_allclose(taken.mean(0), 0.3, atol=4 * math.sqrt(0.21 / DRAWS))
    pairs = (taken[:, :, None] & taken[:, None]).mean(0)[~np.eye(8, dtype=bool)]
    np.testing.assert_allclose(pairs, 0.09, atol=5 * math.sqrt(0.09 * 0.91 / DRAWS))
    assert fl.sampling.poisson_clients(1.0)(KEY, 0, history_of(8)).all()


def test_uniform_subsets_are_all_equally_likely():
    taken = draws(fl.uniform_clients(2), history_of(5))
    pairs = [taken[:, [i, j]].all(1).sum() for i, j in itertools.combinations(range(5), 2)]
    assert sum(pairs) == DRAWS
    assert_distributed(pairs, np.ones(10))


@pytest.mark.parametrize(
    ("count", "weights", "rates"),
    [
        (2, [5, 5, 5, 5, 20, 20], [1 / 6] * 4 + [2 / 3] * 2),
        (2, [1, 2, 0, 3, 9], [1 / 6, 1 / 3, 0, 1 / 2, 1]),
        (3, [1, 1, 2, 6, 90], [1 / 4, 1 / 4, 1 / 2, 1, 1]),
        (4, [1, 0, 0, 3, 4], [1, 1 / 2, 1 / 2, 1, 1]),
        (5, [1, 0, 0, 3, 4], [1] * 5),
    ],
)
def test_weighted_sampling_counts_sizes_once(count, weights, rates):
    """P(i) by hand: c w_i / sum(w), and 1 where that exceeds 1; each choice weighted by p_i / P(i)."""
    weights, rates = np.array(weights, float), np.array(rates)
    taken = draws(fl.sampling.weighted_clients(count, weights), history_of(len(weights)))
    assert (taken.sum(1) == count).all()
    spread = np.sqrt(rates * (1 - rates) / DRAWS)
    assert (np.abs(taken.mean(0) - rates) <= 4.5 * spread).all(), (taken.mean(0), rates)
    # Every client jumps to a number of its own: the mean model is the mean over all examples.
    own = np.arange(len(weights)) ** 2.0
    weighting = fl.sampling.drawn_by_size(count, weights)(jnp.asarray(weights), None)
    models = (taken * weighting * own).sum(1) / (taken * weighting).sum(1)
    expected = (weights * own).sum() / weights.sum()
    assert abs(models.mean() - expected) <= 4.5 * models.std() / math.sqrt(DRAWS) + 1e-5


def test_any_two_clients_may_meet_in_a_weighted_draw():
    taken = draws(fl.sampling.weighted_clients(2, [1.0, 2.0, 3.0, 4.0]), history_of(4))
    pairs = [taken[:, list(pair)].all(1).sum() for pair in itertools.combinations(range(4), 2)]
    assert min(pairs) > 0 and sum(pairs) == DRAWS


def test_the_longest_absent_come_first():
    taken = draws(fl.sampling.longest_absent(3), history_of(5, last_round=[4, -1, 2, 2, 2]))
    np.testing.assert_array_equal(taken.sum(1), 3)
    assert taken[:, 1].all() and not taken[:, 0].any()
    assert_distributed(DRAWS - taken[:, 2:].sum(0), np.ones(3))


def test_the_longest_absent_take_turns(fx):
    """Two of four: everybody once in every two rounds."""
    algorithm = fl.fedavg(fx.quad, optax.sgd(0.05), sampler=fl.sampling.longest_absent(2))
    states, infos = fx.trajectory(fx.quad, algorithm, 6)(fx.quad_data())
    np.testing.assert_array_equal(np.asarray(infos.participated).reshape(3, 2, 4).sum(1), 1)
    np.testing.assert_array_equal(states.history.participations[-1], 3)
    np.testing.assert_array_equal(states.history.last_round[1::2] // 2, np.repeat([[0], [1], [2]], 4, 1))
    # The loss of the last participation, at the client's own steps.
    assert np.isfinite(states.history.loss[1]).all() and np.isinf(states.history.loss[0]).sum() == 2
    seen = np.asarray(infos.participated[0])
    total, count = (x[0][seen] for x in infos.client_metrics["loss"])
    np.testing.assert_allclose(states.history.loss[0][seen], total / count, rtol=1e-6)


def test_power_of_choice_takes_the_worst_of_the_candidates():
    """With d candidates of N, the r-th worst is taken with probability C(N - r, d - 1) / C(N, d)."""
    loss = [0.1, 5.0, 3.0, 0.2, 4.0, 1.0]
    taken = draws(fl.sampling.highest_loss(1, 3), history_of(6, loss=loss))
    ranked = taken.sum(0)[np.argsort(loss)[::-1]]
    assert_distributed(ranked, [math.comb(6 - r, 2) for r in range(1, 7)])
    everybody = fl.sampling.highest_loss(2, 6)
    np.testing.assert_array_equal(np.flatnonzero(everybody(KEY, 0, history_of(6, loss=loss))), [1, 4])
    loss[0] = np.inf
    np.testing.assert_array_equal(np.flatnonzero(everybody(KEY, 0, history_of(6, loss=loss))), [0, 1])


def test_errors_name_the_argument():
    for match, make in (
        ("count", lambda: fl.uniform_clients(0)),
        ("count", lambda: fl.sampling.longest_absent(True)),
        ("rate", lambda: fl.sampling.poisson_clients(0.0)),
        ("rate", lambda: fl.sampling.poisson_clients(1.5)),
        ("count", lambda: fl.sampling.weighted_clients(1.5, [1.0])),
        ("weights", lambda: fl.sampling.weighted_clients(1, [[1.0]])),
        ("weights", lambda: fl.sampling.weighted_clients(1, [1.0, -1.0])),
        ("weights", lambda: fl.sampling.weighted_clients(1, [0.0, 0.0])),
        ("weights", lambda: fl.sampling.weighted_clients(1, [1.0, np.inf])),
        ("candidates", lambda: fl.sampling.highest_loss(3, 2)),
        ("candidates", lambda: fl.sampling.highest_loss(1, 0)),
    ):
        with pytest.raises(ValueError, match=match):
            make()
    for match, sampler in (
        ("count: expected at most the number of clients 4", fl.uniform_clients(5)),
        ("count: expected at most the number of clients 4", fl.sampling.longest_absent(5)),
        ("candidates: expected at most the number of clients 4", fl.sampling.highest_loss(1, 5)),
        ("weights: expected one for each of 4 clients", fl.sampling.weighted_clients(2, [1.0, 2.0, 3.0])),
    ):
        with pytest.raises(ValueError, match=match):
            sampler(KEY, jnp.int32(0), history_of(4))
