"""InfoNCE with several positives, banks of representations, and momentum encoders."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.types import Batch, PyTree


class Contrast(NamedTuple):
    """What contrastive pre-training gives a method: two views of examples, and what a network says of them.

    Attributes:
      views: ``views(batch, key) -> (first, second)``, two batches of the same examples; no label is read.
      train: ``train(params, stats, batch, key) -> (features, stats)``, features (examples, features).
      evaluate: ``evaluate(params, stats, batch) -> features``.
      features: their number.
    """

    views: Callable[[Batch, jax.Array], tuple[Batch, Batch]]
    train: Callable[[PyTree, PyTree, Batch, jax.Array], tuple[jax.Array, PyTree]]
    evaluate: Callable[[PyTree, PyTree, Batch], jax.Array]
    features: int


class Bank(NamedTuple):
    """The last representations, first in first out.

    Attributes:
      features: (size, features).
      tags: int32 (size,), what they are of (a partition, a client, a class); -1 where there is none yet.
      place: int32 (), where the next one goes.
    """

    features: jax.Array
    tags: jax.Array
    place: jax.Array


def empty_bank(size: int, features: int) -> Bank:
    """A bank without a representation.

    Raises:
      ValueError: a size is not positive.
    """
    for name, value in (("size", size), ("features", features)):
        if value < 1:
            raise ArgumentError(name, "a positive integer", value)
    return Bank(jnp.zeros((size, features)), jnp.full(size, -1, jnp.int32), jnp.int32(0))


def pushed(bank: Bank, features: jax.Array, tags: jax.Array, valid: jax.Array) -> Bank:
    """The bank after the valid ones were put in, the oldest taken out; of more than its size the last stay.

    Args:
      features: (count, features).
      tags: int32 (count,), not negative.
      valid: bool (count,).
    """
    size = len(bank.tags)
    order = jnp.cumsum(valid) - 1
    total = valid.sum(dtype=jnp.int32)
    # Beyond the end, which is dropped: padding, and what would be overwritten at once.
    kept = valid & (order >= total - size)
    where = jnp.where(kept, (bank.place + order) % size, size)
    return Bank(
        bank.features.at[where].set(features, mode="drop"),
        bank.tags.at[where].set(tags, mode="drop"),
        (bank.place + total) % size,
    )


def info_nce(
    queries: jax.Array,
    keys: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    temperature: float = 0.2,
) -> jax.Array:
    """InfoNCE of every query, the mean over its positives.

    ``-(1 / |P|) sum_(p in P) log(e^(q.p / T) / (e^(q.p / T) + sum_(n in N) e^(q.n / T)))``, of unit vectors
    (van den Oord et al. 2018, arXiv:1807.03748; several positives as in Khosla et al. 2020,
    arXiv:2004.11362).

    Args:
      queries: (queries, features), normalized here.
      keys: (keys, features), normalized here.
      positive: bool (queries, keys), P of each query.
      negative: bool (queries, keys), N of each query; a positive that is in it counts once in the sum.
      temperature: T.

    Returns:
      (queries,): 0 where there is no positive, or no negative.

    Raises:
      ValueError: the temperature is not positive.
    """
    if not temperature > 0:
        raise ArgumentError("temperature", "a positive number", repr(temperature))
    similar = unit(queries) @ unit(keys).T / temperature
    others = jax.nn.logsumexp(jnp.where(negative, similar, -jnp.inf), axis=1, keepdims=True)
    each = jnp.logaddexp(similar, others) - similar
    # A positive that is a negative, too, would count twice.
    each = jnp.where(negative, others - similar, each)
    counted = positive & negative.any(1, keepdims=True)
    return jnp.where(counted, each, 0).sum(1) / jnp.maximum(positive.sum(1), 1)


def momentum(slow: PyTree, fast: PyTree, rate: float) -> PyTree:
    """``rate slow + (1 - rate) fast``, leaf by leaf (He et al. 2020, arXiv:1911.05722).

    Raises:
      ValueError: the rate is not in [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ArgumentError("rate", "a number in [0, 1]", repr(rate))
    return jax.tree.map(lambda s, f: (rate * s + (1 - rate) * f).astype(s.dtype), slow, fast)


def unit(x: jax.Array) -> jax.Array:
    """x of length 1 along the last axis; zeros stay."""
    return x / jnp.sqrt(jnp.maximum((x**2).sum(-1, keepdims=True), 1e-12))
