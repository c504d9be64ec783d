"""Phases: one-off exchanges around rounds, and several algorithms one after another on one state."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, RoundState
from fedrecon.federated.clients import ClientRow, client_rows, default_mesh, map_clients, number_of_clients
from fedrecon.federated.engine import init_state
from fedrecon.federated.evaluation import average_private
from fedrecon.federated.keys import fold
from fedrecon.federated.messages import Gathered, Message
from fedrecon.federated.trees import fill, nbytes, partition
from fedrecon.types import PyTree, Variables


class Exchanged(NamedTuple):
    """What a one-off exchange brought to the server, and what it cost.

    Attributes:
      message: `Message` of sums over clients with examples (``summed``), means of ``scalars`` over these
        clients, each counting once, and a `Gathered`.
      participants: int32 (), their number.
      bytes_up, bytes_down: uint32 (clients,), sent and received by each client.
    """

    message: Message
    participants: jax.Array
    bytes_up: jax.Array
    bytes_down: jax.Array


class Split(NamedTuple):
    """A one-off exchange in its parts, for sites that compute apart from each other.

    Attributes:
      compute: as in `make_exchange`.
      whole: ``whole(payload, data, key) -> Exchanged`` of all clients in one place.
    """

    compute: Callable[[PyTree, ClientRow, jax.Array, jax.Array], Message]
    whole: Callable[[PyTree, Any, jax.Array], Exchanged]


# ``exchange(split, payload, data, key) -> Exchanged`` in place of those made below; None outside of a block.
_ELSEWHERE: contextvars.ContextVar[Callable | None] = contextvars.ContextVar("elsewhere", default=None)


@contextlib.contextmanager
def exchanging(exchange: Callable[[Split, PyTree, Any, jax.Array], Exchanged]) -> Iterator[None]:
    """Lets ``exchange`` carry out the exchanges that are made in this block, of this thread or coroutine."""
    token = _ELSEWHERE.set(exchange)
    try:
        yield
    finally:
        _ELSEWHERE.reset(token)


class Beforehand(NamedTuple):
    """What a one-off exchange leaves for the rounds that follow.

    Attributes:
      variables: the model that every client starts from.
      exchanged: pytree of arrays that the method is given.
      bytes_up, bytes_down: unsigned (clients,), sent and received by each client.
      own: `Variables` of private leaves with which clients start, stacked (clients, ...), None at other
        leaves; None starts them all from ``variables``.
      frozen: names at the top of ``variables`` of what everybody has now, and that is sent no more.
    """

    variables: Variables
    exchanged: PyTree
    bytes_up: Any
    bytes_down: Any
    own: Variables | None = None
    frozen: tuple[str, ...] = ()


def with_private(state: RoundState, own: Variables | None) -> RoundState:
    """A first state whose clients start from private leaves of their own.

    Args:
      state: of `init_state`.
      own: as in `Beforehand`; clients beyond the given ones, which pad a mesh, keep what they have.

    Raises:
      ValueError: a leaf is not private in the state.
    """
    if own is None:
        return state

    def put(old, new):
        if new is None:
            return old
        if old is None:
            raise ArgumentError("own", "leaves that stay at clients", "one that is shared")
        return jax.device_put(jnp.asarray(old).at[: len(new)].set(new), old.sharding)

    private = jax.tree.map(put, state.private, own, is_leaf=lambda x: x is None)
    return state._replace(private=private)


def make_exchange(
    compute: Callable[[PyTree, ClientRow, jax.Array, jax.Array], Message],
    *,
    mesh: Mesh | None = None,
    parallel: str | int = "scan",
) -> Callable[[PyTree, Any, jax.Array], Exchanged]:
    """Compiles ``exchange(payload, data, key) -> Exchanged``: a message from every client, outside rounds.

    For what is sent once before, between or after rounds: statistics of the data, banks, style images.
    Clients without examples send nothing. A message that is not finite is the caller's to check.

    Args:
      compute: ``compute(payload, row, client, key) -> Message`` at a client; ``row`` is its `ClientRow`,
        ``client`` int32 () its number, and ``key`` its own.
      mesh, parallel: as in `make_round`.
    """
    mesh = default_mesh(mesh)

    def one(shared, state, row):
        payload, key, common = shared
        own, client = row
        message = compute(payload, ClientRow(*own, *common), client, fold(key, client[None])[0])
        sums = message._replace(gathered=())
        return sums, state, (message.gathered, jnp.uint32(nbytes(message)))

    @jax.jit
    def exchange(payload, data, key):
        rows, clients = client_rows(data), number_of_clients(data)
        active = rows.valid.any(1)[:clients]
        numbers = jnp.arange(rows.valid.shape[0], dtype=jnp.int32)
        sums, _, (gathered, sent) = map_clients(
            one, (payload, key, rows.shared), (), (rows.own, numbers), active, mesh=mesh, parallel=parallel
        )
        participants = active.sum(dtype=jnp.int32)
        message = Message(
            sums.summed,
            jax.tree.map(lambda x: x / jnp.maximum(participants, 1), sums.scalars),
            Gathered(gathered, numbers[:clients], active),
        )
        return Exchanged(message, participants, sent, active * jnp.uint32(nbytes(payload)))

    elsewhere = _ELSEWHERE.get()
    return exchange if elsewhere is None else functools.partial(elsewhere, Split(compute, exchange))


def continue_with(
    algorithm: FederatedAlgorithm,
    before: FederatedAlgorithm,
    state: RoundState,
    data: Any,
    mesh: Mesh | None = None,
) -> RoundState:
    """The state with which another algorithm goes on where one has come to.

    What is kept:
      - the server's model and the clients' private leaves; leaves that become private start from the shared
        ones, leaves that become shared from the mean of those that clients had (as `average_variables`);
      - the number of the round, so that no key is used twice, and the history.
    States of methods, optimizers, channels and reducers start anew.

    Args:
      algorithm: goes on.
      before: has trained ``state``; both freeze the same leaves.
      state: after its rounds; it stays usable.
      data: client data as for the rounds, with the frozen leaves if there are any.
      mesh: the mesh of the rounds.
    """
    model = average_private(before, state, state.variables)
    new = init_state(algorithm, fill(model, client_rows(data).frozen), data, mesh)
    kept = partition(state.private, algorithm.share_mask)[1]
    private = jax.tree.map(
        lambda old, start: start if old is None else jnp.copy(old),
        _only_where(kept, new.private),
        new.private,
        is_leaf=lambda x: x is None,
    )
    private = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), private, new.private)
    return new._replace(
        round=jnp.copy(state.round), private=private, history=jax.tree.map(jnp.copy, state.history)
    )


def _only_where(tree: Variables, like: Variables) -> Variables:
    """``tree`` with None where ``like`` has None, and in the structure of ``like``."""
    return jax.tree.map(
        lambda shape, x: None if shape is None else x, like, tree, is_leaf=lambda x: x is None
    )
