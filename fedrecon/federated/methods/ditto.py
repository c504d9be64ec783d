"""Personal models next to a global one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Evaluation, LocalContext, Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.trees import all_finite, keep_like, select
from fedrecon.types import Batch, PyTree, Task, Variables


class PersonalTraining(NamedTuple):
    """A personal model within a round: the model before it, in training, and its optimizer's state."""

    before: Variables
    model: Variables
    optimizer: PyTree


def personal_step(
    optimizer: optax.GradientTransformation,
    state: PyTree,
    model: Variables,
    gradient: PyTree,
    stats: PyTree,
    batch: Batch,
    context: LocalContext,
) -> tuple[Variables, PyTree]:
    """A step of a model that stays at its client, and the optimizer's new state, under the round's schedule.

    Args:
      optimizer: of the personal model.
      state: its state.
      model: before the step.
      gradient: of its parameters.
      stats: its statistics afterwards.
      batch: what the gradient is of; without a valid example nothing changes.
      context: of the step.
    """
    updates, new_state = optimizer.update(gradient, state, model.params)
    if context.rate is not None:
        updates = jax.tree.map(lambda u: (u * context.rate).astype(u.dtype), updates)
    trained = Variables(optax.apply_updates(model.params, updates), keep_like(stats, model.stats))
    # A step of noise alone may have no example.
    return select(batch["valid"].any(), (trained, new_state), (model, state))


def personal_model(optimizer: optax.GradientTransformation, strength: float = 0.1) -> Method:
    """Ditto's personal models (Li et al. 2021), held near the global one.

    On the batches of each round ``v_i <- v_i - eta (grad F_i(v_i) + strength (v_i - w))`` with w as received;
    v_i never leaves, and stays as it was where training would not leave it finite. Clients evaluate with v_i.
    Strength 0 is training alone, a large one keeps v_i at w.

    Args:
      optimizer: of the personal models, afresh each round.
      strength: lambda, at least 0.

    Raises:
      ValueError: if ``strength`` is negative.
    """
    if not strength >= 0:
        raise ArgumentError("strength", "a number of at least 0", repr(strength))

    def init(variables):
        return jax.tree.map(jnp.asarray, variables)

    def begin(own, context):
        return PersonalTraining(own, own, optimizer.init(own.params))

    def step(
        memory: PersonalTraining,
        params: PyTree,
        batch: Batch,
        evaluation: Evaluation,
        context: LocalContext,
        key: jax.Array,
    ) -> PersonalTraining:
        def loss(params, stats):
            return context.loss(*context.complete(Variables(params, stats)), batch, key)

        (_, (stats, _)), gradient = jax.value_and_grad(loss, has_aux=True)(*memory.model)
        gradient = jax.tree.map(
            lambda g, v, w: (g + strength * (v - w)).astype(g.dtype),
            gradient,
            memory.model.params,
            context.received.params,
        )
        new = personal_step(optimizer, memory.optimizer, memory.model, gradient, stats, batch, context)
        return PersonalTraining(memory.before, *new)

    def finish(result, memory, context):
        # What does not leave is not checked by the round.
        own = select(all_finite(memory.model), memory.model, memory.before)
        return result, Message(), own

    def personalize(variables, own, batch):
        return jax.tree.map(
            lambda mine, given: given if mine is None else mine, own, variables, is_leaf=lambda x: x is None
        )

    return Method(init=init, begin=begin, step=step, finish=finish, personalize=personalize)


def ditto(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    strength: float = 0.1,
    personal_optimizer: optax.GradientTransformation | None = None,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """Ditto (Li et al. 2021): every client also trains a `personal_model`, held near the global one.

    The global model trains as if there were no personal ones, by FedAvg or whatever ``method`` and the
    options make of it.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      strength: lambda, at least 0.
      personal_optimizer: of the personal models, afresh each round; ``optimizer`` by default.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: if ``strength`` is negative.
    """
    own = personal_model(personal_optimizer or optimizer, strength)
    return federated(task, optimizer, method=combine(own, method), **options)
