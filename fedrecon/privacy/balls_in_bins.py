"""Privacy loss of balls in bins: a unit in one random sum of a pass (Chua et al. 2025, arXiv:2412.16802).

With T sums of a pass, the first s of them released, noise z and sensitivity 1, neighbors are dominated by

  P = (1 / T) sum_{t <= s} N(e_t, z^2 I) + (1 - s / T) N(0, z^2 I)  against  Q = N(0, z^2 I)

whose likelihood ratio is R = (T - s + Y_1 + ... + Y_s) / T, of independent Y = exp(x_t / z^2 - 1 / (2 z^2)).
Both directions' hockey-stick divergences, E_Q[(R - e^eps)_+] and E_Q[(1 - e^eps R)_+], are convex in R. So
they grow where a Y, or a sum of some, is replaced by a random one of the same mean on a grid: sums of grids,
each moved to the next grid by splitting mass between the two neighbors of a point, give an upper bound that
differs from the truth by the square of the grid's step. Nothing is drawn, and nothing is asymptotic.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from scipy.special import log_ndtr, ndtr
from scipy.stats import binom

# Grid points within a standard deviation, how far grids reach, and the mass beyond.
_POINTS, _REACH = 32, 8.5
# With less noise no amplification is claimed: losses are large, and hiding in a pass helps little.
_LEAST_NOISE = 0.1


class _Sum(NamedTuple):
    """A distribution of log(Y_1 + ... + Y_terms) under Q: ``masses`` at ``logs``, whose first is of 0."""

    logs: np.ndarray
    masses: np.ndarray
    terms: int


def overflow(units: int, bins: int, most: int) -> float:
    """Probability that the other units fill a bin, so that one more would displace one of them."""
    return float(binom.sf(most - 1, units - 1, 1 / bins))


def loss_distribution(
    noise_multiplier: float, units: int, bins: int, steps: int, most: int, interval: float
) -> Any:
    """The privacy loss of a pass as a ``dp_accounting`` distribution, from above, for units that are zeroed.

    Where a bin is full, the units left out tell of the bin. So all that depends on the other units alone is
    taken as known: their K full bins, in which nothing is amplified, and that the unit is in none of them,
    where the others hide it. K is positive with probability at most bins * `overflow`, its mean; since full
    bins are negatively associated, P(K >= k) is at most C(bins, k) overflow^k. Below a noise of 0.1 nothing
    is amplified.

    Args:
      noise_multiplier: z > 0.
      units: at the client, including the one that is protected.
      bins: sums of a pass, T.
      steps: of them that are released, s <= T.
      most: units in a sum.
      interval: of the grid of losses.
    """
    if noise_multiplier < _LEAST_NOISE:
        from dp_accounting.pld import privacy_loss_distribution

        return privacy_loss_distribution.from_gaussian_mechanism(
            noise_multiplier, value_discretization_interval=interval
        )
    full = overflow(units, bins, most)
    crowded = min(1.0, bins * full)
    many = next((k for k in range(1, bins) if math.comb(bins, k + 1) * full ** (k + 1) <= 0.01 * full), bins)
    rest = 0.0 if many >= bins - 1 else math.comb(bins, many + 1) * full ** (many + 1)
    others = max(bins - many, 1)
    inside = min(crowded, full + rest)
    parts = [
        (1 - crowded, _pass(noise_multiplier, bins, steps)),
        (crowded - inside, _pass(noise_multiplier, others, min(steps, others))),
        (inside, _pass(noise_multiplier, 1, 1)),
    ]
    losses = np.concatenate([part[0] for _, part in parts])
    masses = np.concatenate([weight * part[1] for weight, part in parts])
    order = np.argsort(losses, kind="stable")
    return _distribution(losses[order], masses[order], interval)


@functools.lru_cache(maxsize=256)
def _pass(noise: float, bins: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses log R in increasing order, and their masses under Q."""
    total = _sum(noise, steps)
    rest = math.log(bins - steps) if steps < bins else -math.inf
    return np.logaddexp(total.logs, rest) - math.log(bins), total.masses


def _distribution(losses: np.ndarray, masses: np.ndarray, interval: float) -> Any:
    from dp_accounting.pld import pld_pmf, privacy_loss_distribution

    ratios = np.exp(losses)
    removed, added = masses * ratios, masses
    finite = losses[np.isfinite(losses)]
    pmfs = []
    # P against Q, and Q against P, whose losses are the negative ones.
    for direction, left, right in ((1, removed, added), (-1, added, removed)):
        low, high = sorted((direction * finite[0], direction * finite[-1]))
        grid = np.arange(math.floor(low / interval), math.ceil(high / interval) + 1)
        deltas = _hockey_sticks(
            direction * losses[::direction], left[::direction], right[::direction], grid * interval
        )
        pmfs.append(
            pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(
                interval, int(grid[0]), int(grid[-1]), deltas
            )
        )
    return privacy_loss_distribution.PrivacyLossDistribution(*pmfs)


