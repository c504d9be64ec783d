"""Robust reducers: they see every client's update, and are therefore no part of secure aggregation.

Each is for the ``reduce`` of an algorithm: ``reduce(uploads, included) -> Upload``, with leaves
(clients, ...) times weight and ``included`` (clients,) bool. They ignore the sizes of clients, but for the
geometric median. What they return is the reduced update with weight 1. Messages beside the update are
averaged plainly over the included clients. To bound norms beforehand use `fedrecon.federated.clip`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedrecon.federated.algorithm import Upload
from fedrecon.federated.trees import along
from fedrecon.types import PyTree

Reduce = Callable[[Upload, jax.Array], Upload]


def median() -> Reduce:
    """The coordinate-wise median (Yin et al. 2018)."""
    return _elementwise(lambda x, count: _between(x, (count - 1) // 2, count // 2))


def trimmed_mean(fraction: float) -> Reduce:
    """The mean of each coordinate without its ``floor(fraction n)`` lowest and highest (Yin et al. 2018).

    Args:
      fraction: in [0, 1/2); 0 is the plain mean of the n included clients.

    Raises:
      ValueError: if ``fraction`` is out of range.
    """
    if not 0 <= fraction < 0.5:
        raise ValueError(f"fraction: expected a number in [0, 0.5), found {fraction!r}")

    def reduce(x, count):
        # Rounding must not lift a product such as 0.29 * 100 below the integer it is meant to be.
        cut = jnp.floor(fraction * count + 1e-4).astype(jnp.int32)
        return _between(x, cut, count - 1 - cut)

    return _elementwise(reduce)


def krum(byzantine: int, keep: int = 1) -> Reduce:
    """Krum and Multi-Krum (Blanchard et al. 2017): the updates that lie closest to most others.

    The score of an update is the sum of its squared distances to its ``n - byzantine - 2`` nearest others.
    The mean of the ``keep`` updates of the lowest scores is taken; with one, it is that client's own update.
    With n < 2 ``byzantine`` + 3 included clients there is no guarantee: the round is then not applied.

    Args:
      byzantine: f, the number of malicious clients to withstand.
      keep: m, how many updates are averaged.

    Raises:
      ValueError: if ``byzantine`` is negative or ``keep`` not positive.
    """
    _check_numbers(byzantine, keep)

    def reduce(uploads, included):
        updates = unweighted(uploads, included)
        chosen = jnp.zeros_like(included).at[_krum_order(updates, included, byzantine)[:keep]].set(True)
        enough = included.sum() >= max(2 * byzantine + 3, keep)
        return _result(uploads, included, _mean(updates, chosen & included), enough)

    return reduce


def bulyan(byzantine: int) -> Reduce:
    """Bulyan (El Mhamdi et al. 2018): Krum chooses, then each coordinate is averaged near its median.

    ``n - 2 f`` updates are selected one by one by Krum; of each coordinate the ``n - 4 f`` values nearest to
    the median of the selected ones are averaged. With n < 4 f + 3 included clients the round is not applied.

    Raises:
      ValueError: if ``byzantine`` is negative.
    """
    _check_numbers(byzantine, 1)

    def reduce(uploads, included):
        updates = unweighted(uploads, included)
        count = included.sum()

        def select(number, chosen):
            best = _krum_order(updates, included & ~chosen, byzantine)[0]
            return chosen | ((jnp.arange(len(included)) == best) & (number < count - 2 * byzantine))

        blank = jnp.zeros_like(included)
        chosen = jax.lax.fori_loop(0, len(included), select, blank) & included
        near = jnp.maximum(count - 4 * byzantine, 1)

        def coordinate(x):
            x = jnp.where(along(chosen, x), x, jnp.inf)
            ordered = jnp.sort(x, axis=0)
            total = chosen.sum()
            middle = _between(ordered, (total - 1) // 2, total // 2)
            distance = jnp.where(jnp.isfinite(x), jnp.abs(x - middle), jnp.inf)
            rank = jnp.argsort(jnp.argsort(distance, axis=0), axis=0)
            return jnp.where(rank < near, jnp.where(jnp.isfinite(x), x, 0), 0).sum(0) / near

        return _result(uploads, included, jax.tree.map(coordinate, updates), count >= 4 * byzantine + 3)

    return reduce


def geometric_median(iterations: int = 100, floor: float = 1e-5, tolerance: float = 1e-6) -> Reduce:
    """RFA (Pillutla, Kakade and Harchaoui 2022): smoothed Weiszfeld steps from the weighted mean.

    Minimises ``sum_i p_i ||v - update_i||``, p_i the clients' weights, until the objective changes by less
    than ``tolerance`` relatively, or ``iterations`` are done. Few iterations suffice for mild corruption
    only.

    Raises:
      ValueError: if an argument is not positive.
    """
    for name, value in (("iterations", iterations), ("floor", floor), ("tolerance", tolerance)):
        if not value > 0:
            raise ValueError(f"{name}: expected a positive number, found {value!r}")

    def reduce(uploads, included):
        updates = unweighted(uploads, included)
        weight = jnp.where(included, uploads.weight, 0)
        weight = weight / jnp.maximum(weight.sum(), 1e-30)

        def distances(v):
            squared = [
                ((x - m[None]) ** 2).reshape(len(x), -1).sum(1)
                for x, m in zip(jax.tree.leaves(updates), jax.tree.leaves(v), strict=True)
            ]
            return jnp.sqrt(sum(squared))

        def average(beta):
            beta = beta / jnp.maximum(beta.sum(), 1e-30)
            return jax.tree.map(lambda x: jnp.tensordot(beta.astype(x.dtype), x, 1), updates)

        def objective(v):
            return (weight * distances(v)).sum()

        def unfinished(carry):
            number, _, before, now = carry
            return (number < iterations) & (jnp.abs(before - now) > tolerance * jnp.abs(now))

        def step(carry):
            number, v, _, now = carry
            v = average(weight / jnp.maximum(distances(v), floor))
            return number + 1, v, now, objective(v)

        first = average(weight)
        value = objective(first)
        start = (jnp.int32(0), first, jnp.full_like(value, jnp.inf), value)
        return _result(uploads, included, jax.lax.while_loop(unfinished, step, start)[1], included.any())

    return reduce


def _check_numbers(byzantine, keep) -> None:
    if not isinstance(byzantine, int) or byzantine < 0:
        raise ValueError(f"byzantine: expected an integer of at least 0, found {byzantine!r}")
    if not isinstance(keep, int) or keep < 1:
        raise ValueError(f"keep: expected an integer of at least 1, found {keep!r}")


def unweighted(uploads: Upload, included: jax.Array) -> PyTree:
    """The included clients' own changes, leaves (clients, ...), zero for all others."""
    weight = jnp.where(included, uploads.weight, 1)
    return jax.tree.map(
        lambda x: jnp.where(along(included, x), x / along(weight, x), 0).astype(x.dtype), uploads.delta
    )


