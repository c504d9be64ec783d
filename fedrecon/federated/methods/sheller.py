"""Sheller: one model for all institutions, by averaging or by visits, with early stopping at each of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.local import difference
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.trees import keep_like, select
from fedrecon.types import Task, Variables


class Stopping(NamedTuple):
    """Of a visit: steps so far, passes since the best model, its validation loss, and this model itself."""

    steps: jax.Array
    waited: jax.Array
    loss: jax.Array
    best: Variables


def early_stopping(task: Task, patience: int) -> Method:
    """A client hands on the model with its lowest validation loss so far once that has not fallen for long.

    After each pass over its examples a client takes the task's "loss", or else its first metric, on its
    validation split. What it trains after ``patience`` passes without a lower one no longer counts.

    Raises:
      ValueError: ``patience`` is not positive.
    """
    if patience < 1:
        raise ArgumentError("patience", "an integer of at least 1", patience)

    def begin(state, context):
        # Made of the batches, since it varies over clients.
        zero = 0 * context.batches.count
        best = jax.tree.map(lambda x: x + zero.astype(x.dtype), context.received)
        return Stopping(zero, zero, jnp.inf + zero, best)

    def step(memory, params, batch, evaluation, context, key):
        steps, model = memory.steps + 1, Variables(params, keep_like(evaluation.stats, memory.best.stats))
        passed = steps % jnp.maximum(-(-context.batches.count // batch["valid"].shape[0]), 1) == 0

        def judged():
            found = task.metrics(*context.complete(model), context.batches.judged)
            value, count = found.get("loss", next(iter(found.values())))
            return (value / jnp.maximum(count, 1)).astype(jnp.float32)

        loss = jax.lax.cond(passed, judged, lambda: memory.loss)
        better = passed & (memory.waited < patience) & (loss < memory.loss)
        waited = jnp.where(better, 0, memory.waited + passed)
        return Stopping(
            steps, waited, jnp.where(better, loss, memory.loss), select(better, model, memory.best)
        )

    def finish(result, memory, context):
        result = result._replace(delta=difference(memory.best, context.received), variables=memory.best)
        return result, Message(), ()

    return Method(begin=begin, step=step, finish=finish, discloses="a choice by its validation examples")


def sheller(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    patience: int = 0,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """Sheller et al. (brain tumors): federated, institutional incremental and cyclic incremental learning.

    What differs is who trains when, which the topology says:
      FL: FedAvg with one pass a round, ``--topology=star``.
      CIIL: the model visits one institution after the other for fixed passes, cycle after cycle, until none
        of ``--patience`` cycles has a lower validation loss: ``--topology=ring``.
      IIL: it visits each institution once, which trains to its own early stopping:
        ``--topology=single_pass --rounds=1 --algorithm.patience=5`` and as many ``--epochs`` as may be.
    ``--visits=shuffled`` draws another order in each cycle. Training on shared data is the method
    ``centralized``, leaving out an institution `experiments.leave_one_site_out`.

    The publication has brain tumors of ten institutions; the catalog's command has hearts at simulated
    scanners, in cycles. Messages are the model alone.

    Deviations: early stopping takes the validation loss, not a Dice. A visit always costs its ``--epochs``,
    and hands on what early stopping has kept; optimizers start afresh at each visit. With N institutions the
    bytes of IIL are those of N transfers, not N - 1: the last one returns the model.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      patience: passes without a lower validation loss after which a visit ends; 0 makes all passes count.
      method: further methods.
      **options: as in `federated`, except ``keep_optimizer``.

    Raises:
      ValueError: ``patience`` is negative.
    """
    own = early_stopping(task, patience) if patience else None
    return federated(task, optimizer, method=combine(own, method), keep_optimizer=False, **options)
