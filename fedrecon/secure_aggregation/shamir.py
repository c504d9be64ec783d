"""Shamir's secret sharing of 32 bytes: any t shares give the secret, fewer say nothing about it."""

import functools
from collections.abc import Mapping, Sequence

from fedrecon.errors import ArgumentError
from fedrecon.secure_aggregation.errors import ProtocolError
from fedrecon.secure_aggregation.primitives import SECRET, Random

PRIME = 2**256 + 297
"""The field: the smallest prime above all secrets."""

SHARE = 33
"""Bytes of a share, an element of the field, little-endian."""


def split(secret: bytes, threshold: int, points: Sequence[int], random: Random) -> dict[int, bytes]:
    """Shares of a secret.

    Args:
      secret: 32 bytes.
      threshold: shares that are needed, 1 to the number of points.
      points: where the polynomial is evaluated, one for each holder: distinct, from 1.
      random: of the coefficients, which are uniform in the field.

    Returns:
      Share by point.
    """
    if len(secret) != SECRET:
        raise ArgumentError("secret", f"{SECRET} bytes", f"{len(secret)}")
    if not 1 <= threshold <= len(points):
        raise ArgumentError("threshold", f"1 to {len(points)}, the number of shares", threshold)
    if len(set(points)) < len(points) or min(points) < 1:
        raise ArgumentError("points", "distinct positive integers", points)
    rising = [int.from_bytes(secret, "little"), *(_element(random) for _ in range(threshold - 1))]
    coefficients = rising[::-1]
    shares = {}
    for point in points:
        value = 0
        for coefficient in coefficients:
            value = (value * point + coefficient) % PRIME
        shares[point] = value.to_bytes(SHARE, "little")
    return shares


def recover(shares: Mapping[int, bytes], threshold: int, name: str) -> bytes:
    """The secret of at least ``threshold`` shares by point; where there is one more, it must agree.

    Raises:
      ProtocolError: shares are too few, no elements of the field, or not of one secret; it names ``name``.
    """
    if len(shares) < threshold:
        raise ProtocolError(name, f"at least {threshold} shares", len(shares))
    values = {point: int.from_bytes(share, "little") for point, share in shares.items()}
    if max(values.values()) >= PRIME:
        raise ProtocolError(name, "shares in the field", "one beyond")
    points = sorted(values)[: threshold + 1]
    used, spare = tuple(points[:threshold]), points[threshold:]
    secret = _at(0, used, values)
    if any(_at(point, used, values) != values[point] for point in spare) or secret >= 2 ** (8 * SECRET):
        raise ProtocolError(name, "shares of one secret", "shares that do not agree")
    return secret.to_bytes(SECRET, "little")


def _at(x: int, points: tuple[int, ...], values: Mapping[int, int]) -> int:
    weights = lagrange_weights(x, points, PRIME)
    return sum(values[point] * weight for point, weight in zip(points, weights, strict=True)) % PRIME


@functools.lru_cache(maxsize=4096)
def lagrange_weights(x: int, points: tuple[int, ...], prime: int) -> tuple[int, ...]:
    """The weights by which values of a polynomial at distinct points give that at x, modulo a prime."""
    weights = []
    for point in points:
        above = below = 1
        for other in points:
            if other != point:
                above = above * (x - other) % prime
                below = below * (point - other) % prime
        weights.append(above * pow(below, -1, prime) % prime)
    return tuple(weights)


def _element(random: Random) -> int:
    """A uniform element: 257 random bits until they are below the prime."""
    while True:
        drawn = int.from_bytes(random(SHARE), "little") % 2**257
        if drawn < PRIME:
            return drawn
