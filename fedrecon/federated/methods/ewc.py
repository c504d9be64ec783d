"""Elastic weight consolidation over the blocks of a stream."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.method import LocalContext, Method, combine
from fedrecon.federated.methods.remembering import Memory, recall
from fedrecon.federated.recipe import federated
from fedrecon.types import PyTree, Task

_DISCLOSED = "the Fisher diagonal of earlier blocks"


def elastic(strength: float, memory: Memory) -> Method:
    """EWC's penalty (Kirkpatrick et al. 2017): strength / 2 sum_k F_k (w_k - v_k)^2 in every client's loss.

    v is the model after the last block and F the sum of the Fisher diagonals of all blocks so far, each over
    all clients (the form that needs no more memory with more blocks: Schwarz et al. 2018, arXiv:1805.06370).
    Clients receive both in each round. Plain descent diverges where strength times F is more than 2 over the
    learning rate. Strength 0 changes no bit, nor does an empty memory.

    Args:
      strength: lambda, at least 0.
      memory: of the blocks before.

    Raises:
      ValueError: if ``strength`` is negative, or the memory has a model without an importance.
    """
    if not strength >= 0:
        raise ArgumentError("strength", "a number of at least 0", repr(strength))
    if not strength or memory.model is None:
        return Method(discloses=_DISCLOSED)
    if memory.importance is None:
        raise ArgumentError("memory", "a model with its importance", "a model alone")

    def correct(gradient: PyTree, params: PyTree, own: PyTree, context: LocalContext) -> PyTree:
        importance, anchor = context.broadcast
        return jax.tree.map(
            lambda g, p, f, v: g + jnp.asarray(strength, g.dtype) * f * (p - v),
            gradient,
            params,
            importance,
            anchor,
        )

    return Method(
        correct=correct, server=recall((memory.importance, memory.model.params)), discloses=_DISCLOSED
    )


def ewc(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    strength: float = 10.0,
    memory: Memory = Memory(),  # noqa: B008
    keep_optimizer: bool = False,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """Federated averaging with `elastic` weights: those that mattered to earlier blocks hardly move.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      strength: lambda, at least 0. Strength 0 is FedAvg, bit for bit.
      memory: of the blocks before; without one it is FedAvg.
      keep_optimizer: clients keep their optimizer's state between rounds.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: as `elastic`.
    """
    own = elastic(strength, memory)
    return federated(task, optimizer, method=combine(own, method), keep_optimizer=keep_optimizer, **options)
