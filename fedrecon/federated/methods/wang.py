"""Wang: segmentation at institutions whose patients differ in what there is to segment."""

from typing import Any

import optax

from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.recipe import federated
from fedrecon.types import Task


def wang(
    task: Task, optimizer: optax.GradientTransformation, *, keep_optimizer: bool = False, **options: Any
) -> FederatedAlgorithm:
    """Wang et al. (pancreas and tumors): FedAvg of institutions with disjoint case mixes.

    One institution has healthy organs alone, the other the same organ with a tumor, so that neither alone can
    tell both. The rounds are those of FedAvg, with weights by size or ``--weighting=equal``. Patients are
    divided by what their references hold (``--partition=case_type``), and the Dice of a class that a case
    lacks is left out rather than counted as 1 (`fedrecon.tasks.without_absent_classes`, which is the task of
    this row); scores of methods and choices by validation follow the same count.

    The publication has CT of the pancreas from Taiwan (healthy) and of the Medical Segmentation Decathlon
    (with tumors) in three classes; the catalog's command has heads at simulated scanners, without and with
    simulated lesions, and so two classes.

    Deviations: the searched network C2FNAS has no part in the federation and is not here; any ``--network``
    takes its place. The loss is the usual one, cross-entropy and soft Dice over a batch, in which a class
    that no case of the batch has still counts: its probability is pulled to 0.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      keep_optimizer: clients keep their optimizer's state between rounds.
      **options: as in `federated`.
    """
    return federated(task, optimizer, keep_optimizer=keep_optimizer, **options)
