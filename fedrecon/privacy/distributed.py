"""Noise that clients add in shares inside a secure sum: the discrete Gaussian and Skellam mechanisms.

Each client clips its update, rotates it, rounds it to a grid and adds integer noise; the server learns the
sum, whose noise is that of all shares together (Kairouz, Liu and Steinke 2021, arXiv:2102.06387; Agarwal,
Kairouz and Liu 2021, arXiv:2110.04995).
"""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.privacy.discrete import discrete_gaussian, skellam

MECHANISMS = ("skellam", "discrete_gaussian")
# Probability beta with which rounding may be repeated, as in the papers.
_LOG_INVERSE_BETA = 0.5
# Standard deviations of the sum within the modulus, and the flatness of a rotated vector.
_TAILS, _FLATNESS = 4.0, 1.0
ORDERS = tuple(range(2, 129))
# Those of events, of which every release has a copy.
_EVENT_ORDERS = (*range(2, 33), 40, 48, 64, 96, 128)


@dataclasses.dataclass(frozen=True)
class DistributedNoise:
    """One object that sensitivity, rounding, noise of each client, modulus and accounting derive from.

    A sum over at least ``clients - dropouts`` clients has at least the noise that is accounted; with fewer it
    must not be released. Clients count equally.

    Attributes:
      clip: c, the largest l2 norm of a client's update; longer ones are scaled down to it.
      stddev: sigma, the standard deviation of each client's share, in the units of the update.
      clients: n, the most clients in a sum.
      dropouts: the clients among them that may drop out; their noise is made up for by that of the others.
      size: numbers of the update; padded to ``dimension``, a power of two, by the rotation.
      scale: s, steps of the grid per unit.
      bits: b, of the modulus 2^b of the sum.
      mechanism: "skellam" or "discrete_gaussian".

    Raises:
      ArgumentError: an attribute is out of range, or the modulus too small for the sum.
    """

    clip: float
    stddev: float
    clients: int
    dropouts: int
    size: int
    scale: float
    bits: int = 20
    mechanism: str = "skellam"

    def __post_init__(self) -> None:
        for name in ("clip", "stddev", "scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ArgumentError(name, "a positive number", getattr(self, name))
        for name, least, most in (
            ("clients", 1, 2**20),
            ("dropouts", 0, self.clients - 1),
            ("size", 1, 2**31),
            ("bits", 2, 32),
        ):
            if not least <= getattr(self, name) <= most:
                raise ArgumentError(name, f"an integer from {least} to {most}", getattr(self, name))
        if self.mechanism not in MECHANISMS:
            raise ArgumentError("mechanism", " or ".join(MECHANISMS), repr(self.mechanism))
        spread = math.sqrt(
            _FLATNESS**2 * (self.clip * self.clients) ** 2 / self.dimension
            + self.clients * (self.stddev**2 + 1 / (4 * self.scale**2))
        )
        if 2 * _TAILS * spread * self.scale > 2**self.bits * (1 + 1e-9):
            raise ArgumentError(
                "bits",
                f"at least {math.ceil(math.log2(2 * _TAILS * spread * self.scale))}, so that sums do not "
                "wrap, or a smaller scale",
                self.bits,
            )

    @classmethod
    def of_multiplier(
        cls,
        noise_multiplier: float,
        *,
        clip: float,
        clients: int,
        dropouts: int,
        size: int,
        bits: int = 20,
        mechanism: str = "skellam",
    ) -> "DistributedNoise":
        """The noise of a Gaussian mechanism of this multiplier, at the finest grid that the modulus allows.

        Raises:
          ArgumentError: ``noise_multiplier`` is not positive, or the modulus leaves no grid: 2^2b < n k^2.
        """
        if not noise_multiplier > 0:
            raise ArgumentError("noise_multiplier", "a positive number", noise_multiplier)
        if not 0 <= dropouts < clients:
            raise ArgumentError("dropouts", f"an integer from 0 to {clients - 1}", dropouts)
        stddev = noise_multiplier * clip / math.sqrt(clients - dropouts)
        # Rounding at random adds a variance of at most 1/4 of a step squared for each client.
        room = 2.0 ** (2 * bits) - clients * _TAILS**2
        if room <= 0:
            least = math.ceil(math.log2(clients * _TAILS**2) / 2)
            raise ArgumentError("bits", f"more than {least} for {clients} clients", bits)
        spread = math.sqrt(_FLATNESS**2 * (clip * clients) ** 2 / _power_of_two(size) + clients * stddev**2)
        scale = math.sqrt(room) / (2 * _TAILS * spread)
        return cls(clip, stddev, clients, dropouts, size, scale, bits, mechanism)

    @property
    def dimension(self) -> int:
        """Numbers of the rotated update: ``size`` padded to a power of two."""
        return _power_of_two(self.size)

    @property
    def least_clients(self) -> int:
        """The fewest clients whose sum may be released."""
        return self.clients - self.dropouts

    @property
    def central_stddev(self) -> float:
        """The standard deviation that is accounted: that of the fewest clients' sum."""
        return math.sqrt(self.least_clients) * self.stddev

    @property
    def sensitivity(self) -> float:
        """Delta_2', the largest l2 norm of a rounded update, in units of the update; rounding assures it."""
        reach, d = self.scale * self.clip, self.dimension
        squared = min(
            (reach + math.sqrt(d)) ** 2,
            reach**2 + d / 4 + math.sqrt(2 * _LOG_INVERSE_BETA) * (reach + math.sqrt(d) / 2),
        )
        return math.sqrt(squared) / self.scale

    @property
    def sensitivity_l1(self) -> float:
        """Delta_1', the largest l1 norm of a rounded update: its coordinates are steps of the grid."""
        return self.sensitivity * min(math.sqrt(self.dimension), self.scale * self.sensitivity)

    @property
    def noise_multiplier(self) -> float:
        """Central standard deviation over the sensitivity, below that asked for by what rounding costs."""
        return self.central_stddev / self.sensitivity

    def rdp(self, orders: Sequence[int] = ORDERS) -> np.ndarray:
        """Rényi divergences of one sum at integer orders of at least 2, float64."""
        alpha, d = np.asarray(orders, float), self.dimension
        if self.mechanism == "skellam":
            return _skellam_rdp(alpha, self.sensitivity, self.sensitivity_l1, self.scale, self.central_stddev)
        # The sum of discrete Gaussians is none, but nearly; with more clients a little less nearly.
        k = np.arange(1, self.clients)
        tau = 10 * np.exp(-2 * math.pi**2 * (self.scale * self.stddev) ** 2 * k / (k + 1)).sum()
        ratio, ratio_l1 = self.sensitivity / self.central_stddev, self.sensitivity_l1 / self.central_stddev
        return np.minimum.reduce(
            [
                alpha * ratio**2 / 2 + tau * d,
                alpha / 2 * (ratio**2 + 2 * ratio_l1 * tau + tau**2 * d),
                alpha / 2 * (ratio + math.sqrt(d) * tau) ** 2,
            ]
        )

    @property
    def event(self) -> Any:
        """One sum, for the ledger: a `fedrecon.privacy.events.RenyiCurveDpEvent`."""
        from fedrecon.privacy.events import RenyiCurveDpEvent

        words = (
            f"{self.mechanism} noise of {self.least_clients} of {self.clients} clients, "
            f"multiplier {self.noise_multiplier:.6g}, {self.dimension} numbers, scale {self.scale:.6g}"
        )
        return RenyiCurveDpEvent(words, _EVENT_ORDERS, tuple(map(float, self.rdp(_EVENT_ORDERS))))

    def composed(self, rounds: int) -> Any:
        """The event of as many sums."""
        import dp_accounting

        return dp_accounting.SelfComposedDpEvent(self.event, rounds)

    def encode(
        self, x: np.ndarray, signs: np.ndarray, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> np.ndarray:
        """A client's share of the sum: its update rotated, rounded and noised, from a cryptographic source.

        Args:
          x: finite numbers (size,).
          signs: -1 or 1 (dimension,), the same for all clients of a sum; they need not be secret.
          random_bytes: the source of rounding and noise.

        Returns:
          uint32 words (dimension,) below 2^bits.

        Raises:
          ArgumentError: ``x`` has another shape or numbers that are not finite.
        """
        x = np.asarray(x, np.float64)
        if x.shape != (self.size,) or not np.isfinite(x).all():
            raise ArgumentError("x", f"finite numbers of shape ({self.size},)", x.shape)
        x = x * min(1.0, self.clip / max(float(np.linalg.norm(x)), 1e-300))
        padded = np.pad(x, (0, self.dimension - self.size)) * self.scale
        rounded = self._rounded(rotate(padded, signs), random_bytes)
        return ((rounded + self.share(random_bytes)) % 2**self.bits).astype(np.uint32)

    def decode(self, total: np.ndarray, signs: np.ndarray) -> np.ndarray:
        """The noised sum of the clients' updates, float64 (size,), from the sum of words in any modulus."""
        half = 2 ** (self.bits - 1)
        lifted = (np.asarray(total).astype(np.int64) + half) % 2**self.bits - half
        return unrotate(lifted / self.scale, signs)[: self.size]

    def _rounded(self, x: np.ndarray, random_bytes: Callable[[int], bytes]) -> np.ndarray:
        low = np.floor(x)
        while True:
            draws = np.frombuffer(random_bytes(8 * len(x)), "<u8") >> np.uint64(11)
            rounded = (low + (draws * 2.0**-53 < x - low)).astype(np.int64)
            if np.linalg.norm(rounded) <= self.scale * self.sensitivity:
                return rounded

    def share(self, random_bytes: Callable[[int], bytes] = os.urandom) -> np.ndarray:
        """A client's share of the noise, int64 (dimension,) in steps of the grid, exactly distributed."""
        variance = Fraction(self.scale * self.stddev) ** 2
        if self.mechanism == "skellam":
            return skellam(variance, self.dimension, random_bytes)
        return discrete_gaussian(variance, self.dimension, _below(random_bytes))


def rotate(x: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Random signs, then the orthonormal Walsh-Hadamard transform, of x (d,), d a power of two."""
    return _walsh_hadamard(np.asarray(x, np.float64) * signs)


def unrotate(x: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Inverse of `rotate`."""
    return _walsh_hadamard(x) * signs


def _walsh_hadamard(x: np.ndarray) -> np.ndarray:
    size = len(x)
    step = 1
    while step < size:
        pairs = x.reshape(-1, 2, step)
        x = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(-1)
        step *= 2
    return x / math.sqrt(size)


def _skellam_rdp(
    alpha: np.ndarray, sensitivity: float, sensitivity_l1: float, scale: float, stddev: float
) -> np.ndarray:
    variance = stddev**2
    correction = np.minimum(
        ((2 * alpha - 1) * scale * sensitivity**2 + 6 * sensitivity_l1) / (4 * scale**3 * variance**2),
        3 * sensitivity_l1 / (2 * scale * variance),
    )
    return alpha * sensitivity**2 / (2 * variance) + correction


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _below(random_bytes: Callable[[int], bytes]) -> Callable[[int], int]:
    """Uniform integers below a bound, by rejection, from uniform bytes."""

    def below(bound: int) -> int:
        bits = (bound - 1).bit_length()
        if not bits:
            return 0
        size = -(-bits // 8)
        while True:
            value = int.from_bytes(random_bytes(size), "little") >> (8 * size - bits)
            if value < bound:
                return value

    return below
