"""Beguier: federated averaging of clients that train by DP-SGD."""

from typing import Any

import optax

from fedrecon import federated as fl
from fedrecon.federated.mechanism import Mechanism
from fedrecon.types import Task


def beguier(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    mechanism: Mechanism,
    method: fl.Method | None = None,
    **options: Any,
) -> fl.FederatedAlgorithm:
    """DP-SGD inside each client, and FedAvg (Beguier et al. 2021).

    Each example is protected at its own client, whose guarantee has its own epsilon: records live at one
    client, so that the federation's guarantee is the worst of these.

    Args:
      task: what is learned; its model must have no batch statistics.
      optimizer: each client's optimizer, fed the noised gradients.
      mechanism: of each step, of the unit "example".
      method: further methods.
      **options: as in `federated`.
    """
    method = fl.combine(method, fl.private_gradients(mechanism))
    return fl.federated(task, optimizer, method=method, **options)
