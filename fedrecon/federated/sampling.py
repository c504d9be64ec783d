"""Samplers: which clients take part in a round, and with which weight.

A sampler is ``sampler(key, round, history) -> (clients,) bool``; see `fedrecon.federated.History`. Draws
depend on the round's key, the number of clients and what the sampler reads of the history, on nothing else.
A `Sampler` also knows how many clients it chooses at most, and a round then computes no others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import History
from fedrecon.federated.keys import first_in_random_order, random_order
from fedrecon.federated.messages import Context
from fedrecon.types import Metrics, PyTree


class Observed(NamedTuple):
    """What a sampler with a memory is told after a round.

    Attributes:
      round: int32 (), the rounds before it.
      joined: bool (clients,), who was included in an applied step.
      metrics: {name: (sum, count)}, each (clients,); zero for clients that were not included.
      seconds: float32 (clients,), how long each took when it was last invited, -1 before; None without a
        simulated clock.
      invited: bool (clients,), who was invited, late clients included; None without a simulated clock.
    """

    round: jax.Array
    joined: jax.Array
    metrics: Metrics
    seconds: jax.Array | None = None
    invited: jax.Array | None = None


@dataclass(frozen=True)
class Sampler:
    """A sampler with what else is known of it.

    Attributes:
      choose: the sampler.
      count: of clients that it chooses at most; None if it may choose all.
      by_loss: whether it goes by the losses of single clients.
      init: ``init(clients) -> memory``, what it keeps in `History.memory`; None without.
      observe: ``observe(memory, observed) -> memory`` after each round, of an `Observed`.
      deadline: ``deadline(history) -> float32 ()``, seconds of the simulated clock after which a round is
        over; None without.
      timed: whether it goes by the times of clients, which need a simulated clock.
      chances: ``chances(round, history) -> (clients,) float32``, the chances of single draws, for weightings
        that undo them, see `by_chance`; None without.
    """

    choose: Callable[[jax.Array, jax.Array, History], jax.Array]
    count: int | None = None
    by_loss: bool = False
    init: Callable[[int], PyTree] | None = None
    observe: Callable[[PyTree, Observed], PyTree] | None = None
    deadline: Callable[[History], jax.Array] | None = None
    timed: bool = False
    chances: Callable[[jax.Array, History], jax.Array] | None = None

    def __call__(self, key: jax.Array, round: jax.Array, history: History) -> jax.Array:
        """Who takes part, bool (clients,)."""
        return self.choose(key, round, history)


def all_clients() -> Callable[[jax.Array, jax.Array, History], jax.Array]:
    """Full participation."""
    return lambda key, round, history: jnp.ones(history.participations.shape, bool)


def joining_clients(joins: ArrayLike) -> Sampler:
    """Every client from the round on in which it joins; weights are those among the clients present.

    Args:
      joins: (clients,) integers of 0 or more, one of them 0, so that no round is empty.

    Raises:
      ValueError: for other numbers; from the sampler, for another number of clients.
    """
    joins = np.asarray(joins)
    if joins.ndim != 1 or joins.dtype.kind not in "iu" or not joins.size or joins.min() != 0:
        raise ArgumentError("joins", "integers of 0 or more, one a client, the least of them 0", joins)

    def sampler(key, round, history):
        if history.participations.shape != joins.shape:
            found = history.participations.shape[0]
            raise ArgumentError("joins", f"one for each of {found} clients", joins)
        return jnp.asarray(joins) <= round

    return Sampler(sampler)


def uniform_clients(count: int) -> Sampler:
    """``count`` of the clients, uniformly without replacement.

    The sampler raises ValueError when it is first used with fewer than ``count`` clients.

    Raises:
      ValueError: if ``count`` is not a positive integer.
    """
    _check_count(count, "count")

    def sampler(key, round, history):
        return first_in_random_order(key, _clients(history, count), count)

    return Sampler(sampler, count)


def tiered_clients(tier: ArrayLike, count: int | None = None) -> Sampler:
    """Clients of one tier, drawn at random in each round, so that nobody waits for much slower ones.

    The tiers of TiFL (Chai et al., HPDC 2020), without its choice by accuracy.

    Args:
      tier: (clients,) integers from 0 to the number of tiers less 1, each of somebody; see `tiers_of`.
      count: clients of a round, uniformly drawn from the tier; None takes all of it. Of smaller tiers all.

    Raises:
      ValueError: for arguments that are not as described.
    """
    tier = np.asarray(tier)
    if tier.ndim != 1 or not np.array_equal(np.unique(tier), np.arange(tier.max(initial=0) + 1)):
        raise ArgumentError("tier", "integers from 0 on, one a client, none left out", tier)
    if count is not None:
        _check_count(count, "count")
    sizes = np.bincount(tier)

    def sampler(key, round, history):
        if history.participations.shape != tier.shape:
            raise ArgumentError("tier", f"one for each of {history.participations.shape[0]} clients", tier)
        tier_key, client_key = jax.random.split(key)
        inside = jnp.asarray(tier) == jax.random.randint(tier_key, (), 0, len(sizes))
        if count is None:
            return inside
        order = random_order(client_key, jnp.arange(tier.size), last=~inside)
        return _first(order, count, tier.size) & inside

    return Sampler(sampler, int(sizes.max()) if count is None else min(count, int(sizes.max())))


def tiers_of(seconds: ArrayLike, tiers: int) -> np.ndarray:
    """int (clients,): tiers of like sizes by the seconds (clients,) that rounds take; 0 is the fastest.

    Raises:
      ValueError: fewer clients than tiers.
    """
    seconds = np.asarray(seconds)
    _check_count(tiers, "tiers")
    if tiers > seconds.size:
        raise ArgumentError("tiers", f"at most the {seconds.size} clients", tiers)
    rank = np.argsort(np.argsort(seconds, kind="stable"), kind="stable")
    return rank * tiers // seconds.size


def poisson_clients(rate: float) -> Callable[[jax.Array, jax.Array, History], jax.Array]:
    """Every client independently with probability ``rate``, as accountants of site-level privacy assume.

    A round may have no client at all; it then leaves the model alone.

    Raises:
      ValueError: if ``rate`` is not in (0, 1].
    """
    if not 0 < rate <= 1:
        raise ArgumentError("rate", "a probability in (0, 1]", repr(rate))
    return lambda key, round, history: jax.random.bernoulli(key, rate, history.participations.shape)


def weighted_clients(count: int, weights: ArrayLike) -> Sampler:
    """``count`` clients, each with a probability in proportion to its weight, or 1 where that would exceed 1.

    Drawn in random order by equal steps along the sum of the probabilities (Madow, Ann. Math. Stat. 20:333,
    1949), so that the mean over rounds of the mean over those drawn, weighted by `drawn_by_size`, is the
    weighted mean over all clients. Clients of weight zero come last, and only if there are too few others.

    Args:
      count: clients in a round.
      weights: (clients,) non-negative numbers, for instance numbers of examples.

    Raises:
      ValueError: if ``count`` is not a positive integer, or the weights are not as described; from the
        sampler, if there are fewer than ``count`` clients or another number than weights.
    """
    _check_count(count, "count")
    weights = _checked_weights(weights)
    rates = _inclusion_rates(count, weights)

    def sampler(key, round, history):
        clients = _clients(history, count)
        if clients != len(weights):
            raise ArgumentError("weights", f"one for each of {clients} clients", len(weights))
        certain = rates >= 1
        drawn = count - int(certain.sum())
        if not drawn:
            return jnp.asarray(certain)
        shuffle, start = jax.random.split(key)
        order = random_order(shuffle, jnp.arange(clients))
        ends = jnp.cumsum(jnp.asarray(np.where(certain, 0, rates), jnp.float32)[order])
        # Rounding may not take a step beyond the last client.
        steps = jnp.minimum((jax.random.uniform(start) + jnp.arange(drawn)) / drawn, 1 - 2e-7) * ends[-1]
        places = jnp.searchsorted(ends, steps, side="right")
        return jnp.asarray(certain).at[order[places]].set(True)

    return Sampler(sampler, count)


def drawn_by_size(count: int, weights: ArrayLike) -> Callable[[jax.Array, Context], jax.Array]:
    """p_i over the probability that `weighted_clients` of the same arguments draws the client.

    The same for all clients whose probability is in proportion to their weight, more for those that are
    always drawn: sizes count once (Horvitz and Thompson, J. Am. Stat. Assoc. 47:663, 1952).
    """
    weights = _checked_weights(weights)
    rates = _inclusion_rates(count, weights)
    unsure = rates < 1
    # The weight at which the probability reaches 1.
    full = weights[unsure].sum() / max(count - int((~unsure).sum()), 1)
    if not full:
        return by_examples

    def one(weight):
        return jnp.where(weight > 0, jnp.maximum(weight / full, 1), 0)

    return lambda weight, context: jax.tree.map(one, weight)


def _checked_weights(weights: ArrayLike) -> np.ndarray:
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 1 or not np.all(np.isfinite(weights) & (weights >= 0)) or not weights.any():
        raise ArgumentError("weights", "one axis of non-negative finite numbers, some positive", weights)
    return weights


def _inclusion_rates(count: int, weights: np.ndarray) -> np.ndarray:
    """Probabilities (clients,) in proportion to weights, at most 1, that add up to ``count``."""
    rates = np.zeros(len(weights))
    left = count
    for unsure in (weights > 0, weights == 0):
        size = np.where(weights > 0, weights, 1.0)
        while left > 0 and unsure.any():
            rates[unsure] = left * size[unsure] / size[unsure].sum()
            sure = unsure & (rates >= 1 - 1e-9)
            rates[sure] = 1
            if not sure.any():
                return rates
            left -= int(sure.sum())
            unsure = unsure & ~sure
    return rates


def longest_absent(count: int) -> Sampler:
    """The ``count`` clients whose last participation is longest ago; ties are broken at random.

    Raises:
      ValueError: as `uniform_clients`.
    """
    _check_count(count, "count")

    def sampler(key, round, history):
        clients = _clients(history, count)
        rank = jnp.argsort(random_order(key, jnp.arange(clients)))
        return _first(jnp.lexsort((rank, history.last_round)), count)

    return Sampler(sampler, count)


def highest_loss(count: int, candidates: int) -> Sampler:
    """Power of choice (Cho, Wang and Joshi, 2020): of ``candidates`` at random those with the highest loss.

    The loss is that of each client's last participation; clients without one come first.

    Raises:
      ValueError: if a number is not a positive integer or ``candidates`` is below ``count``; from the
        sampler, if there are fewer clients than candidates.
    """
    _check_count(count, "count")
    _check_count(candidates, "candidates")
    if candidates < count:
        raise ArgumentError("candidates", f"at least count = {count}", candidates)

    def sampler(key, round, history):
        order = random_order(key, jnp.arange(_clients(history, candidates, "candidates")))
        chosen = order[:candidates]
        worst = jnp.argsort(-history.loss[chosen], stable=True)
        return _first(chosen[worst], count, history.loss.shape[0])

    return Sampler(sampler, count, by_loss=True)


def _check_count(count: Any, name: str) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError(name, "an integer of at least 1", repr(count))


def _clients(history: History, count: int, name: str = "count") -> int:
    clients = history.participations.shape[0]
    if count > clients:
        raise ArgumentError(name, f"at most the number of clients {clients}", count)
    return clients


def _first(order, count, clients=None):
    return jnp.zeros(clients or order.shape[0], bool).at[order[:count]].set(True)


def by_examples(weight: jax.Array, context: Context) -> jax.Array:
    """p_i in proportion to the client's number of examples."""
    return weight


def by_chance(weight: PyTree, context: Context) -> PyTree:
    """n_i / (N q_i), q_i being the chance by which the sampler, of N clients, draws the client.

    Raises:
      ValueError: the sampler tells no chances.
    """
    if context.chances is None or context.client is None:
        raise ArgumentError("sampler", "one that tells the chances of its draws", "another")
    part = jnp.maximum(context.chances[context.client] * context.chances.shape[0], 1e-12)
    return jax.tree.map(lambda w: w / part, weight)


def equal(weight: jax.Array, context: Context) -> jax.Array:
    """The same weight for every client that has data (in a group of leaves, where groups have weights)."""
    return jax.tree.map(lambda w: (w > 0).astype(w.dtype), weight)
