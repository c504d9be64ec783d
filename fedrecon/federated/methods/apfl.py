"""APFL: a private model and the shared one, mixed as each client finds best."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Evaluation, LocalContext, Method, combine
from fedrecon.federated.methods.ditto import personal_step
from fedrecon.federated.recipe import federated
from fedrecon.federated.trees import all_finite, merge, select
from fedrecon.types import Batch, PyTree, Task, Variables


class Mixture(NamedTuple):
    """What stays at a client: v_i with the statistics of the mixture, and alpha_i, float32 ()."""

    model: Variables
    mixing: jax.Array


class MixedTraining(NamedTuple):
    """Within a round: what there was before it, what there is, w before the step, v's optimizer, steps."""

    before: Mixture
    now: Mixture
    shared: PyTree
    optimizer: PyTree
    begun: jax.Array


def mixed(own: PyTree, shared: PyTree, mixing: jax.Array) -> PyTree:
    """``mixing own + (1 - mixing) shared``, leaf by leaf; where there is no own leaf the shared one."""

    def one(v, w):
        return w if v is None else (mixing * v + (1 - mixing) * w).astype(w.dtype)

    return jax.tree.map(one, own, shared, is_leaf=lambda x: x is None)


def adaptive_mixture(
    optimizer: optax.GradientTransformation, mixing: float = 0.5, mixing_rate: float = 0.1
) -> Method:
    """APFL's private models v_i and mixing weights alpha_i; see `apfl` for equations and arguments.

    Raises:
      ValueError: arguments out of range.
    """
    if not 0 <= mixing <= 1:
        raise ArgumentError("mixing", "a number in [0, 1]", repr(mixing))
    if not mixing_rate >= 0:
        raise ArgumentError("mixing_rate", "a number of at least 0", repr(mixing_rate))

    def init(variables):
        return Mixture(jax.tree.map(jnp.asarray, variables), jnp.float32(mixing))

    def begin(own, context):
        state = optimizer.init(own.model.params)
        return MixedTraining(own, own, context.received.params, state, jnp.bool_(False))

    def step(
        memory: MixedTraining,
        params: PyTree,
        batch: Batch,
        evaluation: Evaluation,
        context: LocalContext,
        key: jax.Array,
    ) -> MixedTraining:
        (v, stats), alpha = memory.now

        def loss(params, stats):
            return context.loss(*context.complete(Variables(params, stats)), batch, key)

        both = mixed(v, memory.shared, alpha)
        (_, (stats, _)), gradient = jax.value_and_grad(loss, has_aux=True)(both, stats)
        # The derivative of the loss in alpha, at v and w before the step.
        products = jax.tree.map(lambda g, v, w: (g * (v - w)).sum(), gradient, v, memory.shared)
        slope = sum(jax.tree.leaves(products), start=jnp.float32(0))
        rate = mixing_rate * (1.0 if context.rate is None else context.rate)
        first = batch["valid"].any() & ~memory.begun
        new_alpha = jnp.where(first, jnp.clip(alpha - rate * slope, 0, 1), alpha)
        inner = jax.tree.map(lambda g: (alpha * g).astype(g.dtype), gradient)
        model, state = personal_step(
            optimizer, memory.optimizer, memory.now.model, inner, stats, batch, context
        )
        return MixedTraining(memory.before, Mixture(model, new_alpha), params, state, memory.begun | first)

    def finish(result, memory, context):
        # What does not leave is not checked by the round.
        return result, Message(), select(all_finite(memory.now), memory.now, memory.before)

    def personalize(variables, own, batch):
        params = mixed(own.model.params, variables.params, own.mixing)
        return Variables(params, merge(own.model.stats, variables.stats))

    return Method(init=init, begin=begin, step=step, finish=finish, personalize=personalize)


def apfl(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    mixing: float = 0.5,
    mixing_rate: float = 0.1,
    personal_optimizer: optax.GradientTransformation | None = None,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """APFL (Deng, Kamani and Mahdavi 2020, arXiv:2003.13461, Algorithm 1).

    On every batch of a round, with w_i from the received w and ``vbar_i = alpha_i v_i + (1 - alpha_i) w_i``::

        w_i <- w_i - eta grad f_i(w_i)
        v_i <- v_i - eta alpha_i grad f_i(vbar_i)

    and on the first ``alpha_i <- clip(alpha_i - mixing_rate <v_i - w_i, grad f_i(vbar_i)>, 0, 1)``, with v_i
    and w_i before the step. The w_i are averaged as ever, bit for bit; v_i and alpha_i never leave. With
    ``mixing=0, mixing_rate=0`` clients evaluate with w itself; with ``mixing=1, mixing_rate=0`` they train
    alone.

    Deviations: alpha_i has a rate of its own (the publication: eta, which Adam does not share), and starts
    anywhere in [0, 1]; the authors' code also decays it, by ``0.02 alpha_i``, takes its slope from two
    gradients, and mixes predictions in place of parameters. v_i has an optimizer afresh each round. Clients
    evaluate with the mixture with the server's w, as they would begin the next round, by statistics that
    passes of the mixture left, and all examples count alike in the mean of w_i (the publication: clients).
    No model is averaged over rounds. A v_i or alpha_i that would not be finite stays as it was.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      mixing: alpha_i before the first round, in [0, 1].
      mixing_rate: of alpha_i, at least 0; 0 keeps it. A schedule of the learning rate multiplies it, too.
      personal_optimizer: of v_i, afresh each round; ``optimizer`` by default.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: arguments out of range.
    """
    own = adaptive_mixture(personal_optimizer or optimizer, mixing, mixing_rate)
    return federated(task, optimizer, method=combine(own, method), **options)
