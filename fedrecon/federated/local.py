"""Local training of a client by any optax optimizer and any method."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import Batches, ClientResult, ClientUpdate
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Evaluation, LocalContext, Method, ValueAndGrad, begin, finish
from fedrecon.federated.trees import expand_mask, fill, keep_like, packed, select, vary_with
from fedrecon.types import Batch, Metrics, PyTree, Variables


def difference(new: Variables, old: Variables) -> Variables:
    """Leafwise ``new - old``."""
    return packed(jnp.subtract, new, old)


class LocalState(NamedTuple):
    """What stays at a client between rounds: the method's state, and the optimizer's if it is kept."""

    method: PyTree = ()
    optimizer: PyTree = ()


def local_training(
    loss: Callable,
    optimizer: optax.GradientTransformation,
    method: Method | None = None,
    *,
    keep_optimizer: bool = False,
) -> ClientUpdate:
    """One gradient step of ``loss`` per batch (FedAvg's client, McMahan et al. 2017), changed by a method.

    Steps without a valid example are skipped, unless the method takes every step: they change neither
    parameters, nor statistics, nor any part of the optimizer's state. The key of a step is folded from the
    number of real steps before it, so padding does not shift it. The result's weight is the client's number
    of valid examples. Under a schedule, the optimizer's updates are multiplied by its rate.

    Metrics are the task's, summed over real steps, and
      loss: (sum over steps of mean loss times valid examples, examples seen), unless the task reports a
        "loss"; without penalties;
      steps: (real steps, 1); examples: (examples seen, counting repeats, 1).
    Where the method hides the loss, "steps" is the only one.

    Args:
      loss: ``loss(params, stats, batch, key) -> (scalar, (stats, metrics))`` as in `fedrecon.types.Task`.
      optimizer: the local optimizer.
      method: hooks of a federated method.
      keep_optimizer: the optimizer's state stays at the client between rounds; otherwise each round starts
        afresh, as federated averaging is usually defined.

    Raises:
      ValueError: from the update, if the method hides examples and the model has batch statistics, which mix
        them and would be released without noise.
    """
    method = method or Method()

    def init(variables):
        own = method.init(variables) if method.init else ()
        return LocalState(own, optimizer.init(variables.params) if keep_optimizer else ())

    def update(variables, broadcast, client_state, batches, valid, key):
        if method.hides and jax.tree.leaves(variables.stats):
            raise ArgumentError(
                "variables.stats",
                "none with differential privacy, since they mix examples",
                "batch statistics",
            )
        context = _context(loss, method, variables, broadcast, batches, valid, key)
        start = client_state.optimizer if keep_optimizer else optimizer.init(variables.params)
        memory = begin(method, client_state.method, context)
        carry, totals = _train(optimizer, method, context, (*variables, start, memory), valid)
        params, stats, opt_state, memory = carry
        trained = Variables(params, stats)
        result = ClientResult(
            delta=difference(trained, variables),
            weight=batches.count.astype(jnp.float32),
            client_state=(),
            message=Message(),
            metrics=totals,
            variables=trained,
        )
        result, message, own = finish(method, result, client_state.method, memory, context)
        state = LocalState(own, opt_state if keep_optimizer else ())
        return result._replace(message=message, client_state=state)

    def rollback(before, after):
        return before._replace(method=method.rollback(before.method, after.method))

    return ClientUpdate(init, update, method.batching, rollback if method.rollback else None)


def _context(
    loss: Callable,
    method: Method,
    variables: Variables,
    broadcast: PyTree,
    batches: Batches,
    valid: jax.Array,
    key: jax.Array,
) -> LocalContext:
    real = _real(method, valid)
    steps = real.sum(dtype=jnp.int32).astype(jnp.float32)
    frozen, mean = batches.frozen, batches.rate
    if callable(mean):
        mean = jnp.where(real, _rates(batches, real), 0.0).sum() / jnp.maximum(steps, 1)
    return LocalContext(
        received=variables,
        broadcast=broadcast,
        batches=batches,
        key=key,
        loss=loss,
        steps=steps if mean is None else steps * mean,
        rate=mean,
        complete=(lambda variables: variables) if frozen is None else lambda own: fill(own, frozen),
    )


def _real(method: Method, valid: jax.Array) -> jax.Array:
    """Which steps are taken, bool (steps,)."""
    return jnp.ones_like(valid[:, 0]) if method.every_step else valid.any(1)


def _rates(batches: Batches, real: jax.Array) -> Any:
    """The schedule's factor of each step, (steps,); None without a schedule."""
    if callable(batches.rate):
        part = jnp.clip((jnp.cumsum(real) - 0.5) / jnp.maximum(real.sum(), 1), 0, 1)
        return jnp.broadcast_to(batches.rate(part), part.shape).astype(jnp.float32)
    return None if batches.rate is None else jnp.broadcast_to(batches.rate, real.shape)


def _value_and_grad(method: Method, context: LocalContext) -> ValueAndGrad:
    """How a step finds its gradient: of the loss and the penalty, by the method's oracle."""

    def objective(params, stats, batch, memory, key):
        full = context.complete(Variables(params, stats))
        value, (new_stats, metrics) = context.loss(*full, batch, key)
        total, aux = value, ()
        if method.penalty is not None:
            penalty, aux = method.penalty(*full, batch, memory, context, key)
            total = value + penalty
        return total, Evaluation(value, keep_like(new_stats, stats), metrics, aux)

    gradient_of = jax.value_and_grad(objective, has_aux=True)

    def value_and_grad(params, stats, batch, memory, key):
        (_, evaluation), gradient = gradient_of(params, stats, batch, memory, key)
        return evaluation, gradient

    return value_and_grad if method.oracle is None else method.oracle(value_and_grad)


def _train(
    optimizer: optax.GradientTransformation,
    method: Method,
    context: LocalContext,
    start: tuple,
    valid: jax.Array,
) -> tuple[tuple, Metrics]:
    """All steps of a round: ((params, stats, optimizer state, memory), metrics)."""
    value_and_grad, batches = _value_and_grad(method, context), context.batches
    rates = _rates(batches, _real(method, valid))

    # Traced once, though it is looked at for its shapes before it runs.
    @jax.jit
    def evaluate(params, stats, memory, batch, key):
        if method.prepare is not None:
            batch = method.prepare(batch, memory, context, key)
        evaluation, gradient = value_and_grad(params, stats, batch, memory, key)
        own: dict[str, Any] = {"steps": (1.0, 1.0)}
        if evaluation.value is not None:
            seen = batch["valid"].sum().astype(jnp.float32)
            own |= {"examples": (seen, 1.0), "loss": (evaluation.value * seen, seen)}
        metrics = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), {**own, **evaluation.metrics})
        return gradient, evaluation, metrics, batch if method.step is not None else ()

    def take_step(carry, inputs):
        params, stats, opt_state, memory, step, totals = carry
        *places, rate = inputs
        here = context._replace(rate=rate)
        key = jax.random.fold_in(context.key, step)
        gradient, evaluation, metrics, batch = evaluate(params, stats, memory, batches.take(*places), key)
        if method.correct is not None:
            gradient = method.correct(gradient, params, memory, here)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        if rate is not None:
            updates = jax.tree.map(lambda u: (u * rate).astype(u.dtype), updates)
        params = optax.apply_updates(params, updates)
        if method.step is not None:
            memory = method.step(memory, params, batch, evaluation, here, key)
        totals = jax.tree.map(jnp.add, totals, metrics)
        return params, evaluation.stats, opt_state, memory, step + 1, totals

    def body(carry, inputs):
        if method.every_step:
            return take_step(carry, inputs), None
        return jax.lax.cond(inputs[1].any(), take_step, lambda carry, inputs: carry, carry, inputs), None

    params, stats, _, memory = start
    inputs = batches.index, valid, rates
    first = jax.tree.map(lambda x: x[0], inputs)
    shapes = jax.eval_shape(evaluate, params, stats, memory, batches.take(*first[:2]), context.key)[2]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    carry = (*start, jnp.int32(0), zeros)
    if valid.shape[0] == 1:
        # Without a loop, clients at once share the weights they start from: one product serves them all.
        new = take_step(carry, first)
        carry = new if method.every_step else select(valid.any(), new, carry)
    else:
        carry, _ = jax.lax.scan(body, vary_with(valid.any(), carry), inputs)
    *end, _, totals = carry
    for name in ("steps", "examples"):
        if name in totals:
            totals[name] = (totals[name][0], jnp.ones_like(totals[name][1]))
    return tuple(end), totals


