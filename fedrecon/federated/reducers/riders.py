"""Finding free riders: clients that send something for a model that they did not work for."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.federated.messages import Context, Reducer, Reduction, Upload
from fedrecon.federated.reducers.bounding import client_numbers
from fedrecon.federated.reducers.robust import largest_of_each, lengths, lower_median, unweighted
from fedrecon.federated.reducers.screening import total
from fedrecon.types import PyTree

# Signs, and the spread of each among honest clients below which differences mean nothing. Chosen so that
# whoever has one sign alone stands out, on other phantoms than those of the tests.
SIGNS = {"length": 0.25, "echo": 0.25, "stale": 0.3, "lone": 0.1, "size": 0.05}
# The same of signs that need a validation set: hospitals with few labels often lose there, too.
VALUED = {"gain": 0.2, "shapley": 0.05}
ACTIONS = ("none", "flagged", "unrewarded", "excluded")
# Suspect rounds in excess of others from which each action is taken.
_STEPS = (1, 3, 5)
_ROUNDS, _SKETCH = 5, 256
# Orders of joining, each with its reverse, by which Shapley values are estimated.
_ORDERS = 8


class Watch(NamedTuple):
    """What the server remembers; leaves (clients, ...) but for the model.

    Attributes:
      model: the shared leaves before the last round.
      sketch: float32 (clients, 256), of each client's last update.
      signs: float32 (clients, 5, signs), standardized, of its last rounds.
      seen: int32 (clients,), rounds of it.
      suspect: int32 (clients,), rounds in which it was suspect minus others, at least 0.
    """

    model: PyTree
    sketch: jax.Array
    signs: jax.Array
    seen: jax.Array
    suspect: jax.Array


def watch_riders(
    clients: int,
    inner: Reducer | None = None,
    *,
    action: str = "excluded",
    threshold: float = 4.0,
    value: Callable[[PyTree], jax.Array] | None = None,
) -> Reducer:
    """Scores clients by signs of free riding, and reduces the others' updates.

    Each round a client's update (without its weight, as the channel encoded it) gives five signs:

      length: shorter than the median;
      echo: parallel to the last step of the model, so that it holds little that is new;
      stale: parallel to its own last update (both by sketches);
      lone: along, or against, no other's update, as what nobody's data have made;
      size: shorter than the number of examples that it claims would have it.

    and with a ``value`` two more, which cost some hundred evaluations a round (`coalition_gains`): little
    gain of the model with its update alone, and a small Shapley value.

    Each is standardized by the round's median and median deviation; a client's score is the largest of the
    means over its last five rounds. From its third round on it is suspect with a score above ``threshold``:
    flagged at first, unrewarded after two more such rounds, and after another two excluded, for as long as it
    stays suspect; each round without suspicion takes one back. Flagged and unrewarded clients count as
    before. Without suspects to exclude, results are those of ``inner``. Riders that send the same are not
    lone; hospitals whose labels nobody else has may be.

    Args:
      clients: their number.
      inner: reduces the updates; None adds them.
      action: the strongest that is taken, one of `ACTIONS` but "none".
      threshold: of the score.
      value: ``value(shared leaves) -> loss``, float (), on data that the server has.

    Returns:
      A `Reducer` with the info ``{"riders": {"score", "sign", "action"}}``, each (clients,): a number of
      `SIGNS` (and `VALUED`) and of `ACTIONS`. It sees single updates: secure sums refuse it.

    Raises:
      ValueError: an argument is out of range.
    """
    if action not in ACTIONS[1:]:
        raise ArgumentError("action", f"one of {', '.join(ACTIONS[1:])}", repr(action))
    if not threshold > 0:
        raise ArgumentError("threshold", "a positive number", repr(threshold))
    kept = inner or _total_but(total())
    strongest = ACTIONS.index(action)
    leasts = SIGNS | (VALUED if value else {})

    def init(upload: Upload) -> PyTree:
        watch = Watch(
            jax.tree.map(jnp.zeros_like, upload.delta),
            jnp.zeros((clients, _SKETCH)),
            jnp.zeros((clients, _ROUNDS, len(leasts))),
            jnp.zeros(clients, jnp.int32),
            jnp.zeros(clients, jnp.int32),
        )
        return watch, kept.init(upload)

    def reduce(uploads: Upload, included: jax.Array, state: PyTree, context: Context) -> Reduction:
        watch, inner_state = state
        who = client_numbers(context, len(included))
        place = jnp.where(included, who, clients)
        rows = jax.tree.map(lambda x: x.at[place].get(mode="fill", fill_value=0), watch[1:])
        sent = unweighted(uploads, included)
        sketch = _sketch(sent.delta)
        step = jax.tree.map(lambda new, old: new - old, context.model, watch.model)
        claimed = largest_of_each(uploads.weight)
        signs = _signs(sent.delta, claimed, included, step, sketch, rows[0])
        if value is not None:
            gain, share = coalition_gains(value, context.model, sent.delta, claimed, included, context.key)
            signs |= {"gain": -gain, "shapley": -share}
        # There is no step before the second round, and no update before a client's second.
        signs["echo"] = jnp.where(context.round > 0, signs["echo"], 0)
        fresh = included & (rows[2] > 0)
        counted = {name: fresh if name == "stale" else included for name in leasts}
        signs = _standardized(signs, counted, leasts)
        recent = rows[1].at[jnp.arange(len(who)), rows[2] % _ROUNDS].set(signs)
        seen = rows[2] + 1
        means = recent.sum(1) / jnp.minimum(seen, _ROUNDS)[:, None]
        score = means.max(1)
        doubted = (score > threshold) & (seen >= 3)
        suspect = jnp.clip(rows[3] + jnp.where(doubted, 1, -1), 0, _STEPS[-1] + 1)
        level = jnp.minimum((suspect[:, None] >= jnp.array(_STEPS)).sum(1), strongest)
        out = included & (level == len(_STEPS))
        found = kept.reduce(uploads, included & ~out, inner_state, context)

        def put(old: jax.Array, new: jax.Array) -> jax.Array:
            return old.at[place].set(new, mode="drop")

        after = Watch(
            context.model,
            *(put(o, n) for o, n in zip(watch[1:], (sketch, recent, seen, suspect), strict=True)),
        )
        blank = jnp.zeros(clients, jnp.int32)
        riders = {
            "score": put(jnp.zeros(clients), score),
            "sign": put(blank, means.argmax(1)),
            "action": put(blank, level),
        }
        flagged = out if found.flagged is None else out | found.flagged
        info = {"riders": riders, "inner": found.info}
        return found._replace(state=(after, found.state), flagged=flagged, info=info)

    return Reducer(init, reduce, answer=kept.answer, sums=inner is None)


def _total_but(plain: Reducer) -> Reducer:
    """The sum that the round has made, bit for bit, unless somebody who is in it shall not be."""

    def reduce(uploads: Upload, included: jax.Array, state: PyTree, context: Context) -> Reduction:
        chosen = plain.reduce(uploads, included, state, context).upload
        if context.total is None:
            return Reduction(chosen, state)
        # Rows that are not there have no weight.
        there = largest_of_each(uploads.weight) > 0
        whole = jnp.all(included | ~there)
        return Reduction(jax.tree.map(lambda a, b: jnp.where(whole, a, b), context.total, chosen), state)

    return Reducer(plain.init, reduce)


def coalition_gains(
    value: Callable[[PyTree], jax.Array],
    model: PyTree,
    delta: PyTree,
    weight: jax.Array,
    included: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """What each update takes off a loss: alone, and as its Shapley value among coalitions.

    The model of a coalition has the weighted mean of its members' updates (``v(S)`` without retraining).
    Shapley values are means over 16 orders of joining, random ones and their reverses; they add up to the
    gain of all.

    Args:
      value: as in `watch_riders`.
      model, delta: the shared leaves, and the updates with leaves (rows, ...).
      weight, included: (rows,), of the updates.
      key: of the orders.

    Returns:
      Two arrays (rows,); 0 for rows that are not included.
    """
    rows, weight = len(included), jnp.where(included, weight, 0)
    nobody = value(model)

    def moved(total: PyTree, size: jax.Array) -> jax.Array:
        whole = jax.tree.map(lambda m, t: (m + t / jnp.maximum(size, 1e-30)).astype(m.dtype), model, total)
        return value(whole)

    alone = jax.lax.map(lambda d: nobody - moved(d, jnp.float32(1)), delta)

    def one(order: jax.Array) -> jax.Array:
        def join(state: tuple, row: jax.Array) -> tuple[tuple, jax.Array]:
            total, size, before = state
            total = jax.tree.map(lambda t, d: t + weight[row] * d[row], total, delta)
            size = size + weight[row]
            after = jnp.where(size > 0, moved(total, size), before)
            return (total, size, after), before - after

        start = jax.tree.map(jnp.zeros_like, model), jnp.zeros_like(weight[0]), nobody
        gains = jax.lax.scan(join, start, order)[1]
        return jnp.zeros(rows).at[order].set(gains)

    orders = jax.vmap(lambda k: jax.random.permutation(k, rows))(jax.random.split(key, _ORDERS))
    shares = jax.lax.map(one, jnp.concatenate([orders, orders[:, ::-1]])).mean(0)
    return jnp.where(included, alone, 0), jnp.where(included, shares, 0)


def _signs(
    delta: PyTree,
    weight: jax.Array,
    included: jax.Array,
    step: PyTree,
    sketch: jax.Array,
    before: jax.Array,
) -> dict[str, jax.Array]:
    """Signs (rows,) of `SIGNS`, larger for riders."""
    norms = lengths(delta)
    length = jnp.log10(norms / jnp.maximum(lower_median(norms, included & (norms > 0)), 1e-30) + 1e-3)
    claimed = jnp.log10(jnp.maximum(weight, 1e-30) / jnp.maximum(lower_median(weight, included), 1e-30))
    return {
        "length": -length,
        "echo": _likeness(_cosine(delta, jax.tree.map(lambda x: x[None], step))),
        "stale": _likeness(_cosine(sketch, before)),
        "lone": -jnp.log10(_nearest(delta, norms) + 0.01),
        "size": claimed - length,
    }


def _nearest(delta: PyTree, norms: jax.Array) -> jax.Array:
    """(rows,): the largest absolute cosine with another row; 0 of zeros."""
    flat = [x.reshape(len(x), -1) for x in jax.tree.leaves(delta)]
    products = sum((x @ x.T for x in flat), start=jnp.float32(0))
    sizes = norms[:, None] * norms
    cosines = jnp.where(sizes > 0, products / jnp.where(sizes > 0, sizes, 1), 0)
    return jnp.abs(jnp.where(jnp.eye(len(norms), dtype=bool), 0, cosines)).max(1)


def _likeness(cosine: jax.Array) -> jax.Array:
    """How many digits a cosine is near to 1."""
    return -jnp.log10(jnp.maximum(1 - cosine, 0) + 1e-4)


def _cosine(a: PyTree, b: PyTree) -> jax.Array:
    """(rows,): cosines of trees with leaves (rows, ...), or (1, ...) for the same in all rows; 0 of zeros."""

    def dot(x: PyTree, y: PyTree) -> jax.Array:
        parts = jax.tree.map(lambda u, v: (u * v).reshape(max(len(u), len(v)), -1).sum(1), x, y)
        return sum(jax.tree.leaves(parts), start=jnp.float32(0))

    size = jnp.sqrt(dot(a, a)) * jnp.sqrt(dot(b, b))
    return jnp.where(size > 0, dot(a, b) / jnp.where(size > 0, size, 1), 0)


def _sketch(delta: PyTree) -> jax.Array:
    """(rows, 256): numbers added with random signs at random places, the same in all rounds."""

    def one(number: int, x: jax.Array) -> jax.Array:
        flat = x.reshape(len(x), -1)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0x5EED), number))
        place = jax.random.randint(keys[0], (flat.shape[1],), 0, _SKETCH)
        sign = jax.random.rademacher(keys[1], (flat.shape[1],), flat.dtype)
        return jnp.zeros((len(x), _SKETCH)).at[:, place].add(sign * flat)

    parts = [one(number, x) for number, x in enumerate(jax.tree.leaves(delta))]
    return sum(parts, start=jnp.float32(0))


def _standardized(
    signs: dict[str, jax.Array], counted: dict[str, jax.Array], leasts: Mapping[str, float]
) -> jax.Array:
    """Signs (rows, signs) in deviations from the median of the rows that count, 0 of the others."""
    found = []
    for name, least in leasts.items():
        away = signs[name] - lower_median(signs[name], counted[name])
        spread = 1.4826 * lower_median(jnp.abs(away), counted[name]) + least
        found.append(jnp.where(counted[name], away / spread, 0))
    return jnp.stack(found, 1)
