"""Noise in shares inside the compiled round: the sum, its noise, and what is spent."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon import federated as fl
from fedrecon.errors import ArgumentError
from fedrecon.privacy import DistributedNoise, noisy_secure_sum
from fedrecon.privacy.noisy_sum import _exact_share


def summed(noise, x, arrived, key=0):
    """(decoded mean, weight) of clients' updates x (clients, size), through masks."""
    channel, clients = noisy_secure_sum(noise), len(x)
    like = fl.Upload({"w": jnp.zeros(x.shape[1])}, fl.Message(), jnp.float32(1))
    _, shapes = channel.init(like)

    @jax.jit
    def run(x, arrived, key):
        def context(**fields):
            common = jax.random.fold_in(key, 10**6)
            return fl.Context(
                jnp.int32(0), key, common=common, invited=jnp.ones(clients, bool), arrived=arrived, **fields
            )

        def one(x, client):
            upload = fl.Upload({"w": 7 * x}, fl.Message(), jnp.float32(7))
            here = context(client=client)._replace(key=jax.random.fold_in(key, client))
            return channel.encode(upload, (), here)[0]

        sent = jax.vmap(one)(x, jnp.arange(clients))
        total = jax.tree.map(
            lambda s: jnp.where(arrived.reshape(-1, *(1,) * (s.ndim - 1)), s, 0).sum(0, dtype=s.dtype), sent
        )
        return channel.decode(total, shapes, context(participants=arrived.sum()))[0], sent

    total, sent = run(jnp.asarray(x, jnp.float32), jnp.asarray(arrived), jax.random.key(key))
    return np.asarray(total.delta["w"]), float(total.weight), np.asarray(sent.delta)


def updates(clients, size, norm):
    x = np.random.default_rng(0).normal(size=(clients, size))
    return x / np.linalg.norm(x, axis=1, keepdims=True) * norm


@pytest.mark.parametrize("gone", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_the_sum_is_that_of_clipped_updates_with_noise_of_all_shares(gone):
    noise = DistributedNoise.of_multiplier(0.02, clip=0.5, clients=4, dropouts=1, size=3000)
    x, arrived = updates(4, 3000, 2.0), np.arange(4) >= gone
    factors = np.asarray([0.25, 0.25, 1.0, 1.0])[:, None]
    x[2:] *= 0.15  # within the bound, though not times their weight
    total, weight, sent = summed(noise, x, arrived)
    error = total - (factors * x)[arrived].sum(0)
    assert weight == 4 - gone and error.var() == pytest.approx((4 - gone) * noise.stddev**2, rel=0.08)
    assert error.var() > 0.92 * noise.central_stddev**2 and noise.central_stddev == pytest.approx(0.01)
    assert np.mean(sent >= 2**31) == pytest.approx(0.5, abs=0.03)


def test_exact_noise_is_that_of_the_operating_system(monkeypatch):
    """Each client sends the words of the exact sampler, which os.urandom alone decides."""
    noise = DistributedNoise.of_multiplier(1.0, clip=0.5, clients=3, dropouts=1, size=32)

    @jax.jit
    def shares(key):
        return jax.vmap(lambda i: _exact_share(noise, fl.Context(jnp.int32(0), key, client=i)))(jnp.arange(3))

    stream = np.random.default_rng(4)
    expected = np.stack([noise.share(stream.bytes) for _ in range(3)])
    for seed in (1, 2):
        monkeypatch.setattr(os, "urandom", np.random.default_rng(4).bytes)
        np.testing.assert_array_equal(shares(jax.random.key(seed)), expected)
    monkeypatch.undo()
    assert (np.asarray(shares(jax.random.key(1))) != expected).mean() > 0.5
    # They are what clients send with ``exact``, and nothing is drawn from outside without.
    upload, here = fl.Upload({"w": jnp.zeros(32)}, fl.Message(), jnp.float32(1)), jnp.int32(0)
    for exact in (True, False):
        encode = noisy_secure_sum(noise, exact=exact).encode
        context = fl.Context(jnp.int32(0), jax.random.key(0), client=here)
        program = str(jax.make_jaxpr(lambda u, e=encode, c=context: e(u, (), c)[0].delta)(upload))
        assert ("io_callback" in program) == exact and ("erf_inv" in program) != exact


@pytest.mark.slow
def test_without_noise_nothing_but_rounding_is_left_and_too_few_clients_release_nothing():
    noise = DistributedNoise(0.5, 1e-9, 4, 1, 300, 2.0**16)
    x = updates(4, 300, 0.4)
    total, weight, _ = summed(noise, x, np.ones(4, bool))
    np.testing.assert_allclose(total, x.sum(0), atol=1e-4)
    assert weight == 4 and summed(noise, x, np.asarray([True, True, False, False]))[1] == 0
    channel = noisy_secure_sum(noise)
    with pytest.raises(ArgumentError, match="method: expected one that sends the model alone"):
        channel.init(fl.Upload({"w": jnp.zeros(3)}, fl.Message(summed=jnp.zeros(2)), jnp.float32(1)))
    with pytest.raises(ArgumentError, match=r"noise\.size: expected at least the 301 numbers"):
        channel.init(fl.Upload({"w": jnp.zeros(301)}, fl.Message(), jnp.float32(1)))
