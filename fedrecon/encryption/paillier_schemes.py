"""Paillier encryption of vectors: integers side by side in slots of one plaintext, and keys in shares.

A plaintext holds ``sum_k (v_k + offset) 2^(w k)``: with the offset every slot is non-negative, and with
``w = bits of a weighted integer + log2(terms) + 1`` sums do not carry into the next slot.

`paillier` is by the library pypaillier. `shared_paillier` is Paillier's scheme of 1999 with additive shares
of the decryption exponent, which no library that may be used here offers: d = 0 mod lcm(p-1, q-1) and d = 1
mod N, so that c^d = 1 + m N, and c^d is the product of what n holders make of c with their shares of d.
"""

import functools
import importlib
import math
import secrets
from collections.abc import Sequence
from types import ModuleType
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
from fedrecon.errors import ArgumentError


class Slots(NamedTuple):
    """How integers lie in a plaintext.

    Attributes:
      width: bits of a slot.
      offset: what makes the integers of one vector non-negative.
      places: slots of a plaintext.
    """

    width: int
    offset: int
    places: int

    def blocks(self, size: int) -> int:
        """Plaintexts of a vector."""
        return -(-size // self.places)

    def pack(self, numbers: np.ndarray) -> list[int]:
        """Plaintexts of a vector, int64 (size,)."""
        shifted = [int(x) + self.offset for x in numbers]
        rows = (shifted[i : i + self.places] for i in range(0, len(shifted), self.places))
        return [sum(x << (self.width * place) for place, x in enumerate(row)) for row in rows]

    def unpack(self, plaintexts: Sequence[int], size: int, terms: int) -> np.ndarray:
        """The sum of ``terms`` vectors, int64 (size,), from the sums of their plaintexts."""
        mask = (1 << self.width) - 1
        found = [
            (plaintext >> (self.width * place)) & mask
            for plaintext in plaintexts
            for place in range(self.places)
        ]
        return np.asarray(found[:size], np.int64) - terms * self.offset


def slots_of(encoding: Encoding, plaintext_bits: int) -> Slots:
    """Slots for sums of weighted integers in plaintexts of so many bits.

    Raises:
      ValueError: the encoding is out of range, or not even one slot fits.
    """
    width = encoding.check().slot_bits
    if not (count := plaintext_bits // width):
        raise ArgumentError("key_bits", f"above {width}, the bits of a slot", plaintext_bits + 1)
    return Slots(width, encoding.largest, count)


def paillier(encoding: Encoding, key_bits: int = 3072) -> Backend:
    """Paillier encryption by pypaillier (extra ``he``), with one holder of the key.

    The library's scheme is that of Damgard, Jurik and Nielsen with short exponents, which rests on an
    assumption of its own besides Paillier's.

    Args:
      encoding: of the integers.
      key_bits: of N, at least 2048, which is for tests; NIST SP 800-57 calls 3072 128 bits of security.

    Raises:
      ValueError: arguments out of range.
      ImportError: the library is missing; names the extra.
    """
    if key_bits < 2048:
        raise ArgumentError("key_bits", "at least 2048", key_bits)
    # The library keeps 21 bits free for sums of up to 2^20 terms, and one for the sign.
    slots = slots_of(encoding, key_bits - 22)

    def keygen() -> Keys:
        public, secret = _library().generate_keypair(key_bits)
        return Keys(public, (secret,))

    def encrypt(public, numbers):
        numbers = check_numbers(numbers, encoding.largest)
        blobs = _library().encrypt_integers(public, slots.pack(numbers))
        return Encrypted(tuple(bytes(blob) for blob in blobs), len(numbers))

    def add(public, vectors):
        size, terms = check_vectors(vectors, encoding.terms)
        columns = zip(*(vector.blocks for vector in vectors), strict=True)
        total = tuple(bytes(_library().add_many(public, list(column))) for column in columns)
        return Encrypted(total, size, terms)

    def partial_decrypt(share, vector):
        found = [number for number, _ in _library().decrypt_exact_many(share, list(vector.blocks))]
        if min(found) < 0:
            raise ArgumentError("shares", "those of the key with which the vector was encrypted", "others")
        return b"".join(number.to_bytes(key_bits // 8, "big") for number in found)

    def combine(public, vector, partials):
        check_partials(partials, 1)
        numbers = slots.unpack(_numbers(partials[0], key_bits // 8), vector.size, vector.terms)
        return check_sums(numbers, vector.terms * encoding.largest)

    return Backend(
        name="paillier",
        keygen=keygen,
        encrypt=encrypt,
        add=add,
        partial_decrypt=partial_decrypt,
        combine=combine,
        blocks=slots.blocks,
        block_bytes=key_bits // 4 + 1,
        partial_bytes=key_bits // 8,
        terms=encoding.terms,
        holders=1,
        statement="One holder has the whole key and decrypts whatever ciphertext it is given: it must not be "
        "the aggregator, nor see the ciphertexts of single clients.",
    )


def shared_paillier(encoding: Encoding, holders: int, key_bits: int = 3072) -> Backend:
    """Paillier's scheme (1999) with the key in additive shares of n holders, all of whom must take part.

    A dealer draws the key, divides it and forgets it. Ciphertexts and answers are integers mod N^2. Holders
    are trusted to follow the protocol: their answers are not proven. The product of the powers is by gmpy2
    where that is installed (ten times as fast).

    Args:
      encoding: of the integers.
      holders: n, at least 2.
      key_bits: of N; fewer than 2048 are for tests.

    Raises:
      ValueError: arguments out of range.
      ImportError: from ``keygen`` if ``cryptography``, which draws the primes, is missing; names the extra.
    """
    if not isinstance(holders, int) or holders < 2:
        raise ArgumentError("holders", "an integer of at least 2", repr(holders))
    if key_bits < 1024 or key_bits % 8:
        raise ArgumentError("key_bits", "a multiple of 8 of at least 1024", key_bits)
    slots, width = slots_of(encoding, key_bits - 1), key_bits // 4
    power = _power()

    def keygen() -> Keys:
        p, q = _primes(key_bits)
        n, order = p * q, math.lcm(p - 1, q - 1)
        exponent, modulus = order * pow(order, -1, n), n * order
        shares = [secrets.randbelow(modulus) for _ in range(holders - 1)]
        shares.append((exponent - sum(shares)) % modulus)
        return Keys(n, tuple((n, share) for share in shares))

    def encrypt(n, numbers):
        numbers, square = check_numbers(numbers, encoding.largest), n * n
        blocks = []
        for plaintext in slots.pack(numbers):
            while math.gcd(random := 1 + secrets.randbelow(n - 1), n) != 1:
                pass
            blocks.append(((1 + plaintext * n) * power(random, n, square) % square).to_bytes(width, "big"))
        return Encrypted(tuple(blocks), len(numbers))

    def add(n, vectors):
        size, terms = check_vectors(vectors, encoding.terms)
        square, total = n * n, []
        for column in zip(*(vector.blocks for vector in vectors), strict=True):
            factors = (int.from_bytes(block, "big") for block in column)
            product = functools.reduce(lambda x, y: x * y % square, factors)
            total.append(product.to_bytes(width, "big"))
        return Encrypted(tuple(total), size, terms)

    def partial_decrypt(share, vector):
        n, exponent = share
        powers = (power(int.from_bytes(block, "big"), exponent, n * n) for block in vector.blocks)
        return b"".join(int(x).to_bytes(width, "big") for x in powers)

    def combine(n, vector, partials):
        check_partials(partials, holders)
        columns = zip(*(_numbers(partial, width) for partial in partials), strict=True)
        products = [math.prod(column) % (n * n) for column in columns]
        if any(product % n != 1 for product in products):
            raise ArgumentError("shares", "all of those of one key", "others")
        numbers = slots.unpack([(product - 1) // n for product in products], vector.size, vector.terms)
        return check_sums(numbers, vector.terms * encoding.largest)

    return Backend(
        name="paillier-shared",
        keygen=keygen,
        encrypt=encrypt,
        add=add,
        partial_decrypt=partial_decrypt,
        combine=combine,
        blocks=slots.blocks,
        block_bytes=width,
        partial_bytes=width,
        terms=encoding.terms,
        holders=holders,
        statement=f"Only all {holders} holders together decrypt. A dealer whom all trust divides the key; "
        "holders follow the protocol. Not reviewed by cryptographers.",
    )


def _numbers(data: bytes, width: int) -> list[int]:
    return [int.from_bytes(data[i : i + width], "big") for i in range(0, len(data), width)]


def _power():
    """Modular powers of secret exponents: by gmpy2 where it is installed."""
    try:
        return importlib.import_module("gmpy2").powmod_sec
    except ImportError:
        return pow


def _primes(key_bits: int) -> tuple[int, int]:
    """Two random primes whose product has ``key_bits`` bits and is prime to (p - 1)(q - 1), by OpenSSL."""
    try:
        from cryptography.hazmat.primitives.asymmetric import rsa
    except ImportError as error:
        raise ImportError("shared_paillier needs the extra: pip install 'fedrecon[he]'") from error
    while True:
        key = rsa.generate_private_key(65537, key_bits).private_numbers()
        if math.gcd(key.p * key.q, (key.p - 1) * (key.q - 1)) == 1:
            return key.p, key.q


def _library() -> ModuleType:
    try:
        return importlib.import_module("paillier")
    except ImportError as error:
        raise ImportError("Paillier needs the extra: pip install 'fedrecon[he]'") from error
