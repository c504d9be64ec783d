"""Clients that join and leave between rounds: what of a federation goes on with other members."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, RoundState
from fedrecon.federated.engine import client_states, with_client_states
from fedrecon.federated.evaluation import average_private
from fedrecon.federated.turn import ClientRows
from fedrecon.types import Variables


def next_start(algorithm: FederatedAlgorithm, state: RoundState) -> Variables:
    """The model that new clients start from: the server's, and of private leaves the mean over clients."""
    return average_private(algorithm, state, state.variables)


def rows_by_client(state: RoundState, names: Sequence[str]) -> dict[str, ClientRows]:
    """What stays at each client, by name: method and channel states, private leaves, answers of the reducer.

    Raises:
      ValueError: another number of names than of clients.
    """
    clients = state.history.participations.shape[0]
    if len(names) != clients:
        raise ArgumentError("names", f"{clients}, one of each client", len(names))
    rows = client_states(state)
    return {name: jax.tree.map(lambda x, i=i: x[i], rows) for i, name in enumerate(names)}


def with_members(
    fresh: RoundState,
    names: Sequence[str],
    before: RoundState,
    known: Mapping[str, ClientRows],
    *,
    same: bool = False,
    exchange: bool = True,
) -> RoundState:
    """The state with which a federation goes on with other clients.

    What goes on: the states of the server's optimizer, of the channel and of the exchange; what stayed at
    clients that are ``known``. All others start as in ``fresh``, which is made of the model that they get.
    Rounds and the history of participations count anew, so that a next stretch wants a key of its own; the
    reducer, which may know clients by their numbers, starts anew unless they are the same.

    Args:
      fresh: of `init_state`, from `next_start` and the data of the new clients.
      names: of the new clients.
      before: the state to go on from.
      known: by name, of clients that return or stay, as `rows_by_client` gives them.
      same: whether the clients are those of ``before``, in their order.
      exchange: False starts the exchange anew, of a method whose exchange knows clients by their numbers.

    Raises:
      ValueError: another number of names than of clients, or a known client has a state of other shapes.
    """
    clients = fresh.history.participations.shape[0]
    if len(names) != clients:
        raise ArgumentError("names", f"{clients}, one of each client", len(names))
    rows = client_states(fresh)
    for number, name in enumerate(names):
        if name in known:
            _check_alike(name, known[name], jax.eval_shape(lambda r, i=number: _row(r, i), rows))
            rows = jax.tree.map(lambda x, own, i=number: x.at[i].set(own), rows, known[name])
    # Copies: the rounds of both stretches donate their state.
    kept = {"server": before.server, "channel": before.channel}
    kept |= {"exchange": before.exchange} if exchange else {}
    kept |= {"reduce": before.reduce} if same else {}
    state = with_client_states(fresh, rows)._replace(**jax.tree.map(jnp.copy, kept))
    return jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), state, fresh)


def _row(rows: ClientRows, number: int) -> ClientRows:
    return jax.tree.map(lambda x: x[number], rows)


def _check_alike(name: str, found: ClientRows, expected: ClientRows) -> None:
    shapes = [jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree) for tree in (expected, found)]
    if shapes[0] != shapes[1]:
        raise ArgumentError(f"known[{name!r}]", "the state of this algorithm and model", "another")
