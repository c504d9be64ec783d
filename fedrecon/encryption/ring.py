"""Exact arithmetic in Z_Q[x] / (x^N + 1), Q a product of 30-bit primes, and draws from the operating system.

Elements are uint64 arrays (primes, N) of residues. Products are by number-theoretic transforms: evaluations
at the odd powers of a 2N-th root of unity, where multiplication is elementwise (Pollard 1971).
"""

import functools
import hashlib
import math
import os
from typing import NamedTuple

import numpy as np

from fedrecon.errors import ArgumentError

_BITS = 30


class Ring(NamedTuple):
    """A ring with what transforms need.

    Attributes:
      degree: N, a power of two.
      primes: uint64 (primes, 1), each 1 mod 2N and below 2^30.
      twist, untwist: uint64 (primes, N), powers of the 2N-th root, and of its inverse over N.
      roots, inverse_roots: for each stage uint64 (primes, 1, half its length).
    """

    degree: int
    primes: np.ndarray
    twist: np.ndarray
    untwist: np.ndarray
    roots: tuple[np.ndarray, ...]
    inverse_roots: tuple[np.ndarray, ...]

    @property
    def modulus(self) -> int:
        """Q."""
        return math.prod(int(q) for q in self.primes[:, 0])

    def residues(self, numbers: np.ndarray) -> np.ndarray:
        """Integers, int64 (N,), as residues."""
        return np.mod(numbers[None], self.primes.astype(np.int64)).astype(np.uint64)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Coefficients to evaluations."""
        return _transform(x * self.twist % self.primes, self.roots, self.primes)

    def backward(self, x: np.ndarray) -> np.ndarray:
        """Evaluations to coefficients."""
        return _transform(x, self.inverse_roots, self.primes) * self.untwist % self.primes

    def multiply(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The product of evaluations."""
        return x * y % self.primes

    def centered(self, x: np.ndarray) -> np.ndarray:
        """Coefficients as Python integers, object (N,), from -Q/2 to Q/2."""
        total, modulus = np.zeros(self.degree, object), self.modulus
        for row, q in zip(x, self.primes[:, 0], strict=True):
            part = modulus // int(q)
            total += row.astype(object) * (part * pow(part, -1, int(q)))
        total %= modulus
        return np.where(total > modulus // 2, total - modulus, total)

    def uniform(self, seed: bytes) -> np.ndarray:
        """The element that everybody draws from a public seed, by SHAKE-256 and rejection."""
        rows = []
        for number, q in enumerate(self.primes[:, 0]):
            text = b"fedrecon/ring/v1" + number.to_bytes(4, "little") + seed
            # Words of 30 bits are below the prime but for one in thousands.
            words = np.frombuffer(hashlib.shake_256(text).digest(4 * (self.degree + 512)), "<u4")
            words = (words >> (32 - _BITS)).astype(np.uint64)
            rows.append(words[words < q][: self.degree])
        return np.stack(rows)


@functools.cache
def ring(degree: int, count: int) -> Ring:
    """The ring of a degree, modulo the ``count`` largest fitting primes below 2^30.

    Raises:
      ValueError: the degree is no power of two from 8 to 2^15.
    """
    if degree not in [2**k for k in range(3, 16)]:
        raise ArgumentError("degree", "a power of two from 8 to 2^15", degree)
    primes: list[int] = []
    candidate = 2**_BITS - 2 * degree + 1
    while len(primes) < count:
        if _is_prime(candidate):
            primes.append(candidate)
        candidate -= 2 * degree
    psi = [_root(q, 2 * degree) for q in primes]
    inverse = [pow(root, -1, q) for root, q in zip(psi, primes, strict=True)]
    over = [pow(degree, -1, q) for q in primes]
    untwist = _powers(inverse, primes, degree) * np.asarray(over, np.uint64)[:, None]
    column = np.asarray(primes, np.uint64)[:, None]
    return Ring(
        degree,
        column,
        _powers(psi, primes, degree),
        untwist % column,
        _stages([root * root % q for root, q in zip(psi, primes, strict=True)], primes, degree),
        _stages([root * root % q for root, q in zip(inverse, primes, strict=True)], primes, degree),
    )


def ternary(count: int) -> np.ndarray:
    """Uniform numbers of -1, 0, 1, int64 (count,)."""
    found = np.empty(0, np.uint8)
    while len(found) < count:
        drawn = np.frombuffer(os.urandom(count + 64), np.uint8)
        found = np.concatenate([found, drawn[drawn < 255]])
    return found[:count].astype(np.int64) % 3 - 1


def gaussian(count: int, deviation: float = 3.2) -> np.ndarray:
    """Discrete Gaussian numbers, int64 (count,), by inversion of 64-bit words."""
    tail = math.ceil(13 * deviation)
    support = np.arange(-tail, tail + 1)
    weights = np.exp(-0.5 * (support / deviation) ** 2)
    cumulative = np.cumsum(weights)[:-1] / weights.sum()
    drawn = np.frombuffer(os.urandom(8 * count), "<u8") / 2.0**64
    return support[np.searchsorted(cumulative, drawn, side="right")].astype(np.int64)


def uniform_bits(count: int, bits: int) -> np.ndarray:
    """Uniform integers in [-2^bits, 2^bits), int64 (count,); ``bits`` is at most 62."""
    drawn = np.frombuffer(os.urandom(8 * count), "<u8")
    return (drawn >> np.uint64(63 - bits)).astype(np.int64) - (1 << bits)


def _transform(x: np.ndarray, roots: tuple[np.ndarray, ...], primes: np.ndarray) -> np.ndarray:
    count, degree = x.shape
    x = x[:, _reversed_bits(degree)]
    q = primes[:, :, None]
    for stage in roots:
        half = stage.shape[-1]
        pairs = x.reshape(count, -1, 2, half)
        even, odd = pairs[:, :, 0], pairs[:, :, 1] * stage % q
        x = np.stack([(even + odd) % q, (even + (q - odd)) % q], 2)
    return x.reshape(count, degree)


@functools.cache
def _reversed_bits(degree: int) -> np.ndarray:
    bits = degree.bit_length() - 1
    order = np.zeros(degree, np.int64)
    for bit in range(bits):
        order |= ((np.arange(degree) >> bit) & 1) << (bits - 1 - bit)
    return order


def _stages(roots: list[int], primes: list[int], degree: int) -> tuple[np.ndarray, ...]:
    """Powers of the roots of unity of order 2, 4, ..., N."""
    stages, half = [], 1
    while half < degree:
        of_stage = [pow(root, degree // (2 * half), q) for root, q in zip(roots, primes, strict=True)]
        stages.append(_powers(of_stage, primes, half)[:, None])
        half *= 2
    return tuple(stages)


def _powers(roots: list[int], primes: list[int], count: int) -> np.ndarray:
    rows = []
    for root, q in zip(roots, primes, strict=True):
        row, power = [], 1
        for _ in range(count):
            row.append(power)
            power = power * root % q
        rows.append(row)
    return np.asarray(rows, np.uint64)


def _root(q: int, order: int) -> int:
    """A primitive root of unity of an order that is a power of two."""
    for candidate in range(2, q):
        root = pow(candidate, (q - 1) // order, q)
        if pow(root, order // 2, q) == q - 1:
            return root
    raise AssertionError(f"{q} is prime")


def _is_prime(n: int) -> bool:
    return all(n % k for k in (2, *range(3, math.isqrt(n) + 1, 2)))
