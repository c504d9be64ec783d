"""Fewer bytes down: the server sends its model's changes by a codec, and keeps what it leaves out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.communication.codec import Codec, Keys
from fedrecon.communication.wire import message_bytes
from fedrecon.errors import ArgumentError
from fedrecon.federated import FederatedAlgorithm
from fedrecon.types import PyTree


class Sender(NamedTuple):
    """State of the server's optimizer behind a codec.

    Attributes:
      inner: of the optimizer.
      left_out: what the clients' model lacks of the server's, the shapes of the parameters.
      count: int32 (), steps taken.
    """

    inner: PyTree
    left_out: PyTree
    count: jax.Array  # type: ignore[assignment]  # hides a method of tuples that nobody calls


def with_downlink(algorithm: FederatedAlgorithm, codec: Codec, *, seed: int = 0) -> FederatedAlgorithm:
    """The algorithm, with the changes of its model sent to clients by a codec.

    Clients train from the model that they can put together; the server keeps the difference to its own, and
    adds it to what it sends next (error feedback). What is released is the server's. A client that was not in
    the round before gets the whole model instead, as does everybody in the first round; bytes down count the
    one or the other. Running statistics and broadcasts travel as they are.

    Args:
      algorithm: of a server with one model.
      codec: how changes travel.
      seed: of the codec's rounding, public.

    Raises:
      ArgumentError: the algorithm hands out another model than clients train from, or the codec's messages
        have no length that is always the same.
    """
    if any(section.kind == "rice" for section in codec.sections(((1,),))):
        raise ArgumentError("codec", "one of fixed widths", codec.name)
    if algorithm.release is not FederatedAlgorithm._field_defaults["release"]:
        raise ArgumentError("downlink", "none with a method that hands out a model of its own", codec.name)
    optimizer = optax.with_extra_args_support(algorithm.server_optimizer)

    def init(params):
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)
        return Sender(optimizer.init(params), zeros, jnp.int32(0))

    def update(gradient, state, params=None, **extra):
        whole = jax.tree.map(lambda p, e: (p + e).astype(p.dtype), params, state.left_out)
        updates, inner = optimizer.update(gradient, state.inner, whole, **extra)
        wanted = jax.tree.map(lambda u, e: u.astype(jnp.float32) + e, updates, state.left_out)
        leaves, structure = jax.tree.flatten(wanted)
        shapes = tuple(x.shape for x in leaves)
        key = jax.random.fold_in(jax.random.key(seed), state.count)
        payload = codec.compress(leaves, Keys(key, key))
        sent = jax.tree.unflatten(structure, codec.decompress(payload, shapes, key))
        left = jax.tree.map(jnp.subtract, wanted, sent)
        sent = jax.tree.map(lambda s, p: s.astype(p.dtype), sent, updates)
        return sent, Sender(inner, left, state.count + 1)

    def release(state):
        params = jax.tree.map(
            lambda p, e: p if p is None or e is None else (p + e).astype(p.dtype),
            state.variables.params,
            state.server.left_out,
            is_leaf=lambda x: x is None,
        )
        return state.variables._replace(params=params)

    def size(params: PyTree) -> int:
        return message_bytes(codec.sections(tuple(x.shape for x in jax.tree.leaves(params))))

    server: Any = optax.GradientTransformationExtraArgs(init, update)
    return algorithm._replace(server_optimizer=server, release=release, update_bytes=size)
