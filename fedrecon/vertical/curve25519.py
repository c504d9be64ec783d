"""Points of Curve25519 from identifiers, by Elligator 2, many at once.

A number that is hashed straight to a coordinate lies on the curve or on its twist, and so do all its
multiples: whoever sees a multiple learns that bit of the hash. Elligator 2 (Bernstein et al. 2013; RFC 9380,
section 6.7.1) ends on the curve always. What it needs is whether numbers are squares modulo 2^255 - 19, which
`are_squares` finds for all of them together.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

PRIME = 2**255 - 19
A = 486662
POINT = 32

# Numbers as nine limbs of 30 bits; 30 steps at a time on the lowest two.
_BITS, _LIMBS = 30, 9
_MASK = (1 << _BITS) - 1
# Numbers at once, and groups of steps after which the last ones are raised to powers.
_CHUNK, _MOST = 8192, 80
# Of fewer numbers powers take less time.
_FEW = 128


def hash_to_points(domain: bytes, identifiers: Sequence[bytes]) -> list[bytes]:
    """Coordinates of points that nobody knows relations between, 32 bytes each.

    The SHA-512 of the domain's length, the domain and the identifier, modulo the prime, is mapped by
    `map_to_coordinates`.

    Args:
      domain: what the points are for, at most 255 bytes.
      identifiers: of any lengths.
    """
    prefix = hashlib.sha512(bytes([len(domain)]) + domain)
    numbers = []
    for identifier in identifiers:
        digest = prefix.copy()
        digest.update(identifier)
        numbers.append(int.from_bytes(digest.digest(), "little") % PRIME)
    return [u.to_bytes(POINT, "little") for u in map_to_coordinates(numbers)]


def map_to_coordinates(numbers: Sequence[int]) -> list[int]:
    """The first coordinates of Elligator 2's points on Curve25519, before the cofactor is cleared.

    Args:
      numbers: r of each, from 0 to 2^255 - 20.

    Returns:
      -A / (1 + 2 r^2) where this is on the curve, or else its negative less A.
    """
    # 2 is no square and -1 is one, so that no denominator is 0.
    inverses = _inverses([(1 + 2 * r * r) % PRIME for r in numbers])
    first = [-A * inverse % PRIME for inverse in inverses]
    on_curve = are_squares([(x * x + A * x + 1) * x % PRIME for x in first])
    return [x if on else (-x - A) % PRIME for x, on in zip(first, on_curve, strict=True)]


def are_squares(numbers: Sequence[int]) -> list[bool]:
    """Which numbers are squares modulo 2^255 - 19, 0 among them.

    Jacobi's symbol by 2-adic steps that look at the lowest bits alone, as in libsecp256k1. Of (f, g), at
    first the prime and the number, g becomes g / 2 where it is even and (g + f) / 2 where it is odd; by turns
    an odd g is exchanged with f before. Halving changes the sign if f is 3 or 5 modulo 8, exchanging if both
    are 3 modulo 4.

    Args:
      numbers: from 0 to 2^255 - 20.
    """
    if len(numbers) < _FEW:
        return [_is_square(number) for number in numbers]
    joined = b"".join(number.to_bytes(POINT, "little") for number in numbers)
    words = np.frombuffer(joined, "<u8").reshape(-1, 4).T
    found = [_symbols(words[:, start : start + _CHUNK]) for start in range(0, len(numbers), _CHUNK)]
    return [
        bool(sign > 0) if sign else _is_square(number)
        for sign, number in zip(np.concatenate(found), numbers, strict=True)
    ]


def _is_square(number: int) -> bool:
    """By Euler's criterion."""
    return pow(number, (PRIME - 1) // 2, PRIME) < 2


def _symbols(words: np.ndarray) -> np.ndarray:
    """Jacobi's symbols of uint64 (4, numbers), 0 of those that were not settled."""
    result = np.zeros(words.shape[1], np.int64)
    place = np.arange(words.shape[1])
    g = _limbs(words)
    f = np.repeat(_limbs(np.frombuffer(PRIME.to_bytes(POINT, "little"), "<u8")[:, None]), len(place), 1)
    turn, sign = np.full(len(place), -1), np.zeros(len(place), np.int64)
    for _ in range(_MOST):
        turn, sign, matrix = _steps(turn, sign, f, g)
        f, g = _combined(matrix[0], f, g), _combined(matrix[1], f, g)
        done = (f[0] == 1) & ~f[1:].any(0)
        if done.any():
            result[place[done]] = 1 - 2 * (sign[done] >> 1 & 1)
            place, turn, sign = place[~done], turn[~done], sign[~done]
            f, g = f[:, ~done], g[:, ~done]
        if not len(place):
            break
    return result


def _steps(
    turn: np.ndarray, sign: np.ndarray, f: np.ndarray, g: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """30 steps: the turn, the sign (in its bit 1), and 2^30 times what makes the new f and g of the old."""
    one, none = np.ones_like(turn), np.zeros_like(turn)
    a = np.stack([f[0] | f[1] << _BITS, one, none])
    b = np.stack([g[0] | g[1] << _BITS, none, one])
    for _ in range(_BITS):
        odd = -(b[0] & 1)
        swap = odd & (turn >> 63)
        sign = sign ^ (a[0] & b[0] & swap)
        changed = (a ^ b) & swap
        a ^= changed
        b ^= changed
        b += a & odd
        turn = ((turn ^ swap) - swap) - 1
        b[0] >>= 1
        a[1:] <<= 1
        sign ^= a[0] ^ (a[0] >> 1)
    return turn, sign, (a[1:], b[1:])


def _combined(row: np.ndarray, f: np.ndarray, g: np.ndarray) -> np.ndarray:
    """(row[0] f + row[1] g) / 2^30, which is whole, as limbs."""
    result, carry = np.empty_like(f), np.zeros(f.shape[1], np.int64)
    for limb in range(_LIMBS):
        carry += row[0] * f[limb] + row[1] * g[limb]
        if limb:
            result[limb - 1] = carry & _MASK
        carry >>= _BITS
    result[-1] = carry
    return result


def _limbs(words: np.ndarray) -> np.ndarray:
    """int64 (9, numbers) of uint64 (4, numbers)."""
    rows = []
    for limb in range(_LIMBS):
        word, shift = divmod(_BITS * limb, 64)
        value = words[word] >> np.uint64(shift)
        if shift > 64 - _BITS and word < 3:
            value = value | words[word + 1] << np.uint64(64 - shift)
        rows.append(value & np.uint64(_MASK))
    return np.stack(rows).astype(np.int64)


def _inverses(numbers: Sequence[int]) -> list[int]:
    """Those of all modulo the prime, with one inversion; none is 0."""
    products = [1]
    for number in numbers:
        products.append(products[-1] * number % PRIME)
    inverse, result = pow(products[-1], -1, PRIME), []
    for number, product in zip(reversed(numbers), reversed(products[:-1]), strict=True):
        result.append(inverse * product % PRIME)
        inverse = inverse * number % PRIME
    return result[::-1]
