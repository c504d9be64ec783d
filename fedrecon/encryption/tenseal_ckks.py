"""CKKS by TenSEAL: one secret key, which all clients share and the aggregator does not have."""

import importlib
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from fedrecon.encryption.backend import (
    Backend,
    Encoding,
    Encrypted,
    Keys,
    check_numbers,
    check_partials,
    check_vectors,
)
from fedrecon.errors import ArgumentError

# Ring -> the most bits of its modulus at 128 bits of security (homomorphicencryption.org 2018, ternary
# secrets).
MOST_BITS = {4096: 109, 8192: 218, 16384: 438}


def ckks(
    encoding: Encoding, ring: int = 4096, modulus_bits: Sequence[int] = (40, 20, 40), scale_bits: int = 20
) -> Backend:
    """CKKS (Cheon et al. 2017) by TenSEAL (extra ``he``), with one secret key.

    Sums come back within 0.02 of the integers, and are rounded to them. A ciphertext holds ``ring / 2``
    values: by default 39.5 bytes a value; 81 bytes with ``ring=8192, modulus_bits=(60, 40, 40, 60),
    scale_bits=40``, which has room for longer sums.

    Args:
      encoding: of the integers.
      ring: degree of the ring.
      modulus_bits: of the primes of the modulus; the last is lost at encryption.
      scale_bits: log2 of the scale.

    Raises:
      ValueError: the parameters have less than 128 bits of security, or no room for the sums.
      ImportError: TenSEAL is missing; names the extra.
    """
    if ring not in MOST_BITS:
        raise ArgumentError("ring", f"one of {', '.join(map(str, MOST_BITS))}", ring)
    if sum(modulus_bits) > MOST_BITS[ring]:
        expected = f"at most {MOST_BITS[ring]} in all, for 128 bits of security at ring {ring}"
        raise ArgumentError("modulus_bits", expected, sum(modulus_bits))
    room = sum(modulus_bits[:-1]) - scale_bits - 1
    if (needed := encoding.check().slot_bits) > room:
        raise ArgumentError("modulus_bits", f"room for sums of {needed} bits", f"{room} bits")
    library, slots = _library(), ring // 2

    def context():
        made = library.context(
            library.SCHEME_TYPE.CKKS, poly_modulus_degree=ring, coeff_mod_bit_sizes=list(modulus_bits)
        )
        made.global_scale = 2.0**scale_bits
        return made

    def blocks(size: int) -> int:
        return -(-size // slots)

    def keygen() -> Keys:
        secret = context()
        public = library.context_from(secret.serialize(save_secret_key=False))
        return Keys(public, (secret,))

    def encrypt(public, numbers):
        numbers = check_numbers(numbers, encoding.largest)
        parts = np.array_split(numbers, np.arange(slots, len(numbers), slots))
        found = tuple(library.ckks_vector(public, part.astype(float).tolist()).serialize() for part in parts)
        return Encrypted(found, len(numbers))

    def add(public, vectors):
        size, terms = check_vectors(vectors, encoding.terms)
        total = []
        for column in zip(*(vector.blocks for vector in vectors), strict=True):
            first, *others = (library.ckks_vector_from(public, block) for block in column)
            for other in others:
                first += other
            total.append(first.serialize())
        return Encrypted(tuple(total), size, terms)

    def partial_decrypt(share, vector):
        parts = [library.ckks_vector_from(share, block).decrypt() for block in vector.blocks]
        found = np.concatenate(parts)
        if not (np.abs(found) < vector.terms * encoding.largest + 1).all():
            raise ArgumentError("shares", "those of the key with which the vector was encrypted", "others")
        return np.rint(found).astype("<i8").tobytes()

    def combine(public, vector, partials):
        check_partials(partials, 1)
        return np.frombuffer(partials[0], "<i8")[: vector.size].astype(np.int64)

    # Serialized ciphertexts are compressed, so that their lengths differ by some bytes: this is of one of
    # them.
    typical = context()
    block_bytes = len(library.ckks_vector(typical, [1.0] * slots).serialize())
    return Backend(
        name="ckks",
        keygen=keygen,
        encrypt=encrypt,
        add=add,
        partial_decrypt=partial_decrypt,
        combine=combine,
        blocks=blocks,
        block_bytes=block_bytes,
        partial_bytes=8 * slots,
        terms=encoding.terms,
        holders=1,
        statement="One secret key: whoever holds it decrypts whatever ciphertext it sees. Clients share it "
        "and the aggregator does not have it; a client that colludes with the aggregator reads all others.",
    )


def _library() -> ModuleType:
    try:
        return importlib.import_module("tenseal")
    except ImportError as error:
        raise ImportError("CKKS needs TenSEAL: pip install 'fedrecon[he]'") from error
