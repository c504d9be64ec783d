"""Kades: nnU-Net in a federation that first agrees on intensities and on initial weights."""

from typing import Any

import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, Work
from fedrecon.federated.messages import Context
from fedrecon.federated.recipe import federated
from fedrecon.types import Task


def kades(
    task: Task, optimizer: optax.GradientTransformation, *, rounds: int, power: float = 0.9, **options: Any
) -> FederatedAlgorithm:
    """Kades et al. (prostate, nnU-Net on Kaapana): what sites agree on first, and the rate of one training.

    Round -2: sites send number, mean, standard deviation, percentiles and extremes of their foreground, so
    that all images are normalized alike; moments are pooled exactly. ``--algorithm.fingerprint`` says which
    percentiles: "estimate", means over sites weighted by n, or "accurate", those of all pixels. Round -1:
    the mean of all initial weights (``average_initial``). Then FedAvg with the rate ``(1 - s)^0.9``, s being
    the part of all rounds that is over, so that R rounds of E passes have the rates of R E passes of one
    training. Spacing, patch and levels are nnU-Net's with ``--configure=fingerprint``, before the network is
    made; images are then scaled one by one, too.

    The publication has MRI of the prostate of several hospitals; the catalog's command has hearts at
    simulated scanners.

    Deviations: no voxel is sent; accurate percentiles come from 32 questions how many pixels lie below a
    value. Passes of a round are given (``--epochs``), so that all passes divide by the rounds. Everybody
    starts from the server's weights unless ``average_initial``, which replaces a model of
    ``--initialize_from`` and shrinks weights of N sites by sqrt(N). The rate falls from step to step, not
    from pass to pass. FedDC, of later releases, is not here.

    Args:
      task: of `clipped_task`.
      optimizer: each client's optimizer (SGD with momentum 0.99).
      rounds: of the training.
      power: of the rate; 0 keeps it constant.
      **options: as in `federated`, except ``schedule``.

    Raises:
      ValueError: ``power`` is negative.
    """
    if power < 0:
        raise ArgumentError("power", "a number of 0 or more", power)

    def schedule(context: Context) -> Work:
        assert context.steps is not None, "the context of a schedule"
        return Work(lambda part: (1 - (context.round + part) / rounds) ** power, context.steps)

    return federated(task, optimizer, schedule=schedule, **options)
