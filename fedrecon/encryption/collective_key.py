"""Additive encryption under a key that nobody has: n parties hold shares of a ring-LWE secret.

The scheme of Mouchet, Troncoso-Pastoriza, Bossuat and Hubaux (2021, PoPETs), which FAMHE is built on, as far
as sums need it; integers lie in the coefficients. Research code, not reviewed by cryptographers. Parties
follow the protocol; a group whose member is missing decrypts nothing and has to be formed anew.

  s_i ternary, b_i = -a s_i + e_i for a common a; the collective key is (sum b_i, a)
  c_0 = b u + e_0 + m 2^shift,  c_1 = a u + e_1
  party i answers h_i = s_i c_1 + smudging;  c_0 + sum h_i = m 2^shift + noise, and m is rounded off exactly
"""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrecon.encryption.backend import (
    Backend,
    Encoding,
    Encrypted,
    Keys,
    check_numbers,
    check_partials,
    check_sums,
    check_vectors,
)
from fedrecon.encryption.ring import Ring, gaussian, ring, ternary, uniform_bits
from fedrecon.encryption.tenseal_ckks import MOST_BITS
from fedrecon.errors import ArgumentError

DEVIATION = 3.2
# Answers drown what they would tell of a share in noise that is larger by this many bits.
SMUDGING_BITS = 40
_PRIME_BITS = 29.99


class Collective(NamedTuple):
    """Parameters of a group.

    Attributes:
      ring: where ciphertexts are.
      shift: integers are multiplied by two to this power.
      smudging: the noise of answers is uniform within two to this power.
    """

    ring: Ring
    shift: int
    smudging: int


class CollectiveKey(NamedTuple):
    """The public key of a group: a seed from which everybody draws a, and the sum of the b_i."""

    seed: bytes
    b: np.ndarray


def parameters(encoding: Encoding, holders: int, degree: int = 8192) -> Collective:
    """Parameters by which sums come back exactly, at 128 bits of security.

    Raises:
      ValueError: the modulus would be too long for the ring; or the encoding or the group are out of range.
    """
    if not isinstance(holders, int) or holders < 2:
        raise ArgumentError("holders", "an integer of at least 2", repr(holders))
    if degree not in MOST_BITS:
        raise ArgumentError("degree", f"one of {', '.join(map(str, MOST_BITS))}", degree)
    smudging = (
        math.ceil(math.log2(noise_bound(holders, encoding.terms, degree) * math.sqrt(3))) + SMUDGING_BITS
    )
    shift = smudging + math.ceil(math.log2(holders)) + 2
    count = math.ceil((shift + encoding.check().slot_bits + 1) / _PRIME_BITS)
    if smudging > 62 or 30 * count > MOST_BITS[degree]:
        raise ArgumentError(
            "encoding",
            f"sums for which a modulus of {MOST_BITS[degree]} bits at ring {degree} has room",
            f"{30 * count} bits for {encoding.slot_bits} and {holders} holders",
        )
    return Collective(ring(degree, count), shift, smudging)


def noise_bound(holders: int, terms: int, degree: int) -> float:
    """Eight deviations of the noise of a sum: e u + e_0 + e_1 s of each term, with n-fold e and s."""
    one = 4 * degree * holders / 3 + 1
    return 8 * DEVIATION * math.sqrt(one * terms)


