"""Ji: clients that take longer than others are left out, by the mean time of their rounds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, History
from fedrecon.federated.recipe import federated
from fedrecon.federated.sampling import Observed, Sampler
from fedrecon.types import Task

# Rounding of means of equal times leaves nobody out.
_ROUNDING = 1 + 1e-5


class Timings(NamedTuple):
    """What the server remembers of clients, (clients,).

    Attributes:
      seconds: float32, sum over the rounds to which it was invited.
      rounds: int32, their number.
      last: int32, the last of them; -1 before the first.
    """

    seconds: jax.Array
    rounds: jax.Array
    last: jax.Array


def fast_clients(
    ratio: float = 1.0, *, least: int = 2, retry_rounds: int = 5, deadline: bool = True
) -> Sampler:
    """Clients whose rounds take at most ``ratio`` times as long as those of the mean client, see `ji`.

    Raises:
      ValueError: for arguments out of range; from the sampler, with fewer than ``least`` clients.
    """
    if not ratio > 0:
        raise ArgumentError("ratio", "a positive number", ratio)
    if least < 1:
        raise ArgumentError("least", "an integer of at least 1", least)
    if retry_rounds < 0:
        raise ArgumentError("retry_rounds", "an integer of at least 0", retry_rounds)

    def bound(memory: Timings) -> tuple[jax.Array, jax.Array]:
        """Mean seconds of each client, infinite before the first round, and ratio times those of the mean."""
        known = memory.rounds > 0
        means = jnp.where(known, memory.seconds / jnp.maximum(memory.rounds, 1), jnp.inf)
        mean = jnp.where(known, means, 0).sum() / jnp.maximum(known.sum(), 1)
        return means, jnp.where(known.any(), ratio * mean * _ROUNDING, jnp.inf)

    def choose(key, round, history):
        del key
        memory = history.memory
        if memory.rounds.shape[0] < least:
            raise ArgumentError("least", f"at most the {memory.rounds.shape[0]} clients", least)
        means, most = bound(memory)
        chosen = (memory.rounds == 0) | (means <= most)
        if retry_rounds:
            chosen |= round - memory.last >= retry_rounds
        # The fastest come first, and those that were never timed before them.
        order = jnp.argsort(jnp.where(memory.rounds > 0, means, -1), stable=True)
        return chosen.at[order[:least]].set(True)

    def observe(memory: Timings, seen: Observed) -> Timings:
        assert seen.seconds is not None and seen.invited is not None, "times of a simulated clock"
        return Timings(
            memory.seconds + jnp.where(seen.invited, seen.seconds, 0),
            memory.rounds + seen.invited,
            jnp.where(seen.invited, seen.round, memory.last),
        )

    def init(clients: int) -> Timings:
        zeros = jnp.zeros(clients, jnp.int32)
        return Timings(jnp.zeros(clients, jnp.float32), zeros, zeros - 1)

    def seconds(history: History) -> jax.Array:
        # The fastest ``least`` are always waited for.
        means, most = bound(history.memory)
        known = history.memory.rounds > 0
        fastest = jnp.sort(jnp.where(known, means, -1))[least - 1]
        return jnp.maximum(most, fastest * _ROUNDING)

    own = seconds if deadline else None
    return Sampler(choose, init=init, observe=observe, deadline=own, timed=True)


def ji(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    ratio: float = 1.0,
    least: int = 2,
    retry_rounds: int = 5,
    deadline: bool = True,
    keep_optimizer: bool = False,
    **options: Any,
) -> FederatedAlgorithm:
    """Ji et al. (COVID-19 in radiographs): FedAvg of the clients that do not take longer than the mean.

    With T_i the mean time of client i's rounds and T the mean of these over clients, round t + 1 has the
    clients with T_i <= kappa T; those that were never timed always take part. Times are those of the
    simulated clock, which the algorithm needs. The publication's network is a ResNet with attention (CBAM)
    in every block: ``--network=resnet18-cbam``.

    Deviations: filled in from a description, no code being public. The server times its clients itself, so
    that nothing is sent besides the model. Additions against starvation, which are options: the ``least``
    fastest always take part; a client that is not there after kappa T is left out of the mean
    (``deadline``) and timed all the same; one that was left out is invited again after ``retry_rounds``.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      ratio: kappa, positive.
      least: m_min, at least 1.
      retry_rounds: R; 0 never invites a slow client again.
      deadline: a round ends after kappa T.
      keep_optimizer: clients keep their optimizer's state between rounds.
      **options: as in `federated`, except ``sampler``.

    Raises:
      ValueError: for arguments out of range.
    """
    sampler = fast_clients(ratio, least=least, retry_rounds=retry_rounds, deadline=deadline)
    return federated(task, optimizer, sampler=sampler, keep_optimizer=keep_optimizer, **options)
