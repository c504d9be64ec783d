"""Evaluation: each client's own model, one model everywhere, every model on every client's data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, RoundState
from fedrecon.federated.clients import (
    check_parallel,
    client_rows,
    default_mesh,
    map_clients,
    number_of_clients,
)
from fedrecon.federated.trees import along, fill, merge, partition, select
from fedrecon.types import Metrics, Variables


def client_variables(
    algorithm: FederatedAlgorithm,
    state: RoundState,
    client: int | jax.Array,
    frozen: Variables | None = None,
) -> Variables:
    """The model client number ``client`` evaluates with: shared and private leaves, personalized.

    Args:
      algorithm: the algorithm.
      state: after training.
      client: the client's number.
      frozen: the frozen leaves, which are filled in; None leaves their places None.
    """
    pick = jax.tree.map(lambda x: x[client], (state.client, state.private))
    return fill(_personal(algorithm, algorithm.release(state), *pick), frozen)


def average_variables(algorithm: FederatedAlgorithm, state: RoundState) -> Variables:
    """The model for a client that has not trained: private leaves are averaged over the clients that have.

    The average is plain, over clients with at least one participation; before there is one, the initial
    values. Where nothing is shared and the server has a model of its own, it is that one. Otherwise taking
    it reveals the private leaves' sum: it is an extra exchange that training itself never makes.
    """
    model = algorithm.release(state)
    if _has_own_release(algorithm) and not any(jax.tree.leaves(algorithm.share_mask)):
        return model
    return average_private(algorithm, state, model)


def _has_own_release(algorithm: FederatedAlgorithm) -> bool:
    return algorithm.release is not FederatedAlgorithm._field_defaults["release"]


def average_private(algorithm: FederatedAlgorithm, state: RoundState, model: Variables) -> Variables:
    """``model`` with its private leaves replaced by the mean of the clients', as `average_variables` says."""
    shared, initial = partition(model, algorithm.share_mask)
    joined = state.history.participations > 0
    count = joined.sum()

    def mean(x, initial):
        average = jnp.where(along(joined, x), x, 0).sum(0) / jnp.maximum(count, 1)
        average = average if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.round(average)
        return select(count > 0, average.astype(x.dtype), initial)

    return merge(shared, jax.tree.map(mean, state.private, initial))


def make_evaluate(
    algorithm: FederatedAlgorithm,
    metrics: Callable,
    *,
    mesh: Mesh | None = None,
    parallel: str | int = "scan",
    labels: tuple[str, ...] = (),
) -> Callable[[RoundState | Variables, Any], Metrics]:
    """Compiles ``evaluate(model, data) -> {name: (sum, count)}``, each (clients,).

    Args:
      algorithm: the algorithm whose personalized models are meant.
      metrics: ``metrics(params, stats, batch) -> {name: (sum, count)}`` as in `fedrecon.types.Task`; the
        batch is a client's whole data.
      mesh: from `client_mesh`; None is the first device.
      parallel: as in `make_round`.
      labels: names of the examples' entries that ``algorithm.personalize`` must not see.

    Returns:
      a function whose ``model`` is a `RoundState`, every client being evaluated with its own model, or
      `Variables`, which every client is evaluated with (also clients that never trained). Clients without
      examples have zero sums and counts. Nothing is donated.

    Raises:
      ValueError: from the function, if a state and the data have different numbers of clients.
    """
    check_parallel(parallel)
    mesh = default_mesh(mesh)

    def one(shared, state, row):
        variables, frozen = shared
        examples, valid, own = row
        batch = {**examples, "valid": valid}
        if own is not None:
            unlabeled = {name: x for name, x in batch.items() if name not in labels}
            variables = _personal(algorithm, variables, *own, unlabeled)
        return (), state, metrics(*fill(variables, frozen), batch)

    @jax.jit
    def evaluate(model, data):
        clients = number_of_clients(data)
        own = None
        if isinstance(model, RoundState):
            _check_clients(model, clients)
            own = (model.client, model.private)
            model = algorithm.release(model)
        return _evaluate(one, (model, client_rows(data).frozen), own, data, mesh, parallel)

    return evaluate


def make_cross_evaluate(
    algorithm: FederatedAlgorithm,
    metrics: Callable,
    *,
    mesh: Mesh | None = None,
    labels: tuple[str, ...] = (),
) -> Callable[[RoundState, Any], Metrics]:
    """Compiles ``evaluate(state, data) -> {name: (sum, count)}``, each (models, clients).

    Entry (i, j) is client i's personalized model on the data of client j; ``data`` may hold other clients
    than those that trained. Every device holds every model.
    """
    mesh = default_mesh(mesh)

    def one(shared, state, row):
        variables, frozen, own = shared
        examples, valid, _ = row
        batch = {**examples, "valid": valid}
        unlabeled = {name: x for name, x in batch.items() if name not in labels}

        def score(own):
            model = _personal(algorithm, variables, *own, unlabeled)
            return metrics(*fill(model, frozen), batch)

        return (), state, jax.lax.map(lambda item: score(item[1:]), own)

    @jax.jit
    def evaluate(state, data):
        # The index gives the map an axis even when a client keeps nothing of its own.
        own = (jnp.arange(state.history.participations.shape[0]), state.client, state.private)
        shared = (algorithm.release(state), client_rows(data).frozen, own)
        result = _evaluate(one, shared, None, data, mesh, "scan")
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), result)

    return evaluate


def _evaluate(one, shared, own, data, mesh, parallel):
    clients = number_of_clients(data)
    active = data.valid.any(1)[:clients]
    rows = (dict(data.examples), data.valid, own)
    return map_clients(one, shared, (), rows, active, mesh=mesh, parallel=parallel)[2]


def _personal(algorithm, variables, client_state, private, batch=None):
    shared, _ = partition(variables, algorithm.share_mask)
    return algorithm.personalize(merge(shared, private), client_state, batch)


def _check_clients(state, clients):
    expected = state.history.participations.shape[0]
    if expected != clients:
        raise ArgumentError("data", f"{expected} clients as in the state", clients)
