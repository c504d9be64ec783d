"""Majorities, sketches and low ranks over clients, and codecs that leave nothing out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import communication as cm
from fedrecon import federated as fl
from tests.federated.codec_messages import SIZE, VECTOR, context, exchange, upload_of


def test_a_majority_is_not_turned_by_fewer_voters():
    channel = cm.majority_vote(0.1)
    rng = np.random.default_rng(5)
    honest = np.sign(rng.normal(size=SIZE))
    changes = [honest * rng.uniform(0.1, 5, SIZE) for _ in range(3)] + [-1e6 * honest] * 2
    mean, _ = exchange(channel, changes, [1.0, 1.0, 1.0, 100.0, 100.0])
    np.testing.assert_allclose(mean, 0.1 * honest, rtol=1e-6)
    tie, _ = exchange(channel, [honest, -honest], [1.0, 2.0])
    np.testing.assert_array_equal(tie, 0)
    assert channel.payload_bytes(upload_of(VECTOR)) == 64 + 8 + 4 + 4


def test_sketches_add_and_find_what_is_large():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(2, 300)).astype(np.float32)
    both = cm.sketch(jnp.asarray(a), 5, 40, 1) + cm.sketch(jnp.asarray(b), 5, 40, 1)
    np.testing.assert_allclose(cm.sketch(jnp.asarray(a + b), 5, 40, 1), both, atol=1e-5)
    assert np.abs(both - cm.sketch(jnp.asarray(a + b), 5, 40, 2)).max() > 1
    noisy = 0.01 * a
    noisy[[3, 70, 150, 200, 299]] = [10, -20, 30, -40, 50]
    found = np.asarray(cm.estimates(cm.sketch(jnp.asarray(noisy), 5, 100, 1), 300, 1))
    assert set(np.argsort(-np.abs(found))[:5]) == {3, 70, 150, 200, 299}
    np.testing.assert_allclose(found[[3, 70, 150, 200, 299]], [10, -20, 30, -40, 50], atol=0.2)


@pytest.mark.slow
def test_a_wide_sketch_of_everything_is_averaging_with_momentum():
    channel = cm.count_sketch(5, 20_000, fraction=1.0, momentum=0.5)
    changes, weights = np.random.default_rng(7).normal(size=(3, 2, SIZE)), [1.0, 3.0]
    state, velocity = None, np.zeros(SIZE)
    for round in changes:
        mean, state = exchange(channel, round, weights, state)
        # All cells are zeroed after each round, those of the momentum, too.
        velocity = np.average(round, axis=0, weights=weights)
        np.testing.assert_allclose(mean, velocity, atol=1e-5)
    part = cm.count_sketch(5, 20_000, fraction=1 / SIZE, momentum=0.0)
    state, total = None, np.zeros(SIZE)
    for round in changes:
        mean, state = exchange(part, round, weights, state)
        assert np.count_nonzero(mean) == 1
        total += mean
    left = np.asarray(cm.estimates(state[1].error, SIZE, 0))
    np.testing.assert_allclose(total + left, np.average(changes, axis=1, weights=weights).sum(0), atol=1e-4)


def test_low_ranks_are_exact_and_constant_changes_end_at_their_best_approximation():
    rng = np.random.default_rng(8)
    shapes = ((12, 9), (5,))
    thin = rng.normal(size=(12, 2)) @ rng.normal(size=(2, 9))
    full = rng.normal(size=(12, 9))
    rest = rng.normal(size=5)

    def run(matrix, rank, rounds):
        channel = cm.power_sgd(rank, smallest_ratio=1.0)
        upload = upload_of(np.concatenate([matrix.ravel(), rest]), shapes=shapes)
        client, server = channel.init(upload)
        for round in range(rounds):
            # Without what was kept, each round sees the same matrix.
            client = jax.tree.map(jnp.zeros_like, client)
            total, client, _ = channel.encode(upload, client, context(round, 0, server))
            total, server, _ = channel.decode(total, server, context(round, 0, server))
        np.testing.assert_allclose(total.delta.params["1"], rest, rtol=1e-6)
        return np.asarray(total.delta.params["0"])

    np.testing.assert_allclose(run(thin, 2, 3), thin, atol=1e-4)
    s = np.linalg.svd(full, compute_uv=False)
    best = np.linalg.norm(s[2:])
    assert np.linalg.norm(run(full, 2, 40) - full) < best * 1.01
    assert np.linalg.norm(run(full, 2, 1) - full) > best * 1.05
    upload = upload_of(np.concatenate([full.ravel(), rest]), shapes=shapes)
    channel = cm.power_sgd(2, smallest_ratio=1.0)
    client, server = channel.init(upload)
    encoded = channel.encode(upload, client, context(0, 0, server))[0]
    assert channel.payload_bytes(encoded) == 64 + 4 * 2 * (12 + 9) + 4 * 5 + 8


@pytest.mark.parametrize(
    "channel",
    [
        pytest.param(cm.compressed(cm.dense()), marks=pytest.mark.slow),
        cm.compressed(cm.top_k(1.0), error_feedback=True),
        pytest.param(cm.random_k(1.0), marks=pytest.mark.slow),
    ],
    ids=["dense", "top_k", "random_k"],
)
def test_codecs_that_leave_nothing_out_are_averaging_bit_for_bit(fx, channel):
    def last(channel):
        algorithm = fl.fedavg(fx.regression, optax.sgd(0.05), channel=channel)
        run = fx.trajectory(fx.regression, algorithm, 2, batch_size=2, epochs=1)
        states, infos = run(fx.regression_data([3, 5]))
        return states.variables, infos

    plain, _ = last(fl.chain())
    through, infos = last(channel)
    fx.assert_equal(plain, through)
    assert int(infos.bytes_up[0, 0]) > 64
