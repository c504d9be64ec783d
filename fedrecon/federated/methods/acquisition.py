"""Images without a label that enter training by what the model says of them, and leave it again."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.federated.algorithm import Batches, ClientUpdate
from fedrecon.federated.local import LocalState
from fedrecon.federated.trees import fill
from fedrecon.types import Batch, Metrics, PyTree, Task, Variables

# Axes of images (..., ny, nx, channels) that the views mirror; both are half a turn.
VIEWS = ((), (-2,), (-3,), (-3, -2))


class Pool(NamedTuple):
    """Images that were admitted at a client, int32 (capacity,) each.

    Attributes:
      place: which example.
      label: the class that it counts as.
      until: the first round in which it is out again; 0 of a free slot.
    """

    place: jax.Array
    label: jax.Array
    until: jax.Array


class Device(NamedTuple):
    """What stays at a client: `LocalState` and the pool."""

    method: PyTree
    optimizer: PyTree
    pool: Pool


def admit(
    pool: Pool,
    probabilities: jax.Array,
    labels: jax.Array,
    labeled: jax.Array,
    candidates: jax.Array,
    number: jax.Array,
    *,
    threshold: float,
    expiry: int,
) -> Pool:
    """The pool of a round: who has expired is out, and the surest candidates are in while there is room.

    A candidate is admitted with the class y of the first view if all views agree on it, its probability is at
    least ``threshold``, and there are fewer examples of y, labeled or admitted, than twice those of the
    rarest class among the labeled ones. Labeled examples are never turned away.

    Args:
      pool: before the round.
      probabilities: float (views, examples, classes).
      labels: int (examples,), of which those of labeled examples are read.
      labeled: bool (examples,), with a label of a clinician.
      candidates: bool (examples,), without.
      number: int32 (), of the round.
      threshold: of probabilities.
      expiry: rounds that an image stays.
    """
    examples, classes = probabilities.shape[1:]
    live = pool.until > number
    inside = jnp.zeros(examples, bool).at[jnp.where(live, pool.place, examples)].set(True, mode="drop")
    guesses = probabilities.argmax(-1)
    guess, sure = guesses[0], probabilities[0].max(-1)
    wanted = candidates & ~inside & (guesses == guess).all(0) & (sure >= threshold)
    known = jnp.where(labeled, jax.nn.one_hot(labels, classes, axis=0), 0).sum(1)
    held = jnp.where(live, jax.nn.one_hot(pool.label, classes, axis=0), 0).sum(1)
    rarest = jnp.where(known > 0, known, jnp.inf).min()
    room = jnp.where(jnp.isfinite(rarest), 2 * rarest, 0) - known - held
    order = jnp.argsort(-jnp.where(wanted, sure, -1.0), stable=True)
    wanted, guess = wanted[order], guess[order]
    of_class = jax.nn.one_hot(guess, classes) * wanted[:, None]
    before = jnp.take_along_axis(jnp.cumsum(of_class, 0) - of_class, guess[:, None], 1)[:, 0]
    taken = wanted & (before < room[guess])
    place = jnp.cumsum(taken) - 1
    taken &= place < (~live).sum()
    free = jnp.argsort(live, stable=True)
    slot = jnp.where(taken, free[jnp.clip(place, 0, len(free) - 1)], len(free))
    cleared = jnp.where(live, pool.until, 0)
    return Pool(
        pool.place.at[slot].set(order.astype(jnp.int32), mode="drop"),
        pool.label.at[slot].set(guess.astype(jnp.int32), mode="drop"),
        cleared.at[slot].set((number + expiry).astype(jnp.int32), mode="drop"),
    )


def seen_from_all_sides(task: Task, variables: Variables, batches: Batches) -> jax.Array:
    """Probabilities (views, examples, classes) of a client's images and their mirror images."""
    size, examples = batches.index.shape[1], batches.present.shape[0]
    steps = -(-examples // size)
    index = jnp.minimum(jnp.arange(steps * size), examples - 1).reshape(steps, size)

    def one(places):
        batch = batches.take(places, batches.present[places])
        views = [{**batch, "image": jnp.flip(batch["image"], axes)} for axes in VIEWS]
        return jnp.stack([task.predict(*variables, view) for view in views])

    found = jax.lax.map(one, index)
    return jnp.moveaxis(found, 1, 0).reshape(len(VIEWS), steps * size, -1)[:, :examples]


def acquiring(
    inner: ClientUpdate,
    task: Task,
    number_of: Callable[[PyTree], jax.Array],
    *,
    unlabeled: float,
    threshold: float,
    expiry: int,
    capacity: int,
) -> ClientUpdate:
    """Local work on the labeled examples and those that `admit` lets in, which are marked "pseudo".

    Args:
      inner: the local work.
      task: of classification; ``predict`` returns probabilities.
      number_of: ``number_of(broadcast)``, the number of the round.
      unlabeled: part of the examples whose label is hidden; examples with a "labeled" say so themselves.
      threshold, expiry: as in `admit`.
      capacity: the most images of a client that are admitted at a time.
    """

    def init(variables):
        empty = jnp.zeros(capacity, jnp.int32)
        return Device(*inner.init(variables), Pool(empty, empty, empty))

    def update(variables, broadcast, state, batches, valid, key):
        pool, own = state.pool, LocalState(state.method, state.optimizer)
        labeled = _labeled(batches, unlabeled)
        if labeled is None:
            result = inner.update(variables, broadcast, own, batches, valid, key)
            return result._replace(client_state=Device(*result.client_state, pool))
        number, label = number_of(broadcast), batches.examples["label"]
        probabilities = seen_from_all_sides(task, Variables(*fill(variables, batches.frozen)), batches)
        known, candidates = batches.present & labeled, batches.present & ~labeled
        limits = {"threshold": threshold, "expiry": expiry}
        pool = admit(pool, probabilities, label, known, candidates, number, **limits)
        where = jnp.where(pool.until > number, pool.place, len(label))
        pseudo = jnp.zeros(len(label), bool).at[where].set(True, mode="drop")
        guess = label.at[where].set(pool.label.astype(label.dtype), mode="drop")
        used = known | pseudo
        examples = {**batches.examples, "label": guess, "pseudo": pseudo}
        batches = batches._replace(examples=examples, present=used, count=used.sum())
        valid &= used[batches.index]
        result = inner.update(variables, broadcast, own, batches, valid, key)
        count = pseudo.sum().astype(jnp.float32)
        right = (pseudo & (guess == label)).sum().astype(jnp.float32)
        told = {"pseudo_labels": (count, jnp.ones_like(count)), "pseudo_right": (right, count)}
        return result._replace(
            client_state=Device(*result.client_state, pool), metrics={**result.metrics, **told}
        )

    return inner._replace(init=init, update=update)


def _labeled(batches: Batches, unlabeled: float) -> jax.Array | None:
    """Bool (examples,), the same in every round; None where all examples have a label."""
    if "labeled" in batches.examples:
        return batches.examples["labeled"].astype(bool)
    if unlabeled == 0:
        return None
    # Not of the run's key: a run that goes on hides the same labels.
    key = jax.random.fold_in(jax.random.key(1), batches.client)
    return jax.random.uniform(key, batches.present.shape) >= unlabeled


def half_weighted(loss: Callable, weight: float) -> Callable:
    """A loss in which examples marked "pseudo" count ``weight``: a weighted mean of those of both parts."""

    def weighted(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        if "pseudo" not in batch:
            return loss(params, stats, batch, key)
        rest = {name: x for name, x in batch.items() if name != "pseudo"}
        sure, guessed = (batch["valid"] & part for part in (~batch["pseudo"], batch["pseudo"]))
        value, (new, metrics) = loss(params, stats, {**rest, "valid": sure}, key)
        other, _ = loss(params, stats, {**rest, "valid": guessed}, key)
        counts = sure.sum(), weight * guessed.sum()
        share = counts[0] / jnp.maximum(counts[0] + counts[1], 1e-6)
        return share * value + (1 - share) * other, (new, metrics)

    return weighted
