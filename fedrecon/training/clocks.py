"""The simulated clock of ``--clock``: what clients take, what is done about slow ones, and what it showed."""

import dataclasses
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon import catalog
from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.errors import ArgumentError
from fedrecon.federated import FederatedAlgorithm, RoundState
from fedrecon.federated import clock as fc
from fedrecon.runtime import host_copy
from fedrecon.training.budgets import Budget
from fedrecon.training.components import full_steps, make_sampler
from fedrecon.training.dotted import parse_options
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.model_files import note_stage
from fedrecon.training.options import FlagError, as_flag_error
from fedrecon.types import Variables

# Of bytes a second in a megabit a second.
_MEGABIT = 125_000.0
# Samplers whose draws more clients of a round do not make another distribution.
_OVERSELECTED = ("uniform", "longest_absent", "highest_loss")


def _profile(
    clients: int,
    seed: int = 0,
    speed_spread: float = 0.5,
    step_seconds: float = 1.0,
    fixed_seconds: float = 0.0,
    downlink: float = 0.0,
    uplink: float = 0.0,
    latency: float = 0.0,
    leave: float = 0.0,
    back: float = 0.5,
    jitter: float = 0.0,
    least_seconds: float = 0.0,
) -> fc.Profile:
    """A profile of text: as `clock.profile`, with links in megabits a second, of which 0 takes no time."""
    for name, value in (("downlink", downlink), ("uplink", uplink)):
        if value < 0:
            raise ArgumentError(name, "megabits a second, or 0", value)
    return fc.profile(
        clients,
        seed=seed,
        speed_spread=speed_spread,
        step_seconds=step_seconds,
        fixed_seconds=fixed_seconds,
        downlink=downlink * _MEGABIT or np.inf,
        uplink=uplink * _MEGABIT or np.inf,
        latency=latency,
        leave=leave,
        back=back,
        jitter=jitter,
        least_seconds=least_seconds,
    )


def _deadline(seconds: float = 0.0, partial: bool = False) -> tuple[float, bool]:
    """Seconds of a round, 0 being one and a half times those of the median client; and partial work."""
    if seconds < 0:
        raise ArgumentError("seconds", "at least 0", seconds)
    return seconds, partial


def _overselect(factor: float = 1.3) -> float:
    """Clients that are invited over those that are waited for."""
    if not factor >= 1:
        raise ArgumentError("factor", "at least 1", factor)
    return factor


def _tiers(tiers: int = 3) -> int:
    """Number of tiers."""
    if tiers < 1:
        raise ArgumentError("tiers", "an integer of at least 1", tiers)
    return tiers


_POLICIES: dict[str, Callable] = {
    "wait": lambda: (),
    "deadline": _deadline,
    "overselect": _overselect,
    "tiers": _tiers,
}


def _parts(settings: FederationSettings, clients: int) -> tuple[fc.Profile, Any]:
    """The profile, and what the policy's own options are.

    Raises:
      FlagError: an option is unknown or out of range.
    """
    policy = _POLICIES[settings.clock]
    own, common = catalog.options_of(policy), catalog.options_of(_profile)
    values = parse_options("clock", own | common, dict(settings.clock_options), settings.clock)
    try:
        profile = _profile(clients, **{name: value for name, value in values.items() if name in common})
        return profile, policy(**{name: value for name, value in values.items() if name in own})
    except ArgumentError as error:
        raise as_flag_error(error, {}, "clock.") from error


def check_clock(settings: FederationSettings, fixed: Collection[str] = ()) -> None:
    """Checks ``--clock`` and its options, and what it goes with.

    Args:
      settings: of the federation.
      fixed: options of `federated` that the algorithm leaves no choice of.

    Raises:
      FlagError: they do not go together.
    """
    if settings.clock == "none":
        if settings.clock_options:
            raise FlagError("clock", "a policy for its options", "none")
        return
    _parts(settings, 1)
    if "sampler" in fixed and settings.clock in ("overselect", "tiers"):
        expected = f"none, wait or deadline with --algorithm={settings.algorithm}, which chooses its clients"
        raise FlagError("clock", expected, settings.clock)
    if settings.topology == "asynchronous" and settings.clock != "wait":
        expected = "wait with --topology=asynchronous, where nobody waits and updates take the clock's times"
        raise FlagError("clock", expected, settings.clock)
    if settings.clock == "overselect" and settings.sampler not in _OVERSELECTED:
        expected = f"one of {', '.join(_OVERSELECTED)} with --clock=overselect"
        raise FlagError("sampler", expected, settings.sampler)
    if settings.clock == "tiers" and settings.sampler not in ("all", "uniform"):
        raise FlagError("sampler", "all or uniform with --clock=tiers", settings.sampler)


def check_timed(algorithm: FederatedAlgorithm, settings: FederationSettings) -> None:
    """Refuses an algorithm that goes by the times of clients without a clock.

    Raises:
      FlagError: it does, and there is none.
    """
    if settings.clock == "none" and getattr(algorithm.sampler, "timed", False):
        expected = f"a policy, such as wait, with --algorithm={settings.algorithm}, which goes by times"
        raise FlagError("clock", expected, "none")


