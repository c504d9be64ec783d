"""Federated averaging."""

from typing import Any

import optax

from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.recipe import federated
from fedrecon.types import Task


def fedavg(
    task: Task, optimizer: optax.GradientTransformation, *, keep_optimizer: bool = False, **options: Any
) -> FederatedAlgorithm:
    """FedAvg (McMahan et al. 2017): w <- w + sum_i p_i (w_i - w) after local training from w.

    With another ``server_optimizer`` it is FedOpt (Reddi et al. 2021) or FedAvgM (Hsu et al. 2019). One
    client that holds all data is centralized training.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      keep_optimizer: clients keep their optimizer's state between rounds.
      **options: as in `federated`.
    """
    return federated(task, optimizer, keep_optimizer=keep_optimizer, **options)
