"""Secure sums inside the round: equal to plain sums, uniform uploads, dropouts, and what they refuse."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from fedrecon import federated as fl
from fedrecon.errors import ArgumentError
from fedrecon.federated.masks import masked
from fedrecon.federated.secure_sum import fixed_point_words, grouped_secure_sum, secure_sum, words_of
from fedrecon.secure_aggregation import FixedPoint

KEY = jax.random.key(5)
FIXED = FixedPoint.finest(4.0, 8)


def context(client=None, *, invited, arrived=None, round=0):
    arrived = None if arrived is None else jnp.asarray(arrived)
    return fl.Context(
        jnp.int32(round),
        jax.random.fold_in(KEY, 0 if client is None else client),
        client=client,
        common=jax.random.key(9),
        invited=jnp.asarray(invited),
        arrived=arrived,
        participants=None if arrived is None else arrived.sum(),
    )


def uploads(count=8, size=2000, seed=0):
    """What clients send, leaves (count, ...)."""
    rng = np.random.default_rng(seed)
    return fl.Upload(
        {"w": jnp.asarray(rng.uniform(-3, 3, (count, size)), jnp.float32)},
        fl.Message(summed={"c": jnp.asarray(rng.uniform(-2, 2, (count, 2)), jnp.float32)}),
        jnp.ones(count),
    )


@functools.cache
def compiled(neighbors=None):
    return program(secure_sum(FIXED, largest_weight=2.0, threshold=2, neighbors=neighbors))


def program(channel):
    """``run(uploads, invited, arrived) -> (decoded sum, info, encoded uploads)``, compiled."""

    @jax.jit
    def run(sent, invited, arrived):
        def one(upload, client):
            return channel.encode(upload, (), context(client, invited=invited))[0]

        encoded = jax.vmap(one)(sent, jnp.arange(len(invited)))
        here = jax.tree.map(lambda x: jnp.where(arrived.reshape(-1, *(1,) * (x.ndim - 1)), x, 0), encoded)
        total = jax.tree.map(lambda x: x.sum(0, dtype=x.dtype), here)
        total, _, info = channel.decode(total, (), context(invited=invited, arrived=arrived))
        return total, info, encoded

    return run


def test_words_are_those_of_fixed_point_bit_for_bit():
    fixed = FixedPoint(0.7, 20, 5)
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-1, 1, 3000), [0.7, -0.7, 0.0, -0.0, 1e-30, -1e-30]]).astype(np.float32)
    draws = rng.integers(0, 2**32, x.shape, np.uint32)
    np.testing.assert_array_equal(words_of(x, draws, fixed), fixed.encode_with(x, draws))


@pytest.mark.parametrize("neighbors", [None, *(pytest.param(k, marks=pytest.mark.slow) for k in (4, 0))])
def test_sums_are_those_of_words_whoever_drops_out(neighbors):
    """Bit for bit what words without masks add up to; and within a step each of the plain sum."""
    sent, run = uploads(), compiled(neighbors)
    bare = program(fixed_point_words(FIXED, largest_weight=2.0))
    for invited, gone in ((8, 0), (8, 3), (5, 1), (3, 1), (2, 0)):
        there = np.arange(8) < invited
        arrived = there & (np.arange(8) >= gone)
        total, info, _ = run(sent, there, arrived)
        jax.tree.map(np.testing.assert_array_equal, total, bare(sent, there, arrived)[0])
        tolerance = 2 * arrived.sum() * 2.0**-FIXED.bits + 1e-6
        np.testing.assert_allclose(total.delta["w"], sent.delta["w"][arrived].sum(0), atol=tolerance)
        sums = sent.message.summed["c"][arrived].sum(0)
        np.testing.assert_allclose(total.message.summed["c"], sums, atol=tolerance)
        assert float(total.weight) == pytest.approx(arrived.sum())
        assert int(info["beyond"]) == 0 and bool(info["enough"])


def test_uploads_look_uniform_whatever_is_sent_and_no_mask_may_be_missing():
    there, sent = np.ones(8, bool), uploads()
    sent = sent._replace(delta={"w": jnp.zeros((8, 2000)).at[1].set(3.9)})
    _, _, encoded = compiled()(sent, there, there)
    words = np.asarray(encoded.delta["w"])
    for word in words[:3]:
        counts = np.bincount(word.view(np.uint8), minlength=256)
        assert scipy.stats.chisquare(counts).pvalue > 1e-4
    assert scipy.stats.ks_2samp(words[0], words[1]).pvalue > 1e-4
    # Without one client the sum stays masked, unless it is known to be missing.
    partial = jax.tree.map(lambda x: x[:7].sum(0, dtype=x.dtype), encoded)
    channel = secure_sum(FIXED, largest_weight=2.0)
    decode = jax.jit(lambda arrived: channel.decode(partial, (), context(invited=there, arrived=arrived))[0])
    assert np.abs(decode(there).delta["w"]).mean() > 1
    np.testing.assert_allclose(decode(np.arange(8) < 7).delta["w"], 3.9, atol=1e-5)


def test_masks_of_a_ring_are_shared_with_its_neighbors_alone():
    """Of six clients with two neighbors each: all masks cancel in the sum, and in that of no fewer."""
    there, zeros = np.ones(6, bool), {"w": jnp.zeros((6, 9), jnp.uint32)}

    def sent(neighbors):
        channel = masked(6, neighbors)
        encode = jax.jit(jax.vmap(lambda x, i: channel.encode(x, (), context(i, invited=there))[0]))
        return np.asarray(encode(zeros, jnp.arange(6))["w"])

    shared = sent(2) - sent(0)
    subsets = itertools.chain.from_iterable(itertools.combinations(range(6), r) for r in range(1, 7))
    cancel = [rows for rows in subsets if not shared[list(rows)].sum(0, dtype=np.uint32).any()]
    assert cancel == [(0, 1, 2, 3, 4, 5)]


def test_what_is_beyond_its_bound_and_too_few_clients_spoil_the_round_alone():
    there, sent, run = np.ones(8, bool), uploads(), compiled()
    heavy = sent._replace(weight=sent.weight.at[2].set(2.1))
    wide = sent._replace(delta={"w": sent.delta["w"].at[2, 5].set(-8.1)})
    for wrong in (heavy, wide):
        total, info, _ = run(wrong, there, there)
        assert int(info["beyond"]) == 1 and float(total.weight) == 0
    total, info, _ = run(sent, there, there & (np.arange(8) == 1))
    assert not bool(info["enough"]) and float(total.weight) == 0


@pytest.mark.slow
def test_a_round_is_that_of_plain_sums_and_counts_the_bytes_of_the_protocol(fx):
    """Clients weighted by examples, one of which has none: it drops out after masks were agreed on."""
    counts = np.asarray([1, 5, 0, 8])
    fixed, protocol = FixedPoint.finest(8.0, 4), fl.secure_sum.SumBytes(up=99, down=7)
    channel = fl.chain(fl.clip(8.0), secure_sum(fixed, largest_weight=8.0, protocol=protocol))
    algorithm = fl.fedavg(fx.quad, optax.sgd(0.05), channel=channel)
    states, infos = fx.trajectory(fx.quad, algorithm, 2)(fx.quad_data(counts=counts))
    expected, left = np.asarray([0.3, -0.7]), (1 - 0.05 * fx.a[:, None]) ** counts[:, None]
    for found in states.variables.params["w"]:
        expected = (counts[:, None] / 14 * (left * expected + (1 - left) * fx.b)).sum(0)
        np.testing.assert_allclose(found, expected, rtol=2e-6)
    # Two numbers, the weight, and the count of those beyond their bounds.
    np.testing.assert_array_equal(infos.bytes_up[0], [115, 115, 115, 115])
    np.testing.assert_array_equal(infos.bytes_down[0], [15, 15, 15, 15])
    assert infos.applied.all()


def test_what_needs_single_updates_is_refused(fx):
    channel = fl.chain(fl.clip(1.0), secure_sum(FIXED))
    with pytest.raises(ArgumentError, match="reduce: expected the sum"):
        fl.fedavg(fx.quad, optax.sgd(0.1), channel=channel, reduce=fl.reducers.median())
    data, start = fx.quad_data(), fx.quad.init(KEY)
    by_loss = fl.fedavg(fx.quad, optax.sgd(0.1), channel=channel, sampler=fl.sampling.highest_loss(2, 3))
    with pytest.raises(ArgumentError, match="sampler: expected one that needs no losses"):
        fl.init_state(by_loss, start, data)
    gather = fl.Method(
        finish=lambda result, memory, context: (result, fl.Message(gathered=jnp.ones(2)), memory)
    )
    with pytest.raises(ArgumentError, match="method: expected one whose messages are sums"):
        fl.init_state(fl.federated(fx.quad, optax.sgd(0.1), method=gather, channel=channel), start, data)
    with pytest.raises(ArgumentError, match="scalar_bound: expected the largest scalar"):
        fl.init_state(fl.fednova(fx.quad, 0.1, channel=channel), start, data)
    with pytest.raises(ArgumentError, match="hide single updates where these arrive one by one"):
        fl.topologies.make_asynchronous_round(
            fl.fedavg(fx.quad, optax.sgd(0.1), channel=channel), batch_size=1, epochs=1
        )
    for wrong, name in (({"threshold": 9}, "threshold"), ({"largest_weight": 0.0}, "largest_weight")):
        with pytest.raises(ArgumentError, match=name):
            secure_sum(FIXED, **wrong)


def test_groups_are_summed_securely_and_robustly_averaged():
    """Eight clients in four groups of two; one sends rubbish, another is missing: its group is left out."""
    channel, reducer = grouped_secure_sum(FIXED, fl.reducers.median(), groups=4, seed=3)
    there = np.ones(8, bool)
    arrived = there & (np.arange(8) != 6)
    values = np.asarray([1.0, 1.1, 0.9, 1.0, 1.05, -4.0, 0.95, 1.0], np.float32)

    @jax.jit
    def run():
        def one(value, client):
            upload = fl.Upload({"w": jnp.full(3, value)}, fl.Message(), jnp.float32(1))
            return channel.encode(upload, (), context(client, invited=there))[0]

        rows = jax.vmap(one)(values, jnp.arange(8))
        return reducer.reduce(rows, jnp.asarray(arrived), (), context(invited=there, arrived=arrived)), rows

    reduction, (encoded, group) = run()
    group = np.asarray(group)
    assert sorted(np.bincount(group)) == [2, 2, 2, 2]
    np.testing.assert_array_equal(reduction.flagged, arrived & (group == group[6]))
    means = [values[group == number].mean() for number in range(4) if number != group[6]]
    np.testing.assert_allclose(reduction.upload.delta["w"], np.median(means), atol=1e-5)
    assert np.asarray(encoded.delta["w"]).max() > 2**31
    with pytest.raises(ArgumentError, match="groups: expected an integer from 1 to 4"):
        grouped_secure_sum(FIXED, fl.reducers.median(), groups=5, seed=0)
