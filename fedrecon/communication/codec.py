"""What a codec is, and how it becomes a channel of the federated round."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.communication.wire import HEADER_BYTES, Section, measured_bytes, message_bytes
from fedrecon.errors import ArgumentError
from fedrecon.federated import Channel, Context, Upload
from fedrecon.types import PyTree

Shapes = tuple[tuple[int, ...], ...]


class Keys(NamedTuple):
    """Randomness of one message.

    Attributes:
      own: typed PRNG key of the client. common: typed PRNG key that the server and all clients of the round
        know; it travels as a seed of 8 bytes where a codec uses it.
    """

    own: jax.Array
    common: jax.Array


@functools.partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["layout"])
@dataclasses.dataclass(frozen=True)
class Encoded:
    """Parameters as a codec that commutes with sums sends them, and what decoding a sum must know.

    Attributes:
      values: pytree of arrays, which are added over clients.
      layout: (structure, shapes, dtypes) of the parameters.
    """

    values: PyTree
    layout: tuple[Any, Shapes, tuple[Any, ...]]

    @property
    def size(self) -> int:
        """Number of parameters."""
        return total_size(self.layout[1])

    def restore(self, vector: jax.Array) -> PyTree:
        """The parameters of a vector (size,)."""
        structure, shapes, dtypes = self.layout
        leaves = [x.astype(dtype) for x, dtype in zip(divided(vector, shapes), dtypes, strict=True)]
        return jax.tree.unflatten(structure, leaves)


def layout_of(params: PyTree) -> tuple[Any, Shapes, tuple[Any, ...]]:
    """`Encoded.layout` of parameters."""
    leaves, structure = jax.tree.flatten(params)
    return structure, tuple(x.shape for x in leaves), tuple(x.dtype for x in leaves)


class Codec(NamedTuple):
    """How the changes of a model become fewer bytes.

    Attributes:
      name: of the codec with all its numbers.
      sections: ``sections(shapes) -> (Section, ...)``, what a message of leaves of these shapes holds.
      compress: ``compress(leaves, keys) -> {section name: array}`` of float32 arrays.
      decompress: ``decompress(payload, shapes, common) -> leaves``.
    """

    name: str
    sections: Callable[[Shapes], tuple[Section, ...]]
    compress: Callable[[list[jax.Array], Keys], dict[str, jax.Array]]
    decompress: Callable[[dict[str, jax.Array], Shapes, jax.Array], list[jax.Array]]


def compressed(codec: Codec, *, error_feedback: bool = False) -> Channel:
    """A channel that sends the changes of the parameters by a codec.

    Encoded uploads are what the server reads from the message, so reducers may compare them. Statistics,
    messages and weights travel as they are. Each client's message has scales or places of its own and is no
    term of a sum: secure sums refuse it.

    Args:
      codec: how the parameters travel.
      error_feedback: what the codec leaves out is kept at the client and added to its next change, so that
        what was sent and what is kept add up to all changes (Stich et al. 2018, arXiv:1809.07599). It waits
        while the client is absent, and is that of changes times weights, as they enter the sum.

    Returns:
      a `Channel` with the encode info ``left_out``, the squared norm of what was not sent over that of the
      change, and ``bytes`` of codecs with codes whose length depends on the values.
    """
    coded = any(section.kind == "rice" for section in codec.sections(((1,),)))

    def init(upload):
        kept = jax.tree.map(jnp.zeros_like, floats(upload.delta.params)) if error_feedback else ()
        return kept, ()

    def encode(upload, kept, context):
        wanted = floats(upload.delta.params)
        if error_feedback:
            wanted = jax.tree.map(jnp.add, wanted, kept)
        leaves, structure = jax.tree.flatten(wanted)
        keys = Keys(context.key, common_key(context))
        payload = codec.compress(leaves, keys)
        shapes = tuple(leaf.shape for leaf in leaves)
        sent = jax.tree.unflatten(structure, codec.decompress(payload, shapes, keys.common))
        rest = jax.tree.map(jnp.subtract, wanted, sent)
        params = jax.tree.map(lambda old, new: new.astype(old.dtype), upload.delta.params, sent)
        delta = upload.delta._replace(params=params)
        size = square(wanted)
        info = {"left_out": jnp.where(size > 0, square(rest) / jnp.where(size > 0, size, 1), 0.0)}
        if coded:
            others = dense_bytes((upload.delta.stats, upload.message, upload.weight))
            info["bytes"] = measured_bytes(codec.sections(shapes), payload) + jnp.uint32(others)
        return upload._replace(delta=delta), rest if error_feedback else (), info

    def payload_bytes(upload):
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(upload.delta.params))
        return message_bytes(codec.sections(shapes)) + dense_bytes(
            (upload.delta.stats, upload.message, upload.weight)
        )

    return Channel(
        init,
        encode,
        lambda total, state, context: (total, state, {}),
        payload_bytes=payload_bytes,
        measured_bytes=(lambda info: info["bytes"]) if coded else None,
    )


class Remembered(NamedTuple):
    """A client's state of a channel that forgets: that of the channel, and the client's last round."""

    kept: PyTree
    last: jax.Array

    def now(self, context: Context, idle_rounds: int) -> PyTree:
        """The channel's state, zero if the client was away for longer."""
        idle = context.round - self.last > idle_rounds
        return jax.tree.map(lambda x: jnp.where(idle, jnp.zeros_like(x), x), self.kept)


