"""One bit a value: signs with a common size, and the vote of a majority."""

import math

import jax
import jax.numpy as jnp

from fedrecon.communication.codec import Codec, dense_bytes, joined, times_weight, total_size
from fedrecon.communication.wire import HEADER_BYTES, Section
from fedrecon.errors import ArgumentError
from fedrecon.federated import Channel


def scaled_signs() -> Codec:
    """The sign of each value times the mean magnitude of its leaf (Karimireddy et al. 2019).

    Biased (arXiv:1901.09847): use it with error feedback, without which it need not converge. The sign of
    zero is drawn.
    """

    def sections(shapes):
        size = total_size(shapes)
        return Section("signs", size, 1), Section("sizes", len(shapes), 32, "float")

    def compress(leaves, keys):
        vector = joined(leaves)
        coin = jax.random.bernoulli(keys.own, shape=vector.shape)
        sizes = [jnp.abs(leaf).mean() if leaf.size else jnp.float32(0) for leaf in leaves]
        signs = jnp.where(vector == 0, coin, vector > 0).astype(jnp.uint32)
        return {"signs": signs, "sizes": jnp.stack(sizes) if sizes else jnp.zeros(0, jnp.float32)}

    def decompress(payload, shapes, common):
        signs = payload["signs"].astype(jnp.float32) * 2 - 1
        leaves, start = [], 0
        for number, shape in enumerate(shapes):
            end = start + math.prod(shape)
            leaves.append((signs[start:end] * payload["sizes"][number]).reshape(shape))
            start = end
        return leaves

    return Codec("scaled_signs", sections, compress, decompress)


def majority_vote(step: float) -> Channel:
    """signSGD: every client has one vote for a direction of each parameter (Bernstein et al. 2019).

    The server moves each parameter by ``step`` in the direction of the majority, and not at all in a tie
    (arXiv:1810.05291). Fewer than half of the voters cannot turn a unanimous vote. What is encoded is +1 or
    -1, so a secure sum may count the votes. Statistics are averaged.

    Args:
      step: of a parameter in a round; about a tenth of what averaged changes would be.

    Raises:
      ArgumentError: if it is not positive.
    """
    if not step > 0:
        raise ArgumentError("step", "a positive number", repr(step))

    def encode(upload, state, context):
        leaves, structure = jax.tree.flatten(upload.delta.params)
        keys = jax.random.split(context.key, max(len(leaves), 1))
        votes = [
            jnp.where(x == 0, 2.0 * jax.random.bernoulli(key, shape=x.shape) - 1, jnp.sign(x)).astype(x.dtype)
            for x, key in zip(leaves, keys, strict=False)
        ]
        params = jax.tree.unflatten(structure, votes)
        return upload._replace(delta=upload.delta._replace(params=params)), state, {}

    def decode(total, state, context):
        # A secure sum rounds; votes are whole.
        params = jax.tree.map(lambda votes: jnp.sign(jnp.round(votes)) * step, total.delta.params)
        return times_weight(total, total.delta._replace(params=params)), state, {}

    def payload_bytes(upload):
        votes = sum(leaf.size for leaf in jax.tree.leaves(upload.delta.params))
        return (
            HEADER_BYTES + -(-votes // 8) + dense_bytes((upload.delta.stats, upload.message, upload.weight))
        )

    return Channel(lambda upload: ((), ()), encode, decode, payload_bytes=payload_bytes, linear=False)
