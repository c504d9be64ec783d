"""Fed-BioMed: FedAvg of all leaves over nodes, of which those with too few examples are not available."""

from typing import Any

import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.types import Task


def fedbiomed(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    minimum: int = 1,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """FedAvg weighted by n_i over nodes (Silva et al. 2020; demonstrated with a variational autoencoder).

    A node with fewer than ``minimum`` examples is left out of every round. `fedrecon.nodes` has the nodes
    themselves: registered data, plans that owners approve, and policies. The task of the demonstration is
    `variational_autoencoding_task`.

    Deviations: in the compiled simulation an unavailable node computes, and sends with a weight of 0; it is
    counted among the bytes. Where ``minimum`` is 1, this is FedAvg bit for bit.

    Args:
      task: what is learned.
      optimizer: each node's optimizer.
      minimum: n_min, at least 1.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: the minimum is below 1.
    """
    if minimum < 1:
        raise ArgumentError("minimum", "at least 1 example", minimum)

    def finish(result, memory, context):
        enough = context.batches.count >= minimum
        return result._replace(weight=jnp.where(enough, result.weight, 0)), Message(), memory

    own = Method(finish=finish) if minimum > 1 else Method()
    return federated(task, optimizer, method=combine(own, method), **options)
