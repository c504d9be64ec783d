"""FedCL: contrast with the previous global model."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.moon import model_contrast
from fedrecon.federated.recipe import federated
from fedrecon.types import Batch, PyTree, Task


def fedcl(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    represent: Callable[[PyTree, PyTree, Batch], jax.Array],
    strength: float = 1.0,
    temperature: float = 0.5,
    method: Method | None = None,
    keep_optimizer: bool = True,
    **options: Any,
) -> FederatedAlgorithm:
    """FedCL (skin lesions, radiographs of COVID-19): representations leave the last global model.

    With w the model in training, w^t the received one and w^(t-1) that of the round before, the loss of a
    step is::

        L = L_task + mu * -log(e^(cos(z, z^t)/T) / (e^(cos(z, z^t)/T) + e^(cos(z, z^(t-1))/T)))

    z being what the projection head returns. Of MOON (`moon`), whose negative is the client's own last model,
    it differs in this alone. In the first round both models are the initial one: the term is log 2 and has no
    gradient. mu = 0 is FedAvg, bit for bit.

    Deviations: w^(t-1) is the model that the client received last, which is older where the client was away;
    it is kept at the client, so that nothing is sent twice.

    Args:
      task: what is learned.
      optimizer: each client's optimizer (in the publication AMSGrad at 1e-4).
      represent: ``represent(params, stats, batch) -> (examples, features)``, the output of the projection
        head.
      strength: mu, at least 0.
      temperature: T, positive.
      method: further methods.
      keep_optimizer: clients keep their optimizer's state, as in the publication.
      **options: as in `federated`.

    Raises:
      ValueError: for arguments out of range.
    """
    own = model_contrast(
        represent,
        strength=strength,
        temperature=temperature,
        start_with_initial=True,
        against="received",
    )
    return federated(task, optimizer, method=combine(own, method), keep_optimizer=keep_optimizer, **options)
