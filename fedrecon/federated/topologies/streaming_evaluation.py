"""Metrics and means of more clients than the device holds."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedrecon.federated.algorithm import FederatedAlgorithm, History, RoundState
from fedrecon.federated.clients import PlacedData, client_sharding
from fedrecon.federated.engine import client_states, with_client_states
from fedrecon.federated.evaluation import make_evaluate
from fedrecon.federated.topologies.streaming import Load, check_integer, gather_rows, mesh_of_this_process
from fedrecon.federated.trees import merge, partition
from fedrecon.types import Metrics, Variables


def make_streaming_evaluate(
    algorithm: FederatedAlgorithm,
    metrics: Callable,
    load: Load,
    *,
    clients: int,
    cohort: int,
    mesh: Mesh | None = None,
    parallel: str | int = "scan",
    frozen: Variables | None = None,
) -> Callable[[RoundState | Variables], Metrics]:
    """Compiles ``evaluate(model) -> {name: (sum, count)}``, NumPy arrays (clients,), as in `make_evaluate`.

    Clients go through the device ``cohort`` at a time, in the order of their numbers; the next ones are
    loaded while these compute, so that at most two cohorts are there at once.

    Args:
      algorithm, metrics, mesh, parallel: as in `make_evaluate`; frozen: as in `place`.
      load: as in `StreamingRound`, of the data to evaluate on.
      clients: number of all clients.
      cohort: how many of them at a time.

    Raises:
      ValueError: if a number is not a positive integer.
    """
    for name, value in (("clients", clients), ("cohort", cohort)):
        check_integer(value, name)
    mesh = mesh_of_this_process(mesh)
    sharding = client_sharding(mesh, cohort)
    frozen = jax.device_put(frozen, NamedSharding(mesh, P()))
    evaluate = make_evaluate(algorithm, metrics, mesh=mesh, parallel=parallel)

    def start(model, numbers):
        missing = cohort - len(numbers)
        data = jax.tree.map(lambda x: np.pad(x, [(0, missing)] + [(0, 0)] * (np.ndim(x) - 1)), load(numbers))
        examples, valid = jax.device_put(data, sharding)
        if isinstance(model, RoundState):
            rows = gather_rows(client_states(model)._replace(channel=()), numbers, cohort)
            model = with_client_states(model, jax.device_put(rows, sharding))
            model = model._replace(history=History(*(jnp.zeros(cohort, x.dtype) for x in model.history[:3])))
        return model, PlacedData(dict(examples), valid, cohort, frozen=frozen)

    def run(model):
        parts, pending = [], None
        for first in range(0, clients, cohort):
            arguments = start(model, np.arange(first, min(first + cohort, clients), dtype=np.int32))
            if pending is not None:
                parts.append(jax.device_get(pending))
            pending = evaluate(*arguments)
        parts.append(jax.device_get(pending))
        return jax.tree.map(lambda *x: np.concatenate(x)[:clients], *parts)

    return run


def streaming_average(algorithm: FederatedAlgorithm, state: RoundState) -> Variables:
    """`average_variables` of a state whose clients' parts are in host memory, where they stay."""
    shared, initial = partition(algorithm.release(state), algorithm.share_mask)
    joined = np.asarray(state.history.participations) > 0

    def mean(x, initial):
        if not joined.any():
            return initial
        where = joined.reshape(-1, *(1,) * (x.ndim - 1))
        average = np.sum(x, axis=0, where=where, dtype=np.result_type(x.dtype, np.float64)) / joined.sum()
        average = average if jnp.issubdtype(x.dtype, jnp.inexact) else np.round(average)
        return jnp.asarray(average.astype(x.dtype))

    return merge(shared, jax.tree.map(mean, state.private, initial))