def clocked_sampler(settings: FederationSettings, budget: Budget, train: ClientData) -> Callable:
    """Who is invited: more clients than are waited for, clients of a tier, or as `make_sampler`.

    Raises:
      FlagError: more clients a round than there are, or fewer clients than tiers.
    """
    plain = make_sampler(settings, train)
    if settings.clock == "overselect":
        factor = _parts(settings, train.clients)[1]
        invited = min(math.ceil(factor * settings.clients_per_round - 1e-9), train.clients)
        return make_sampler(dataclasses.replace(settings, clients_per_round=invited), train)
    if settings.clock != "tiers":
        return plain
    profile, tiers = _parts(settings, train.clients)
    if tiers > train.clients:
        raise FlagError("clock.tiers", f"at most the {train.clients} clients", tiers)
    # Links and latency are the same for all.
    work = profile.fixed_seconds + full_steps(budget, train) * profile.step_seconds
    tier = fl.sampling.tiers_of(work, tiers)
    return fl.sampling.tiered_clients(tier, settings.clients_per_round or None)


def clocked(
    algorithm: FederatedAlgorithm,
    settings: FederationSettings,
    budget: Budget,
    train: ClientData,
    variables: Variables,
) -> FederatedAlgorithm:
    """The algorithm with the clock of ``--clock``; without one the same object.

    Args:
      algorithm: complete but for it.
      settings: of the federation.
      budget: of the training.
      train: the clients.
      variables: the model; shapes are enough.

    Raises:
      FlagError: the algorithm goes by the times of clients and there is no clock, or chooses its clients
        itself where the policy does.
    """
    check_timed(algorithm, settings)
    if settings.clock == "none":
        return algorithm
    profile, own = _parts(settings, train.clients)
    sizes = fl.traffic.round_bytes(algorithm, variables, train)
    steps = _steps(algorithm, budget, train)
    clock = fc.Clock(profile, steps, sizes.up)
    if settings.clock == "overselect":
        clock = clock._replace(policy=fc.first_arrivals(settings.clients_per_round))
    elif settings.clock == "deadline":
        seconds, partial = own
        clock = clock._replace(
            policy=fc.deadline(seconds or 1.5 * _median(clock, sizes.down), partial=partial)
        )
    return algorithm._replace(clock=clock)


def _steps(algorithm: FederatedAlgorithm, budget: Budget, train: ClientData) -> np.ndarray:
    if algorithm.client.batching is None:
        return full_steps(budget, train).astype(np.int32)
    batching = algorithm.client.batching
    row = ({name: x[0] for name, x in train.examples.items()}, train.valid[0])
    mask = jax.eval_shape(batching, *row, jax.random.key(0))[1]
    return np.full(train.clients, mask.shape[0], np.int32)


def _median(clock: fc.Clock, bytes_down: int) -> float:
    """Seconds that the median client takes for a full round, without jitter."""
    profile = clock.profile._replace(jitter=0.0)
    down, up = (jnp.full(len(clock.steps), n, jnp.uint32) for n in (bytes_down, clock.bytes_up))
    times = fc.times_of(profile, jax.random.key(0), jnp.asarray(clock.steps), down, up)
    return float(np.median(times.total))


def clock_record(info: fc.ClockInfo | tuple[()], names: tuple[str, ...]) -> dict[str, Any]:
    """What the clock shows of a round, JSON-able: ``clock`` at its end and ``clock_seconds`` that it lasted.

    ``late`` are clients that the policy left out, ``away`` those that were sampled and not there. Empty
    without a clock.
    """
    if not isinstance(info, fc.ClockInfo):
        return {}
    record: dict[str, Any] = {"clock": float(info.now), "clock_seconds": float(info.seconds)}
    for group, who in (("late", info.late), ("away", info.away)):
        if who.any():
            record[group] = [names[i] for i in np.flatnonzero(who)]
    return record


def clock_summary(
    state: fc.ClockState, names: tuple[str, ...], counts: np.ndarray
) -> dict[str, dict[str, float | None]]:
    """By client: its share of the training and of the examples, their quotient, and its last seconds.

    Args:
      state: of the clock after the training, on the host.
      names: of the clients.
      counts: their examples, (clients,).
    """
    share = np.asarray(state.share, np.float64)
    if not share.sum() > 0:
        return {}
    bias = fc.participation_bias(share, counts)
    return {
        name: {
            "share": float(share[i] / share.sum()),
            "examples": float(counts[i] / counts.sum()),
            "bias": float(bias[i]) if np.isfinite(bias[i]) else None,
            "seconds": float(state.seconds[i]) if state.seconds[i] >= 0 else None,
        }
        for i, name in enumerate(names)
    }


def write_clock(folder: Path, stage: str, state: RoundState, clients: ClientData) -> None:
    """Says in ``clock.json`` what a stage's clock showed in all; nothing without one."""
    shown = state.history.clock
    if not isinstance(shown, fc.ClockState):
        return
    shown = host_copy(shown)
    found = clock_summary(shown, clients.names, np.asarray(clients.counts))
    note_stage(folder, "clock", stage, {"seconds": float(shown.now), "clients": found} if found else {})
