"""Banerjee et al.: transfer learning of radiographs, by momentum at clients."""

from typing import Any

import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.recipe import federated
from fedrecon.types import Task


def banerjee(
    task: Task,
    learning_rate: float,
    *,
    momentum: float = 0.9,
    keep_momentum: bool = False,
    **options: Any,
) -> FederatedAlgorithm:
    """Banerjee et al. 2020 (pneumonia from chest radiographs): FedAvg by momentum, of a pretrained network.

    Clients descend with momentum, which they found better than Adam and Adamax, from a network that was
    trained on other images and has a head of its own: ``--initialize_from=RUN --new_head``. Tasks are
    pneumonia or none, and virus or bacterium. `fedrecon.tasks.grad_cam` shows where a network looks.

    Deviations: ResNet-18 pretrained on photographs and radiographs of children of one hospital are the
    publication's; PneumoniaMNIST (``--cohort=pneumonia``, ``--network=resnet18``) and a network trained on
    other radiographs stand in. Whether momentum outlives a round there is not told; here it does not.

    Args:
      task: what is learned.
      learning_rate: of clients, 1e-3 in the publication.
      momentum: in [0, 1).
      keep_momentum: clients keep their momentum between rounds.
      **options: as in `federated`.

    Raises:
      ValueError: the momentum is out of range.
    """
    if not 0 <= momentum < 1:
        raise ArgumentError("momentum", "a number in [0, 1)", repr(momentum))
    return federated(task, optax.sgd(learning_rate, momentum), keep_optimizer=keep_momentum, **options)
