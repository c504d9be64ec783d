"""DiLoCo: many local steps between rounds, Nesterov momentum at the server."""

from typing import Any

import optax

from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.methods.fedopt import fedavgm
from fedrecon.types import Task


def diloco(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    server_learning_rate: float = 0.7,
    momentum: float = 0.9,
    **options: Any,
) -> FederatedAlgorithm:
    """DiLoCo (Douillard et al. 2023): clients keep their optimizer, and the server has momentum.

    As in arXiv:2311.08105, with D the mean update, v <- momentum v + D and w <- w + rate (momentum v + D).
    Clients of the paper take AdamW, whose moments stay with them from round to round, and hundreds of steps;
    so rounds, and bytes, are fewer. Without momentum and at a rate of 1 it is FedAvg with optimizers that are
    kept.

    Args:
      task: what is learned.
      optimizer: each client's optimizer, whose state is kept and never sent.
      server_learning_rate: of the outer step; 0.5 to 1.
      momentum: of the outer step, in [0, 1); less for federations of few clients.
      **options: as in `federated`, except ``server_optimizer`` and ``keep_optimizer``.

    Raises:
      ValueError: for arguments out of range.
    """
    return fedavgm(
        task,
        optimizer,
        server_learning_rate=server_learning_rate,
        momentum=momentum,
        nesterov=True,
        keep_optimizer=True,
        **options,
    )
