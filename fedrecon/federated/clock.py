"""A simulated clock of rounds: how fast clients are, when they are there, and what is done about slow ones.

Nobody's computer is timed. How long a client takes follows from its steps, its bytes and a `Profile`, so that
runs repeat bit for bit, and a round knows before any training whose update will arrive.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fedrecon.errors import ArgumentError


class Profile(NamedTuple):
    """How clients work; arrays (clients,), float32.

    Attributes:
      step_seconds: of a local step.
      fixed_seconds: of every round besides its steps, such as validation.
      downlink, uplink: bytes a second; infinite takes no time.
      latency: seconds that begin each transfer.
      leave, back: probabilities that a client that is there is away in the next round, and the reverse. All
        are there in the first round.
      jitter: standard deviation of each part of a client's time (download, work, upload) in each round, as a
        fraction of it; drawn from a normal distribution.
      least_seconds: that each of these parts takes, whatever is drawn.
    """

    step_seconds: np.ndarray
    fixed_seconds: np.ndarray
    downlink: np.ndarray
    uplink: np.ndarray
    latency: np.ndarray
    leave: np.ndarray
    back: np.ndarray
    jitter: float = 0.0
    least_seconds: float = 0.0


def profile(
    clients: int,
    *,
    speed_spread: float = 0.0,
    step_seconds: ArrayLike = 1.0,
    fixed_seconds: ArrayLike = 0.0,
    downlink: ArrayLike = np.inf,
    uplink: ArrayLike = np.inf,
    latency: ArrayLike = 0.0,
    leave: ArrayLike = 0.0,
    back: ArrayLike = 1.0,
    jitter: float = 0.0,
    least_seconds: float = 0.0,
    seed: int = 0,
) -> Profile:
    """A `Profile` in which the speeds of clients, exp(speed_spread z), are log-normal with median 1.

    Args:
      clients: their number.
      speed_spread: of the logarithm of speeds; 0 makes all equal. Speeds divide ``step_seconds`` and
        ``fixed_seconds``.
      step_seconds, fixed_seconds, downlink, uplink, latency, leave, back: as in `Profile`; one number or one
        a client.
      jitter, least_seconds: as in `Profile`.
      seed: of the speeds.

    Raises:
      ValueError: a number out of its range, or not one a client.
    """
    given = {"step_seconds": step_seconds, "fixed_seconds": fixed_seconds, "downlink": downlink}
    given |= {"uplink": uplink, "latency": latency, "leave": leave, "back": back}
    arrays = {name: _one_each(name, value, clients) for name, value in given.items()}
    for name in ("step_seconds", "downlink", "uplink"):
        if not (arrays[name] > 0).all():
            raise ArgumentError(name, "positive numbers", arrays[name])
    for name, most in (("fixed_seconds", np.inf), ("latency", np.inf), ("leave", 1), ("back", 1)):
        if not ((arrays[name] >= 0) & (arrays[name] <= most)).all():
            raise ArgumentError(name, f"numbers from 0{' to 1' if most == 1 else ''}", arrays[name])
    numbers = {"speed_spread": speed_spread, "jitter": jitter, "least_seconds": least_seconds}
    for name, number in numbers.items():
        if not 0 <= number < np.inf:
            raise ArgumentError(name, "a finite number of at least 0", number)
    speeds = np.exp(speed_spread * np.random.default_rng(seed).standard_normal(clients))
    arrays |= {name: (arrays[name] / speeds).astype(np.float32) for name in ("step_seconds", "fixed_seconds")}
    return Profile(**arrays, jitter=jitter, least_seconds=least_seconds)


def _one_each(name: str, value: ArrayLike, clients: int) -> np.ndarray:
    array = np.asarray(value, np.float32)
    if array.shape not in ((), (clients,)) or np.isnan(array).any():
        raise ArgumentError(name, f"a number, or one for each of {clients} clients", array)
    return np.broadcast_to(array, (clients,))


class Times(NamedTuple):
    """Seconds of every client's round, (clients,).

    Attributes:
      download, fixed, step, upload: of the parts of it; ``step`` is of one step.
      steps: int32, how many it takes.
    """

    download: jax.Array
    fixed: jax.Array
    step: jax.Array
    upload: jax.Array
    steps: jax.Array

    @property
    def total(self) -> jax.Array:
        """From the invitation to the arrival of the update."""
        return self.download + (self.fixed + self.steps * self.step) + self.upload


class Cut(NamedTuple):
    """Whose updates a server waits for.

    Attributes:
      arriving: bool (clients,).
      steps: int32 (clients,), the most steps that clients take; None does not limit them.
      least: float32 (), seconds that the round lasts though all updates may be there before.
    """

    arriving: jax.Array
    steps: jax.Array | None
    least: jax.Array


# ``policy(times, invited) -> Cut``; invited, bool (clients,): who was sampled and is there.
Policy = Callable[[Times, jax.Array], Cut]


def wait_for_all() -> Policy:
    """A round ends when the last update has arrived."""
    return lambda times, invited: Cut(invited, None, jnp.float32(0))


def deadline(seconds: float, *, partial: bool = False) -> Policy:
    """A round ends after ``seconds``, or earlier if all updates are there; what is not there is left out.

    Args:
      seconds: of the round.
      partial: clients take as many steps as fit in, and only those are left out that could take none. Means
        of unequal numbers of steps pursue another objective than FedAvg's, unless they are normalized
        (`fednova`).

    Raises:
      ValueError: ``seconds`` is not positive.
    """
    if not seconds > 0:
        raise ArgumentError("seconds", "a positive number", repr(seconds))

    def policy(times, invited):
        steps = None
        if partial:
            left = seconds - times.download - times.upload - times.fixed
            # Rounding may not take the last step away from who needs all the time there is.
            fit = jnp.floor(left / times.step * (1 + 1e-6))
            steps = jnp.clip(fit, 0, times.steps).astype(jnp.int32)
            arriving = invited & (steps > 0)
        else:
            arriving = invited & (times.total <= seconds)
        late = (invited & ~arriving).any()
        return Cut(arriving, steps, jnp.where(late, jnp.float32(seconds), 0))

    return policy


def first_arrivals(count: int) -> Policy:
    """A round ends with its ``count``-th update; later ones, of a sampler that invites more, are left out.

    Of updates that arrive at the same time that of the client with the smaller number is first.

    Raises:
      ValueError: ``count`` is not a positive integer.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError("count", "an integer of at least 1", repr(count))

    def policy(times, invited):
        order = jnp.argsort(jnp.where(invited, times.total, jnp.inf), stable=True)
        rank = jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.shape[0]))
        return Cut(invited & (rank < count), None, jnp.float32(0))

    return policy


