"""Channels: chaining, and clipping to a bounded norm."""

import jax
import jax.numpy as jnp
import optax

from fedrecon.federated.algorithm import Channel, Context


def chain(*channels: Channel) -> Channel:
    """Composes channels: encodes first to last, decodes last to first; with none, the identity.

    States and infos are tuples in the order of ``channels``. Stage k is initialised with the encoding that
    stages before it produce, so their shapes and dtypes may differ from the update's.
    """

    def init(upload):
        clients, servers = [], []
        context = Context(jnp.int32(0), jax.random.key(0), jnp.int32(0))
        for channel in channels:
            client, server = channel.init(upload)
            clients.append(client)
            servers.append(server)
            encoded = jax.eval_shape(channel.encode, upload, client, context)[0]
            upload = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), encoded)
        return tuple(clients), tuple(servers)

    def encode(upload, state, context):
        states, infos = [], []
        for number, (channel, old) in enumerate(zip(channels, state, strict=True)):
            upload, new, info = channel.encode(upload, old, _fold(context, number))
            states.append(new)
            infos.append(info)
        return upload, tuple(states), tuple(infos)

    def decode(total, state, context):
        states, infos = list(state), [None] * len(channels)
        for number in reversed(range(len(channels))):
            total, states[number], infos[number] = channels[number].decode(
                total, state[number], _fold(context, number)
            )
        return total, tuple(states), tuple(infos)

    return Channel(init, encode, decode)


def _fold(context, number):
    return context._replace(key=jax.random.fold_in(context.key, number))


def clip(max_norm: float) -> Channel:
    """Scales each client's contribution down to a global l2 norm of at most ``max_norm`` (times its weight).

    The norm is taken over everything the client sends but its weight, delta and message together, as the
    sensitivity of a sum demands. A contribution within the bound passes bitwise unchanged. The encode info
    ``clipped`` sums to the number of clients that were scaled down.

    Raises:
      ValueError: if ``max_norm`` is not positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm: expected a positive number, found {max_norm!r}")

    def encode(upload, state, context):
        del context
        payload = (upload.delta, upload.message)
        norm = optax.tree.norm(payload)
        bound = max_norm * upload.weight
        over = norm > bound
        scale = bound / jnp.where(over, norm, 1.0)
        delta, message = jax.tree.map(lambda x: jnp.where(over, x * scale, x).astype(x.dtype), payload)
        return upload._replace(delta=delta, message=message), state, {"clipped": over.astype(jnp.int32)}

    return Channel(lambda upload: ((), ()), encode, lambda total, state, context: (total, state, {}))