def forgetting(channel: Channel, idle_rounds: int) -> Channel:
    """The channel, whose clients drop what they keep when they come back after more rounds than that.

    What was left out long ago is of another model. States of the channel must be zero at first.

    Raises:
      ArgumentError: for a number of rounds below 1.
    """
    if not (isinstance(idle_rounds, int) and idle_rounds >= 1):
        raise ArgumentError("idle_rounds", "a positive integer", repr(idle_rounds))

    def init(upload):
        client, server = channel.init(upload)
        return Remembered(client, jnp.int32(0)), server

    def encode(upload, state, context):
        encoded, kept, info = channel.encode(upload, state.now(context, idle_rounds), context)
        return encoded, Remembered(kept, jnp.asarray(context.round, jnp.int32)), info

    return channel._replace(init=init, encode=encode)


def of_vectors(
    name: str,
    sections: Callable[[int], tuple[Section, ...]],
    compress: Callable[[jax.Array, Keys], dict[str, jax.Array]],
    decompress: Callable[[dict[str, jax.Array], int, jax.Array], jax.Array],
) -> Codec:
    """A codec of all leaves as one vector, from functions of its size."""

    def all_sections(shapes):
        return sections(total_size(shapes))

    def split(payload, shapes, common):
        return divided(decompress(payload, total_size(shapes), common), shapes)

    return Codec(name, all_sections, lambda leaves, keys: compress(joined(leaves), keys), split)


def joined(leaves: Sequence[jax.Array]) -> jax.Array:
    """All leaves as one float32 vector (size,)."""
    if not leaves:
        return jnp.zeros(0, jnp.float32)
    return jnp.concatenate([jnp.ravel(leaf).astype(jnp.float32) for leaf in leaves])


def divided(vector: jax.Array, shapes: Shapes) -> list[jax.Array]:
    """Inverse of `joined`."""
    leaves, start = [], 0
    for shape in shapes:
        end = start + math.prod(shape)
        leaves.append(jax.lax.slice(vector, (start,), (end,)).reshape(shape))
        start = end
    return leaves


def total_size(shapes: Shapes) -> int:
    """Number of values of leaves of these shapes."""
    return sum(math.prod(shape) for shape in shapes)


def common_key(context: Context) -> jax.Array:
    """The key that all clients of a round share; if nobody gives one, that of the round's number, public."""
    if context.common is None:
        return jax.random.fold_in(jax.random.key(0), context.round)
    return context.common


def dense_bytes(tree: PyTree) -> int:
    """Bytes of a pytree of arrays as they are."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def summed_bytes(upload: Upload) -> int:
    """`Channel.payload_bytes` of channels whose encoded uploads are sent as they are."""
    return HEADER_BYTES + dense_bytes(upload)


def times_weight(total: Upload, delta: PyTree) -> Upload:
    """The sum whose mean changes of parameters are those of ``delta``; statistics stay those of ``total``."""
    scaled = jax.tree.map(lambda weight, part: jax.tree.map(lambda x: x * weight, part), total.weight, delta)
    return total._replace(delta=scaled._replace(stats=delta.stats))


def square(tree: PyTree) -> jax.Array:
    """Squared l2 norm of all leaves, float32 ()."""
    return sum((jnp.square(x).sum() for x in jax.tree.leaves(tree)), start=jnp.float32(0))


def floats(tree: PyTree) -> PyTree:
    """All leaves in single precision."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)