class Clock(NamedTuple):
    """The simulated clock of an algorithm's rounds.

    Attributes:
      profile: of the clients.
      steps: int32 (clients,), local steps of a full round; the algorithm's schedule may leave fewer.
      bytes_up: of the longest message that a client may send. Whether it arrives in time is decided by that;
        how long it took is reported by the bytes that were sent.
      policy: what is done about the slow.
    """

    profile: Profile
    steps: np.ndarray
    bytes_up: int
    policy: Policy = wait_for_all()


class ClockState(NamedTuple):
    """What the clock has shown.

    Attributes:
      now: float32 (), seconds since the first round began.
      available: bool (clients,), who is there in the next round.
      seconds: float32 (clients,), how long each client took when it was last invited, late ones included; -1
        before.
      share: float32 (clients,), each client's weights in the means of all rounds, which are 1 a round.
      invited: bool (clients,), who was invited in the last round, late ones included.
    """

    now: jax.Array
    available: jax.Array
    seconds: jax.Array
    share: jax.Array
    invited: jax.Array


class ClockInfo(NamedTuple):
    """What the clock shows of a round.

    Attributes:
      now: float32 (), seconds since the first round began, at its end.
      seconds: float32 (), that it lasted; 0 where nobody was waited for.
      late: bool (clients,), invited and left out by the policy.
      away: bool (clients,), sampled and not there.
      share: float32 (clients,), as in `ClockState`.
    """

    now: jax.Array
    seconds: jax.Array
    late: jax.Array
    away: jax.Array
    share: jax.Array


class Plan(NamedTuple):
    """A round before its training: the policy's `Cut`, times of the full round, invited and away clients."""

    cut: Cut
    times: Times
    invited: jax.Array
    away: jax.Array


def first_state(clock: Clock) -> ClockState:
    """Before the first round: at time 0, with everybody there."""
    clients = clock.steps.shape[0]
    zeros = jnp.zeros(clients, jnp.float32)
    return ClockState(jnp.float32(0), jnp.ones(clients, bool), zeros - 1, zeros, jnp.zeros(clients, bool))


def times_of(
    profile: Profile, key: jax.Array, steps: jax.Array, bytes_down: jax.Array, bytes_up: jax.Array
) -> Times:
    """How long clients take, (clients,), for so many steps and bytes."""
    each = jnp.asarray(profile.step_seconds)
    work = profile.fixed_seconds + steps * each
    parts = (
        profile.latency + bytes_down.astype(jnp.float32) / profile.downlink,
        work,
        profile.latency + bytes_up.astype(jnp.float32) / profile.uplink,
    )
    if not profile.jitter and not profile.least_seconds:
        return Times(
            jnp.asarray(parts[0]), jnp.asarray(profile.fixed_seconds), each, jnp.asarray(parts[2]), steps
        )
    draws = jax.random.normal(key, (3, *steps.shape))
    download, worked, upload = (
        jnp.maximum(part * (1 + profile.jitter * draw), profile.least_seconds)
        for part, draw in zip(parts, draws, strict=True)
    )
    # Of a client without steps only what is fixed can take longer.
    factor = worked / jnp.where(work > 0, work, 1)
    fixed = jnp.where(work > 0, profile.fixed_seconds * factor, worked)
    return Times(download, fixed, each * factor, upload, steps)


