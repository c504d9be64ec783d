"""Federated averaging with a proximal term."""

import jax
import jax.numpy as jnp
import optax

from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.algorithms.fedavg import fedavg
from fedrecon.federated.local import Surroundings, local_sgd
from fedrecon.types import PyTree, Task


def fedprox(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    strength: float = 0.01,
    keep_optimizer: bool = False,
    **options,
) -> FederatedAlgorithm:
    """FedProx (Li et al. 2020): every client minimises F_i(w') + strength / 2 ||w' - w||^2.

    Clients may do partial work (``schedule``). Strength 0 is FedAvg, bit for bit.

    Args:
      task: what is learned.
      optimizer: each client's optimiser.
      strength: mu, at least 0.
      keep_optimizer: clients keep their optimiser's state between rounds.
      **options: as in `fedavg`.

    Raises:
      ValueError: if ``strength`` is negative.
    """
    if not strength >= 0:
        raise ValueError(f"strength: expected a number of at least 0, found {strength!r}")
    correct = proximal(strength) if strength else None
    client = local_sgd(task.loss, optimizer, keep_optimizer=keep_optimizer, correct=correct)
    return fedavg(task, optimizer, **options)._replace(client=client)


def proximal(strength: float):
    """Adds ``strength * (w' - w)``, the gradient of the proximal term at w', w being what was received."""

    def correct(gradient: PyTree, params: PyTree, around: Surroundings) -> PyTree:
        return jax.tree.map(
            lambda g, p, w: g + jnp.asarray(strength, g.dtype) * (p - w),
            gradient,
            params,
            around.received.params,
        )

    return correct
