"""Bytes of a round, by tracing it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.federated.algorithm import Batching, FederatedAlgorithm, RoundState
from fedrecon.federated.clients import ClientRow, client_rows, number_of_clients
from fedrecon.federated.engine import initial_state, round_keys
from fedrecon.federated.messages import Context, Upload
from fedrecon.federated.server import chances_of, channel_broadcast
from fedrecon.federated.trees import nbytes, split_frozen
from fedrecon.federated.turn import (
    ClientRows,
    bytes_down,
    bytes_up,
    choose_batching,
    client_keys,
    client_turn,
)
from fedrecon.types import PyTree, Variables


class RoundBytes(NamedTuple):
    """Bytes of one client in one round, as `RoundInfo` counts them.

    Attributes:
      up: sent: the encoded shared leaves, message and weight.
      down: received: the shared leaves and the broadcasts.
      gathered: those of ``up`` that are no terms of a sum.
    """

    up: int
    down: int
    gathered: int


def round_bytes(algorithm: FederatedAlgorithm, variables: Variables, data: PyTree) -> RoundBytes:
    """What one client sends and receives in a round of the star; nothing is computed or allocated.

    Args:
      algorithm: the algorithm.
      variables: the model; shapes and dtypes are enough.
      data: client data as for the round; shapes and dtypes are enough.
    """
    clients = number_of_clients(data)
    batching = algorithm.client.batching or choose_batching(None, 1, None, 1)
    row = jax.eval_shape(lambda rows: rows.one(0), client_rows(data))
    found = []

    def trace(variables, row):
        found.append(_of_one_client(algorithm, batching, variables, row, clients))

    jax.eval_shape(trace, variables, row)
    return found[0]


def _of_one_client(
    algorithm: FederatedAlgorithm, batching: Batching, variables: Variables, row: ClientRow, clients: int
) -> RoundBytes:
    state = initial_state(algorithm, variables, row, clients)
    if row.frozen is None:
        row = row._replace(frozen=split_frozen(variables, algorithm.share_mask)[1])
    payload = algorithm.exchange.broadcast(state.exchange)
    channel_payload = channel_broadcast(algorithm.channel, state.channel)
    everyone = jnp.ones(clients, bool)
    key = jax.random.key(0)
    chances = chances_of(algorithm.sampler, state.round, state.history)
    context = Context(jnp.int32(0), key, jnp.int32(0), common=key, invited=everyone, chances=chances)
    own = ClientRows(state.client, state.client_channel, state.private, state.answers)
    turn = client_turn(algorithm, batching, (state.variables, payload), own, row, context)
    encoded, _, _ = algorithm.channel.encode(
        turn.upload, state.client_channel, context._replace(broadcast=channel_payload)
    )
    up = bytes_up(algorithm.channel, turn, encoded)
    down = bytes_down(algorithm, state.variables, payload, channel_payload, state.answers)
    return RoundBytes(up, down, nbytes(turn.gathered))


class SentUpload(NamedTuple):
    """One client's upload on its way into the channel.

    Attributes:
      upload: before the channel.
      state: the client's state of the channel.
      context: of the client, with the channel's broadcast.
    """

    upload: Upload
    state: PyTree
    context: Context


def first_upload(
    algorithm: FederatedAlgorithm,
    state: RoundState,
    data: PyTree,
    key: jax.Array,
    *,
    client: int = 0,
    batch_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
) -> SentUpload:
    """What a client would hand to its channel in the round after ``state``.

    Everybody is taken to be invited. The arguments are those of `make_round` and of the round.
    """
    clients = number_of_clients(data)
    batching = choose_batching(algorithm.client.batching, batch_size, epochs, steps)
    row = client_rows(data).one(client)
    if row.frozen is None:
        row = row._replace(frozen=split_frozen(state.variables, algorithm.share_mask)[1])
    keys = round_keys(key, state.round)
    payload = algorithm.exchange.broadcast(state.exchange)
    context = Context(
        state.round, keys.clients, jnp.int32(client), common=keys.common, invited=jnp.ones(clients, bool)
    )._replace(chances=chances_of(algorithm.sampler, state.round, state.history))
    mine = jax.tree.map(
        lambda x: x[client], (state.client, state.client_channel, state.private, state.answers)
    )
    turn = client_turn(algorithm, batching, (state.variables, payload), ClientRows(*mine), row, context)
    context = context._replace(
        key=client_keys(context)[2], broadcast=channel_broadcast(algorithm.channel, state.channel)
    )
    return SentUpload(turn.upload, mine[1], context)
