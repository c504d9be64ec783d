"""A deputy that travels and a personal model that stays teach each other (dynamic elastic training)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method
from fedrecon.federated.methods.agreement import divergence, log_of
from fedrecon.federated.trees import all_finite, keep_like, merge, partition, select
from fedrecon.types import Batch, PyTree, Task, Variables

RECOVER, EXCHANGE, SUBLIMATE = 1, 2, 3


def next_stage(
    stage: jax.Array, personal: jax.Array, deputy: jax.Array, thresholds: tuple[float, float] = (0.7, 0.9)
) -> jax.Array:
    """DET's stage of a pass, from that of the pass before (0: none in this round) and both models' scores."""
    recover = (stage == 0) | (deputy < thresholds[0] * personal)
    exchange = (stage == RECOVER) | (deputy < thresholds[1] * personal)
    return jnp.where(recover, RECOVER, jnp.where(exchange, EXCHANGE, SUBLIMATE)).astype(jnp.int32)


class Teaching(NamedTuple):
    """A round at a client: the stage, steps so far, the personal model before and now, and its optimizer."""

    stage: jax.Array
    steps: jax.Array
    before: Variables
    model: Variables
    optimizer: PyTree


def deputies(
    task: Task,
    optimizer: optax.GradientTransformation,
    score: Callable[[PyTree, PyTree, Batch], jax.Array],
    shared: Variables,
    thresholds: tuple[float, float] = (0.7, 0.9),
) -> Method:
    """DET, dynamic elastic training: what travels is a deputy q of the personal model p, see `prr_fl`.

    Args:
      task: whose predictions are probabilities.
      optimizer: of the personal models, afresh each round.
      score: ``score(params, stats, batch) -> float32 ()``.
      shared: `Variables` of bools, which leaves of the deputy are sent.
      thresholds: of ``score(q) / score(p)``, below which p teaches alone, and from which on q does.
    """

    def taught(student: PyTree, teacher: PyTree, valid: jax.Array) -> jax.Array:
        each = divergence(log_of(teacher), log_of(student))
        each = each.reshape(len(valid), -1).mean(1)
        return jnp.where(valid, each, 0).sum() / jnp.maximum(valid.sum(), 1)

    def init(variables):
        return jax.tree.map(jnp.asarray, variables)

    def begin(own, context):
        # Rounds of less than two passes are mutual learning; others begin with stage 0's successor.
        steps, size = context.batches.index.shape
        mutual = steps < 2 * -(-context.batches.present.shape[0] // size)
        # Made of the batches, since it varies over clients.
        zero = 0 * context.batches.count
        return Teaching(zero + (EXCHANGE if mutual else RECOVER), zero, own, own, optimizer.init(own.params))

    def penalty(params, stats, batch, memory, context, key):
        own = task.predict(params, stats, batch)
        teacher = jax.lax.stop_gradient(task.predict(*context.complete(memory.model), batch))
        value = jnp.where(memory.stage <= EXCHANGE, taught(own, teacher, batch["valid"]), 0)
        return value, jax.lax.stop_gradient(own)

    def step(memory, params, batch, evaluation, context, key):
        def loss(params, stats):
            full = context.complete(Variables(params, stats))
            value, (stats, _) = context.loss(*full, batch, key)
            learned = taught(task.predict(*full, batch), evaluation.aux, batch["valid"])
            return value + jnp.where(memory.stage >= EXCHANGE, learned, 0), stats

        (_, stats), gradient = jax.value_and_grad(loss, has_aux=True)(*memory.model)
        updates, state = optimizer.update(gradient, memory.optimizer, memory.model.params)
        if context.rate is not None:
            updates = jax.tree.map(lambda u: (u * context.rate).astype(u.dtype), updates)
        stats = keep_like(stats, memory.model.stats)
        model = Variables(optax.apply_updates(memory.model.params, updates), stats)
        steps, batches = memory.steps + 1, context.batches
        each, size = batches.index.shape
        if each < 2 * -(-batches.present.shape[0] // size):
            return Teaching(memory.stage, steps, memory.before, model, state)
        seen = batches.judged
        deputy = context.complete(Variables(params, evaluation.stats))

        def again(stage):
            return next_stage(stage, score(*context.complete(model), seen), score(*deputy, seen), thresholds)

        ended = steps % jnp.maximum(-(-batches.count // size), 1) == 0
        stage = jax.lax.cond(ended, again, lambda stage: stage, memory.stage)
        return Teaching(stage, steps, memory.before, model, state)

    def finish(result, memory, context):
        # What does not leave is not checked by the round.
        own = select(all_finite(memory.model), memory.model, memory.before)
        return result, Message(summed=partition(result.variables, shared)[0]), own

    def personalize(variables, own, batch):
        return merge(own, variables)

    return Method(
        init=init,
        begin=begin,
        penalty=penalty,
        step=step,
        finish=finish,
        personalize=personalize,
        discloses="models taught by one that is trained on examples",
    )