def party_key(group: Collective, seed: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(share s_i, contribution b_i) of one party, evaluations; the share never leaves it."""
    r = group.ring
    share = r.forward(r.residues(ternary(r.degree)))
    error = r.forward(r.residues(gaussian(r.degree, DEVIATION)))
    return share, (error + (r.primes - r.multiply(r.uniform(seed), share))) % r.primes


def join(group: Collective, seed: bytes, contributions: Sequence[np.ndarray]) -> CollectiveKey:
    """The collective key of all contributions."""
    return CollectiveKey(seed, _sum(group.ring, contributions))


def collective(encoding: Encoding, holders: int, degree: int = 8192) -> Backend:
    """Sums that only all parties together decrypt, each with a share of a key that is nowhere.

    Args:
      encoding: of the integers.
      holders: n, the parties, all of which answer for every sum.
      degree: of the ring, and the integers of one ciphertext.

    Raises:
      ValueError: arguments out of range.
    """
    group = parameters(encoding, holders, degree)
    r = group.ring
    scale = np.asarray([pow(2, group.shift, int(q)) for q in r.primes[:, 0]], np.uint64)[:, None]
    element = 4 * r.primes.size * degree

    def blocks(size: int) -> int:
        return -(-size // degree)

    def keygen() -> Keys:
        seed = os.urandom(32)
        shares, contributions = zip(*(party_key(group, seed) for _ in range(holders)), strict=True)
        return Keys(join(group, seed, contributions), tuple(shares))

    def small(drawn: np.ndarray) -> np.ndarray:
        return r.forward(r.residues(drawn))

    def encrypt(public, numbers):
        numbers = check_numbers(numbers, encoding.largest)
        a, size, found = r.uniform(public.seed), len(numbers), []
        for start in range(0, size, degree):
            part = numbers[start : start + degree]
            message = r.residues(np.pad(part, (0, degree - len(part)))) * scale % r.primes
            u, e0 = small(ternary(degree)), r.residues(gaussian(degree, DEVIATION))
            c0 = (r.multiply(public.b, u) + r.forward((message + e0) % r.primes)) % r.primes
            c1 = (r.multiply(a, u) + small(gaussian(degree, DEVIATION))) % r.primes
            found.append(_to_bytes(c0) + _to_bytes(c1))
        return Encrypted(tuple(found), size)

    def add(public, vectors):
        size, terms = check_vectors(vectors, encoding.terms)
        columns = zip(*(vector.blocks for vector in vectors), strict=True)
        totals = (_sum(r, [_pair(r, block) for block in column]) for column in columns)
        return Encrypted(tuple(_to_bytes(total) for total in totals), size, terms)

    def partial_decrypt(share, vector):
        answers = []
        for block in vector.blocks:
            noise = small(uniform_bits(degree, group.smudging))
            answers.append(_to_bytes((r.multiply(share, _pair(r, block)[1]) + noise) % r.primes))
        return b"".join(answers)

    def combine(public, vector, partials):
        check_partials(partials, holders)
        found = []
        for number, block in enumerate(vector.blocks):
            answers = [
                _element(r, partial[number * element : (number + 1) * element]) for partial in partials
            ]
            noisy = r.centered(r.backward(_sum(r, [_pair(r, block)[0], *answers])))
            found.append((noisy + (1 << (group.shift - 1))) >> group.shift)
        return check_sums(np.concatenate(found)[: vector.size], vector.terms * encoding.largest)

    return Backend(
        name="collective",
        keygen=keygen,
        encrypt=encrypt,
        add=add,
        partial_decrypt=partial_decrypt,
        combine=combine,
        blocks=blocks,
        block_bytes=2 * element,
        partial_bytes=element,
        terms=encoding.terms,
        holders=holders,
        statement=f"Only all {holders} parties together decrypt, and nobody ever has the key. Parties "
        "follow the protocol. Research code, not reviewed by cryptographers.",
    )


def _sum(r: Ring, elements: Sequence[np.ndarray]) -> np.ndarray:
    total = np.sum(elements, axis=0, dtype=np.uint64)
    return total % r.primes


def _to_bytes(x: np.ndarray) -> bytes:
    return x.astype("<u4").tobytes()


def _element(r: Ring, data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<u4").reshape(r.primes.size, r.degree).astype(np.uint64)


def _pair(r: Ring, block: bytes) -> np.ndarray:
    return np.frombuffer(block, "<u4").reshape(2, r.primes.size, r.degree).astype(np.uint64)
