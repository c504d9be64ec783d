"""Robust reducers: they see every client's update, and are therefore no part of secure aggregation.

Each is a `Reducer` for the ``reduce`` of an algorithm. They ignore the sizes of clients, except for the
geometric median. What they return is the reduced update with weight 1. What comes with the update is reduced
in the same way: coordinate by coordinate where the update is (`median`, `trimmed_mean`, `bulyan`), from the
same clients where clients are chosen or weighed (`krum`, `geometric_median`); ``summed`` messages are given
back as that mean times the number of included clients. Where clients are chosen or weighed (`bulyan`, too)
their updates alone decide; those with a kind of message of more than ten times the median length are left out
before, and flagged. Of a group of leaves with weights of its own, `median` and `trimmed_mean` see only the
clients that have a weight in it; the others take their changes as 0. `fedrecon.federated.clip` bounds norms
beforehand.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.messages import Message, Reducer, Reduction, Upload, stateless
from fedrecon.federated.trees import along
from fedrecon.types import PyTree

# Messages of honest clients differ in length, if less than updates do.
_LONGEST = 10.0


def median() -> Reducer:
    """The coordinate-wise median (Yin et al. 2018)."""
    return _elementwise(lambda x, count: _between(x, (count - 1) // 2, count // 2))


def trimmed_mean(fraction: float) -> Reducer:
    """The mean of each coordinate without its ``floor(fraction n)`` lowest and highest (Yin et al. 2018).

    Args:
      fraction: in [0, 1/2); 0 is the plain mean of the n included clients.

    Raises:
      ValueError: if ``fraction`` is out of range.
    """
    if not 0 <= fraction < 0.5:
        raise ArgumentError("fraction", "a number in [0, 0.5)", repr(fraction))

    def reduce(x, count):
        # Rounding must not lift a product such as 0.29 * 100 below the integer it is meant to be.
        cut = jnp.floor(fraction * count + 1e-4).astype(jnp.int32)
        return _between(x, cut, count - 1 - cut)

    return _elementwise(reduce)


def krum(byzantine: int, keep: int = 1) -> Reducer:
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

    def reduce(uploads, included, arrived):
        sent = unweighted(uploads, included)
        order = _krum_order(sent.delta, included, byzantine)
        chosen = jnp.zeros_like(included).at[order[:keep]].set(True)
        enough = (arrived.sum() >= 2 * byzantine + 3) & (included.sum() >= keep)
        return result_of(_mean(sent, chosen & included), included, enough)

    return _screened(reduce)


def bulyan(byzantine: int) -> Reducer:
    """Bulyan (El Mhamdi et al. 2018): Krum chooses, then each coordinate is averaged near its median.

    ``n - 2 f`` updates are selected one by one by Krum; of each coordinate the ``n - 4 f`` values nearest to
    the median of the selected ones are averaged. With n < 4 f + 3 included clients the round is not applied.

    Raises:
      ValueError: if ``byzantine`` is negative.
    """
    _check_numbers(byzantine, 1)

    def reduce(uploads, included, arrived):
        sent = unweighted(uploads, included)
        count = included.sum()

        def select(number, chosen):
            best = _krum_order(sent.delta, included & ~chosen, byzantine)[0]
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

        return result_of(jax.tree.map(coordinate, sent), included, arrived.sum() >= 4 * byzantine + 3)

    return _screened(reduce)


def geometric_median(iterations: int = 100, floor: float = 1e-5, tolerance: float = 1e-6) -> Reducer:
    """RFA (Pillutla, Kakade and Harchaoui 2022): smoothed Weiszfeld steps from the weighted mean.

    Minimizes ``sum_i p_i ||v - update_i||``, p_i the clients' weights, until the objective changes by less
    than ``tolerance`` relatively, or ``iterations`` are done. Few iterations suffice for mild corruption
    only.

    Raises:
      ValueError: if an argument is not positive.
    """
    for name, value in (("iterations", iterations), ("floor", floor), ("tolerance", tolerance)):
        if not value > 0:
            raise ArgumentError(name, "a positive number", repr(value))

    def reduce(uploads, included, arrived):
        sent = unweighted(uploads, included)
        updates = sent.delta
        weight = jnp.where(included, largest_of_each(uploads.weight), 0)
        weight = weight / jnp.maximum(weight.sum(), 1e-30)

        def distances(v):
            squared = [
                ((x - m[None]) ** 2).reshape(len(x), -1).sum(1)
                for x, m in zip(jax.tree.leaves(updates), jax.tree.leaves(v), strict=True)
            ]
            return jnp.sqrt(sum(squared))

        def average(beta, tree=updates):
            beta = beta / jnp.maximum(beta.sum(), 1e-30)
            return jax.tree.map(lambda x: jnp.tensordot(beta.astype(x.dtype), x, 1), tree)

        def objective(v):
            return (weight * distances(v)).sum()

        def unfinished(carry):
            number, *_, before, now = carry
            return (number < iterations) & (jnp.abs(before - now) > tolerance * jnp.abs(now))

        def step(carry):
            number, beta, v, _, now = carry
            beta = weight / jnp.maximum(distances(v), floor)
            v = average(beta)
            return number + 1, beta, v, now, objective(v)

        first = average(weight)
        value = objective(first)
        start = (jnp.int32(0), weight, first, jnp.full_like(value, jnp.inf), value)
        _, beta, v, *_ = jax.lax.while_loop(unfinished, step, start)
        reduced = sent._replace(delta=v, message=average(beta, sent.message))
        return result_of(reduced, included, included.any())

    return _screened(reduce)


def _check_numbers(byzantine: Any, keep: Any) -> None:
    if not isinstance(byzantine, int) or byzantine < 0:
        raise ArgumentError("byzantine", "an integer of at least 0", repr(byzantine))
    if not isinstance(keep, int) or keep < 1:
        raise ArgumentError("keep", "an integer of at least 1", repr(keep))


def largest_of_each(weight: PyTree) -> jax.Array:
    """(clients,): the largest weight of each client, of leaves (clients,)."""
    return jnp.stack(jax.tree.leaves(weight)).max(0)


def unweighted(uploads: Upload, included: jax.Array) -> Upload:
    """What the included clients sent, without their weights, leaves (clients, ...); zero for all others."""

    def remove(weight, tree):
        safe = jnp.where(included & (weight > 0), weight, 1)
        return jax.tree.map(
            lambda x: jnp.where(along(included, x), x / along(safe, x), 0).astype(x.dtype), tree
        )

    one = jnp.ones(included.shape, jnp.float32)
    return Upload(
        jax.tree.map(remove, uploads.weight, uploads.delta),
        Message(
            remove(one, uploads.message.summed),
            remove(largest_of_each(uploads.weight), uploads.message.scalars),
        ),
        one,
    )


def lengths(tree: PyTree) -> jax.Array:
    """(clients,): l2 norms of leaves (clients, ...)."""
    return jax.vmap(optax.tree.norm)(tree)


def lower_median(values: jax.Array, chosen: jax.Array) -> jax.Array:
    """Of the chosen values (clients,), the lower of the two middle ones; inf where none is chosen."""
    ordered = jnp.sort(jnp.where(chosen, values, jnp.inf))
    return ordered[jnp.maximum(chosen.sum() - 1, 0) // 2]


def kinds_of_messages(message: Message) -> list[PyTree]:
    """Those that there are, added or averaged over clients."""
    return [kind for kind in (message.summed, message.scalars) if jax.tree.leaves(kind)]


def _screened(reduce: Callable[[Upload, jax.Array, jax.Array], Upload]) -> Reducer:
    """A reducer that leaves out who sends messages that explode.

    Args:
      reduce: of (uploads, included, arrived), the last before somebody was left out.
    """

    def run(uploads, included, state, context):
        passed = included
        for sizes in map(lengths, kinds_of_messages(unweighted(uploads, included).message)):
            passed &= ~(sizes > _LONGEST * lower_median(sizes, included & (sizes > 0)))
        return Reduction(reduce(uploads, passed, included), state, included & ~passed)

    return Reducer(lambda upload: (), run)


def _mean(tree: PyTree, chosen: jax.Array) -> PyTree:
    count = jnp.maximum(chosen.sum(), 1)
    return jax.tree.map(lambda x: (jnp.where(along(chosen, x), x, 0).sum(0) / count).astype(x.dtype), tree)


def result_of(reduced: Upload, included: jax.Array, enough: jax.Array) -> Upload:
    """The reduced update of one client, as the sum that the server divides by its weight."""
    count = included.sum()
    summed = jax.tree.map(lambda x: (x * count).astype(x.dtype), reduced.message.summed)
    weight = jnp.where(enough & included.any(), 1, 0).astype(jnp.float32)
    return Upload(reduced.delta, reduced.message._replace(summed=summed), weight)


def _between(ordered: jax.Array, first: jax.Array, last: jax.Array) -> jax.Array:
    """Mean of the entries first..last, inclusive, of axis 0."""
    place = along(jnp.arange(len(ordered)), ordered)
    inside = (place >= first) & (place <= last)
    return jnp.where(inside, ordered, 0).sum(0) / jnp.maximum(last - first + 1, 1)


def _elementwise(reduce_sorted: Callable[[jax.Array, jax.Array], jax.Array]) -> Reducer:
    def reduce(uploads, included):
        def coordinates(included, tree):
            def one(x):
                ordered = jnp.sort(jnp.where(along(included, x), x, jnp.inf), axis=0)
                reduced = reduce_sorted(ordered, included.sum()).astype(x.dtype)
                return jnp.where(included.any(), reduced, 0)

            return jax.tree.map(one, tree)

        sent = unweighted(uploads, included)
        delta = jax.tree.map(
            lambda w, tree: coordinates(included & (w > 0), tree), uploads.weight, sent.delta
        )
        reduced = sent._replace(delta=delta, message=coordinates(included, sent.message))
        return result_of(reduced, included, included.any())

    return stateless(reduce)


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
