"""Fewer values: the largest changes, random ones that all clients share, and a mask of each client's own."""

import math

import jax
import jax.numpy as jnp

from fedrecon.communication.codec import (
    Codec,
    Encoded,
    common_key,
    dense_bytes,
    joined,
    layout_of,
    of_vectors,
    summed_bytes,
    times_weight,
)
from fedrecon.communication.quantization import check_coding
from fedrecon.communication.wire import HEADER_BYTES, Section
from fedrecon.errors import ArgumentError
from fedrecon.federated import Channel
from fedrecon.types import PyTree

SEED_BYTES = 8


def kept(fraction: float, size: int) -> int:
    """How many of ``size`` values a fraction is: rounded, at least one of what is not empty."""
    return min(size, max(1, round(fraction * size)))


def top_k(fraction: float, values: Codec | None = None, *, coding: str = "fixed") -> Codec:
    """The values of largest magnitude over all leaves; of equal ones the first.

    Places cost the least of ceil(log2(size)) bits each and a bit for every value. Use it with error feedback.

    Args:
      fraction: of all values, in (0, 1].
      values: codec of the values that are kept, such as `stochastic` or `qsgd`; single precision by default.
      coding: of places, ``"fixed"``, or ``"rice"`` of the gaps between them, where the length of a message
        depends on them and is about that of the least code there is.

    Raises:
      ArgumentError: for arguments out of range.
    """
    _check(fraction)
    coded = check_coding(coding)

    def inner_sections(count):
        if values is None:
            return (Section("values", count, 32, "float"),)
        return values.sections(((count,),))

    def sections(size):
        count = kept(fraction, size)
        width = _place_bits(size, count)
        if coded:
            places = Section("places", count, max(1, math.ceil(math.log2(max(size, 1)))), "rice")
        else:
            places = Section("places", count, width) if width else Section("places", size, 1)
        return (places, *inner_sections(count))

    def compress(vector, keys):
        count = kept(fraction, vector.size)
        places = jnp.sort(jax.lax.top_k(jnp.abs(vector), count)[1])
        found = vector[places]
        payload = {"values": found} if values is None else values.compress([found], keys)
        if coded:
            places = jnp.diff(places, prepend=-1) - 1
        elif not _place_bits(vector.size, count):
            places = jnp.zeros(vector.size, jnp.uint32).at[places].set(1)
        return {"places": places.astype(jnp.uint32), **payload}

    def decompress(payload, size, common):
        count = kept(fraction, size)
        found = payload["values"] if values is None else values.decompress(payload, ((count,),), common)[0]
        places = payload["places"]
        if coded:
            places = jnp.cumsum(places.astype(jnp.int32) + 1) - 1
        elif not _place_bits(size, count):
            places = jnp.nonzero(places, size=count)[0]
        return jnp.zeros(size, jnp.float32).at[places].set(found)

    suffix = "" if values is None else f"-{values.name}"
    return of_vectors(f"top-{fraction:g}{'-rice' * coded}{suffix}", sections, compress, decompress)


def random_k(fraction: float, *, error_feedback: bool = True) -> Channel:
    """Values at random places that all clients of a round share, drawn anew each round.

    Places are drawn from the round's common key and do not travel. What is encoded is (k,) long, so that
    secure sums cost no more than that.

    Args:
      fraction: of all values, in (0, 1].
      error_feedback: clients keep what was not sent, as in `compressed`; else values are scaled by size / k,
        which makes the expectation right.

    Raises:
      ArgumentError: for a fraction out of range.
    """
    _check(fraction)

    def places(size, context):
        order = jax.random.uniform(common_key(context), (size,))
        return jnp.sort(jax.lax.top_k(order, kept(fraction, size))[1])

    def init(upload):
        return (jnp.zeros_like(joined(jax.tree.leaves(upload.delta.params))) if error_feedback else ()), ()

    def encode(upload, rest, context):
        params = upload.delta.params
        vector = joined(jax.tree.leaves(params))
        if error_feedback:
            vector = vector + rest
        where = places(vector.size, context)
        sent = vector[where]
        if error_feedback:
            rest = vector.at[where].set(0)
        else:
            sent = sent * (vector.size / where.size)
        encoded = Encoded(sent, layout_of(params))
        return upload._replace(delta=upload.delta._replace(params=encoded)), rest, {}

    def decode(total, state, context):
        encoded = total.delta.params
        vector = jnp.zeros(encoded.size, jnp.float32).at[places(encoded.size, context)].set(encoded.values)
        return total._replace(delta=total.delta._replace(params=encoded.restore(vector))), state, {}

    return Channel(
        init, encode, decode, payload_bytes=lambda upload: summed_bytes(upload) + SEED_BYTES, linear=False
    )


