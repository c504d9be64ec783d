"""Exact samplers of integer noise, from a cryptographic source of randomness.

No step of them works with floating point: what is drawn has the stated distribution exactly
(`discrete_gaussian`), or each of its probabilities to 2^-63 (`skellam`).
"""

import math
import os
import secrets
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

import numpy as np

from fedrecon.errors import ArgumentError

# ``randbelow(n)``: uniform on 0 .. n - 1; ``random_bytes(n)``: n uniform bytes.
RandomBelow = Callable[[int], int]
RandomBytes = Callable[[int], bytes]

# Of the probabilities in the table of a Poisson distribution: what is below is left out, and their grid.
_TAIL_BITS, _GUARD_BITS, _TABLE_BITS = 72, 160, 64
# Entries of the largest table: 60 MB, one second.
_LARGEST_STDDEV = 2.0**18


def discrete_gaussian(
    variance: Fraction | float, size: int, randbelow: RandomBelow = secrets.randbelow
) -> np.ndarray:
    """Draws of P(x) ~ exp(-x^2 / (2 variance)) on the integers (Canonne, Kamath and Steinke 2020).

    By rejection of discrete Laplace draws, in rational arithmetic; some 50 000 a second.

    Args:
      variance: sigma^2 > 0; a float is taken as the rational number that it is.
      size: number of draws.
      randbelow: uniform integers.

    Returns:
      int64 (size,).

    Raises:
      ValueError: the variance is not positive.
    """
    variance = Fraction(variance)
    if not variance > 0:
        raise ArgumentError("variance", "a positive number", variance)
    width = math.isqrt(math.floor(variance)) + 1
    draws: list[int] = []
    while len(draws) < size:
        x = _discrete_laplace(width, randbelow)
        excess = abs(x) - variance / width
        if _bernoulli_exp(excess * excess / (2 * variance), randbelow):
            draws.append(x)
    return np.asarray(draws, np.int64)


def _discrete_laplace(width: int, randbelow: RandomBelow) -> int:
    """P(x) ~ exp(-|x| / width)."""
    while True:
        low = randbelow(width)
        if not _bernoulli_exp_unit(low, width, randbelow):
            continue
        high = 0
        while _bernoulli_exp_unit(1, 1, randbelow):
            high += 1
        magnitude = low + width * high
        negative = randbelow(2)
        if not (negative and magnitude == 0):
            return -magnitude if negative else magnitude


def _bernoulli_exp(rate: Fraction, randbelow: RandomBelow) -> bool:
    """True with probability exp(-rate), rate >= 0."""
    while rate > 1:
        if not _bernoulli_exp_unit(1, 1, randbelow):
            return False
        rate -= 1
    return _bernoulli_exp_unit(rate.numerator, rate.denominator, randbelow)


def _bernoulli_exp_unit(numerator: int, denominator: int, randbelow: RandomBelow) -> bool:
    """True with probability exp(-numerator / denominator), a rate of at most 1."""
    k = 1
    while randbelow(denominator * k) < numerator:
        k += 1
    return k % 2 == 1


def skellam(variance: Fraction | float, size: int, random_bytes: RandomBytes = os.urandom) -> np.ndarray:
    """Draws of the difference of two Poisson variables of mean variance / 2 each.

    Each Poisson variable is the inverse of its distribution function, tabulated in integer arithmetic, at 64
    uniform bits; millions a second.

    Args:
      variance: of a draw, > 0, at most 2^36.
      size: number of draws.
      random_bytes: the source; the operating system's by default.

    Returns:
      int64 (size,).

    Raises:
      ValueError: the variance is out of range.
    """
    variance = Fraction(variance)
    if not 0 < variance <= Fraction(_LARGEST_STDDEV) ** 2:
        raise ArgumentError("variance", f"a positive number of at most {_LARGEST_STDDEV**2:g}", variance)
    table = _poisson_table(variance / 2)
    uniform = np.frombuffer(random_bytes(16 * size), "<u8").reshape(2, size)
    plus, minus = np.searchsorted(table, uniform, side="right")
    return plus - minus


@lru_cache(maxsize=4)
def _poisson_table(rate: Fraction) -> np.ndarray:
    """Of 64 uniform bits: the number of entries at most them is the variable, less the first of the table."""
    mode = math.floor(rate)
    smallest = 1 << (_GUARD_BITS - _TAIL_BITS)
    above, below = [1 << _GUARD_BITS], []
    k, p = mode, above[0]
    while p > smallest:
        k += 1
        p = p * rate.numerator // (rate.denominator * k)
        above.append(p)
    k, p = mode, 1 << _GUARD_BITS
    while k > 0 and p > smallest:
        p = p * rate.denominator * k // rate.numerator
        k -= 1
        below.append(p)
    masses = below[::-1] + above
    total, cumulative, entries = sum(masses), 0, []
    for mass in masses[:-1]:
        cumulative += mass
        entries.append((cumulative << _TABLE_BITS) // total)
    return np.asarray(entries, np.uint64)
