"""The round in two halves, a site's and a server's, for federations whose clients compute apart.

The halves are those of the compiled round: `star_turn` at the site and `close_round` at the server, from
keys that are derived in the same way, with sums in the order of the clients. What travels between them are
pytrees of arrays.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.federated.algorithm import FederatedAlgorithm, RoundInfo, RoundState
from fedrecon.federated.clients import ClientRow, client_rows, default_mesh, map_clients, place
from fedrecon.federated.clocked import sampled_clients
from fedrecon.federated.closing import Arrived, Cohort, close_round, round_keys
from fedrecon.federated.engine import initial_state
from fedrecon.federated.messages import Context
from fedrecon.federated.server import chances_of, channel_broadcast, remember
from fedrecon.federated.trees import merge, partition
from fedrecon.federated.turn import ClientRows, choose_batching, kept_rows, star_turn
from fedrecon.types import PyTree, Variables


class Invitation(NamedTuple):
    """What a server sends to each client of a round.

    Attributes:
      round: int32 (), rounds completed.
      variables: the shared leaves of the model.
      payload: of the exchange.
      channel: of the channel.
      invited: bool (clients,), who takes part.
      chances: float32 (clients,), of the sampler; () if it does not tell them.
    """

    round: jax.Array
    variables: Variables
    payload: PyTree
    channel: PyTree
    invited: jax.Array
    chances: PyTree


class Sent(NamedTuple):
    """What a client sends back.

    Attributes:
      sums: what is summed over clients: the encoded upload, and the channel's infos.
      record: what the server hears of this client alone.
    """

    sums: dict[str, PyTree]
    record: dict[str, Any]


class Site(NamedTuple):
    """A client's half.

    Attributes:
      rows: `ClientRows` before the first round.
      turn: ``turn(invitation, rows, key, own_key) -> (Sent, ClientRows)``; ``key`` is that of the run, from
        which clients have a common key, ``own_key`` the same, or one that only this client has.
      settle: ``settle(before, after, kept, answer) -> ClientRows``, what stays once the server has closed the
        round: ``kept`` bool (), whether the client was included in an applied step, ``answer`` the reducer's.
      invitation, sent: shapes and dtypes of what ``turn`` is given and sends.
    """

    rows: ClientRows
    turn: Callable[[Invitation, ClientRows, jax.Array, jax.Array], tuple[Sent, ClientRows]]
    settle: Callable[[ClientRows, ClientRows, jax.Array, PyTree], ClientRows]
    invitation: Invitation
    sent: Sent


class Server(NamedTuple):
    """The server's half.

    Attributes:
      state: before the first round; what stays at clients is empty but for ``answers``, leaves (clients,
      ...). invite: ``invite(state, key) -> Invitation``. close: ``close(state, arrived, sent, key) ->
      (state, kept, RoundInfo)``: ``sent`` has leaves (clients,
        ...), of clients that did not arrive zeros, ``arrived`` is bool (clients,), ``kept`` too.
      close_sum: ``close_sum(state, arrived, upload, records, infos, key)``, the same where the server learns
        the sum of the uploads alone; ``records`` has leaves (clients, ...), ``infos`` are the channel's.
    """

    state: RoundState
    invite: Callable[[RoundState, jax.Array], Invitation]
    close: Callable[..., tuple[RoundState, jax.Array, RoundInfo]]
    close_sum: Callable[..., tuple[RoundState, jax.Array, RoundInfo]]


def make_site(
    algorithm: FederatedAlgorithm,
    variables: Variables,
    data: Any,
    client: int,
    clients: int,
    *,
    batch_size: int | None = None,
    epochs: int | None = None,
    frozen: Variables | None = None,
) -> Site:
    """A client's half of the rounds.

    Args:
      algorithm: the algorithm, the same at all sites and the server.
      variables: the initial model.
      data: of this client alone, ``examples`` (1, examples, ...) and ``valid`` (1, examples), as many as the
        largest client has.
      client: its number.
      clients: number of all.
      batch_size, epochs: as in `make_round`.
      frozen: the model's leaves that are never trained, None in other places.
    """
    mesh = default_mesh(None)
    batching = choose_batching(algorithm.client.batching, batch_size, epochs, None)
    rows = client_rows(place(data, mesh, frozen=frozen))
    state = initial_state(algorithm, variables, rows.one(0), clients)
    own = ClientRows(state.client, state.client_channel, state.private, state.answers)
    number = jnp.asarray([client], jnp.int32)

    def map_one(invitation, before, key, own_key, rows):
        keys = round_keys(key, invitation.round)
        chances = invitation.chances if jax.tree.leaves(invitation.chances) else None
        context = Context(
            invitation.round,
            round_keys(own_key, invitation.round).clients,
            common=keys.common,
            invited=invitation.invited,
            broadcast=invitation.channel,
            chances=chances,
        )
        sums, after, record = map_clients(
            functools.partial(star_turn, algorithm, batching, None),
            (invitation.variables, invitation.payload, context, rows.shared),
            jax.tree.map(lambda x: x[None], before),
            (rows.own, number),
            jnp.ones(1, bool),
            mesh=mesh,
            parallel="scan",
        )
        after, record = jax.tree.map(lambda x: x[0], (after, record))
        return Sent(sums, record), after

    @jax.jit
    def settle(before, after, kept, answer):
        pairs = before, after._replace(answer=answer)
        stacked = [jax.tree.map(lambda x: x[None], rows) for rows in pairs]
        chosen = kept_rows(algorithm, *stacked, kept[None], jnp.ones(1, bool))
        return jax.tree.map(lambda x: x[0], chosen)

    compiled = jax.jit(map_one)
    invitation = jax.eval_shape(lambda state, key: _invite(algorithm, state, key), state, jax.random.key(0))
    sent = jax.eval_shape(map_one, invitation, own, jax.random.key(0), jax.random.key(0), rows)[0]
    return Site(own, lambda *arguments: compiled(*arguments, rows), settle, invitation, sent)


def make_server(algorithm: FederatedAlgorithm, variables: Variables, row: ClientRow, clients: int) -> Server:
    """The server's half of the rounds.

    Args:
      algorithm: the algorithm, the same at all sites and the server.
      variables: the initial model.
      row: shapes and dtypes of one client's data; the server has none.
      clients: number of all.
    """
    first = initial_state(algorithm, variables, row, clients)
    answers = jax.tree.map(lambda x: jnp.tile(x[None], (clients,) + (1,) * jnp.ndim(x)), first.answers)
    nothing = jax.tree.map(lambda x: None, first.private)
    first = first._replace(client=(), client_channel=(), private=nothing, answers=answers)

    def finish(state, arrived, sums, record, invited, key):
        keys = round_keys(key, state.round)
        cohort = Cohort(None, arrived, invited)
        came = Arrived(sums, record, jnp.arange(clients))
        state, kept, answers, info = close_round(algorithm, state, came, state.answers, cohort, keys)
        history = remember(state.history, algorithm.sampler, state.round - 1, kept, info.client_metrics)
        return state._replace(answers=answers, history=history), kept, info

    @jax.jit
    def close(state, arrived, sent, key):
        def add(total, client):
            here, part = client
            return jax.tree.map(lambda t, x: jnp.where(here, t + x, t), total, part), None

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), sent.sums)
        sums = jax.lax.scan(add, zeros, (arrived, sent.sums))[0]
        invited = _invite(algorithm, state, key).invited
        return finish(state, arrived, sums, sent.record, invited, key)

    @jax.jit
    def close_sum(state, arrived, upload, records, infos, key):
        invited = _invite(algorithm, state, key).invited
        return finish(state, arrived, {"channel": infos, "upload": upload}, records, invited, key)

    invite = jax.jit(functools.partial(_invite, algorithm))
    return Server(first, invite, close, close_sum)


def own_model(algorithm: FederatedAlgorithm, shared: Variables, rows: ClientRows) -> Variables:
    """The model that a client evaluates with, from the shared leaves and what stays at the client."""
    return algorithm.personalize(merge(shared, rows.private), rows.client, None)


def hidden_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A client's record without what tells of it alone, where the server is to learn sums only.

    Whether it is included, whether its update was finite, and its bytes remain.
    """
    told = ("included", "excluded", "bytes_up")
    zeros = jax.tree.map(jnp.zeros_like, dict(record))
    return {name: value if name in told else zeros[name] for name, value in record.items()}


def _invite(algorithm: FederatedAlgorithm, state: RoundState, key: jax.Array) -> Invitation:
    sampled = sampled_clients(algorithm, round_keys(key, state.round).sampler, state)
    chances = chances_of(algorithm.sampler, state.round, state.history)
    return Invitation(
        state.round,
        partition(state.variables, algorithm.share_mask)[0],
        algorithm.exchange.broadcast(state.exchange),
        channel_broadcast(algorithm.channel, state.channel),
        sampled,
        () if chances is None else chances,
    )
