"""Secure sums inside the compiled round: what clients send looks uniform, and only the sum can be read."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.federated.masks import masked
from fedrecon.federated.messages import Channel, Reducer, Upload
from fedrecon.federated.trees import largest, pack, unpack
from fedrecon.secure_aggregation import FixedPoint
from fedrecon.types import PyTree

# Numbers may be this much beyond their bound: clipping to a norm rounds.
_SLACK = 1 + 1e-5


class SumBytes(NamedTuple):
    """What a protocol sends in a round besides the words of the sum, for each client.

    Attributes:
      up: bytes, to the server.
      down: bytes, from the server.
    """

    up: int = 0
    down: int = 0


NO_BYTES = SumBytes()


def secure_sum(
    fixed: FixedPoint,
    *,
    largest_weight: float = 1.0,
    message_bound: float | None = None,
    scalar_bound: float | None = None,
    threshold: int = 1,
    neighbors: int | None = None,
    protocol: SumBytes = NO_BYTES,
) -> Channel:
    """A channel through which the server learns the sum over the clients of a round and no term of it.

    Numbers become words of fixed point (`fixed_point_words`) and get masks that cancel in the sum (`masked`).
    Words are added as ``uint32`` that wraps: the sum is exact and does not depend on the order or on who is
    on which device. It comes last in a chain, after clipping to at most ``fixed.clip`` and after codecs that
    are linear. Reducers and messages that need single updates are refused where the algorithm is built.

    Keys of masks come from the round's common key: this simulates the sum, as `fedrecon.secure_aggregation`
    computes it between parties, with the same words.

    Args:
      fixed: of the change of the model; its ``clients`` are the most that take part in a round. The lift of a
        sum that does not wrap in another modulus, as LightSecAgg's, is the same as in 2^32.
      largest_weight: W, the largest weight that a client may have. Changes are sent times weight / W.
      message_bound: of ``summed`` messages; ``fixed.clip`` by default.
      scalar_bound: of scalars of messages; with None they are refused.
      threshold: a round of fewer clients is not applied.
      neighbors: clients with which each has a mask in common, an even number; None is all others, 0 nobody:
        clients then have masks of their own alone, as in LightSecAgg.
      protocol: bytes of the protocol.

    Raises:
      ValueError: for arguments out of range; when the state is initialized, if there are scalars without a
        bound.
    """
    words = fixed_point_words(
        fixed,
        largest_weight=largest_weight,
        message_bound=message_bound,
        scalar_bound=scalar_bound,
        threshold=threshold,
    )
    masks = masked(fixed.clients, neighbors)

    def encode(upload, state, context):
        encoded, _, info = words.encode(upload, (), context)
        return masks.encode(encoded, (), context)[0], state, info

    def decode(total, state, context):
        total, _, info = words.decode(masks.decode(total, (), context)[0], (), context)
        return total, state, info

    return words._replace(
        encode=encode,
        decode=decode,
        payload_bytes=lambda encoded: 4 * _count(encoded) + protocol.up,
        bytes_down=protocol.down,
    )


def fixed_point_words(
    fixed: FixedPoint,
    *,
    largest_weight: float = 1.0,
    message_bound: float | None = None,
    scalar_bound: float | None = None,
    threshold: int = 1,
) -> Channel:
    """Numbers as ``uint32`` words of `FixedPoint`, rounded at random with the client's key.

    Messages, scalars and weights have as many bits as their own bounds allow. A further word counts clients
    with a number, or a weight, beyond its bound: a round with such a client is not applied, and its decode
    info ``beyond`` is their number. Nothing is cut off silently.

    Args:
      fixed, largest_weight, message_bound, scalar_bound, threshold: as in `secure_sum`.
    """
    for name, value in (("largest_weight", largest_weight), ("message_bound", message_bound)):
        if value is not None and not value > 0:
            raise ArgumentError(name, "a positive number", repr(value))
    if not 1 <= threshold <= fixed.clients:
        raise ArgumentError("threshold", f"an integer from 1 to {fixed.clients}", threshold)
    of_message = FixedPoint.finest(message_bound or fixed.clip, fixed.clients, modulus=fixed.modulus)
    of_scalar = FixedPoint.finest(scalar_bound or 1.0, fixed.clients, modulus=fixed.modulus)
    of_weight = FixedPoint.finest(1.0, fixed.clients, modulus=fixed.modulus)
    formats = (fixed, of_message, of_scalar, of_weight)

    def init(upload):
        if jax.tree.leaves(upload.message.scalars) and scalar_bound is None:
            raise ArgumentError(
                "scalar_bound",
                "the largest scalar of a message, for a method that sends scalars through a secure sum",
                "None",
            )
        return (), ()

    def encode(upload, state, context):
        sent = (upload.delta, upload.message.scalars, upload.weight)
        delta, scalars, weight = _times(1 / largest_weight, sent)
        parts = (delta, upload.message.summed, scalars, weight)
        keys = jax.random.split(context.key, 4)
        pairs = [_to_words(*each) for each in zip(parts, formats, keys, strict=True)]
        (delta, summed, scalars, weight), over = zip(*pairs, strict=True)
        beyond = jnp.stack(over).any().astype(jnp.uint32)
        message = upload.message._replace(summed=summed, scalars=scalars)
        return Upload(delta, message, (weight, beyond)), state, {}

    def decode(total, state, context):
        weight, beyond = total.weight
        parts = (total.delta, total.message.summed, total.message.scalars, weight)
        numbers = [_to_numbers(part, form) for part, form in zip(parts, formats, strict=True)]
        delta, scalars, weight = _times(largest_weight, (numbers[0], numbers[2], numbers[3]))
        enough = (context.participants >= threshold) & (context.invited.sum() <= fixed.clients)
        weight = jax.tree.map(lambda w: jnp.where(enough & (beyond == 0), w, 0), weight)
        message = total.message._replace(summed=numbers[1], scalars=scalars)
        info = {"beyond": beyond.astype(jnp.int32), "enough": enough}
        return Upload(delta, message, weight), state, info

    return Channel(init, encode, decode, linear=False, hides=True)


def grouped_secure_sum(
    fixed: FixedPoint,
    reduce: Reducer,
    *,
    groups: int,
    seed: int,
    clip: Channel | None = None,
    least: int = 2,
    neighbors: int | None = None,
    protocol: SumBytes = NO_BYTES,
    **options: Any,
) -> tuple[Channel, Reducer]:
    """A robust reducer of the means of random groups, each of which is a secure sum of its own.

    The server learns the sums of groups, never an update. Groups are drawn anew in every round among the
    clients that were invited, and are of equal size up to one. A malicious client spoils the mean of its
    group: reducers withstand as many spoiled groups as they do clients.

    Args:
      fixed: as in `secure_sum`.
      reduce: of the groups' sums, as of clients' updates.
      groups: number of groups.
      seed: of their choice.
      clip: what comes before, such as `clip`; it must keep no state.
      least: fewest clients in a group, of all that are invited and of those that arrive.
      neighbors, protocol: as in `secure_sum`.
      **options: ``largest_weight``, ``message_bound``, ``scalar_bound`` of `fixed_point_words`.

    Returns:
      (channel, reducer), which go together; the channel is not to be part of a chain.

    Raises:
      ValueError: there are too few clients for these groups.
    """
    if least < 2:
        raise ArgumentError("least", "at least 2 clients in a group, whose sum hides them", least)
    if not 1 <= groups <= fixed.clients // least:
        raise ArgumentError(
            "groups", f"an integer from 1 to {fixed.clients // least}, of at least {least} clients", groups
        )
    words = fixed_point_words(fixed, threshold=least, **options)
    masks = masked(-(-fixed.clients // groups), neighbors)

    def of_groups(context):
        """Context of the masks, and the group of each client (clients,)."""
        common = jax.random.fold_in(jax.random.key(seed), context.round)
        order_key, common = jax.random.split(common)
        places = jnp.where(context.invited, jax.random.uniform(order_key, context.invited.shape), 2.0)
        return context._replace(common=common), jnp.argsort(jnp.argsort(places)) % groups

    def encode(upload, state, context):
        if clip is not None:
            upload, _, _ = clip.encode(upload, (), context)
        encoded, _, _ = words.encode(upload, (), context)
        context, group = of_groups(context)
        own = group[context.client]
        context = context._replace(
            invited=context.invited & (group == own), common=jax.random.fold_in(context.common, own)
        )
        return (masks.encode(encoded, (), context)[0], own), state, {}

    def run(uploads, included, state, context):
        encoded, own = uploads
        context, group = of_groups(context)

        def one(number):
            here = included & (own == number)
            member = group == number
            within = context._replace(
                invited=context.invited & member,
                arrived=context.arrived & member,
                participants=here.sum(dtype=jnp.int32),
                common=jax.random.fold_in(context.common, number),
            )
            total = jax.tree.map(lambda x: _masked_sum(x, here), encoded)
            total, _, _ = masks.decode(total, (), within)
            return words.decode(total, (), within)[0]

        sums = jax.lax.map(one, jnp.arange(groups))
        passed = jnp.stack(jax.tree.leaves(sums.weight)).max(0) > 0
        reduction = reduce.reduce(sums, passed, state, context)
        flagged = ~passed if reduction.flagged is None else reduction.flagged | ~passed
        return reduction._replace(flagged=included & flagged[own])

    channel = Channel(
        words.init,
        encode,
        lambda total, state, context: (total, state, {}),
        payload_bytes=lambda encoded: 4 * _count(encoded[0]) + protocol.up,
        linear=False,
        hides=True,
        bytes_down=protocol.down,
    )
    return channel, Reducer(reduce.init, run, linear=True)


def clip_range(bound: float) -> Channel:
    """Scales contributions down whose largest number, over the weight, is beyond ``bound``.

    What `fixed_point_words` needs before it, where no norm is clipped. Summed messages are scaled apart from
    the change of the model; contributions within the bound pass bitwise unchanged. The encode info
    ``clipped`` sums to the number of clients whose delta or message was scaled down.
    """
    if not bound > 0:
        raise ArgumentError("bound", "a positive number", repr(bound))

    def shrink(tree, most):
        size = jnp.stack([jnp.float32(0), *(jnp.abs(x).max() for x in jax.tree.leaves(tree) if x.size)]).max()
        over = size > most
        factor = most / jnp.where(over, size, 1)
        return jax.tree.map(lambda x: jnp.where(over, x * factor, x).astype(x.dtype), tree), over

    def encode(upload, state, context):
        delta, over = shrink(upload.delta, bound * largest(upload.weight))
        summed, long = shrink(upload.message.summed, jnp.float32(bound))
        message = upload.message._replace(summed=summed)
        info = {"clipped": (over | long).astype(jnp.int32)}
        return upload._replace(delta=delta, message=message), state, info

    return Channel(lambda upload: ((), ()), encode, lambda total, state, context: (total, state, {}))


def check_hidden(channel: Channel, reduce: Reducer | None, sampler: Callable, gathered: PyTree) -> None:
    """Refuses what needs single updates where the channel hides them.

    Raises:
      ArgumentError: a reducer, a sampler or a message does.
    """
    if not channel.hides:
        return
    reason = "with a channel that hides single updates"
    if reduce is not None and not reduce.linear:
        raise ArgumentError(
            "reduce",
            f"the sum (None) or a reducer of the means of groups {reason}",
            "one that compares updates",
        )
    if getattr(sampler, "by_loss", False):
        raise ArgumentError("sampler", f"one that needs no losses of single clients {reason}", "highest_loss")
    if jax.tree.leaves(gathered):
        raise ArgumentError(
            "method", f"one whose messages are sums {reason}", "one that gathers messages client by client"
        )


def _masked_sum(x: jax.Array, here: jax.Array) -> jax.Array:
    return jnp.where(here.reshape(-1, *(1,) * (x.ndim - 1)), x, 0).sum(0, dtype=x.dtype)


def _times(factor: float, tree: PyTree) -> PyTree:
    return tree if factor == 1 else jax.tree.map(lambda x: x * jnp.float32(factor), tree)


def _to_words(tree: PyTree, fixed: FixedPoint, key: jax.Array) -> tuple[PyTree, jax.Array]:
    """(words as `FixedPoint.encode_with`, whether a number is beyond the bound)."""
    vectors, packing = pack(tree)
    words, beyond = {}, jnp.bool_(False)
    for number, (name, x) in enumerate(sorted(vectors.items())):
        x = x.astype(jnp.float32)
        draws = jax.random.bits(jax.random.fold_in(key, number), x.shape, jnp.uint32)
        words[name] = words_of(x, draws, fixed)
        beyond |= ~(jnp.abs(x) <= fixed.clip * _SLACK).all()
    return unpack(words, packing), beyond


def words_of(x: jax.Array, draws: jax.Array, fixed: FixedPoint) -> jax.Array:
    """`FixedPoint.encode_with` of weight 1 in two's complement, bit for bit: float32 and uint32 draws."""
    limit = jnp.float32(fixed.clip)
    scaled = jnp.clip(x, -limit, limit) * jnp.float32(2.0**fixed.bits)
    whole = jnp.floor(scaled)
    up = (draws >> 8).astype(jnp.float32) * jnp.float32(2.0**-24) < scaled - whole
    return (whole + up.astype(jnp.float32)).astype(jnp.int32).astype(jnp.uint32)


def _to_numbers(tree: PyTree, fixed: FixedPoint) -> PyTree:
    def one(words):
        return words.astype(jnp.uint32).astype(jnp.int32).astype(jnp.float32) * jnp.float32(2.0**-fixed.bits)

    return jax.tree.map(one, tree)


def _count(tree: PyTree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))
