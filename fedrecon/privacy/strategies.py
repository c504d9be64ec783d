"""Strategies of correlated noise for clients that visit their units in one order."""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

# Of single precision in the stream of noise.
_SLACK = 1 + 1e-5
# Part of the mean squared error by which one more buffer must lower it.
_GAIN = 1e-3


def strategy_of(steps: Sequence[int], passes: int, bands: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A banded Toeplitz strategy, and its sensitivity at clients by the number of their steps in a pass.

    It minimizes the mean squared error of the sums of gradients so far (Choquette-Choo et al. 2023,
    arXiv:2306.08153), for the client with the most steps.

    Args:
      steps: steps in a pass of each client.
      passes: of the whole training, in each of which a unit is visited once.
      bands: of the strategy; no more than the fewest steps of a client that has any, so that visits of one
        unit are never nearer than the bands.

    Returns:
      (coefficients, factors): ``factors[t]`` is the sensitivity with t steps in a pass, infinite where no
      client has as many.
    """
    known = sorted({t for t in steps if t})
    coefficients = _banded(passes * known[-1], min(bands, known[0]))
    return coefficients, _factors(coefficients, known, passes)


def buffered_strategy_of(
    steps: Sequence[int], passes: int, buffers: int
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """A buffered linear Toeplitz strategy: coefficients 1 and then sum_k scales[k] * decays[k]^(i - 1).

    Its noise needs as many copies of the model as there are buffers, however long the training is (McMahan et
    al. 2024, arXiv:2404.16706, 2408.08868). What it minimizes, and the arguments, are as in `strategy_of`; of
    ``buffers`` no more are taken than lower that error by 0.1 %, which often is one or two.

    Returns:
      (scales, decays, factors), the first two exact in single precision.
    """
    known = sorted({t for t in steps if t})
    scales, decays = _buffered(known[-1], passes, buffers)
    coefficients = buffered_coefficients(scales, decays, passes * known[-1])
    return scales, decays, _factors(coefficients, known, passes)


def buffered_coefficients(scales: ArrayLike, decays: ArrayLike, size: int) -> np.ndarray:
    """The first ``size`` coefficients of a buffered linear Toeplitz strategy, float64."""
    powers = np.asarray(decays, float) ** np.arange(size - 1)[:, None]
    return np.append(1.0, powers @ np.asarray(scales, float))


def sensitivity(coefficients: ArrayLike, separation: int, passes: int) -> float:
    """How far a unit moves C times the stream of sums of norm 1 that it is in every ``separation`` steps.

    Exact for coefficients that are not negative and never increase, of which the first visits are the worst
    (arXiv:2405.13763, theorem 2).
    """
    size = separation * passes
    given = np.asarray(coefficients, float)[:size]
    column = np.pad(given, (0, size - len(given)))
    return float(np.linalg.norm(column.reshape(passes, separation).cumsum(0)))


def _factors(coefficients: ArrayLike, known: Sequence[int], passes: int) -> tuple[float, ...]:
    factors = [np.inf] * (known[-1] + 1)
    for count in known:
        factors[count] = sensitivity(coefficients, count, passes) * _SLACK
    return tuple(factors)


@functools.cache
def _banded(steps: int, bands: int) -> tuple[float, ...]:
    from jax_privacy.matrix_factorization import toeplitz

    if bands == 1:
        return (1.0,)
    found = np.asarray(toeplitz.optimize_banded_toeplitz(steps, bands, max_optimizer_steps=100), float)
    # What the theorem on sensitivity presumes, exactly.
    found = np.minimum.accumulate(np.maximum(found, 0))
    return tuple(float(c) for c in found / np.linalg.norm(found))


@functools.cache
def _buffered(separation: int, passes: int, buffers: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Found a buffer at a time, until one more does not help."""
    from scipy.optimize import minimize

    best, value = np.array([0.0, 0.0, 2.0]), np.inf
    for count in range(1, buffers + 1):
        start = best
        if count > 1:
            # Another one with a small part of the others' scale, that is forgotten sooner.
            start = np.insert(best, [count, len(best)], [best[1:count].min() - 2, best[count:].min() - 2])
        found = minimize(
            _log_loss, start, (separation, passes), "L-BFGS-B", bounds=[(-12, 12)] * len(start), tol=1e-9
        )
        if found.fun > value - _GAIN:
            break
        best, value = found.x, found.fun
    scales, decays = (tuple(float(v) for v in x.astype(np.float32)) for x in _parameters(best))
    return scales, decays


def _parameters(free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales whose sum is below 1, and decays below 1, so that coefficients never increase."""
    from scipy.special import expit, softmax

    count = len(free) // 2
    return expit(free[0]) * softmax(free[1 : count + 1]), expit(free[count + 1 :])


def _log_loss(free: np.ndarray, separation: int, passes: int) -> float:
    """Logarithm of the mean squared error of all sums so far at unit sensitivity."""
    from scipy.signal import lfilter

    (scales, decays), size = _parameters(free), separation * passes
    # C is p / q as a function of the delay, so that C^-1 is the filter q / p.
    below = np.poly(decays)
    above = below.copy()
    for k, scale in enumerate(scales):
        above[1:] += scale * np.poly(np.delete(decays, k))
    impulse = np.zeros(size)
    impulse[0] = 1
    prefix = np.cumsum(lfilter(below, above, impulse))
    moved = sensitivity(buffered_coefficients(scales, decays, size), separation, passes)
    return 2 * np.log(moved) + np.log(np.cumsum(prefix**2).mean())
