"""Accounting of example-level DP-SGD at each site, by privacy loss distributions."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fedrecon.errors import ArgumentError

# Larger ones promise little: with probability delta an example may be disclosed.
LARGEST_DEFAULT_DELTA = 1e-5


class Calibration(NamedTuple):
    """One noise multiplier for all sites, and what it gives each.

    Attributes:
      noise_multiplier: noise standard deviation over the clipping norm.
      epsilons: each site's own epsilon, none above the target.
      deltas: the delta of each.
    """

    noise_multiplier: float
    epsilons: tuple[float, ...]
    deltas: tuple[float, ...]


def training_event(
    *,
    noise_multiplier: float,
    steps: int,
    examples: int,
    expected_batch_size: float,
    padded_batch_size: int,
) -> Any:
    """One site's whole training as a ``dp_accounting.DpEvent``.

    ``steps`` compositions of the Gaussian mechanism on a Poisson sample of rate
    min(1, expected_batch_size / examples), truncated to ``padded_batch_size`` (arXiv:2508.15089).

    Raises:
      ValueError: for arguments out of range.
    """
    import dp_accounting

    at_least = {"noise_multiplier": (noise_multiplier, 0), "steps": (steps, 0), "examples": (examples, 1)}
    at_least["padded_batch_size"] = (padded_batch_size, 1)
    for name, (value, least) in at_least.items():
        if not value >= least:
            raise ArgumentError(name, f"at least {least}", repr(value))
    if not expected_batch_size > 0:
        raise ArgumentError("expected_batch_size", "a positive number", repr(expected_batch_size))
    step = dp_accounting.TruncatedSubsampledGaussianDpEvent(
        dataset_size=examples,
        sampling_probability=min(1.0, expected_batch_size / examples),
        truncated_batch_size=padded_batch_size,
        noise_multiplier=noise_multiplier,
    )
    return dp_accounting.SelfComposedDpEvent(step, steps)


def example_level_epsilon(
    *,
    noise_multiplier: float,
    steps: int,
    examples: int,
    expected_batch_size: float,
    padded_batch_size: int,
    delta: float | None = None,
    discretization: float = 1e-4,
) -> float:
    """Epsilon of one site's DP-SGD (`fedrecon.federated.dp_sgd`) with respect to one of its examples.

    The neighboring relation is zero-out: data sets of the same, public size that differ in one example's
    being replaced by nothing. Numerically it is an upper bound (pessimistic rounding of the privacy loss).

    Args:
      noise_multiplier: z.
      steps: local steps the site takes in the whole run: steps per round times rounds it joins.
      examples: the site's number of examples.
      expected_batch_size: mean Poisson batch before truncation.
      padded_batch_size: largest batch.
      delta: of the guarantee; by default 1e-5, and ``examples ** -1.1`` where that is less.
      discretization: grid of the privacy loss; smaller is tighter and slower.

    Returns:
      epsilon; infinite without noise, 0 without steps.

    Raises:
      ValueError: for arguments out of range.
    """
    import dp_accounting

    event = training_event(
        noise_multiplier=noise_multiplier,
        steps=steps,
        examples=examples,
        expected_batch_size=expected_batch_size,
        padded_batch_size=padded_batch_size,
    )
    delta = _delta(delta, examples)
    if steps == 0:
        return 0.0
    accountant = dp_accounting.pld.PLDAccountant(
        dp_accounting.NeighboringRelation.REPLACE_SPECIAL, value_discretization_interval=discretization
    )
    return float(accountant.compose(event).get_epsilon(delta))


def calibrate_noise_multiplier(
    target_epsilon: float,
    *,
    steps: int,
    examples: Sequence[int],
    expected_batch_size: float,
    padded_batch_size: int,
    delta: float | None = None,
    discretization: float = 1e-3,
    tolerance: float = 1e-3,
) -> Calibration:
    """The smallest noise multiplier, within ``tolerance``, at which no site exceeds the target.

    Every site uses the same multiplier; the search runs on the worst one, usually that with the fewest
    examples.

    Args:
      target_epsilon: of every site's guarantee.
      steps: local steps each site takes in the whole run.
      examples: the sites' numbers of examples.
      expected_batch_size, padded_batch_size, delta, discretization: as in `example_level_epsilon`.
      tolerance: of the multiplier, from above.

    Raises:
      ValueError: for arguments out of range.
    """
    if not target_epsilon > 0:
        raise ArgumentError("target_epsilon", "a positive number", repr(target_epsilon))
    if not tolerance > 0:
        raise ArgumentError("tolerance", "a positive number", repr(tolerance))
    if not examples:
        raise ArgumentError("examples", "at least one site", "none")
    if steps < 1:
        raise ArgumentError("steps", "at least 1", repr(steps))

    def epsilon(multiplier: float, size: int) -> float:
        return example_level_epsilon(
            noise_multiplier=multiplier,
            steps=steps,
            examples=size,
            expected_batch_size=expected_batch_size,
            padded_batch_size=padded_batch_size,
            delta=delta,
            discretization=discretization,
        )

    multiplier = 0.0
    # Epsilon need not fall with size when delta and truncation depend on it, so every size is checked.
    for size in sorted(set(examples)):
        if epsilon(multiplier, size) > target_epsilon:

            def enough(multiplier: float, size: int = size) -> bool:
                return epsilon(multiplier, size) <= target_epsilon

            multiplier = _smallest(enough, multiplier, tolerance)
    by_size = {size: epsilon(multiplier, size) for size in set(examples)}
    return Calibration(
        multiplier,
        tuple(by_size[size] for size in examples),
        tuple(_delta(delta, size) for size in examples),
    )


def _delta(delta: float | None, examples: int) -> float:
    # Of few examples less than one over their number is still no guarantee.
    delta = min(LARGEST_DEFAULT_DELTA, examples**-1.1) if delta is None else delta
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
