"""Cyclic weight transfer: one model visits the clients one after the other."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, RoundInfo, RoundState
from fedrecon.federated.clients import client_rows
from fedrecon.federated.engine import check_clients, round_keys
from fedrecon.federated.keys import random_order
from fedrecon.federated.local import LocalState
from fedrecon.federated.messages import Context
from fedrecon.federated.server import remember
from fedrecon.federated.topologies.serverless import check_serverless, one_client
from fedrecon.federated.trees import all_finite, largest, merge, nbytes, partition, select
from fedrecon.federated.turn import ClientRows, choose_batching, client_turn
from fedrecon.types import PyTree


def make_ring_round(
    algorithm: FederatedAlgorithm,
    *,
    batch_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    order: str = "fixed",
    carry_optimizer: bool = False,
    donate: bool = True,
) -> Callable[[RoundState, Any, jax.Array], tuple[RoundState, RoundInfo]]:
    """Compiles ``round(state, data, key) -> (state, info)``: one cycle through the sampled clients.

    Each client trains the model that the one before it handed on, and hands it on in turn, without averaging
    (cyclic weight transfer, Chang et al., J. Am. Med. Inform. Assoc. 25:945, 2018). A single cycle of many
    epochs is institutional incremental learning (Sheller et al., Sci. Rep. 10:12598, 2020). The algorithm's
    server optimizer and weighting have no part in it; private leaves stay at their clients. Clients draw from
    the same keys as in `make_round`. The cycle runs on one device: it has no parallelism.

    A client without examples, or with a model that training did not leave finite, hands on what it received
    and keeps its own state; the latter is reported as excluded. In the report, ``bytes_up`` and
    ``bytes_down`` count one hop for each client that is visited: the shared leaves, and the optimizer's state
    if it travels. ``applied`` is False if no client trained.

    Args:
      algorithm: the algorithm; its state is from `init_state`.
      batch_size, epochs, steps: as in `make_round`, for each visit.
      order: "fixed" is that of the clients' numbers, "shuffled" another one in each round.
      carry_optimizer: the state of the local optimizer travels with the model, as if one optimizer trained
        through; needs a client with ``keep_optimizer``. After the round it is in every client's row.
      donate: as in `make_round`.

    Raises:
      ValueError: for contradicting arguments; from the round, for an algorithm that does not work without a
        server (a reducer, a channel, messages), a client without its optimizer's state although that should
        travel, or data of another number of clients than the state.
    """
    batching = choose_batching(algorithm.client.batching, batch_size, epochs, steps)
    if order not in ("fixed", "shuffled"):
        raise ArgumentError("order", '"fixed" or "shuffled"', repr(order))

    @functools.partial(jax.jit, donate_argnums=(0,) if donate else ())
    def round(state, data, key):
        clients = check_clients(state, data)
        check_serverless(algorithm, batching, state, one_client(state.client), data)
        if carry_optimizer:
            _check_optimizer(state.client)
        keys = round_keys(key, state.round)
        sampled = algorithm.sampler(keys.sampler, state.round, state.history)
        visits = jnp.arange(clients)
        if order == "shuffled":
            visits = random_order(keys.server, visits)
        shared, private = partition(state.variables, algorithm.share_mask)
        traveling = (shared, one_client(state.client.optimizer) if carry_optimizer else ())
        rows = (state.client, state.private)

        visit = functools.partial(
            _visit, algorithm, batching, state, keys.clients, carry_optimizer, client_rows(data)
        )
        record = jax.eval_shape(visit, traveling, one_client(rows), visits[0])[2]

        def skip(traveling, row, client):
            return traveling, row, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), record)

        def body(traveling, client):
            row = jax.tree.map(lambda x: x[client], rows)
            traveling, *outputs = jax.lax.cond(sampled[client], visit, skip, traveling, row, client)
            return traveling, outputs

        (shared, optimizer), outputs = jax.lax.scan(body, traveling, visits)
        if order == "shuffled":
            places = jnp.argsort(visits)
            outputs = jax.tree.map(lambda x: x[places], outputs)
        (client, kept), record = outputs
        if carry_optimizer:
            everywhere = jax.tree.map(
                lambda x, like: jnp.broadcast_to(x, like.shape), optimizer, client.optimizer
            )
            client = client._replace(optimizer=everywhere)

        included = record["included"]
        client_metrics = jax.tree.map(lambda x: jnp.where(included, x, 0), record["metrics"])
        hop = sampled * jnp.uint32(nbytes(traveling))
        info = RoundInfo(
            metrics=jax.tree.map(jnp.sum, client_metrics),
            client_metrics=client_metrics,
            participated=sampled,
            excluded=record["excluded"],
            applied=included.any(),
            bytes_up=hop,
            bytes_down=hop,
            delta_norm=record["delta_norm"],
            channel=((), ()),
        )
        state = state._replace(
            round=state.round + 1,
            variables=merge(shared, private),
            client=client,
            private=kept,
            history=remember(state.history, algorithm.sampler, state.round, included, client_metrics),
        )
        return state, info

    return round


def _visit(algorithm, batching, state, clients_key, carry_optimizer, data, traveling, row, client):
    """Training at one client: (what it hands on, what it keeps, what is reported)."""
    received, optimizer = traveling
    own, private = row
    started = own._replace(optimizer=optimizer) if carry_optimizer else own
    turn = client_turn(
        algorithm,
        batching,
        (received, algorithm.exchange.broadcast(state.exchange)),
        ClientRows(started, (), private),
        data.one(client),
        Context(state.round, clients_key, client),
    )
    shared, trained = partition(turn.result.variables, algorithm.share_mask)
    carried = turn.result.client_state.optimizer if carry_optimizer else ()
    # The algorithm's weighting has no part in a ring: a client counts if it has examples.
    finite = turn.finite & all_finite((turn.result.variables, carried))
    included = finite & (largest(turn.result.weight) > 0)
    record = {
        "metrics": turn.result.metrics,
        "included": included,
        "excluded": ~finite,
        "delta_norm": turn.delta_norm,
    }
    traveling = select(included, (shared, carried), traveling)
    return traveling, select(included, (turn.result.client_state, trained), row), record


def _check_optimizer(client_states: PyTree) -> None:
    if not isinstance(client_states, LocalState) or client_states.optimizer == ():
        raise ArgumentError(
            "carry_optimizer",
            "clients that keep their optimizer's state (keep_optimizer=True)",
            f"{type(client_states).__name__} without it",
        )
