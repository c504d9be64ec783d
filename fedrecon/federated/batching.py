"""Batching: the examples of each of a client's steps.

Each function here returns ``batching(valid, key) -> (index, mask)``: ``valid`` (examples,) bool, ``index``
int32 and ``mask`` bool, both (steps, batch). The order depends on the key and on the valid examples only, not
on how much padding stands between or behind them, so a padded client walks through its data exactly as the
unpadded one.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.federated.keys import FEW, fold, random_order

Batching = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise ArgumentError(name, "an integer of at least 1", repr(value))


def _rank(valid: jax.Array) -> jax.Array:
    """Number of each example among the valid ones; of no meaning where invalid."""
    places = jnp.arange(valid.shape[0])
    if valid.shape[0] <= FEW:
        return (valid & (places < places[:, None])).sum(1, dtype=jnp.int32)
    return jnp.maximum(jnp.cumsum(valid) - 1, 0)


def _shuffle(valid: jax.Array, key: jax.Array) -> jax.Array:
    """(examples,) int32: the valid examples in random order, then the padding."""
    return random_order(key, _rank(valid), last=~valid)


def shuffled_epochs(batch_size: int, epochs: int) -> Batching:
    """Passes over the valid examples, each reshuffled; the last batch of a pass may be partly filled.

    There are ``epochs * ceil(examples / batch_size)`` steps, of which a client with n valid examples really
    takes ``epochs * ceil(n / batch_size)``.

    Raises:
      ValueError: if an argument is not a positive integer.
    """
    _check_positive(batch_size=batch_size, epochs=epochs)

    def batching(valid, key):
        steps = math.ceil(valid.shape[0] / batch_size)
        padding = (0, steps * batch_size - valid.shape[0])
        orders = jax.vmap(lambda key: _shuffle(valid, key))(fold(key, jnp.arange(epochs)))
        index = jnp.pad(orders, ((0, 0), padding)).reshape(-1, batch_size)
        # What is valid comes first in every pass.
        mask = jnp.tile(jnp.arange(steps * batch_size) < valid.sum(), epochs)
        return index, mask.reshape(-1, batch_size)

    return batching


def shuffled_steps(batch_size: int, steps: int) -> Batching:
    """The same number of steps for every client, through as many reshuffled passes as that takes.

    A batch never spans two passes, so the last of each may be partly filled. A client without examples takes
    no step.

    Raises:
      ValueError: if an argument is not a positive integer.
    """
    _check_positive(batch_size=batch_size, steps=steps)

    def batching(valid, key):
        count = valid.sum()
        per_epoch = jnp.maximum(-(-count // batch_size), 1)

        def places(step):
            order = _shuffle(valid, jax.random.fold_in(key, step // per_epoch))
            position = (step % per_epoch) * batch_size + jnp.arange(batch_size)
            return order[jnp.minimum(position, valid.shape[0] - 1)], position < count

        return jax.lax.map(places, jnp.arange(steps))

    return batching


def poisson_steps(expected_batch_size: float, padded_batch_size: int, steps: int) -> Batching:
    """Poisson sampling: each step takes every valid example independently with ``q = min(1, expected / n)``.

    If more than ``padded_batch_size`` are drawn, a uniformly random subset of that size is kept (truncated
    Poisson sampling, arXiv:2411.04205), which the accountant must know. A step may come out empty.

    Raises:
      ValueError: if an argument is not positive.
    """
    _check_positive(padded_batch_size=padded_batch_size, steps=steps)
    if not expected_batch_size > 0:
        raise ArgumentError("expected_batch_size", "a positive number", repr(expected_batch_size))

    def batching(valid, key):
        probability = expected_batch_size / jnp.maximum(valid.sum(), 1)
        size = min(padded_batch_size, valid.shape[0])
        padding = (0, padded_batch_size - size)

        def places(step):
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
                jax.random.fold_in(key, step), _rank(valid)
            )
            draw = jax.vmap(jax.random.uniform)(keys)
            draw = jnp.where(valid, draw, jnp.inf)
            # Given that they were drawn, the uniforms are exchangeable: the smallest are a random subset.
            order = jnp.argsort(draw)[:size].astype(jnp.int32)
            return jnp.pad(order, padding), jnp.pad(draw[order] < probability, padding)

        return jax.lax.map(places, jnp.arange(steps))

    return batching
