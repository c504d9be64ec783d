"""Batching: the examples of each of a client's steps.

Each function here returns ``batching(valid, key) -> (index, mask)``: ``valid`` (examples,) bool, ``index``
int32 and ``mask`` bool, both (steps, batch). The order depends on the key and on the valid examples only, not
on how much padding stands between or behind them, so a padded client walks through its data exactly as the
unpadded one.
"""

import math
from collections.abc import Callable, Mapping

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


def balls_in_bins(expected_batch_size: float, padded_batch_size: int, steps: int) -> Batching:
    """Balls in bins: every valid example is in one random step of each pass of ``ceil(n / expected)`` steps.

    The last pass may be cut off. If a step has more than ``padded_batch_size``, a uniformly random subset of
    that size is kept; a step may come out empty.

    Raises:
      ValueError: if an argument is not positive.
    """
    _check_positive(padded_batch_size=padded_batch_size, steps=steps)
    if not expected_batch_size > 0:
        raise ArgumentError("expected_batch_size", "a positive number", repr(expected_batch_size))

    def batching(valid, key):
        bins = jnp.maximum(jnp.ceil(valid.sum() / expected_batch_size), 1).astype(jnp.int32)
        size = min(padded_batch_size, valid.shape[0])
        padding = (0, padded_batch_size - size)

        def places(step):
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
                jax.random.fold_in(key, step // bins), _rank(valid)
            )
            draw = jax.vmap(jax.random.uniform)(keys) * bins
            taken = valid & (jnp.floor(draw) == step % bins)
            # Given the bin, what is left of the draw is uniform: the smallest are a random subset.
            order = jnp.argsort(jnp.where(taken, draw, jnp.inf))[:size].astype(jnp.int32)
            return jnp.pad(order, padding), jnp.pad(taken[order], padding)

        return jax.lax.map(places, jnp.arange(steps))

    return batching


def repeated_passes(batch_size: int, epochs: int) -> Batching:
    """Passes over the valid examples in one order, the same in every pass and every round.

    Two visits of an example are ``ceil(n / batch_size)`` steps apart, exactly.

    Raises:
      ValueError: if an argument is not a positive integer.
    """
    once = shuffled_epochs(batch_size, 1)
    _check_positive(epochs=epochs)

    def batching(valid, key):
        del key
        index, mask = once(valid, jax.random.key(0))
        return jnp.tile(index, (epochs, 1)), jnp.tile(mask, (epochs, 1))

    return batching


def patients_of(examples: Mapping[str, jax.Array], valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Number of each example's patient among the client's, int32 (examples,), and of all of them, int32 ().

    Patients are told apart by ``examples["volume"]``; without it every example is one. Of no meaning where
    invalid.
    """
    if "volume" not in examples:
        return _rank(valid), valid.sum()
    ids = examples["volume"]
    order = jnp.lexsort((ids, ~valid))
    before = jnp.roll(order, 1)
    new = valid[order] & ((ids[order] != ids[before]) | (jnp.arange(len(ids)) == 0))
    number = jnp.zeros_like(order).at[order].set(jnp.cumsum(new) - 1)
    return number.astype(jnp.int32), new.sum()


def by_patient(batching: Batching, units: int, images: int) -> Callable:
    """Batches of whole patients, ``batching(examples, valid, key) -> (index, mask)``.

    Args:
      batching: draws patients instead of examples.
      units: most patients of a client; 0 is the number of examples.
      images: most examples of a patient.

    Returns:
      A function whose ``index`` and ``mask`` are (steps, batch * images): of each patient ``images`` places.
    """

    def spread(examples, valid, key):
        most = units or valid.shape[0]
        number, count = patients_of(examples, valid)
        number = jnp.where(valid, number, most)
        order = jnp.argsort(number, stable=True).astype(jnp.int32)
        owned = jnp.bincount(number, length=most + 1)[:most]
        # Empty places hold the patient's own last image: what is not finite reaches nobody else.
        places = (jnp.cumsum(owned) - owned)[:, None] + jnp.minimum(jnp.arange(images), owned[:, None] - 1)
        table = order[jnp.clip(places, 0, valid.shape[0] - 1)]
        filled = jnp.arange(images) < owned[:, None]
        chosen, mask = batching(jnp.arange(most) < count, key)
        index, mask = table[chosen], filled[chosen] & mask[..., None]
        return index.reshape(len(index), -1), mask.reshape(len(mask), -1)

    return spread
