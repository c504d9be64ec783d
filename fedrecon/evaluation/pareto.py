"""Trade-offs between several objectives: Pareto fronts, dominated points and hypervolume."""

from collections.abc import Sequence

import numpy as np

from fedrecon.errors import ArgumentError


def dominates(points: Sequence[Sequence[float]], better: Sequence[str]) -> np.ndarray:
    """Which point dominates which: as good in every objective, and better in one.

    Points with a NaN neither dominate nor are dominated; infinities are ordinary values.

    Args:
      points: (points, objectives).
      better: of each objective "higher" or "lower".

    Returns:
      (points, points) bool, True at [i, j] where point i dominates point j.

    Raises:
      ArgumentError: ``points`` is no table of as many columns as there are directions, or one is unknown.
    """
    values = _costs(points, better)
    no_worse = (values[:, None] <= values).all(2)
    less = (values[:, None] < values).any(2)
    return np.asarray(no_worse & less)


def pareto_front(points: Sequence[Sequence[float]], better: Sequence[str]) -> np.ndarray:
    """Which points no other one dominates; equal ones are on the front together, those with a NaN never.

    Args: as in `dominates`. Returns: (points,) bool. Raises: as `dominates`.
    """
    known = ~np.isnan(_costs(points, better)).any(1)
    return known & ~dominates(points, better).any(0)


def hypervolume(
    points: Sequence[Sequence[float]], better: Sequence[str], reference: Sequence[float]
) -> float:
    """Volume between the front and a reference point that is worse than it (Zitzler and Thiele 1998).

    By slices along the last objective: exact, for a few objectives and tens of points. Points that are not
    better than the reference in every objective, or have a NaN, add nothing.

    Args:
      points, better: as in `dominates`.
      reference: of each objective the value from which on nothing counts.

    Raises:
      ArgumentError: as `dominates`; ``reference`` is not finite or has another length; a point that counts
        is infinitely good.
    """
    costs, bound = _costs(points, better), np.asarray(reference, float)
    if bound.shape != (costs.shape[1],) or not np.isfinite(bound).all():
        raise ArgumentError("reference", f"{costs.shape[1]} finite numbers", list(reference))
    bound = _signs(better) * bound
    counted = costs[(costs < bound).all(1)]
    if np.isinf(counted).any():
        raise ArgumentError("points", "finite values of what counts", "an infinitely good one")
    return _volume(counted, bound)


def _volume(costs: np.ndarray, bound: np.ndarray) -> float:
    """Of the union of boxes from each point to the bound, all lower being better."""
    if not len(costs):
        return 0.0
    if costs.shape[1] == 1:
        return float(bound[0] - costs.min())
    levels = np.unique(costs[:, -1])
    heights = np.diff([*levels, bound[-1]])
    return sum(
        float(height) * _volume(costs[costs[:, -1] <= level, :-1], bound[:-1])
        for level, height in zip(levels, heights, strict=True)
    )


def _signs(better: Sequence[str]) -> np.ndarray:
    if unknown := [name for name in better if name not in ("higher", "lower")]:
        raise ArgumentError("better", '"higher" or "lower" of each objective', repr(unknown[0]))
    return np.array([1.0 if name == "lower" else -1.0 for name in better])


def _costs(points: Sequence[Sequence[float]], better: Sequence[str]) -> np.ndarray:
    """The points with all objectives such that lower is better."""
    signs, values = _signs(better), np.asarray(points, float)
    if not len(signs):
        raise ArgumentError("better", "at least one objective", "none")
    if not values.size:
        return np.zeros((0, len(signs)))
    if values.ndim != 2 or values.shape[1] != len(signs):
        raise ArgumentError("points", f"an array (points, {len(signs)})", values.shape)
    return signs * values
