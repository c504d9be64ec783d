"""What additively homomorphic schemes have in common: keys, ciphertexts, and the functions that use them."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from fedrecon.errors import ArgumentError


class Keys(NamedTuple):
    """Keys of one group.

    Attributes:
      public: what clients and the aggregator get; it decrypts nothing.
      shares: what decrypts, one for each holder. All of them are needed.
    """

    public: Any
    shares: tuple[Any, ...]


class Encrypted(NamedTuple):
    """A vector of integers, or a sum of such vectors, in ciphertexts.

    Attributes:
      blocks: the ciphertexts, as they travel.
      size: how many numbers they hold.
      terms: how many vectors were added.
    """

    blocks: tuple[bytes, ...]
    size: int
    terms: int = 1


class Backend(NamedTuple):
    """An additively homomorphic scheme. Vectors are int64 (size,); parties see bytes only.

    Attributes:
      name: of the scheme.
      keygen: ``keygen() -> Keys``.
      encrypt: ``encrypt(public, numbers) -> Encrypted``, with fresh randomness from the operating system.
      add: ``add(public, vectors) -> Encrypted``, by whoever has the public key.
      partial_decrypt: ``partial_decrypt(share, vector) -> bytes`` by one holder.
      combine: ``combine(public, vector, partials) -> (size,) int64``, the sum, from the answers of all
        holders in the order of the shares.
      blocks: ``blocks(size) -> int``, ciphertexts of a vector.
      block_bytes: of one ciphertext.
      partial_bytes: of one holder's answer for one ciphertext.
      terms: the most vectors that may be added.
      holders: how many shares there are.
      statement: who can decrypt what, and what must be assumed, in a sentence.
    """

    name: str
    keygen: Callable[[], Keys]
    encrypt: Callable[[Any, np.ndarray], Encrypted]
    add: Callable[[Any, Sequence[Encrypted]], Encrypted]
    partial_decrypt: Callable[[Any, Encrypted], bytes]
    combine: Callable[[Any, Encrypted, Sequence[bytes]], np.ndarray]
    blocks: Callable[[int], int]
    block_bytes: int
    partial_bytes: int
    terms: int
    holders: int
    statement: str

    def decrypt(self, keys: Keys, vector: Encrypted) -> np.ndarray:
        """The numbers, int64 (size,), by all holders together."""
        return self.combine(keys.public, vector, [self.partial_decrypt(s, vector) for s in keys.shares])

    def nbytes(self, size: int) -> int:
        """Bytes that a client sends of a vector of ``size`` numbers."""
        return self.blocks(size) * self.block_bytes

    def bytes_per_value(self, size: int) -> Fraction:
        """`nbytes` over ``size``."""
        return Fraction(self.nbytes(size), size)


def check_numbers(numbers: np.ndarray, largest: int) -> np.ndarray:
    """The numbers as int64.

    Raises:
      ValueError: they are no vector of integers, or one is beyond ±``largest``.
    """
    numbers = np.asarray(numbers)
    if numbers.ndim != 1 or not numbers.size or not np.issubdtype(numbers.dtype, np.integer):
        raise ArgumentError("numbers", "a vector of integers", f"{numbers.dtype} {numbers.shape}")
    if (found := int(np.abs(numbers).max())) > largest:
        raise ArgumentError("numbers", f"integers within ±{largest}, so that sums do not overflow", found)
    return numbers.astype(np.int64)


def check_vectors(vectors: Sequence[Encrypted], terms: int) -> tuple[int, int]:
    """(size, terms) of the sum of some vectors.

    Raises:
      ValueError: there are none, they differ in size, or the sum would have more than ``terms`` terms.
    """
    sizes = sorted({vector.size for vector in vectors})
    if len(sizes) != 1:
        raise ArgumentError("vectors", "at least one, all of one size", f"sizes {sizes}")
    total = sum(vector.terms for vector in vectors)
    if total > terms:
        raise ArgumentError("vectors", f"at most {terms} terms, which the encoding has room for", total)
    return sizes[0], total


def check_partials(partials: Sequence[bytes], holders: int) -> None:
    """Refuses to decrypt without all holders.

    Raises:
      ValueError: the number of answers is another.
    """
    if len(partials) != holders:
        raise ArgumentError("partials", f"{holders}, one of each holder of the key", len(partials))


def check_sums(numbers: np.ndarray, largest: int) -> np.ndarray:
    """Decrypted sums, int64.

    Raises:
      ValueError: one is beyond ±``largest``, as what another key decrypts nearly always is.
    """
    if max(abs(int(numbers.max())), abs(int(numbers.min()))) > largest:
        raise ArgumentError("shares", "those of the key with which the vector was encrypted", "others")
    return numbers.astype(np.int64)


class Encoding(NamedTuple):
    """Numbers in ±``bound`` as integers of ``bits`` bits with a weight, whose sums do not overflow.

    Attributes:
      bound: numbers are clipped to it.
      bits: of an integer without its weight, sign included.
      terms: the most vectors that are added.
      largest_weight: integers are multiplied by weights from 0 to this.
    """

    bound: float = 1.0
    bits: int = 20
    terms: int = 16
    largest_weight: int = 1

    @property
    def steps(self) -> int:
        """The integer that stands for ``bound``."""
        return 2 ** (self.bits - 1) - 1

    @property
    def largest(self) -> int:
        """The largest absolute value of one weighted integer."""
        return self.steps * self.largest_weight

    @property
    def slot_bits(self) -> int:
        """Bits of a slot that holds a sum with an offset, without carrying into the next."""
        return self.bits + bits_of(self.terms) + bits_of(self.largest_weight) + 1

    def check(self) -> "Encoding":
        """Itself.

        Raises:
          ValueError: a field is out of range, or sums could overflow 62 bits.
        """
        if not 0 < self.bound < math.inf:
            raise ArgumentError("bound", "a positive number", repr(self.bound))
        for name, least in (("bits", 2), ("terms", 1), ("largest_weight", 1)):
            if not isinstance(value := getattr(self, name), int) or value < least:
                raise ArgumentError(name, f"an integer of at least {least}", repr(value))
        if self.slot_bits > 62:
            raise ArgumentError(
                "bits", "with those of terms and largest_weight at most 61 in all", self.slot_bits - 1
            )
        return self

    def encode(self, values: np.ndarray, weight: int = 1) -> np.ndarray:
        """Clipped and rounded values times an integer weight, int64; what is not finite becomes 0.

        Raises:
          ValueError: the weight is not an integer from 0 to ``largest_weight``.
        """
        if weight != int(weight) or not 0 <= weight <= self.largest_weight:
            raise ArgumentError("weight", f"an integer from 0 to {self.largest_weight}", repr(weight))
        values = np.asarray(values, np.float64)
        clipped = np.clip(np.where(np.isfinite(values), values, 0) / self.bound, -1, 1)
        return np.rint(clipped * self.steps).astype(np.int64) * int(weight)

    def decode(self, totals: np.ndarray) -> np.ndarray:
        """Sums of weighted integers as sums of weighted values, float64."""
        return np.asarray(totals, np.float64) / self.steps * self.bound


def bits_of(count: int) -> int:
    """The least b with 2^b >= count: bits by which a sum of ``count`` terms may be longer than a term."""
    return (count - 1).bit_length()