def _hockey_sticks(
    losses: np.ndarray, left: np.ndarray, right: np.ndarray, epsilons: np.ndarray
) -> np.ndarray:
    """sum (left - e^eps right)_+, and what ``left`` lacks of 1, at increasing losses log(left / right)."""
    lost = max(0.0, 1 - float(left.sum()))
    above_left, above_right = (np.append(np.cumsum(x[::-1])[::-1], 0.0) for x in (left, right))
    first = np.searchsorted(losses, epsilons, side="right")
    deltas = above_left[first] - np.exp(epsilons) * above_right[first] + lost
    return np.minimum.accumulate(np.clip(deltas, lost, 1.0))


@functools.lru_cache(maxsize=64)
def _sum(noise: float, count: int) -> _Sum:
    if count == 1:
        return _single(noise)
    half = _sum(noise, count // 2)
    twice = _added(half, half, noise)
    return twice if count % 2 == 0 else _added(twice, _single(noise), noise)


@functools.lru_cache(maxsize=16)
def _single(noise: float) -> _Sum:
    """Y on a grid; the mass of each cell goes to its ends such that its mean stays."""
    width, center = 1 / noise, -0.5 / noise**2
    # Under P the center is 1 / noise^2 higher.
    logs = np.arange(center - _REACH * width, -center + _REACH * width, width / _POINTS)
    edges = (logs - center) / width
    mass = _between(edges)
    mean = _between(edges - width)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = (np.exp(np.log(mean) - np.log(mass) - logs[:-1]) - 1) / np.expm1(np.diff(logs))
    above = np.where(mass > 0, np.clip(above, 0, 1), 1)
    masses = np.zeros(len(logs) + 1)
    masses[1:-1] += mass * (1 - above)
    masses[2:] += mass * above
    # Below the grid: between 0 and its first point; above: moved down, which the lacking mean shows.
    low = math.exp(log_ndtr(edges[0] - width) - logs[0])
    masses[1] += low
    masses[0] += max(0.0, ndtr(edges[0]) - low)
    masses[-1] += ndtr(-edges[-1])
    return _Sum(np.concatenate([[-np.inf], logs]), masses, 1)


def _between(edges: np.ndarray) -> np.ndarray:
    """Normal masses of cells, without loss of digits in either tail."""
    low, high = edges[:-1], edges[1:]
    return np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))


def _added(a: _Sum, b: _Sum, noise: float) -> _Sum:
    """The sum of two independent ones, on a grid of its own."""
    logs = _grid(noise, a.terms + b.terms)
    sums = np.minimum(np.logaddexp.outer(a.logs, b.logs).ravel(), logs[-1])
    weights = np.outer(a.masses, b.masses).ravel()
    place = np.clip(np.searchsorted(logs, sums, side="right") - 1, 0, len(logs) - 2)
    low = np.exp(logs[:-1] - logs[1:])[place]
    above = weights * (np.exp(sums - logs[place + 1]) - low) / (1 - low)
    masses = np.bincount(place, weights - above, len(logs))
    masses += np.bincount(place + 1, above, len(logs))
    return _Sum(logs, masses, a.terms + b.terms)


def _grid(noise: float, count: int) -> np.ndarray:
    """Logarithms of a sum of ``count``: close where most of its mass is, and wider where single Y matter."""
    # Of the lognormal distribution with the mean and the variance of the sum.
    variance = math.log1p(math.expm1(1 / noise**2) / count)
    center, width = math.log(count) - variance / 2, math.sqrt(variance)
    low = math.log(count) - 0.5 / noise**2 - _REACH * min(1 / noise, 3 * width)
    high = np.logaddexp(0.5 / noise**2 + _REACH / noise, center + _REACH * width)
    points = [center]
    for step, end in ((-1, low), (1, high)):
        side = [center]
        while step * side[-1] < step * end:
            far = max(0.0, abs(side[-1] - center) - 4 * width) / 4
            side.append(side[-1] + step * min(1 / noise, math.hypot(width, far)) / _POINTS)
        points = side[:0:-1] + points if step < 0 else points + side[1:]
    return np.concatenate([[-np.inf], points])
