"""How long trainings take until they are good enough, on any clock."""

import numpy as np
from numpy.typing import ArrayLike

from fedrecon.errors import ArgumentError


def target_score(curve: ArrayLike, part: float = 0.95, *, lower: bool = False) -> float:
    """The score that counts as reached: a part of the best one of a curve (evaluations,), NaN left out.

    Args:
      curve: of the training that others are measured by, such as the synchronous one.
      part: in (0, 1].
      lower: lower is better, as of a loss: the part is of its fall from the first value to the lowest.

    Raises:
      ArgumentError: a part out of range, or no finite score.
    """
    values = np.asarray(curve, float)
    values = values[np.isfinite(values)]
    if not 0 < part <= 1:
        raise ArgumentError("part", "a number in (0, 1]", part)
    if not values.size:
        raise ArgumentError("curve", "a finite score at least", curve)
    if lower:
        return float(values[0] - part * (values[0] - values.min()))
    return float(part * values.max())


def time_to(clock: ArrayLike, curve: ArrayLike, target: float, *, lower: bool = False) -> float:
    """The time of the first evaluation that reaches a score; infinite if none does.

    Args:
      clock: (evaluations,), any unit.
      curve: (evaluations,), scores at these times.
      target: of `target_score`.
      lower: lower is better.

    Raises:
      ArgumentError: other numbers of times than of scores.
    """
    times, values = np.asarray(clock, float), np.asarray(curve, float)
    if times.shape != values.shape or times.ndim != 1:
        raise ArgumentError("curve", f"{times.size} scores, one for each time", values.shape)
    reached = values <= target if lower else values >= target
    return float(times[np.argmax(reached)]) if reached.any() else float("inf")


def convergence_score(clock: ArrayLike, curve: ArrayLike, longest: float) -> float:
    """The mean over a span of time of the best score so far: the area that FeTS 2021 ranked by.

    With T_t the seconds of round t and best_t the highest score until its end::

        [sum_t best_t T_t + (longest - sum_t T_t) best_last] / longest

    Rounds after ``longest`` do not count, and the one that it ends in counts in part.

    Args:
      clock: (rounds,), time at the end of each round, not falling.
      curve: (rounds,), score at that time, higher being better.
      longest: the span, in the same unit; in FeTS a week.

    Raises:
      ArgumentError: no round, other numbers of times than of scores, or a span that is not positive.
    """
    times, values = np.asarray(clock, float), np.asarray(curve, float)
    if times.shape != values.shape or times.ndim != 1 or not times.size:
        raise ArgumentError("curve", f"{times.size} scores, one for each time", values.shape)
    if not longest > 0 or (np.diff(times, prepend=0.0) < 0).any():
        raise ArgumentError("clock", "times that do not fall, and a positive span", (clock, longest))
    ends = np.minimum(times, longest)
    best = np.maximum.accumulate(values)
    seconds = np.diff(ends, prepend=0.0)
    last = best[seconds > 0][-1] if (seconds > 0).any() else best[-1]
    return float(((best * seconds).sum() + (longest - ends[-1]) * last) / longest)
