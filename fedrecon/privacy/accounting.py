"""Accounting of private training at each site: what was released, as events, and what it costs."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.federated.mechanism import Mechanism
from fedrecon.privacy.composition import composed_epsilon
from fedrecon.privacy.events import BallsInBinsDpEvent, event_to_json, leaves

# Larger ones promise little: with probability delta an example may be disclosed.
LARGEST_DEFAULT_DELTA = 1e-5
# All mechanisms are accounted for units that are replaced by nothing (zero-out).
RELATION = "REPLACE_SPECIAL"
ACCOUNTANT = "privacy loss distributions of dp-accounting"
RENYI_ACCOUNTANT = "Rényi divergences of dp-accounting"


class Calibration(NamedTuple):
    """One noise multiplier for all sites, and what it gives each.

    Attributes:
      noise_multiplier: noise standard deviation over the sensitivity.
      epsilons: each site's own epsilon, none above the target.
      deltas: the delta of each.
    """

    noise_multiplier: float
    epsilons: tuple[float, ...]
    deltas: tuple[float, ...]


def training_event(mechanism: Mechanism, *, rounds: int, units: int) -> Any:
    """What a mechanism releases about one client's units in some rounds, as a ``dp_accounting.DpEvent``.

    - Poisson sampling: compositions of the Gaussian mechanism on a sample of rate min(1, expected_batch_size
      / units), truncated to ``padded_batch_size`` (arXiv:2508.15089).
    - Balls in bins: passes of ceil(units / expected_batch_size) sums in one of which each unit is, amplified
      by its being unknown in which (`fedrecon.privacy.balls_in_bins`); a round begins a new pass, and may
      cut off its last one.
    - Fixed batches: each unit is in one sum of every pass, which is one Gaussian mechanism a pass. No
      amplification is claimed: the batch of a unit may be known.
    - A strategy: one Gaussian mechanism for the whole training, whatever its part that was taken.
    - Sites: every round is one sum; of all sites without amplification, or of a Poisson sample. The count
      of clipped sites is in the noise multiplier.

    Args:
      mechanism: of each step.
      rounds: that the client joins; with a strategy at most those that its ``factors`` were made for.
      units: the client's number of units; of the unit "site" the number of clients.

    Raises:
      ValueError: for arguments out of range.
    """
    import dp_accounting

    for name, value, least in (("rounds", rounds, 0), ("units", units, 1)):
        if not value >= least:
            raise ArgumentError(name, f"at least {least}", repr(value))
    if rounds == 0:
        return dp_accounting.NoOpDpEvent()
    gaussian = dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
    if mechanism.strategy:
        return gaussian
    if mechanism.sampling == "fixed":
        return dp_accounting.SelfComposedDpEvent(gaussian, rounds * mechanism.epochs)
    if mechanism.sampling == "balls_in_bins":
        # In single precision, as batches are drawn.
        bins = math.ceil(np.float32(units) / np.float32(mechanism.expected_batch_size))
        passes, rest = divmod(mechanism.steps, bins)
        return dp_accounting.ComposedDpEvent(
            [
                dp_accounting.SelfComposedDpEvent(
                    BallsInBinsDpEvent(
                        mechanism.noise_multiplier, units, bins, steps, mechanism.padded_batch_size
                    ),
                    count * rounds,
                )
                for steps, count in ((bins, passes), (rest, 1))
                if steps and count
            ]
        )
    step = dp_accounting.TruncatedSubsampledGaussianDpEvent(
        dataset_size=units,
        sampling_probability=min(1.0, mechanism.expected_batch_size / units),
        truncated_batch_size=mechanism.padded_batch_size,
        noise_multiplier=mechanism.noise_multiplier,
    )
    return dp_accounting.SelfComposedDpEvent(step, mechanism.steps * rounds)


def selection_event(epsilon: float, choices: int) -> Any:
    """Choices by the exponential mechanism, each of this epsilon, as zero-concentrated privacy.

    A mechanism of bounded range epsilon has rho = epsilon^2 / 8 (Cesar and Rogers 2021, arXiv:2004.07223).
    """
    import dp_accounting

    return dp_accounting.SelfComposedDpEvent(dp_accounting.ZCDpEvent(epsilon**2 / 8), choices)


def epsilon_of(event: Any, delta: float) -> float:
    """Epsilon of an event at this delta for units that are zeroed, as `Ledger` counts it.

    Args:
      event: a ``dp_accounting.DpEvent``.
      delta: of the guarantee.

    Returns:
      an upper bound, at most 0.5 % above that of the finest grid of the privacy loss; infinite without noise,
      0 if nothing was released.

    Raises:
      ValueError: the delta is not between 0 and 1.
    """
    return composed_epsilon(leaves(event_to_json(event)), RELATION, checked_delta(delta)).epsilon


def composed(parts: Sequence[tuple[Mechanism, int]], units: int) -> Any:
    """The event of several trainings on the same units: of each its mechanism and rounds."""
    import dp_accounting

    return dp_accounting.ComposedDpEvent(
        [training_event(mechanism, rounds=rounds, units=units) for mechanism, rounds in parts]
    )


def calibrate_noise_multiplier(
    target_epsilon: float,
    parts: Sequence[tuple[Mechanism, int]],
    *,
    units: Sequence[int],
    delta: float | None = None,
    tolerance: float = 1e-3,
) -> Calibration:
    """The smallest noise multiplier, within ``tolerance``, at which no site exceeds the target.

    Every site uses the same multiplier; the search runs on the worst one, usually that with the fewest
    units.

    Args:
      target_epsilon: of every site's guarantee.
      parts: the mechanism and the rounds of each training on the same units; their noise multipliers are
        those that are sought.
      units: the sites' numbers of units.
      delta: of the guarantee; by default 1e-5, and ``units ** -1.1`` where that is less.
      tolerance: of the multiplier, from above.

    Raises:
      ValueError: for arguments out of range.
    """
    if not target_epsilon > 0:
        raise ArgumentError("target_epsilon", "a positive number", repr(target_epsilon))
    if not tolerance > 0:
        raise ArgumentError("tolerance", "a positive number", repr(tolerance))
    if not units:
        raise ArgumentError("units", "at least one site", "none")
    if not any(rounds for _, rounds in parts):
        raise ArgumentError("parts", "at least one round", repr(parts))

    @functools.cache
    def epsilon(multiplier: float, size: int) -> float:
        event = composed([(with_noise(mechanism, multiplier), rounds) for mechanism, rounds in parts], size)
        return epsilon_of(event, default_delta(delta, size))

    multiplier = 0.0
    # Epsilon need not fall with size when delta and truncation depend on it, so every size is checked.
    for size in sorted(set(units)):
        if epsilon(multiplier, size) > target_epsilon:

            def enough(multiplier: float, size: int = size) -> bool:
                return epsilon(multiplier, size) <= target_epsilon

            multiplier = _smallest(enough, multiplier, tolerance)
    return Calibration(
        multiplier,
        tuple(epsilon(multiplier, size) for size in units),
        tuple(default_delta(delta, size) for size in units),
    )


def with_noise(mechanism: Mechanism, noise_multiplier: float) -> Mechanism:
    """The mechanism with another noise multiplier."""
    return dataclasses.replace(mechanism, noise_multiplier=noise_multiplier)


def default_delta(delta: float | None, units: int) -> float:
    """Delta as given, or 1e-5, and ``units ** -1.1`` where that is less.

    Raises:
      ValueError: the delta is not between 0 and 1.
    """
    # Of few units less than one over their number is still no guarantee.
    return checked_delta(min(LARGEST_DEFAULT_DELTA, units**-1.1) if delta is None else delta)


def checked_delta(delta: float) -> float:
    """The delta, if it is between 0 and 1."""
    if not 0 < delta < 1:
        raise ArgumentError("delta", "a number between 0 and 1", repr(delta))
    return delta


def _smallest(accept: Callable[[float], bool], low: float, tolerance: float) -> float:
    """Bisects a monotone predicate that is false at ``low``; the result is always accepted."""
    high = max(2 * low, 1.0)
    while not accept(high):
        low, high = high, 2 * high
        if not math.isfinite(high) or high > 1e6:
            raise ArgumentError(
                "target_epsilon", "a target that some noise multiplier below 1e6 reaches", "none"
            )
    while high - low > tolerance:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if accept(middle) else (middle, high)
    return high
