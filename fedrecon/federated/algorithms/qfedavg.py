"""Fair federated averaging."""

import jax
import jax.numpy as jnp
import optax

from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.algorithms.fedavg import fedavg
from fedrecon.federated.local import local_sgd, mean_loss
from fedrecon.federated.sampling import equal
from fedrecon.types import Task


def qfedavg(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    learning_rate: float,
    fairness: float = 1.0,
    weighting=equal,
    **options,
) -> FederatedAlgorithm:
    """q-FedAvg (Li et al. 2020): clients with a higher loss count more.

    With F_k client k's loss over all its data at w, L = 1 / ``learning_rate`` and q = ``fairness``, client k
    sends ``F_k^q L (w_k - w)`` and ``h_k = q F_k^(q-1) ||L (w - w_k)||^2 + L F_k^q``; the server moves by the
    sum of the former over the sum of the latter. q = 0 is FedAvg with equal weights. Losses must not be
    negative. Beside the model one scalar is sent.

    Args:
      task: what is learned.
      optimizer: each client's optimiser.
      learning_rate: of that optimiser, which estimates the objective's Lipschitz constant.
      fairness: q, at least 0.
      weighting: equal weights are those of the paper.
      **options: as in `fedavg`, but ``server_optimizer`` and ``keep_optimizer``.

    Raises:
      ValueError: if ``fairness`` is negative or ``learning_rate`` not positive.
    """
    if not fairness >= 0:
        raise ValueError(f"fairness: expected a number of at least 0, found {fairness!r}")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate: expected a positive number, found {learning_rate!r}")
    scale = 1 / learning_rate

    def finish(result, steps, around):
        loss = mean_loss(task.loss, around.received, around.batches, around.key) + 1e-10
        power = loss**fairness
        params = jax.tree.map(lambda d: (power * scale * d).astype(d.dtype), result.delta.params)
        squared = scale**2 * optax.tree.norm(result.delta.params, squared=True)
        curvature = fairness * loss ** (fairness - 1) * squared + scale * power
        return result._replace(delta=result.delta._replace(params=params), message={"curvature": curvature})

    def divide(gradient, state, params=None, *, message, **extra):
        curvature = message["curvature"]
        safe = jnp.where(curvature > 0, curvature, 1)
        return jax.tree.map(lambda g: (-g / safe).astype(g.dtype), gradient), state

    server = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), divide)
    algorithm = fedavg(
        task,
        optimizer,
        weighting=weighting,
        server_optimizer=server,
        keep_optimizer=False,
        **options,
    )
    return algorithm._replace(client=local_sgd(task.loss, optimizer, finish=finish))
