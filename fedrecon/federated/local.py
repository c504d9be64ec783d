"""Local training of a client, by any optax optimiser, with the places where methods step in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.federated.algorithm import Batches, ClientResult, ClientUpdate
from fedrecon.federated.trees import expand_mask, select, vary_with
from fedrecon.types import Batch, PyTree, Variables


def difference(new: Variables, old: Variables) -> Variables:
    """Leafwise ``new - old``."""
    return jax.tree.map(jnp.subtract, new, old)


class Surroundings(NamedTuple):
    """What a method may know at a client; constant during one round's steps.

    Attributes:
      received: Variables the client started the round from.
      broadcast: what the server sent besides them.
      state: the method's own state at this client.
      batches: the client's `Batches`.
      key: typed PRNG key of the client's round; steps use keys folded from it.
    """

    received: Variables
    broadcast: PyTree
    state: PyTree
    batches: Batches
    key: jax.Array


class LocalState(NamedTuple):
    """State of `local_sgd` at a client between rounds: the method's own, and the optimiser's if kept."""

    method: PyTree = ()
    optimizer: PyTree = ()


def local_sgd(
    loss,
    optimizer: optax.GradientTransformation,
    *,
    keep_optimizer: bool = False,
    init: Callable[[Variables], PyTree] | None = None,
    penalty: Callable[[PyTree, PyTree, Batch, jax.Array, Surroundings], jax.Array] | None = None,
    correct: Callable[[PyTree, PyTree, Surroundings], PyTree] | None = None,
    finish: Callable[[ClientResult, jax.Array, Surroundings], ClientResult] | None = None,
) -> ClientUpdate:
    """One gradient step of ``loss`` per batch (FedAvg's client, McMahan et al. 2017).

    Steps without a valid example are skipped: they change neither parameters, nor statistics, nor any part of
    the optimiser's state. The key of a step is folded from the number of real steps before it, so padding
    does not shift it. The result's weight is the client's number of valid examples. Under a schedule, the
    optimiser's updates are multiplied by its rate.

    Metrics are the task's, summed over real steps, and
      loss: (sum over steps of mean loss times valid examples, examples seen), unless the task reports a
        "loss"; without the penalty;
      steps: (real steps, 1); examples: (examples seen, counting repeats, 1).

    Args:
      loss: ``loss(params, stats, batch, key) -> (scalar, (stats, metrics))`` as in `fedrecon.types.Task`.
      optimizer: the local optimiser.
      keep_optimizer: the optimiser's state stays at the client between rounds; otherwise each round starts
        afresh, as federated averaging is usually defined.
      init: ``init(variables)``: the method's own state before the first round, which `Surroundings` then
        carries; none by default.
      penalty: ``penalty(params, stats, batch, key, surroundings) -> scalar``, added to the loss of each step.
      correct: ``correct(gradient, params, surroundings) -> gradient``, before the optimiser.
      finish: ``finish(result, steps, surroundings) -> result`` after the last step, where a method sets its
        message and its new state (``result.client_state.method``); ``steps`` is float32 (), the sum over real
        steps of the schedule's rate, their number without a schedule.
    """

    def full_init(variables):
        return LocalState(
            init(variables) if init else (), optimizer.init(variables.params) if keep_optimizer else ()
        )

    def update(variables, broadcast, client_state, batches, valid, key):
        around = Surroundings(variables, broadcast, client_state.method, batches, key)
        start = client_state.optimizer if keep_optimizer else optimizer.init(variables.params)

        def penalised(params, stats, batch, step_key):
            value, aux = loss(params, stats, batch, step_key)
            total = value + penalty(params, stats, batch, step_key, around) if penalty else value
            return total, (value, *aux)

        grad = jax.value_and_grad(penalised, has_aux=True)

        # Traced once, though it is looked at for its shapes before it runs.
        @jax.jit
        def step_metrics(params, stats, batch, step_key):
            (_, (value, stats, metrics)), gradient = grad(params, stats, batch, step_key)
            seen = batch["valid"].sum().astype(jnp.float32)
            own = {"steps": (1.0, 1.0), "examples": (seen, 1.0), "loss": (value * seen, seen)}
            metrics = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), {**own, **metrics})
            return gradient, stats, metrics

        def take_step(carry, places):
            params, stats, opt_state, step, totals = carry
            batch = batches.take(*places)
            gradient, stats, metrics = step_metrics(params, stats, batch, jax.random.fold_in(key, step))
            if correct is not None:
                gradient = correct(gradient, params, around)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            if batches.rate is not None:
                updates = jax.tree.map(lambda u: (u * batches.rate).astype(u.dtype), updates)
            params = optax.apply_updates(params, updates)
            return params, stats, opt_state, step + 1, jax.tree.map(jnp.add, totals, metrics)

        def body(carry, places):
            return jax.lax.cond(places[1].any(), take_step, lambda carry, places: carry, carry, places), None

        first = batches.index[0], valid[0]
        shapes = jax.eval_shape(step_metrics, *variables, batches.take(*first), key)[2]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        carry = (*variables, start, jnp.int32(0), zeros)
        if valid.shape[0] == 1:
            # Without a loop, clients at once share the weights they start from: one product serves them all.
            carry = select(valid.any(), take_step(carry, first), carry)
        else:
            carry, _ = jax.lax.scan(body, vary_with(valid.any(), carry), (batches.index, valid))
        params, stats, opt_state, taken, totals = carry

        for name in ("steps", "examples"):
            totals[name] = (totals[name][0], jnp.ones_like(totals[name][1]))
        trained = Variables(params, stats)
        result = ClientResult(
            delta=difference(trained, variables),
            weight=batches.count.astype(jnp.float32),
            client_state=LocalState(client_state.method, opt_state if keep_optimizer else ()),
            message=(),
            metrics=totals,
            variables=trained,
        )
        steps = taken.astype(jnp.float32)
        steps = steps if batches.rate is None else steps * batches.rate
        return result if finish is None else finish(result, steps, around)

    return ClientUpdate(full_init, update)


def partial_sgd(loss, optimizer: optax.GradientTransformation, trained: PyTree) -> ClientUpdate:
    """`local_sgd` of some leaves with all others frozen, statistics included.

    The optimiser sees the trained parameters alone, so that it neither decays frozen ones nor counts them in
    a norm.

    Args:
      loss: as in `local_sgd`.
      optimizer: the local optimiser, started afresh each round.
      trained: `Variables` of bools, or a prefix: True leaves are trained.
    """

    def mask(params):
        return expand_mask(getattr(trained, "params", trained), params)

    def frozen(params):
        return jax.tree.map(lambda own: not own, mask(params))

    optimizer = optax.chain(optax.masked(optimizer, mask), optax.masked(optax.set_to_zero(), frozen))

    def finish(result, steps, around):
        own = expand_mask(trained, around.received)
        variables = jax.tree.map(
            lambda own, new, old: new if own else old, own, result.variables, around.received
        )
        return result._replace(variables=variables, delta=difference(variables, around.received))

    return local_sgd(loss, optimizer, finish=finish)


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


def mean_loss(loss, variables: Variables, batches: Batches, key: jax.Array) -> jax.Array:
    """A client's loss over all its examples, float32 (): the mean of those of batches, by valid examples."""

    def one(batch):
        seen = batch["valid"].sum().astype(jnp.float32)
        return jnp.where(seen > 0, loss(*variables, batch, key)[0] * seen, 0)

    return sum_over_examples(one, batches) / jnp.maximum(batches.count, 1)


def mean_gradient(loss, variables: Variables, batches: Batches, key: jax.Array) -> PyTree:
    """The gradient of `mean_loss` in the parameters."""

    def one(batch):
        seen = batch["valid"].sum().astype(jnp.float32)
        gradient = jax.grad(lambda params: loss(params, variables.stats, batch, key)[0])(variables.params)
        return jax.tree.map(lambda g: jnp.where(seen > 0, g * seen, 0).astype(g.dtype), gradient)

    total = sum_over_examples(one, batches)
    return jax.tree.map(lambda g: (g / jnp.maximum(batches.count, 1)).astype(g.dtype), total)
