"""Balance of two losses that meet inside a model, and weights of its two groups of leaves."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.federated.messages import Exchange, Message
from fedrecon.federated.method import Method
from fedrecon.types import Variables

# Where no validation was seen yet.
_NEVER = -1e9


class Norms(NamedTuple):
    """A moving average: its sum over rounds and the sum of their weights, float32 () each."""

    total: jax.Array
    weight: jax.Array

    def add(self, value: jax.Array, present: jax.Array, decay: float) -> "Norms":
        """With the value of another round, unless nobody had one."""
        new = Norms(decay * self.total + (1 - decay) * value, decay * self.weight + (1 - decay))
        return Norms(*(jnp.where(present, x, y) for x, y in zip(new, self, strict=True)))


class Balance(NamedTuple):
    """The server's state.

    Attributes:
      strength: float32 (), lambda, as it is after halvings.
      error: norms of the gradient of the first loss at the interface.
      task: of that of the second.
      rounds: int32 (), rounds that were applied.
    """

    strength: jax.Array
    error: Norms
    task: Norms
    rounds: jax.Array


class _Memory(NamedTuple):
    sums: jax.Array  # (4,): of the norms and of the steps that have them
    best: jax.Array
    fallen: jax.Array


def interface_balance(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    rounds: int,
    *,
    strength: float = 0.1,
    start: float = 0.3,
    full: float = 0.6,
    decay: float = 0.99,
    quality: Callable[..., jax.Array] | None = None,
    drop: float = 0.5,
    groups: tuple[str, str] = ("reconstruction", "task"),
    clip: float | None = None,
) -> Method:
    """The second loss reaches the first group of leaves with a weight that all clients have in common.

    Batches get "interface" (examples,), in all places ``lambda s EMA|a| / EMA|b|``: a and b are the gradients
    of the two losses at the interface, whose norms the task reports as the metrics "error_norm" and
    "task_norm". A client sends the means of both over its steps (two numbers); the server averages them over
    the clients of the round that have the examples, and over rounds. s is 0 for the first part of the rounds,
    then rises to 1 linearly. Batches also get "progress" (examples,), the part of the rounds that is over.
    The change of each group of leaves is averaged with weights of its own, the numbers of the client's
    examples that it learns from; a client with none of them has no part in it, and what it sends there is 0.

    Args:
      first: (clients,), the examples of each client that the first group learns from (measurements).
      second: (clients,), the same of the second group (labels).
      rounds: of the training.
      strength: lambda, of the start.
      start: part of the rounds with s = 0.
      full: part of the rounds after which s = 1.
      decay: of the average over rounds.
      quality: ``quality(variables, batch) -> ()``, higher is better (PSNR in dB): of the model that a client
        received, on its validation split. Where it is more than ``drop`` below what it last was with s = 0,
        the client says so (one number more), and if any does, lambda is halved.
      drop: how far quality may fall.
      groups: top names of the two groups, of ``params`` and ``stats``.
      clip: largest norm of each group's gradient in a step, longer ones are scaled down; None for no bound.
        An optimizer that bounds their common norm would make one depend on the other.

    Raises:
      ArgumentError: numbers out of range, or counts of different clients.
    """
    counts = [np.asarray(x, np.float32) for x in (first, second)]
    if counts[0].ndim != 1 or counts[0].shape != counts[1].shape or min(x.min(initial=0) for x in counts) < 0:
        raise ArgumentError(
            "first, second", "a number of examples for each client", tuple(map(np.ndarray.tolist, counts))
        )
    if not 0 <= start <= full <= 1:
        raise ArgumentError("start, full", "parts of the rounds, 0 <= start <= full <= 1", (start, full))
    for name, value in (("strength", strength), ("drop", drop)):
        if not 0 <= value < np.inf:
            raise ArgumentError(name, "a number of 0 or more", value)
    if not 0 <= decay < 1:
        raise ArgumentError("decay", "a number in [0, 1)", decay)
    if rounds < 1:
        raise ArgumentError("rounds", "a positive integer", rounds)

    def ramp(done):
        if full == start:
            return (done / rounds >= full).astype(jnp.float32)
        return jnp.clip((done / rounds - start) / (full - start), 0, 1)

    def broadcast(state):
        ratio = _average(state.error) / jnp.maximum(_average(state.task), 1e-12)
        known = (state.error.weight > 0) & (state.task.weight > 0)
        return jnp.stack(
            [state.strength * ramp(state.rounds) * jnp.where(known, ratio, 0), state.rounds / rounds]
        )

    def begin(best, context):
        fallen = jnp.float32(0)
        if quality is not None and context.batches.validation is not None:
            now = quality(context.complete(context.received), context.batches.validation).astype(jnp.float32)
            early = context.broadcast[1] < start
            fallen = (~early & (now < best - drop)).astype(jnp.float32)
            best = jnp.where(early, now, best)
        return _Memory(jnp.zeros(4) * context.steps, best, fallen)

    def prepare(batch, memory, context, key):
        del memory, key
        every = jnp.ones(batch["valid"].shape, jnp.float32)
        return {
            **batch,
            "interface": every * context.broadcast[0],
            "progress": every * context.broadcast[1],
        }

    def correct(gradient, params, memory, context):
        del params, memory, context
        return {name: _bounded(part, clip) for name, part in gradient.items()}

    def step(memory, params, batch, evaluation, context, key):
        del params, batch, context, key
        pairs = [evaluation.metrics.get(name, (0.0, 0.0)) for name in ("error_norm", "task_norm")]
        sums = jnp.stack([jnp.asarray(x, jnp.float32) for pair in pairs for x in pair])
        return memory._replace(sums=memory.sums + sums)

    def finish(result, memory, context):
        own = [jnp.asarray(x)[context.batches.client] for x in counts]
        # A client without examples in this round (padding, a fault) has no weight in any group.
        here = result.weight > 0
        weights = dict(zip(groups, (jnp.where(here, x, 0) for x in own), strict=True))
        error, task = (memory.sums[i] / jnp.maximum(memory.sums[i + 1], 1) for i in (0, 2))
        summed = {"error": error, "task": task}
        if quality is not None:
            summed["fallen"] = memory.fallen
        # Of statistics only where there are any: a weight is a number that is sent.
        stats = {
            name: weights[name] if jax.tree.leaves(part) else part
            for name, part in result.delta.stats.items()
        }
        return result._replace(weight=Variables(weights, stats)), Message(summed=summed), memory.best

    def receive(state, message, context):
        sent = message.summed
        norms = []
        for name, old, has in zip(("error", "task"), (state.error, state.task), counts, strict=True):
            present = (context.arrived & jnp.asarray(has > 0)).sum()
            mean = sent[name] / jnp.maximum(present, 1)
            norms.append(old.add(mean, mean > 0, decay))
        fallen = sent.get("fallen", jnp.float32(0)) > 0
        strength = jnp.where(fallen, state.strength / 2, state.strength)
        return Balance(strength, *norms, state.rounds + 1)

    def initial(variables):
        missing = [name for name in groups if name not in variables.params]
        if missing:
            expected = f"the groups {', '.join(groups)}"
            raise ArgumentError("variables.params", expected, sorted(variables.params))
        zero = Norms(jnp.float32(0), jnp.float32(0))
        return Balance(jnp.float32(strength), zero, zero, jnp.int32(0))

    return Method(
        init=lambda variables: jnp.float32(_NEVER),
        begin=begin,
        prepare=prepare,
        correct=None if clip is None else correct,
        step=step,
        finish=finish,
        server=Exchange(initial, broadcast, receive),
        discloses="norms of gradients at the interface",
    )


def _average(norms: Norms) -> jax.Array:
    return norms.total / jnp.maximum(norms.weight, 1e-12)


def _bounded(tree, bound):
    size = jnp.sqrt(sum(jnp.square(x).sum() for x in jax.tree.leaves(tree)))
    factor = jnp.minimum(1, bound / jnp.maximum(size, 1e-12))
    return jax.tree.map(lambda x: (x * factor).astype(x.dtype), tree)
