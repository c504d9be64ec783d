"""Checks that an algorithm needs no server."""

from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import Batching, FederatedAlgorithm, RoundState
from fedrecon.federated.clients import client_rows
from fedrecon.federated.messages import Context
from fedrecon.federated.trees import partition
from fedrecon.federated.turn import ClientRows, client_turn
from fedrecon.types import PyTree, Variables


def check_serverless(
    algorithm: FederatedAlgorithm, batching: Batching, state: RoundState, client_state: Any, data: Any
) -> None:
    """Refuses what would silently be left out when models pass from client to client.

    Args:
      algorithm: the algorithm.
      batching: of its clients.
      state: the state of a round; only shapes are used, here and below.
      client_state: one client's state of the client update.
      data: client data.

    Raises:
      ValueError: for a reducer, a message or broadcast besides the model, or a channel that does anything.
    """
    check_no_clock(algorithm)
    if algorithm.reduce is not None:
        raise ArgumentError("algorithm.reduce", "None where no server averages", "a reducer")

    def probe(variables, exchange, client_state, row, key):
        payload = algorithm.exchange.broadcast(exchange)
        context = Context(jnp.int32(0), key, jnp.int32(0))
        variables = Variables(*variables)
        _, private = partition(variables, algorithm.share_mask)
        own = ClientRows(client_state, (), private)
        turn = client_turn(algorithm, batching, (variables, payload), own, row, context)
        if jax.tree.leaves((payload, turn.upload.message, turn.gathered)):
            raise ArgumentError(
                "algorithm.exchange",
                "nothing but the model to travel where there is no server",
                "a message or broadcast",
            )
        client, server = algorithm.channel.init(turn.upload)
        encoded = algorithm.channel.encode(turn.upload, client, context)[0]
        decoded = algorithm.channel.decode(turn.upload, server, context)[0]
        if not _same(turn.upload, encoded) or not _same(turn.upload, decoded):
            raise ArgumentError(
                "algorithm.channel", "the identity, chain(), where there is no server to decode", "another"
            )
        return ()

    row = jax.eval_shape(lambda data: client_rows(data).one(0), data)
    jax.eval_shape(probe, state.variables, state.exchange, client_state, row, jax.random.key(0))


def check_no_clock(algorithm: FederatedAlgorithm) -> None:
    """Refuses a simulated clock, which knows rounds of a star and asynchronous updates.

    Raises:
      ValueError: there is one, or the sampler needs one.
    """
    if algorithm.clock is not None or getattr(algorithm.sampler, "timed", False):
        raise ArgumentError("algorithm.clock", "None in this topology", "a simulated clock")


def one_client(tree: Any) -> Any:
    """The first client's row of leaves (clients, ...)."""
    return jax.tree.map(lambda x: x[0], tree)


def _same(one: PyTree, other: PyTree) -> bool:
    # The very same traced arrays: nothing was done to them.
    one, other = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(one) == len(other) and all(x is y for x, y in zip(one, other, strict=True))
