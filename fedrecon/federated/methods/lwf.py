"""Learning without forgetting over the blocks of a stream."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.method import LocalContext, Method, combine
from fedrecon.federated.methods.agreement import divergence, log_of
from fedrecon.federated.methods.remembering import Memory, recall
from fedrecon.federated.recipe import federated
from fedrecon.types import Batch, PyTree, Task, Variables


def kept_answers(task: Task, strength: float, temperature: float, memory: Memory) -> Method:
    """LwF's penalty (Li and Hoiem 2016): strength T^2 KL(last block's model || own) on a client's own images.

    Probabilities of both are softened by the temperature T; the divergence is averaged over the valid
    examples, and pixels where there are any. Models are applied as in evaluation. Clients receive the last
    block's model in each round. Strength 0 changes no bit, nor does an empty memory.

    Args:
      task: whose predictions are probabilities, the last axis that of the classes.
      strength: lambda, at least 0.
      temperature: T, positive.
      memory: of the blocks before.

    Raises:
      ValueError: an argument is out of range.
    """
    if not strength >= 0:
        raise ArgumentError("strength", "a number of at least 0", repr(strength))
    if not temperature > 0:
        raise ArgumentError("temperature", "a positive number", repr(temperature))
    if not strength or memory.model is None:
        return Method()

    def softened(model: Variables, batch: Batch) -> jax.Array:
        return jax.nn.log_softmax(log_of(task.predict(*model, batch)) / temperature)

    def penalty(
        params: PyTree, stats: PyTree, batch: Batch, own: PyTree, context: LocalContext, key: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        before = jax.lax.stop_gradient(softened(context.broadcast, batch))
        away = divergence(before, softened(Variables(params, stats), batch))
        each = away.reshape(len(away), -1).mean(1)
        valid = batch["valid"]
        mean = jnp.where(valid, each, 0).sum() / jnp.maximum(valid.sum(), 1)
        return strength * temperature**2 * mean, ()

    return Method(penalty=penalty, server=recall(memory.model))


def lwf(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    strength: float = 1.0,
    temperature: float = 2.0,
    memory: Memory = Memory(),  # noqa: B008
    keep_optimizer: bool = False,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """Federated averaging with `kept_answers`: models go on answering as the one of the last block did.

    Args:
      task: a classification or segmentation.
      optimizer: each client's optimizer.
      strength: lambda, at least 0. Strength 0 is FedAvg, bit for bit.
      temperature: T, positive.
      memory: of the blocks before; without one it is FedAvg.
      keep_optimizer: clients keep their optimizer's state between rounds.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: as `kept_answers`.
    """
    own = kept_answers(task, strength, temperature, memory)
    return federated(task, optimizer, method=combine(own, method), keep_optimizer=keep_optimizer, **options)
