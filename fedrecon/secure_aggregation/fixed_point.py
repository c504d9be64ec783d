"""Numbers as words of a modulus, so that sums over clients are exact in any order and can be masked."""

import dataclasses
from fractions import Fraction

import numpy as np

from fedrecon.errors import ArgumentError

_LARGEST_MODULUS = 2**32
# float32 holds the exponents of scaled values up to here; more bits than words have are of no use either.
_MOST_BITS = 31


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """Fixed-point words of the clipped, weighted numbers of clients, and the numbers of their sum.

    A number x becomes ``weight * round(clip(x, -c, c) * 2^f) mod R``, with two's complement for R = 2^32. The
    sum of the words of all clients mod R, lifted to [-R/2, R/2), over 2^f, is the weighted sum of the clipped
    numbers to within ``2^-f`` for each unit of weight (half of that rounded to nearest).

    Attributes:
      clip: c > 0; numbers beyond are clipped to it.
      bits: f, bits behind the binary point, 0 to 31.
      clients: n, the most summands.
      largest_weight: w, the largest weight of a client, an integer.
      modulus: R, at most 2^32: the sum's arithmetic, 2^32 for ``uint32`` that wraps by itself.

    Raises:
      ArgumentError: a sum could wrap: n w (c 2^f + 1) < R / 2 does not hold; or an attribute is out of range.
    """

    clip: float
    bits: int
    clients: int
    largest_weight: int = 1
    modulus: int = _LARGEST_MODULUS

    def __post_init__(self) -> None:
        if not float(np.finfo(np.float32).tiny) <= self.clip <= float(np.finfo(np.float32).max):
            raise ArgumentError("clip", "a positive, finite float32", self.clip)
        for name, least, most in (
            ("bits", 0, _MOST_BITS),
            ("clients", 1, None),
            ("largest_weight", 1, None),
            ("modulus", 2, _LARGEST_MODULUS),
        ):
            _check_integer(getattr(self, name), name, least, most)
        largest = self.clients * self.largest_weight * (Fraction(self._limit()) * 2**self.bits + 1)
        if not largest < Fraction(self.modulus, 2):
            raise ArgumentError(
                "bits",
                f"clients * largest_weight * (clip * 2**bits + 1) < modulus / 2 = {self.modulus / 2:.0f}, "
                f"so that sums do not wrap; fewer bits or a smaller clip",
                f"{float(largest):.0f} with clip {self.clip}, {self.bits} bits, {self.clients} clients and "
                f"weights up to {self.largest_weight}",
            )

    @classmethod
    def finest(
        cls, clip: float, clients: int, largest_weight: int = 1, modulus: int = _LARGEST_MODULUS
    ) -> "FixedPoint":
        """That of the most bits with which sums cannot wrap.

        Raises:
          ArgumentError: there is none.
        """
        cls(clip, 0, clients, largest_weight, modulus)
        for bits in range(_MOST_BITS, 0, -1):
            try:
                return cls(clip, bits, clients, largest_weight, modulus)
            except ArgumentError:
                continue
        return cls(clip, 0, clients, largest_weight, modulus)

    def encode(self, x: np.ndarray, weight: int = 1, rng: np.random.Generator | None = None) -> np.ndarray:
        """Words of the numbers of one client.

        Args:
          x: finite numbers of any shape, taken as float32.
          weight: 1 to ``largest_weight``.
          rng: rounds at random, so that the mean of the words is the number (to 2^-24 of a step); rounded to
            nearest, halves to even, without it.

        Returns:
          uint32 words below the modulus, of the shape of ``x``.

        Raises:
          ArgumentError: a number is not finite, or the weight out of range.
        """
        draws = None if rng is None else rng.integers(0, 2**32, np.shape(x), np.uint32)
        return self.encode_with(x, draws, weight)

    def encode_with(self, x: np.ndarray, draws: np.ndarray | None, weight: int = 1) -> np.ndarray:
        """As `encode`, with the random uint32 ``draws`` of the shape of ``x``; None rounds to nearest.

        All steps before the weight are exact in float32, so that any other implementation of them gives the
        same bits: with v = clip(x) * 2^f, up when ``(draw >> 8) * 2^-24 < v - floor(v)``.
        """
        _check_integer(weight, "weight", 1, self.largest_weight)
        x = np.asarray(x, np.float32)
        if not np.isfinite(x).all():
            raise ArgumentError("x", "finite numbers", f"{np.count_nonzero(~np.isfinite(x))} that are not")
        limit = self._limit()
        scaled = np.clip(x, np.float32(-limit), np.float32(limit)) * np.float32(2.0**self.bits)
        if draws is None:
            whole = np.rint(scaled)
        else:
            if draws.shape != x.shape or draws.dtype != np.uint32:
                raise ArgumentError(
                    "draws", f"uint32 of shape {x.shape}", f"{draws.dtype} of shape {draws.shape}"
                )
            whole = np.floor(scaled)
            whole += (draws >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24) < scaled - whole
        return (whole.astype(np.int64) * int(weight) % self.modulus).astype(np.uint32)

    def decode(self, total: np.ndarray) -> np.ndarray:
        """Numbers of the sum of words.

        Args:
          total: integers of any shape, the sum of the clients' words, reduced by the modulus or not.

        Returns:
          float64 numbers of the same shape: the sum of the clients' weights times their numbers.
        """
        words = np.asarray(total).astype(np.int64) % self.modulus
        lifted = np.where(words >= (self.modulus + 1) // 2, words - self.modulus, words)
        return lifted / 2.0**self.bits

    def _limit(self) -> float:
        return float(np.float32(self.clip))


def _check_integer(value: object, name: str, least: int, most: int | None) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
        kind = f"an integer from {least} to {most}" if most is not None else f"an integer of {least} or more"
        raise ArgumentError(name, kind, value)
