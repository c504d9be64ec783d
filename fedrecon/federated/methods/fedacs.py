"""FedACS: a curriculum of clients, those with a low loss first."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, History
from fedrecon.federated.local import mean_loss
from fedrecon.federated.messages import Exchange, Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.sampling import Observed, Sampler, by_chance, by_examples
from fedrecon.types import Task

# Of a client's loss under the model that it received, among its metrics.
_INCOMING = "incoming_loss"


class Difficulty(NamedTuple):
    """What the server remembers: l_i, float32 (clients,), and whether it was ever told, bool (clients,)."""

    loss: jax.Array
    told: jax.Array


def curriculum(
    count: int,
    sizes: ArrayLike,
    *,
    start: float = 0.5,
    growth_rounds: int = 50,
    preference: float = 1.0,
    final_preference: float = 0.0,
) -> Sampler:
    """FedACS's choice of m = ``count`` clients by the metric "incoming_loss"; arguments as in `fedacs`.

    Raises:
      ValueError: for arguments out of range.
    """
    sizes = np.asarray(sizes, np.float32)
    clients = sizes.size
    checks = {
        "cohort": (1 <= count <= clients, f"from 1 to {clients}, all clients", count),
        "start": (0 < start <= 1, "a number in (0, 1]", start),
        "growth_rounds": (growth_rounds >= 1, "an integer of at least 1", growth_rounds),
        "preference": (0 <= preference < math.inf, "a finite number of at least 0", preference),
        "final_preference": (math.isfinite(final_preference), "a finite number", final_preference),
    }
    for name, (holds, expected, found) in checks.items():
        if not holds:
            raise ArgumentError(name, expected, found)

    def chances(round: jax.Array, history: History) -> jax.Array:
        """q_i, float32 (clients,), zero outside of the pool; they add up to 1."""
        loss = history.memory.loss
        grown = jnp.minimum(round / growth_rounds, 1)
        # Rounding may not add a client to the pool.
        pool = jnp.ceil((start + (1 - start) * grown) * clients - 1e-4)
        rank = jnp.argsort(jnp.argsort(loss, stable=True), stable=True)
        deviation = loss.std()
        z = jnp.where(deviation > 0, (loss - loss.mean()) / jnp.where(deviation > 0, deviation, 1), 0)
        beta = jnp.where(grown < 1, preference * (1 - grown), final_preference)
        return jax.nn.softmax(jnp.where(rank < jnp.maximum(pool, count), jnp.log(sizes) - beta * z, -jnp.inf))

    def choose(key, round, history):
        # The largest of log q_i plus Gumbel noise: successive draws without replacement.
        noise = jax.random.gumbel(key, (clients,))
        order = jnp.argsort(-(jnp.log(chances(round, history)) + noise), stable=True)
        return jnp.zeros(clients, bool).at[order[:count]].set(True)

    def observe(memory: Difficulty, seen: Observed) -> Difficulty:
        total, number = seen.metrics[_INCOMING]
        now = total / jnp.where(number > 0, number, 1)
        new = jnp.where(memory.told, 0.5 * memory.loss + 0.5 * now, now)
        told = seen.joined & (number > 0)
        return Difficulty(jnp.where(told, new, memory.loss), memory.told | told)

    def init(clients: int) -> Difficulty:
        return Difficulty(jnp.zeros(clients, jnp.float32), jnp.zeros(clients, bool))

    return Sampler(choose, count, by_loss=True, init=init, observe=observe, chances=chances)


def incoming_loss() -> Method:
    """Clients tell the loss of the model that they received, one number; see `curriculum`."""

    def finish(result, memory, context):
        loss, count = mean_loss(context, context.received), context.batches.count.astype(jnp.float32)
        metrics = {**result.metrics, _INCOMING: (loss * count, count)}
        # The message is what the bytes count; the sampler finds the number among the metrics.
        return result._replace(metrics=metrics), Message(gathered={_INCOMING: loss}), memory

    exchange = Exchange(lambda variables: (), lambda state: (), lambda state, message, context: state)
    return Method(finish=finish, server=exchange, discloses="the loss of all examples")


def fedacs(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    sizes: ArrayLike,
    rounds: int,
    cohort: int = 0,
    start: float = 0.5,
    growth_rounds: int = 0,
    preference: float = 1.0,
    final_preference: float = 0.0,
    unbiased: bool = False,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """FedACS (Gu et al., radiographs): easy clients first, harder ones as rounds go on.

    The server keeps l_i, the moving average (1/2) of client i's loss under the models that it received. With
    z_i = (l_i - mean) / std, lambda(t) = min(1, lambda_0 + (1 - lambda_0) t / T_g) and beta_t = beta_0
    (1 - t / T_g), later ``final_preference``, it draws m of the ceil(lambda(t) N) clients of the lowest l_i,
    without replacement, with q_i in proportion to n_i exp(-beta_t z_i). Besides the model every client sends
    one number.

    Deviations: filled in from a description, no code being public. l_i is 0 until a client has been heard of,
    so that new ones come first. A pool smaller than m has m clients. Clients of a federation with other
    members start anew.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      sizes: n_i, (clients,), numbers of examples.
      rounds: of the training.
      cohort: m; 0 is half of the clients.
      start: lambda_0, in (0, 1].
      growth_rounds: T_g; 0 is half of the training.
      preference: beta_0, at least 0.
      final_preference: beta after T_g; below 0 prefers hard clients.
      unbiased: weights n_i / (N q_i) in place of n_i.
      method: further methods.
      **options: as in `federated`, except ``sampler`` and ``weighting``.

    Raises:
      ValueError: for arguments out of range.
    """
    sampler = curriculum(
        cohort or math.ceil(np.size(sizes) / 2),
        sizes,
        start=start,
        growth_rounds=growth_rounds or math.ceil(rounds / 2),
        preference=preference,
        final_preference=final_preference,
    )
    weighting = by_chance if unbiased else by_examples
    own = combine(incoming_loss(), method)
    return federated(task, optimizer, method=own, sampler=sampler, weighting=weighting, **options)
