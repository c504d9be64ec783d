"""Federated averaging with private normalization."""

from typing import Any

import jax
import optax

from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.recipe import federated
from fedrecon.types import Task


def fedbn(task: Task, optimizer: optax.GradientTransformation, **options: Any) -> FederatedAlgorithm:
    """FedBN (Li et al. 2021): every normalization leaf stays at its client, the rest is FedAvg.

    Private are the leaves that ``task.normalization`` marks, running statistics among them. Clients evaluate
    with their own; `average_variables` makes the model for a client that has not trained.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      **options: as in `federated`, except ``share_mask``.
    """
    shared = jax.tree.map(lambda private: not private, task.normalization)
    return federated(task, optimizer, share_mask=shared, **options)