def shared_top_k(fraction: float, *, explored: float = 0.1, seed: int = 0) -> Channel:
    """Values at places that the server publishes: the largest of the last round's sum, and some random ones.

    Clients keep what was not sent, as in `compressed`. Of the k places of the next round a part ``explored``
    is drawn at random from the others, so that what grows there is found; all of them are random in the first
    round. Places travel down. What is encoded is (k,) long and adds over clients: secure sums apply.

    Args:
      fraction: of all values, in (0, 1].
      explored: part of the places that are random, in (0, 1].
      seed: of these, public.

    Raises:
      ArgumentError: for arguments out of range.
    """
    _check(fraction)
    if not 0 < explored <= 1:
        raise ArgumentError("explored", "a number in (0, 1]", repr(explored))

    def chosen(scores, turn):
        count = kept(fraction, scores.size)
        drawn = min(count, max(1, round(explored * count)))
        best = jax.lax.top_k(scores, count - drawn)[1]
        order = jax.random.uniform(jax.random.fold_in(jax.random.key(seed), turn), scores.shape)
        others = jax.lax.top_k(order.at[best].set(-1), drawn)[1]
        return {"places": jnp.sort(jnp.concatenate([best, others])), "turn": turn}

    def init(upload):
        empty = jnp.zeros_like(joined(jax.tree.leaves(upload.delta.params)))
        return empty, chosen(empty, jnp.int32(0))

    def encode(upload, rest, context):
        params = upload.delta.params
        vector = joined(jax.tree.leaves(params)) + rest
        where = context.broadcast["places"]
        encoded = Encoded(vector[where], layout_of(params))
        return upload._replace(delta=upload.delta._replace(params=encoded)), vector.at[where].set(0), {}

    def decode(total, state, context):
        encoded = total.delta.params
        vector = jnp.zeros(encoded.size, jnp.float32).at[state["places"]].set(encoded.values)
        # Of equal ones the first: places where nothing was sent come last.
        new = chosen(jnp.abs(vector), state["turn"] + 1)
        return total._replace(delta=total.delta._replace(params=encoded.restore(vector))), new, {}

    return Channel(
        init, encode, decode, broadcast=lambda state: state, payload_bytes=summed_bytes, linear=False
    )


def random_mask(fraction: float) -> Channel:
    """Each client sends random values of its own choice; the server averages each over those who sent it.

    The mask is drawn from the client's key, of which 8 bytes travel; the number of values is always the same.
    A parameter that nobody sent stays as it was. The compiled round adds values and weights of all
    parameters; a message holds only those that are sent.

    Args:
      fraction: of all values, in (0, 1].

    Raises:
      ArgumentError: for a fraction out of range.
    """
    _check(fraction)

    def encode(upload, state, context):
        params = upload.delta.params
        vector = joined(jax.tree.leaves(params))
        order = jax.random.uniform(context.key, vector.shape)
        where = jax.lax.top_k(order, kept(fraction, vector.size))[1]
        mask = jnp.zeros_like(vector).at[where].set(1)
        weights = joined(jax.tree.leaves(_spread(upload.weight, upload.delta)))
        encoded = Encoded({"values": mask * vector, "weights": mask * weights}, layout_of(params))
        return upload._replace(delta=upload.delta._replace(params=encoded)), state, {}

    def decode(total, state, context):
        encoded = total.delta.params
        weights = encoded.values["weights"]
        mean = jnp.where(weights > 0, encoded.values["values"] / jnp.where(weights > 0, weights, 1), 0)
        return times_weight(total, total.delta._replace(params=encoded.restore(mean))), state, {}

    def payload_bytes(upload):
        count = kept(fraction, upload.delta.params.size)
        rest = dense_bytes((upload.delta.stats, upload.message, upload.weight))
        return HEADER_BYTES + SEED_BYTES + 4 * count + rest

    return Channel(lambda upload: ((), ()), encode, decode, payload_bytes=payload_bytes, linear=False)


def _spread(weight: PyTree, delta: PyTree) -> PyTree:
    """Each parameter's weight."""
    spread = jax.tree.map(
        lambda w, part: jax.tree.map(lambda x: jnp.full(x.shape, w, jnp.float32), part), weight, delta
    )
    return spread.params


def _place_bits(size: int, count: int) -> int:
    """Bits of a place in a list of them; 0 where a bit for every value takes less."""
    width = max(1, math.ceil(math.log2(size))) if size > 1 else 1
    return width if -(-count * width // 8) <= -(-size // 8) else 0


def _check(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ArgumentError("fraction", "a number in (0, 1]", repr(fraction))