def partial_training(
    loss: Callable, optimizer: optax.GradientTransformation, trained: PyTree
) -> ClientUpdate:
    """`local_training` of some leaves with all others kept as received, statistics included.

    The optimizer sees the trained parameters alone, so that it neither decays the others nor counts them in a
    norm.

    Args:
      loss: as in `local_training`.
      optimizer: the local optimizer, started afresh each round.
      trained: `Variables` of bools, or a prefix: True leaves are trained.
    """

    def mask(params):
        return expand_mask(getattr(trained, "params", trained), params)

    def fixed(params):
        return jax.tree.map(lambda own: not own, mask(params))

    def restore(result, memory, context):
        own = expand_mask(trained, context.received)
        variables = jax.tree.map(
            lambda own, new, old: new if own else old, own, result.variables, context.received
        )
        delta = difference(variables, context.received)
        return result._replace(variables=variables, delta=delta), Message(), memory

    optimizer = optax.chain(optax.masked(optimizer, mask), optax.masked(optax.set_to_zero(), fixed))
    return local_training(loss, optimizer, Method(finish=restore))


def sum_over_examples(function: Callable[[Batch], Any], batches: Batches) -> Any:
    """Sums ``function(batch)`` over one pass through a client's examples, each visited once.

    Batches are as large as those of the client's steps; the last may be partly padding
    (``batch["valid"]``).

    Args:
      function: ``function(batch) -> pytree`` of sums over the valid examples of a batch.
      batches: the client's.
    """
    size, examples = batches.index.shape[1], batches.present.shape[0]
    steps = -(-examples // size)
    padding = (0, steps * size - examples)
    index = jnp.pad(jnp.arange(examples), padding).reshape(steps, size)
    valid = jnp.pad(batches.present, padding).reshape(steps, size)

    def body(total, places):
        return jax.tree.map(jnp.add, total, function(batches.take(*places))), None

    first = batches.take(index[0], valid[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, first))
    return jax.lax.scan(body, vary_with(valid.any(), zeros), (index, valid))[0]


def mean_loss(context: LocalContext, variables: Variables) -> jax.Array:
    """A client's loss over all its examples, float32 (): the mean of those of batches, by valid examples."""
    variables = context.complete(variables)

    def one(batch):
        seen = batch["valid"].sum().astype(jnp.float32)
        return jnp.where(seen > 0, context.loss(*variables, batch, context.key)[0] * seen, 0)

    return sum_over_examples(one, context.batches) / jnp.maximum(context.batches.count, 1)


def mean_gradient(context: LocalContext, variables: Variables) -> PyTree:
    """The gradient of `mean_loss` in the parameters."""

    def value(params, batch):
        full = context.complete(Variables(params, variables.stats))
        return context.loss(*full, batch, context.key)[0]

    def one(batch):
        seen = batch["valid"].sum().astype(jnp.float32)
        gradient = jax.grad(value)(variables.params, batch)
        return jax.tree.map(lambda g: jnp.where(seen > 0, g * seen, 0).astype(g.dtype), gradient)

    total = sum_over_examples(one, context.batches)
    return jax.tree.map(lambda g: (g / jnp.maximum(context.batches.count, 1)).astype(g.dtype), total)
