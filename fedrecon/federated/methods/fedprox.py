"""Federated averaging with a proximal term."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.method import LocalContext, Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.types import PyTree, Task


def proximal(strength: float) -> Method:
    """FedProx's local objective (Li et al. 2020): F_i(w') + strength / 2 ||w' - w||^2, w as received.

    Adds ``strength * (w' - w)`` to each gradient. Strength 0 changes no bit.

    Args:
      strength: mu, at least 0.

    Raises:
      ValueError: if ``strength`` is negative.
    """
    if not strength >= 0:
        raise ArgumentError("strength", "a number of at least 0", repr(strength))
    if not strength:
        return Method()

    def correct(gradient: PyTree, params: PyTree, memory: PyTree, context: LocalContext) -> PyTree:
        return jax.tree.map(
            lambda g, p, w: g + jnp.asarray(strength, g.dtype) * (p - w),
            gradient,
            params,
            context.received.params,
        )

    return Method(correct=correct)


def fedprox(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    strength: float = 0.01,
    keep_optimizer: bool = False,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """FedProx (Li et al. 2020): `proximal` local training; clients may do partial work (``schedule``).

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      strength: mu, at least 0. Strength 0 is FedAvg, bit for bit.
      keep_optimizer: clients keep their optimizer's state between rounds.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: if ``strength`` is negative.
    """
    return federated(
        task,
        optimizer,
        method=combine(proximal(strength), method),
        keep_optimizer=keep_optimizer,
        **options,
    )