def plan(
    clock: Clock,
    state: ClockState,
    key: jax.Array,
    sampled: jax.Array,
    steps: jax.Array,
    bytes_down: jax.Array,
    most_seconds: jax.Array | None = None,
) -> Plan:
    """Whose updates a round will have.

    Args:
      clock: of the algorithm.
      state: before the round.
      key: of the clock in this round.
      sampled: bool (clients,).
      steps: int32 (clients,), of everybody's round.
      bytes_down: uint32 (clients,), that each would get.
      most_seconds: float32 (), a deadline of the sampler's; None without.
    """
    times = times_of(clock.profile, key, steps, bytes_down, jnp.uint32(clock.bytes_up))
    invited = sampled & state.available
    waited = invited if most_seconds is None else invited & (times.total <= most_seconds)
    cut = clock.policy(times, waited)
    if most_seconds is not None:
        late = (invited & ~waited).any()
        cut = cut._replace(least=jnp.maximum(cut.least, jnp.where(late, most_seconds, 0)))
    return Plan(cut, times, invited, sampled & ~state.available)


def advance(
    clock: Clock,
    state: ClockState,
    key: jax.Array,
    plan: Plan,
    bytes_up: jax.Array,
    weights: jax.Array,
) -> tuple[ClockState, ClockInfo]:
    """The clock after a round.

    Args:
      clock: of the algorithm.
      state: before the round.
      key: of the clock in this round.
      plan: of it.
      bytes_up: uint32 (clients,), that were sent.
      weights: float32 (clients,), in the mean; zero for who is not in it.
    """
    arriving = plan.cut.arriving
    steps = plan.times.steps if plan.cut.steps is None else plan.cut.steps
    sent = clock.profile.latency + bytes_up.astype(jnp.float32) / clock.profile.uplink
    whole = clock.profile.latency + jnp.float32(clock.bytes_up) / clock.profile.uplink
    # In proportion, so that what was drawn for the upload stays drawn.
    upload = plan.times.upload * jnp.where(whole > 0, sent / jnp.where(whole > 0, whole, 1), 1)
    took = plan.times._replace(steps=steps, upload=upload).total
    seconds = jnp.maximum(jnp.where(arriving, took, 0).max(), plan.cut.least)
    measured = jnp.where(arriving, took, plan.times.total)
    chance = jax.random.uniform(jax.random.fold_in(key, 1), arriving.shape)
    stays = chance >= jnp.where(state.available, clock.profile.leave, 1 - clock.profile.back)
    total = weights.sum()
    state = ClockState(
        state.now + seconds,
        stays,
        jnp.where(plan.invited, measured, state.seconds),
        state.share + weights / jnp.where(total > 0, total, 1),
        plan.invited,
    )
    late = plan.invited & ~arriving
    return state, ClockInfo(state.now, seconds, late, plan.away, state.share)


def durations(clock: Clock, bytes_down: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Durations of `topologies.make_asynchronous_round` by the clock's profile; policies mean nothing there.

    Args:
      clock: of the algorithm.
      bytes_down: that every client gets.
    """
    clients = clock.steps.shape[0]
    down = jnp.full(clients, bytes_down, jnp.uint32)

    def duration(key, client):
        steps = jnp.asarray(clock.steps, jnp.int32)
        return times_of(clock.profile, key, steps, down, jnp.full(clients, clock.bytes_up)).total[client]

    return duration


def participation_bias(share: ArrayLike, examples: ArrayLike) -> Any:
    """Each client's part of the training over its part of the examples, float64 (clients,); 1 is no bias.

    Args:
      share: (clients,), `ClockState.share`.
      examples: (clients,).

    Raises:
      ValueError: there is no share or no example.
    """
    share, examples = np.asarray(share, np.float64), np.asarray(examples, np.float64)
    for name, values in (("share", share), ("examples", examples)):
        if values.shape != share.shape or not values.sum() > 0 or (values < 0).any():
            raise ArgumentError(name, "non-negative numbers of clients, some positive", values)
    parts = examples / examples.sum()
    return np.divide(share / share.sum(), parts, out=np.full_like(parts, np.nan), where=parts > 0)
