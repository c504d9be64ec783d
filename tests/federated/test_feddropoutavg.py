"""FedDropoutAvg: dropped clients and parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import communication as cm
from fedrecon import federated as fl
from fedrecon.types import Task, Variables

SIZE, CLIENTS = 400, 4


def loss(params, stats, batch, key):
    """Whose gradient takes w to the mean of the client's b in one step of rate 1."""
    valid = batch["valid"]
    away = ((params["w"] - batch["b"]) ** 2).sum(-1)
    return 0.5 * jnp.where(valid, away, 0).sum() / jnp.maximum(valid.sum(), 1), (stats, {})


TASK = Task(
    lambda key: Variables({"w": jnp.full(SIZE, 7.0)}, {}),
    loss,
    lambda params, stats, batch: {},
    lambda params, stats, batch: params["w"],
    Variables({"w": False}, {}),
)


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


def clients_of(b):
    return Clients({"b": jnp.asarray(b)}, jnp.ones(b.shape[:2], bool))


def after(algorithm, data, rounds=1):
    state = fl.init_state(algorithm, TASK.init(jax.random.key(0)), data)
    run = fl.make_round(algorithm, batch_size=2, steps=1)
    for _ in range(rounds):
        state, info = run(state, data, jax.random.key(0))
    return state, info


def recipe(cdr=0.0, fdr=0.0, **options):
    return cm.feddropoutavg(TASK, optax.sgd(1.0), client_drop_rate=cdr, federated_drop_rate=fdr, **options)


@pytest.fixture(scope="module")
def targets():
    return np.random.default_rng(0).normal(size=(CLIENTS, 1, SIZE)).astype(np.float32)


@pytest.mark.slow
def test_without_rates_it_is_fedavg_bit_for_bit(targets):
    found, expected = (
        after(algorithm, clients_of(targets), 2)[0].variables.params["w"]
        for algorithm in (recipe(by_size=True), fl.fedavg(TASK, optax.sgd(1.0)))
    )
    np.testing.assert_array_equal(found, expected)


def test_equal_clients_are_not_shrunk(targets):
    data = clients_of(np.tile(targets[:1], (CLIENTS, 1, 1)))
    found = after(recipe(fdr=0.6), data)[0].variables.params["w"]
    kept = np.isclose(found, 7.0)
    np.testing.assert_allclose(found[~kept], targets[0, 0][~kept], rtol=1e-5, atol=1e-5)
    # Nobody's is left with probability 0.6^4.
    assert abs(kept.mean() - 0.6**CLIENTS) < 4 * np.sqrt(0.13 / SIZE)


def test_what_both_of_two_drop_stays_exactly(targets):
    state, info = after(recipe(fdr=0.9), clients_of(targets[:2]))
    stays = np.asarray(state.variables.params["w"]) == 7.0
    assert abs(stays.mean() - 0.81) < 4 * np.sqrt(0.81 * 0.19 / SIZE)
    # A tenth of the values, the header, the seed and the weight.
    np.testing.assert_array_equal(info.bytes_up, 4 * SIZE // 10 + 64 + 8 + 4)


@pytest.mark.slow
def test_the_mean_over_draws_is_the_plain_mean(targets):
    """Of the parameters that somebody sent."""
    algorithm, data = recipe(fdr=0.5), clients_of(targets)
    state = fl.init_state(algorithm, TASK.init(jax.random.key(0)), data)
    run = fl.make_round(algorithm, batch_size=2, steps=1)
    draws = np.stack(
        [
            run(jax.tree.map(jnp.copy, state), data, jax.random.key(seed))[0].variables.params["w"]
            for seed in range(600)
        ]
    )
    draws = np.where(draws == 7.0, np.nan, draws)
    error = np.nanstd(draws, 0) / np.sqrt((~np.isnan(draws)).sum(0))
    away = (np.nanmean(draws, 0) - targets.mean((0, 1))) / error
    assert abs(away.mean()) < 4 / np.sqrt(SIZE) and 0.8 < away.std() < 1.2


def test_clients_take_part_with_the_rate_and_never_nobody():
    sampler, keys = recipe(cdr=0.8).sampler, jax.random.split(jax.random.key(3), 3000)
    history = fl.History(*(jnp.zeros(3, dtype) for dtype in (jnp.int32, jnp.int32, jnp.float32)))
    drawn = np.asarray(jax.vmap(lambda key: sampler(key, jnp.int32(0), history))(keys))
    assert drawn.any(1).all()
    # Of three clients, given that there is one: 0.2 / (1 - 0.8^3).
    rate = 0.2 / (1 - 0.8**3)
    np.testing.assert_allclose(drawn.mean(0), rate, atol=4 * np.sqrt(rate * (1 - rate) / 3000))


def test_rates_and_options_are_checked():
    with pytest.raises(ValueError, match=r"federated_drop_rate: expected a number in \[0, 1\), found 1.0"):
        recipe(fdr=1.0)
    with pytest.raises(TypeError, match="no argument 'sampler'"):
        recipe(sampler=fl.all_clients())
