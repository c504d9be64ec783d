"""Streaming DiLoCo: in each round one part of the model is exchanged, in turn."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.communication.codec import Encoded, joined, layout_of, summed_bytes
from fedrecon.errors import ArgumentError
from fedrecon.federated import (
    Channel,
    ClientUpdate,
    Exchange,
    FederatedAlgorithm,
    federated,
    local_training,
)
from fedrecon.types import PyTree, Task, Variables


class _Local(NamedTuple):
    """What stays at a client: the state of its training, its own model, and its last turn."""

    training: PyTree
    params: PyTree
    last: jax.Array


class _Server(NamedTuple):
    """The server's momentum, and the turn."""

    momentum: PyTree
    turn: jax.Array


def streaming_diloco(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    parts: int = 4,
    server_learning_rate: float = 0.7,
    momentum: float = 0.9,
    **options: Any,
) -> FederatedAlgorithm:
    """Streaming DiLoCo (Douillard et al. 2025): `diloco` of one part of the parameters in each round.

    After arXiv:2501.18512, without its overlap and quantization. The parameters in their order are divided
    into ``parts`` of equal size; in round r clients send the change of part r mod parts, the server takes its
    Nesterov step on that part alone, and clients replace that part of their own model in their next turn. All
    other parts go on from where each client is. A client that was absent takes over all parts that were
    exchanged meanwhile. A message has a ``parts``-th of the numbers. Of one part it is `diloco`.

    Args:
      task: what is learned.
      optimizer: each client's optimizer, whose state is kept and never sent.
      parts: of the model, exchanged in turn.
      server_learning_rate: of the outer step.
      momentum: of the outer step, in [0, 1).
      **options: as in `federated`, except ``channel``, ``server_optimizer`` and ``client``.

    Raises:
      ValueError: for arguments out of range.
    """
    for name in ("channel", "server_optimizer"):
        if name in options:
            raise TypeError(f"streaming_diloco() takes no argument {name!r}: it brings its own")
    if parts < 1:
        raise ArgumentError("parts", "a positive integer", parts)
    if not 0 <= momentum < 1:
        raise ArgumentError("momentum", "a number in [0, 1)", repr(momentum))
    method = options.pop("method", None)
    if method is not None and (method.server is not None or method.transform is not None):
        raise ArgumentError("method", "one that changes local training alone", "one with a server's half")
    inner = local_training(task.loss, optimizer, method, keep_optimizer=True)
    turns = Exchange(lambda variables: jnp.int32(0), lambda turn: turn, lambda turn, *_: turn + 1)
    algorithm = federated(
        task,
        optimizer,
        client=_client(inner, parts),
        server_optimizer=_in_turn(server_learning_rate, momentum, parts),
        channel=_part(parts),
        **options,
    )
    return algorithm._replace(exchange=turns, update_bytes=lambda params: 4 * _part_size(params, parts))


def _client(inner: ClientUpdate, parts: int) -> ClientUpdate:
    def init(variables):
        params = jax.tree.map(jnp.copy, variables.params)
        return _Local(inner.init(variables), params, jnp.int32(-1))

    def update(variables, turn, own, batches, valid, key):
        def newer(part):
            # The last turn in which the part was exchanged.
            return turn - 1 - (turn - 1 - part) % parts >= own.last

        params = jax.tree.map(
            lambda part, theirs, mine: jnp.where(newer(part), theirs, mine),
            _parts(variables.params, parts),
            variables.params,
            own.params,
        )
        start = Variables(params, variables.stats)
        result = inner.update(start, (), own.training, batches, valid, key)
        delta = jax.tree.map(jnp.subtract, result.variables, variables)
        state = _Local(result.client_state, result.variables.params, turn)
        return result._replace(delta=delta, client_state=state)

    return ClientUpdate(init, update, inner.batching)


def _in_turn(rate: float, momentum: float, parts: int) -> optax.GradientTransformation:
    """Nesterov's step of the part whose turn it is; the others and their momentum stand still."""

    def init(params):
        return _Server(jax.tree.map(jnp.zeros_like, params), jnp.int32(0))

    def update(gradient, state, params=None):
        due = jax.tree.map(lambda part: part == state.turn % parts, _parts(gradient, parts))
        new = jax.tree.map(
            lambda here, g, m: jnp.where(here, momentum * m + g, m), due, gradient, state.momentum
        )
        updates = jax.tree.map(
            lambda here, g, m: jnp.where(here, -rate * (g + momentum * m), 0).astype(g.dtype),
            due,
            gradient,
            new,
        )
        return updates, _Server(new, state.turn + 1)

    return optax.GradientTransformation(init, update)


def _part(parts: int) -> Channel:
    """Sends the part of the parameters whose turn it is, (size,) numbers for every part."""

    def init(upload):
        del upload
        return (), jnp.int32(0)

    def encode(upload, state, context):
        params = upload.delta.params
        layout = layout_of(params)
        size = _part_size(params, parts)
        vector = joined(jax.tree.leaves(params))
        rows = jnp.pad(vector, (0, parts * size - vector.size)).reshape(parts, size)
        sent = rows[context.broadcast % parts]
        return upload._replace(delta=upload.delta._replace(params=Encoded(sent, layout))), state, {}

    def decode(total, turn, context):
        encoded = total.delta.params
        rows = jnp.zeros((parts, encoded.values.size), jnp.float32).at[turn % parts].set(encoded.values)
        params = encoded.restore(rows.reshape(-1)[: encoded.size])
        return total._replace(delta=total.delta._replace(params=params)), turn + 1, {}

    return Channel(
        init, encode, decode, broadcast=lambda turn: turn, payload_bytes=summed_bytes, linear=False
    )


def _parts(params: PyTree, parts: int) -> PyTree:
    """The part that each parameter belongs to, int32 of the shapes of the leaves."""
    leaves, structure = jax.tree.flatten(params)
    size = _part_size(params, parts)
    found, start = [], 0
    for leaf in leaves:
        found.append((start + jnp.arange(leaf.size)).reshape(leaf.shape) // max(size, 1))
        start += leaf.size
    return jax.tree.unflatten(structure, found)


def _part_size(params: PyTree, parts: int) -> int:
    return math.ceil(sum(x.size for x in jax.tree.leaves(params)) / parts)
