"""Channels: chaining, and clipping to a bounded norm."""

import functools

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.messages import Channel, Context
from fedrecon.federated.trees import largest
from fedrecon.types import PyTree


def chain(*channels: Channel) -> Channel:
    """Composes channels: encodes first to last, decodes last to first; with none, the identity.

    States, broadcasts and infos are tuples in the order of ``channels``. Stage k is initialized with the
    encoding that stages before it produce, so their shapes and dtypes may differ from the update's. The bytes
    on the wire are those of the last stage that counts its own.
    """

    def init(upload):
        clients, servers = [], []
        context = Context(jnp.int32(0), jax.random.key(0), jnp.int32(0))
        for number, channel in enumerate(channels):
            client, server = channel.init(upload)
            clients.append(client)
            servers.append(server)
            payloads = _payloads(channels[: number + 1], servers)
            stage = functools.partial(_stage, number, payloads)
            encoded = jax.eval_shape(
                lambda upload, client, channel=channel, stage=stage: channel.encode(
                    upload, client, stage(context)
                ),
                upload,
                client,
            )[0]
            upload = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), encoded)
        return tuple(clients), tuple(servers)

    def encode(upload, state, context):
        states, infos = [], []
        for number, (channel, old) in enumerate(zip(channels, state, strict=True)):
            upload, new, info = channel.encode(upload, old, _stage(number, context.broadcast, context))
            states.append(new)
            infos.append(info)
        return upload, tuple(states), tuple(infos)

    def decode(total, state, context):
        states, infos = list(state), [None] * len(channels)
        for number in reversed(range(len(channels))):
            total, states[number], infos[number] = channels[number].decode(
                total, state[number], _stage(number, context.broadcast, context)
            )
        return total, tuple(states), tuple(infos)

    def rollback(before, after):
        return tuple(
            old if channel.rollback is None else channel.rollback(old, new)
            for channel, old, new in zip(channels, before, after, strict=True)
        )

    counted = [number for number, channel in enumerate(channels) if channel.payload_bytes is not None]
    measured = channels[counted[-1]].measured_bytes if counted else None
    return Channel(
        init,
        encode,
        decode,
        broadcast=functools.partial(_payloads, channels) if any(c.broadcast for c in channels) else None,
        payload_bytes=channels[counted[-1]].payload_bytes if counted else None,
        rollback=rollback if any(c.rollback for c in channels) else None,
        linear=all(channel.linear for channel in channels),
        hides=any(channel.hides for channel in channels),
        bytes_down=sum(channel.bytes_down for channel in channels),
        measured_bytes=None if measured is None else lambda infos: measured(infos[counted[-1]]),
    )


def _payloads(channels, states):
    return tuple(
        () if channel.broadcast is None else channel.broadcast(state)
        for channel, state in zip(channels, states, strict=True)
    )


def _stage(number: int, payloads: PyTree, context: Context) -> Context:
    """The context of one stage: its own key and its own broadcast; the common key is its own, too."""
    common = None if context.common is None else jax.random.fold_in(context.common, number)
    return context._replace(
        key=jax.random.fold_in(context.key, number),
        common=common,
        broadcast=payloads[number] if payloads else (),
    )


def clip(max_norm: float, message_norm: float | None = None) -> Channel:
    """Scales each client's contribution down to a global l2 norm of at most ``max_norm`` (times its weight).

    What it does to each part of an upload:
      - the delta is scaled down to ``max_norm`` times the weight (of several weights, the largest);
      - ``summed`` messages are scaled down to ``message_norm``, apart from the delta, so that neither changes
        the other;
      - ``scalars`` and ``gathered`` pass as they are.
    A contribution within the bound passes bitwise unchanged. The encode info ``clipped`` sums to the number
    of clients whose delta or message was scaled down.

    Args:
      max_norm: bound on the delta.
      message_norm: bound on ``summed`` messages; ``max_norm`` by default.

    Raises:
      ValueError: if a bound is not positive.
    """
    message_norm = max_norm if message_norm is None else message_norm
    for name, value in (("max_norm", max_norm), ("message_norm", message_norm)):
        if not value > 0:
            raise ArgumentError(name, "a positive number", repr(value))

    def encode(upload, state, context):
        del context
        delta, over = _shrink(upload.delta, max_norm * largest(upload.weight))
        message = upload.message
        if jax.tree.leaves(message.summed):
            summed, long = _shrink(message.summed, jnp.float32(message_norm))
            message, over = message._replace(summed=summed), over | long
        return upload._replace(delta=delta, message=message), state, {"clipped": over.astype(jnp.int32)}

    return Channel(lambda upload: ((), ()), encode, lambda total, state, context: (total, state, {}))


def _shrink(tree, bound):
    norm = optax.tree.norm(tree)
    over = norm > bound
    scale = bound / jnp.where(over, norm, 1.0)
    return jax.tree.map(lambda x: jnp.where(over, x * scale, x).astype(x.dtype), tree), over
