"""Yang et al.: FedAvg of massive-training networks, which are a hundredth of a U-Net and less."""

from typing import Any

import optax

from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.recipe import federated
from fedrecon.types import Task


def yang(task: Task, optimizer: optax.GradientTransformation, **options: Any) -> FederatedAlgorithm:
    """FedAvg of a massive-training network (Yang et al. 2022, MLMI, LNCS 13583: liver tumors in CT).

    The network of `fedrecon.tasks.massive_training_task` takes the place of the experiment's: 3 076 numbers
    by default for images of one channel. That is sent, 0.2 % of a U-Net of 16 channels and four halvings, and
    10 % of one of 8 channels and two. Averaging is that of FedAvg.

    The publication's data are CT of livers at several hospitals, with few cases each, and its comparison is a
    federated residual U-Net (Dice .712 against .592). CT of two patients with inserted spheres stand in,
    photographs of the retina, and hearts.

    Deviations: patches are of slices (the publication: of volumes); teacher values are labels (a Gaussian of
    ``width`` is an option); hidden units are rectified; the number of patches of a step, and that an image's
    own patches are weighed like those of any other, are ours. One structure is segmented.

    Args:
      task: of `fedrecon.tasks.massive_training_task`.
      optimizer: each client's optimizer.
      **options: as in `federated`.
    """
    return federated(task, optimizer, **options)
