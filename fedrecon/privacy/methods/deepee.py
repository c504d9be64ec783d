"""deepee: DP-SGD of networks that look at their examples one by one."""

from typing import Any

import optax

from fedrecon import federated as fl
from fedrecon.federated.mechanism import Mechanism
from fedrecon.privacy.methods.beguier import beguier
from fedrecon.types import Task


def deepee(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    mechanism: Mechanism,
    method: fl.Method | None = None,
    **options: Any,
) -> fl.FederatedAlgorithm:
    """Ziller et al.'s deepee around the DP-SGD of `beguier`; its parts are those of every private training.

    - Snooper: two examples are tried before the training (`fedrecon.privacy.check_examples_apart`).
    - Surgeon: ``--norm=batch`` becomes group normalization with a report, and tasks of one's own are made
    over by
      `fedrecon.tasks.without_batch_normalization`.
    - Secure noise: ``--dp.noise``.
    - Watchdog: the ledger ends a training before the step that would exceed the budget.

    Args:
      task: what is learned; its model must have no batch statistics.
      optimizer, mechanism, method, **options: as in `beguier`.
    """
    return beguier(task, optimizer, mechanism=mechanism, method=method, **options)