def _mean(tree: PyTree, chosen: jax.Array) -> PyTree:
    count = jnp.maximum(chosen.sum(), 1)
    return jax.tree.map(lambda x: (jnp.where(along(chosen, x), x, 0).sum(0) / count).astype(x.dtype), tree)


def _result(uploads, included, delta, enough) -> Upload:
    message = _mean(unweighted(uploads._replace(delta=uploads.message), included), included)
    weight = jnp.where(enough & included.any(), 1, 0).astype(uploads.weight.dtype)
    return Upload(delta, message, weight)


def _between(ordered: jax.Array, first: jax.Array, last: jax.Array) -> jax.Array:
    """Mean of the entries first..last, inclusive, of axis 0."""
    place = along(jnp.arange(len(ordered)), ordered)
    inside = (place >= first) & (place <= last)
    return jnp.where(inside, ordered, 0).sum(0) / jnp.maximum(last - first + 1, 1)


def _elementwise(reduce_sorted) -> Reduce:
    def reduce(uploads, included):
        def coordinate(x):
            ordered = jnp.sort(jnp.where(along(included, x), x, jnp.inf), axis=0)
            return reduce_sorted(ordered, included.sum()).astype(x.dtype)

        delta = jax.tree.map(coordinate, unweighted(uploads, included))
        return _result(uploads, included, delta, included.any())

    return reduce


def _krum_order(updates: PyTree, included: jax.Array, byzantine: int) -> jax.Array:
    """Clients from the lowest to the highest score, those left out last."""
    clients = len(included)
    flat = [x.reshape(clients, -1) for x in jax.tree.leaves(updates)]
    # Differences, not products: nothing cancels when updates are nearly alike.
    squared = jax.lax.map(lambda i: sum(((x - x[i]) ** 2).sum(1) for x in flat), jnp.arange(clients))
    pairs = included[:, None] & included[None] & ~jnp.eye(clients, dtype=bool)
    ordered = jnp.sort(jnp.where(pairs, squared, jnp.inf), axis=1)
    near = jnp.arange(clients) < jnp.maximum(included.sum() - byzantine - 2, 1)
    finite = jnp.where(jnp.isfinite(ordered), ordered, 0)
    # With few clients left, the two nearest to each other have the same score: who is nearer to all wins.
    return jnp.lexsort((finite.sum(1), jnp.where(near, finite, 0).sum(1), ~included))
