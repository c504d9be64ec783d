"""Parameters that a client mixes of the received model and its own, by weights that it learns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.federated.algorithm import Batches, ClientUpdate
from fedrecon.federated.keys import random_order
from fedrecon.federated.local import LocalState
from fedrecon.federated.trees import expand_mask, fill, packed, vary_with
from fedrecon.types import PyTree, Variables

# Losses that must have settled before the first aggregation ends.
_WINDOW = 10


class Aggregating(NamedTuple):
    """What stays at a client: `LocalState`, parameters as it sent them, W (None in lower layers), rounds."""

    method: PyTree
    optimizer: PyTree
    model: PyTree
    weights: PyTree
    rounds: jax.Array


def aggregated(weights: PyTree, own: PyTree, received: PyTree) -> PyTree:
    """``own + (received - own) W`` with W in [0, 1], exactly the received leaf where W is 1 or None."""

    def one(w, mine, given):
        return given if w is None else (given + (1 - w) * (mine - given)).astype(given.dtype)

    return jax.tree.map(one, weights, own, received, is_leaf=lambda x: x is None)


def sample(batches: Batches, part: float, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Places and their mask, (steps, batch): ``ceil(part n)`` of a client's n examples, in random order."""
    size, most = batches.index.shape[1], len(batches.present)
    order = random_order(key, jnp.arange(most), last=~batches.present)
    count = jnp.ceil(part * batches.count - 1e-3).astype(jnp.int32)
    order = jnp.pad(order, (0, -most % size))
    return order.reshape(-1, size), (jnp.arange(len(order)) < count).reshape(-1, size)


def learned(
    objective: Callable, state: Aggregating, batches: Batches, key: jax.Array, *, part: float, rate: float,
    threshold: float, passes: int,
) -> PyTree:  # fmt: skip
    """W of a round, by descent of ``objective(W, batch) -> float32 ()``; see `fedala` for the arguments.

    A client's first round takes no pass; its second goes on, up to ``passes``, until the last ten passes'
    mean losses have a standard deviation below ``threshold``; any other takes one.
    """
    places = sample(batches, part, key)

    def step(carry, inputs):
        weights, total, seen = carry
        batch = batches.take(*inputs)
        value, slope = jax.value_and_grad(objective)(weights, batch)
        count = batch["valid"].sum().astype(jnp.float32)

        def one(w, g):
            return jnp.where(count > 0, jnp.clip(w - rate * g, 0, 1), w).astype(w.dtype)

        value = jnp.where(count > 0, value * count, 0)
        return (jax.tree.map(one, weights, slope), total + value, seen + count), None

    def goes_on(carry):
        _, losses, number = carry
        settled = (number > _WINDOW) & (jnp.std(losses) < threshold)
        limit = jnp.where(state.rounds == 0, 0, jnp.where(state.rounds == 1, passes, 1))
        return (number < limit) & ~settled

    def one_pass(carry):
        weights, losses, number = carry
        zero = jnp.zeros_like(losses[0])
        (weights, total, seen), _ = jax.lax.scan(step, (weights, zero, zero), places)
        return weights, jnp.roll(losses, 1).at[0].set(total / jnp.maximum(seen, 1)), number + 1

    start = (state.weights, jnp.zeros(_WINDOW), jnp.int32(0))
    return jax.lax.while_loop(goes_on, one_pass, vary_with(batches.present.any(), start))[0]


def aggregating(inner: ClientUpdate, loss: Callable, head: PyTree, **options: Any) -> ClientUpdate:
    """The client update that starts from `aggregated` parameters; ``options`` of `learned`."""

    def init(variables):
        upper = expand_mask(getattr(head, "params", head), variables.params)
        weights = jax.tree.map(lambda up, x: jnp.ones_like(x) if up else None, upper, variables.params)
        model = jax.tree.map(jnp.asarray, variables.params)
        return Aggregating(*inner.init(variables), model, weights, jnp.int32(0))

    def update(variables, broadcast, state, batches, valid, key):
        key_here = jax.random.fold_in(key, 62)

        def objective(weights, batch):
            params = aggregated(weights, state.model, variables.params)
            return loss(*fill(Variables(params, variables.stats), batches.frozen), batch, key_here)[0]

        weights = learned(objective, state, batches, key_here, **options)
        start = variables._replace(params=aggregated(weights, state.model, variables.params))
        own = LocalState(state.method, state.optimizer)
        result = inner.update(start, broadcast, own, batches, valid, key)
        # What is sent is the change of the received model.
        moved = packed(lambda d, new, old: d + (new - old), result.delta, start, variables)
        kept = Aggregating(*result.client_state, result.variables.params, weights, state.rounds + 1)
        return result._replace(delta=moved, client_state=kept)

    return inner._replace(init=init, update=update)
