"""Peers that take turns, each pulling the models that are newer than what it has merged."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, RoundInfo, RoundState
from fedrecon.federated.clients import client_rows, number_of_clients
from fedrecon.federated.engine import check_clients, init_state, round_keys
from fedrecon.federated.messages import Context
from fedrecon.federated.server import remember
from fedrecon.federated.topologies.gossip import peer_to_peer
from fedrecon.federated.topologies.serverless import check_serverless, one_client
from fedrecon.federated.trees import all_finite, along, largest, merge, nbytes, partition, select
from fedrecon.federated.turn import ClientRows, choose_batching, client_turn
from fedrecon.types import PyTree, Variables

# A ping, and its answer: a version and a number of examples.
PING_BYTES = 8


class PullingState(NamedTuple):
    """Everything that changes; a pytree of arrays.

    Attributes:
      federation: of ``peer_to_peer(algorithm)``: its private leaves are the clients' models.
      versions: int32 (clients,), how often each client has trained.
      merged: int32 (clients, clients), the version of the second client's model that the first has merged.
    """

    federation: RoundState
    versions: jax.Array
    merged: jax.Array


def init_pulling(algorithm: FederatedAlgorithm, variables: Variables, data: Any) -> PullingState:
    """The state before the first round: one model everywhere, of version 0. Arguments as of `init_state`."""
    clients = number_of_clients(data)
    federation = init_state(peer_to_peer(algorithm), variables, data)
    return PullingState(federation, jnp.zeros(clients, jnp.int32), jnp.zeros((clients, clients), jnp.int32))


def merge_newer(models: PyTree, counts: jax.Array, newer: jax.Array, client: jax.Array) -> PyTree:
    """``(n_i W_i + sum_U n_j W_j) / (n_i + sum_U n_j)``; W_i bit for bit where nobody is newer.

    Args:
      models: leaves (clients, ...).
      counts: (clients,), n, numbers of examples.
      newer: bool (clients,), U.
      client: int32 (), i.
    """
    joins = newer | (jnp.arange(len(counts)) == client)
    weights = jnp.where(joins, counts, 0).astype(jnp.float32)
    total = weights.sum()

    def one(x: jax.Array) -> jax.Array:
        mean = (along(weights, x) * x).sum(0) / jnp.where(total > 0, total, 1)
        mean = mean if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.round(mean)
        return jnp.where(newer.any() & (total > 0), mean.astype(x.dtype), x[client])

    return jax.tree.map(one, models)


def make_pulling_round(
    algorithm: FederatedAlgorithm,
    *,
    batch_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    donate: bool = True,
) -> Callable[[PullingState, Any, jax.Array], tuple[PullingState, RoundInfo]]:
    """Compiles ``round(state, data, key) -> (state, info)``: as many turns as there are clients.

    BrainTorrent (Roy et al. 2019, arXiv:1905.06731). In a turn one client is drawn uniformly, asks all others
    for their versions, pulls the models of those that have trained since it merged them last (`merge_newer`),
    trains, and counts its own version up. A client may be drawn several times in a round or not at all. There
    is no server: the algorithm's server optimizer and weighting have no part in it, and leaves that its share
    mask makes private are not merged. The turns go on one device, one after the other.

    The sampler says who is there in a round: the others take no turn and answer nobody. A client without
    examples merges and trains nothing; training that does not leave its model finite is undone, and its
    version stays.

    In the report ``bytes_up`` and ``bytes_down`` are those of pings, of their answers, and of the models that
    are pulled, at either end; metrics are added over a client's turns.

    Args:
      algorithm: the algorithm; the state is from `init_pulling`.
      batch_size, epochs, steps: as in `make_round`, for each turn.
      donate: as in `make_round`.

    Raises:
      ValueError: for contradicting arguments; from the round, for an algorithm that does not work without a
        server (a reducer, a channel, messages), or data of another number of clients than the state.
    """
    batching = choose_batching(algorithm.client.batching, batch_size, epochs, steps)

    @functools.partial(jax.jit, donate_argnums=(0,) if donate else ())
    def round(state: PullingState, data: Any, key: jax.Array) -> tuple[PullingState, RoundInfo]:
        federation = state.federation
        clients = check_clients(federation, data)
        check_serverless(algorithm, batching, federation, one_client(federation.client), data)
        shared = partition(one_client(federation.private), algorithm.share_mask)[0]
        model = nbytes(shared)
        if model * (clients - 1) * clients >= 2**32:
            expected = "less than 2**32 bytes from each client in a round"
            raise ArgumentError("algorithm.share_mask", expected, f"{clients * (clients - 1)} x {model}")
        keys = round_keys(key, federation.round)
        there = algorithm.sampler(keys.sampler, federation.round, federation.history)
        turn = functools.partial(_turn, algorithm, batching, federation, client_rows(data), there, model)
        carry = (federation.private, federation.client, state.versions, state.merged)
        draws = jax.random.split(keys.server, clients)
        # Equal shares of those who are there; of nobody, of all, whose turns then do nothing.
        shares = jnp.where(there.any(), there, True)
        order = jax.vmap(lambda k: jax.random.choice(k, clients, p=shares / shares.sum()))(draws)
        turns = (order.astype(jnp.int32), jax.random.split(keys.clients, clients))
        record = jax.eval_shape(lambda carry, item: turn(carry, item)[1][1], carry, one_client(turns))
        blank = jax.tree.map(lambda x: jnp.zeros((clients, *x.shape), x.dtype), record)

        def step(carry: tuple, item: tuple) -> tuple[tuple, None]:
            inner, report, up, down = carry
            inner, (client, found, sent, received) = turn(inner, item)

            def add(x: jax.Array, y: jax.Array) -> jax.Array:
                return x.at[client].max(y) if x.dtype == bool else x.at[client].add(y)

            return (inner, jax.tree.map(add, report, found), up + sent, down + received), None

        zeros = jnp.zeros(clients, jnp.uint32)
        (inner, report, up, down), _ = jax.lax.scan(step, (carry, blank, zeros, zeros), turns)
        models, own, versions, merged = inner
        joined, metrics = report["included"], report["metrics"]
        history = remember(federation.history, algorithm.sampler, federation.round, joined, metrics)
        info = RoundInfo(
            metrics=jax.tree.map(jnp.sum, report["metrics"]),
            client_metrics=report["metrics"],
            participated=report["drawn"],
            excluded=report["excluded"],
            applied=report["included"].any(),
            bytes_up=up,
            bytes_down=down,
            delta_norm=report["delta_norm"],
            channel=((), ()),
        )
        federation = federation._replace(
            round=federation.round + 1, private=models, client=own, history=history
        )
        return PullingState(federation, versions, merged), info

    return round


def _turn(algorithm, batching, federation, data, there, model, carry, item):
    """One turn: what changes, and (who, what is reported, bytes sent and received by all)."""
    models, states, versions, merged = carry
    client, key = item
    clients = len(versions)
    active, others = there[client], jnp.arange(clients) != client
    newer = active & there & others & (versions > merged[client])
    counts = data.valid.sum(1)[:clients]
    shared, private = partition(models, algorithm.share_mask)
    joined = merge_newer(shared, counts, newer, client)
    own, kept = jax.tree.map(lambda x: x[client], (states, private))
    turn = client_turn(
        algorithm,
        batching,
        (joined, algorithm.exchange.broadcast(federation.exchange)),
        ClientRows(own, (), kept),
        data.one(client),
        Context(federation.round, key, client),
    )
    finite = turn.finite & all_finite(turn.result.variables)
    included = active & finite & (largest(turn.result.weight) > 0)
    new = select(included, turn.result.variables, merge(joined, kept))
    own = select(included, turn.result.client_state, own)
    models, states = jax.tree.map(lambda x, y: x.at[client].set(y), (models, states), (new, own))
    merged = merged.at[client].set(jnp.where(newer, versions, merged[client]))
    versions = versions.at[client].add(included)
    asked, answered = active & others, active & others & there
    me = jnp.arange(clients) == client
    sent = PING_BYTES * (me * asked.sum() + answered) + model * newer
    received = PING_BYTES * (answered + me * answered.sum()) + model * me * newer.sum()
    report = {
        "metrics": jax.tree.map(lambda x: jnp.where(included, x, 0), turn.result.metrics),
        "included": included,
        "excluded": active & ~finite,
        "drawn": active,
        "delta_norm": jnp.where(included, turn.delta_norm, 0),
    }
    sizes = (sent.astype(jnp.uint32), received.astype(jnp.uint32))
    return (models, states, versions, merged), (client, report, *sizes)
