"""Distributed noise inside the compiled round: clients' updates as noised words of a secure sum."""

import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import io_callback

from fedrecon.errors import ArgumentError
from fedrecon.federated import Channel, Context
from fedrecon.federated.secure_sum import NO_BYTES, SumBytes, masked
from fedrecon.privacy.distributed import DistributedNoise
from fedrecon.types import PyTree

# Relative error of norms in single precision.
_SLACK = 1e-5


def noisy_secure_sum(
    noise: DistributedNoise,
    *,
    neighbors: int | None = None,
    protocol: SumBytes = NO_BYTES,
    exact: bool = False,
) -> Channel:
    """A secure sum of updates with noise that every client adds a share of; whole sites are the units.

    A client's change of the model is taken without its weight, clipped, rotated with signs that all clients
    share, rounded, noised and masked. The server decodes the noised sum over ``noise.clients``, which it
    divides by whoever took part. With fewer than ``noise.least_clients`` the round is not applied.

    This simulates `DistributedNoise.encode`: rounding is the same, but noise is a rounded normal variable of
    the run's keys, of the same variance and no cryptographic source; unless it is ``exact``.

    Args:
      noise: whose ``size`` is at least that of the change of the model.
      neighbors, protocol: as in `fedrecon.federated.secure_sum.secure_sum`.
      exact: noise comes from the exact discrete sampler of ``noise`` and the operating system, by a call out
        of the compiled round for each client.

    Raises:
      ValueError: from ``init``, if messages or whole numbers are sent, or larger changes.
    """
    masks = masked(noise.clients, neighbors)
    modulus_shift = 32 - noise.bits

    def init(upload):
        if jax.tree.leaves(upload.message):
            raise ArgumentError("method", "one that sends the model alone, with noise in sums", "a message")
        leaves = jax.tree.leaves(upload.delta)
        if not all(jnp.issubdtype(x.dtype, jnp.inexact) for x in leaves):
            raise ArgumentError("variables", "numbers that noise can be added to", "whole numbers")
        if (size := sum(x.size for x in leaves)) > noise.size:
            raise ArgumentError("noise.size", f"at least the {size} numbers of an update", noise.size)
        # The server's end knows the shapes by this.
        return (), jax.tree.map(lambda x: jnp.zeros(x.shape, bool), upload.delta)

    def encode(upload, state, context):
        # Of groups of leaves with weights of their own, too.
        x = _flat(jax.tree.map(_without, upload.weight, upload.delta))
        # Shorter by more than norms in single precision err, so that rounding is soon short enough.
        longest = noise.clip * (1 - 3 * _SLACK)
        x = x * (longest / jnp.maximum(jnp.linalg.norm(x), longest))
        x = jnp.pad(x, (0, noise.dimension - x.size)) * jnp.float32(noise.scale)
        round_key, noise_key = jax.random.split(context.key)
        rounded = _rounded(_walsh_hadamard(x * _signs(noise, context)), round_key, noise)
        if exact:
            share = _exact_share(noise, context)
        else:
            share = jnp.round(noise.scale * noise.stddev * jax.random.normal(noise_key, x.shape))
        words = rounded.astype(jnp.int32).astype(jnp.uint32) + share.astype(jnp.int32).astype(jnp.uint32)
        sent = upload._replace(delta=words, weight=jnp.uint32(1))
        return masks.encode(sent, (), context)[0], state, {}

    def decode(total, state, context):
        total = masks.decode(total, (), context)[0]
        lifted = (total.delta.astype(jnp.uint32) << modulus_shift).astype(jnp.int32) >> modulus_shift
        x = _walsh_hadamard(lifted.astype(jnp.float32) / jnp.float32(noise.scale)) * _signs(noise, context)
        enough = context.participants >= noise.least_clients
        weight = jnp.where(enough, context.participants, 0).astype(jnp.float32)
        info = {"beyond": jnp.int32(0), "enough": enough}
        return total._replace(delta=_unflat(x, state), weight=weight), state, info

    return Channel(
        init,
        encode,
        decode,
        payload_bytes=lambda encoded: 4 * (encoded.delta.size + 1) + protocol.up,
        # What was released stays so, whether the server's step is applied or not.
        rollback=lambda before, after: after,
        linear=False,
        hides=True,
        bytes_down=protocol.down,
    )


def _exact_share(noise: DistributedNoise, context: Context) -> jax.Array:
    """A client's share of the noise, int32 (dimension,), drawn on the host when the round runs."""
    shape = jax.ShapeDtypeStruct((noise.dimension,), jnp.int32)
    if context.client is None:  # nothing but shapes is found out
        return jnp.zeros(shape.shape, shape.dtype)

    def draw(_: np.ndarray) -> np.ndarray:
        return noise.share(os.urandom).astype(np.int32)

    # Depends on the client, so that mapping over clients draws for each.
    return io_callback(draw, shape, context.client)


def _without(weight: jax.Array, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x / jnp.where(weight > 0, weight, 1), tree)


def _flat(tree):
    return jnp.concatenate([jnp.ravel(x).astype(jnp.float32) for x in jax.tree.leaves(tree)])


def _unflat(x, like):
    leaves, structure = jax.tree.flatten(like)
    ends = [sum(leaf.size for leaf in leaves[: number + 1]) for number in range(len(leaves))]
    parts = [x[end - leaf.size : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(structure, parts)


def _signs(noise: DistributedNoise, context: Context) -> jax.Array:
    if context.common is None:  # nothing but shapes is found out
        return jnp.ones(noise.dimension)
    key = jax.random.fold_in(context.common, 2**31 - 1)
    return jax.random.rademacher(key, (noise.dimension,), jnp.float32)


def _rounded(x: jax.Array, key: jax.Array, noise: DistributedNoise) -> jax.Array:
    """``x`` rounded at random, again until it is as short as is accounted."""
    # Single precision must not take for shorter what is longer.
    bound = jnp.float32(noise.scale * noise.sensitivity * (1 - _SLACK))

    def draw(key):
        low = jnp.floor(x)
        return low + (jax.random.uniform(key, x.shape) < x - low)

    def again(carry):
        key, _ = carry
        key, now = jax.random.split(key)
        return key, draw(now)

    return jax.lax.while_loop(lambda carry: optax.tree.norm(carry[1]) > bound, again, again((key, x)))[1]


def _walsh_hadamard(x: jax.Array) -> jax.Array:
    """The orthonormal transform, as `fedrecon.privacy.distributed.rotate` without signs."""
    step = 1
    while step < len(x):
        pairs = x.reshape(-1, 2, step)
        x = jnp.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(-1)
        step *= 2
    return x / math.sqrt(len(x))
