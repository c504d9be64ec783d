"""Every client alone: the comparator that shows what federation is worth."""

from collections.abc import Callable

import optax

from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.method import Method
from fedrecon.federated.recipe import federated
from fedrecon.types import Task, Variables


def local_only(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    method: Method | None = None,
    sampler: Callable | None = None,
    keep_optimizer: bool = True,
) -> FederatedAlgorithm:
    """Independent training by the same engine: all leaves are private and nothing is ever sent.

    Args:
      task: what is learned.
      optimizer: each client's optimizer; its state runs on from round to round unless ``keep_optimizer`` is
        False.
      method: what changes the training; what it exchanges is the only thing that is.
      sampler: who trains in a round; every client by default.
      keep_optimizer: clients keep their optimizer's state between rounds.
    """
    return federated(
        task,
        optimizer,
        method=method,
        sampler=sampler,
        keep_optimizer=keep_optimizer,
        share_mask=Variables(False, False),
    )
