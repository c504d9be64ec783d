"""Fair federated averaging."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.local import mean_loss
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.sampling import equal
from fedrecon.types import Task


def fair_averaging(learning_rate: float, *, fairness: float = 1.0) -> Method:
    """q-FedAvg's averaging (Li et al. 2020): clients with a higher loss count more.

    With F_k client k's loss over all its data at w, L = 1 / ``learning_rate`` and q = ``fairness``, client k
    sends ``F_k^q L (w_k - w)`` and ``h_k = q F_k^(q-1) ||L (w - w_k)||^2 + L F_k^q``; the server moves by the
    sum of the former over the sum of the latter. q = 0 is FedAvg with equal weights. Losses must not be
    negative. Besides the model one scalar is sent.

    Args:
      learning_rate: of the clients' optimizer, which estimates the objective's Lipschitz constant.
      fairness: q, at least 0.

    Raises:
      ValueError: if ``fairness`` is negative or ``learning_rate`` not positive.
    """
    if not fairness >= 0:
        raise ArgumentError("fairness", "a number of at least 0", repr(fairness))
    if not learning_rate > 0:
        raise ArgumentError("learning_rate", "a positive number", repr(learning_rate))
    scale = 1 / learning_rate

    def finish(result, memory, context):
        loss = mean_loss(context, context.received) + 1e-10
        power = loss**fairness
        params = jax.tree.map(lambda d: (power * scale * d).astype(d.dtype), result.delta.params)
        squared = scale**2 * optax.tree.norm(result.delta.params, squared=True)
        curvature = fairness * loss ** (fairness - 1) * squared + scale * power
        result = result._replace(delta=result.delta._replace(params=params))
        return result, Message(scalars={"curvature": curvature}), memory

    def divide(gradient, state, params=None, *, message, **extra):
        curvature = message.scalars["curvature"]
        safe = jnp.where(curvature > 0, curvature, 1)
        return jax.tree.map(lambda g: (g / safe).astype(g.dtype), gradient), state

    transform = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), divide)
    return Method(finish=finish, transform=transform, discloses="the loss of all examples")


def qfedavg(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    learning_rate: float,
    fairness: float = 1.0,
    method: Method | None = None,
    weighting: Callable = equal,
    **options: Any,
) -> FederatedAlgorithm:
    """q-FedAvg (Li et al. 2020): local training and `fair_averaging`.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      learning_rate: of that optimizer.
      fairness: q, at least 0.
      method: further methods.
      weighting: equal weights are those of the paper.
      **options: as in `federated`, except ``server_optimizer`` and ``keep_optimizer``.

    Raises:
      ValueError: if ``fairness`` is negative or ``learning_rate`` not positive.
    """
    own = fair_averaging(learning_rate, fairness=fairness)
    return federated(
        task,
        optimizer,
        method=combine(own, method),
        weighting=weighting,
        server_optimizer=None,
        keep_optimizer=False,
        **options,
    )
