"""FedPAQ: partial participation, local steps, and quantized changes."""

from typing import Any

import optax

from fedrecon.communication.codec import compressed
from fedrecon.communication.quantization import BUCKET, qsgd
from fedrecon.errors import ArgumentError
from fedrecon.federated import FederatedAlgorithm, federated
from fedrecon.types import Task


def fedpaq(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    levels: int = 7,
    bucket: int = BUCKET,
    **options: Any,
) -> FederatedAlgorithm:
    """FedPAQ (Reisizadeh et al. 2020): clients send Q(w_i - w), rounded at random without bias by QSGD.

    arXiv:1909.13014; who takes part is the sampler's. The expectation of the server's step over the rounding
    is that of FedAvg. Statistics travel as they are.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      levels: of magnitudes, as in `qsgd`.
      bucket: values with a norm of their own.
      **options: as in `federated`, except ``channel``.

    Raises:
      ValueError: for arguments out of range.
    """
    if "channel" in options:
        raise TypeError("fedpaq() takes no argument 'channel': it brings its own")
    if levels < 1:
        raise ArgumentError("levels", "a positive integer", levels)
    return federated(task, optimizer, channel=compressed(qsgd(levels, bucket)), **options)
