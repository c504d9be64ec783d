"""BrainTorrent: federated averaging among peers without a server."""

from typing import Any

import optax

from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.method import Method
from fedrecon.federated.recipe import federated
from fedrecon.types import Task


def braintorrent(
    task: Task, optimizer: optax.GradientTransformation, *, method: Method | None = None, **options: Any
) -> FederatedAlgorithm:
    """BrainTorrent (Roy et al. 2019, arXiv:1905.06731): the local training; the turns are the topology's.

    See `fedrecon.federated.topologies.make_pulling_round`, by which it is trained.

    Deviations: a round is as many turns as there are clients, so that it trains as much as others do. Models
    are merged as a whole, by numbers of examples, before training; nothing is broadcast.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      method: further methods, which send nothing.
      **options: as in `federated`, except ``weighting``, ``channel``, ``reduce`` and ``server_optimizer``.
    """
    fixed = {"weighting", "channel", "reduce", "server_optimizer"} & set(options)
    if fixed:
        raise TypeError(f"braintorrent has no argument {min(fixed)!r}")
    return federated(task, optimizer, method=method, **options)
