"""Additively homomorphic schemes: sums are exact to the limits of the encoding, and need every share."""

import functools
import hashlib
import secrets
from fractions import Fraction

import numpy as np
import pytest

from fedrecon.encryption import Encoding, ckks, collective, paillier, shared_paillier
from fedrecon.encryption.collective_key import noise_bound, parameters
from fedrecon.encryption.paillier_schemes import Slots, slots_of

ENCODING = Encoding(terms=3, largest_weight=8)
SCHEMES = {
    "paillier-shared": lambda: shared_paillier(ENCODING, 2, 1024),
    "collective": lambda: collective(ENCODING, 2, 4096),
    "ckks": lambda: ckks(ENCODING),
    "paillier": lambda: paillier(ENCODING, 2048),
}


@functools.cache
def made(name):
    """A scheme with its keys."""
    scheme = SCHEMES[name]()
    return scheme, scheme.keygen()


def vectors(size=40):
    """Extreme values at both ends, and some in between."""
    drawn = np.random.default_rng(0).integers(-ENCODING.largest, ENCODING.largest + 1, (3, size))
    drawn[:, 0], drawn[:, 1] = ENCODING.largest, -ENCODING.largest
    drawn[:, 2:4] = [[0, 1], [0, -1], [0, 0]]
    return drawn


# The library looks for safe primes, which takes seconds.
NAMES = [pytest.param(n, marks=[pytest.mark.slow] if n == "paillier" else []) for n in SCHEMES]


@pytest.mark.parametrize("name", NAMES)
def test_sums_are_exact_and_ciphertexts_fresh(name):
    if name in ("ckks", "paillier"):
        pytest.importorskip({"ckks": "tenseal"}.get(name, name))
    scheme, keys = made(name)
    plain = vectors()
    encrypted = [scheme.encrypt(keys.public, row) for row in plain]
    total = scheme.add(keys.public, encrypted)
    np.testing.assert_array_equal(scheme.decrypt(keys, total), plain.sum(0))
    np.testing.assert_array_equal(scheme.decrypt(keys, encrypted[0]), plain[0])
    again = scheme.encrypt(keys.public, plain[0])
    assert again.blocks[0] != encrypted[0].blocks[0]
    sent = sum(map(len, again.blocks))
    # TenSEAL compresses what it sends, by some thousandths.
    assert abs(sent - scheme.nbytes(40)) <= (0.01 * sent if name == "ckks" else 0)
    # Another key opens nothing; a number above its modulus is no ciphertext under it.
    with pytest.raises(ValueError, match=r"^shares: expected those of the key|is not one under this key"):
        scheme.decrypt(scheme.keygen(), encrypted[0])


def test_slots_do_not_carry():
    """Against Python's integers, with every client at the ends of the range."""
    slots = Slots(width=ENCODING.slot_bits, offset=ENCODING.largest, places=5)
    for end in (ENCODING.largest, -ENCODING.largest):
        rows = np.tile([end, -end, end, 0, -end, end, 1], (3, 1))
        plaintexts = [sum(column) for column in zip(*map(slots.pack, rows), strict=True)]
        np.testing.assert_array_equal(slots.unpack(plaintexts, 7, 3), rows.sum(0))
        places = [plaintexts[0] >> (slots.width * k) & ((1 << slots.width) - 1) for k in range(5)]
        assert places == [int(3 * (x + ENCODING.largest)) for x in rows[0, :5]]


def test_bytes_of_packed_paillier():
    """A key of 2048 bits and slots of 28: 73 values in 512 bytes; one value alone needs as many."""
    encoding = Encoding(bits=20, terms=128)
    assert encoding.slot_bits == 28 and slots_of(encoding, 2047).places == 73
    scheme = shared_paillier(encoding, 2, 2048)
    assert scheme.bytes_per_value(73) == Fraction(512, 73) and scheme.bytes_per_value(1) == 512
    assert scheme.nbytes(74) == 1024
    # The library keeps 21 bits to itself, and sends one byte more.
    assert paillier(encoding, 2048).bytes_per_value(72) == Fraction(513, 72)


def test_quantization_error_is_that_of_rounding():
    encoding, rng = Encoding(bound=0.5, bits=12, terms=4), np.random.default_rng(1)
    values = rng.uniform(-0.5, 0.5, (4, 200))
    values[0, :3] = [np.nan, np.inf, 7]
    total = encoding.decode(sum(encoding.encode(row) for row in values))
    expected = np.clip(np.where(np.isfinite(values), values, 0), -0.5, 0.5).sum(0)
    assert np.abs(total - expected).max() <= 4 * 2.0**-12
    np.testing.assert_array_equal(encoding.encode([-0.5, 0.5]), [-2047, 2047])
    with pytest.raises(ValueError, match=r"^weight: expected an integer from 0 to 1, found 2"):
        encoding.encode(values[1], 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Encoding(bits=40, terms=2**10, largest_weight=2**12).check(),
            "^bits: expected with those of",
        ),
        (lambda: Encoding(bound=0).check(), r"^bound: expected a positive number, found 0"),
        (lambda: paillier(ENCODING, 1024), r"^key_bits: expected at least 2048, found 1024"),
        (lambda: shared_paillier(ENCODING, 1), r"^holders: expected an integer of at least 2, found 1"),
        (lambda: collective(ENCODING, 2, 2048), r"^degree: expected one of 4096, 8192"),
        (lambda: collective(Encoding(bits=55, terms=4), 4, 4096), r"^encoding: expected sums for which"),
        (lambda: ckks(ENCODING, 4096, (60, 60)), r"^modulus_bits: expected at most 109 in all"),
        (lambda: ckks(ENCODING, 4096, (30, 60), 20), r"^modulus_bits: expected room for sums of 26 bits"),
    ],
)
def test_what_has_no_room_or_no_security_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_too_many_terms_and_too_large_numbers_are_refused():
    scheme, keys = made("collective")
    one = scheme.encrypt(keys.public, np.array([1, -1]))
    two = scheme.add(keys.public, [one, one])
    with pytest.raises(ValueError, match=r"^vectors: expected at most 3 terms, .* found 4"):
        scheme.add(keys.public, [two, two])
    with pytest.raises(ValueError, match=r"^numbers: expected integers within"):
        scheme.encrypt(keys.public, np.array([ENCODING.largest + 1]))
    with pytest.raises(ValueError, match=r"^numbers: expected a vector of integers"):
        scheme.encrypt(keys.public, np.array([0.5]))
    with pytest.raises(ValueError, match=r"^partials: expected 2, one of each holder of the key, found 1"):
        scheme.combine(keys.public, one, [scheme.partial_decrypt(keys.shares[0], one)])


def test_shares_of_paillier_are_one_secret():
    """The scheme of 1999 written anew: all shares decrypt, n - 1 of them leave a random residue."""
    scheme, keys = made("paillier-shared")
    n, square = keys.public, keys.public**2
    random = 1 + secrets.randbelow(n - 1)
    ciphertext = (1 + 77 * n) * pow(random, n, square) % square
    powers = [pow(ciphertext, share, square) for _, share in keys.shares]
    product = powers[0] * powers[1] % square
    assert product == 1 + 77 * n
    assert all(power % n != 1 for power in powers)
    # Fresh encryptions by the scheme are of this form: c^d does not depend on the random factor.
    vector = scheme.encrypt(n, np.array([5]))
    body = int.from_bytes(vector.blocks[0], "big")
    assert (pow(body, keys.shares[0][1] + keys.shares[1][1], square) - 1) // n == 5 + ENCODING.largest
    wrong = [scheme.partial_decrypt(keys.shares[0], vector)] * 2
    with pytest.raises(ValueError, match=r"^shares: expected all of those of one key, found others"):
        scheme.combine(n, vector, wrong)
    assert hashlib.sha256(repr(keys.public).encode()).digest() and len(keys.shares) == 2


def test_parameters_of_the_collective_key():
    """128 bits of security, smudging of 40 bits above the noise, and room to round it off."""
    for holders in (2, 16):
        group = parameters(Encoding(terms=16, largest_weight=64), holders)
        assert group.ring.modulus.bit_length() <= 218
        assert 2.0**group.smudging / np.sqrt(3) >= 2.0**40 * noise_bound(holders, 16, 8192)
        worst = holders * 2.0**group.smudging + noise_bound(holders, 16, 8192)
        assert worst < 2.0 ** (group.shift - 1)
        largest = 16 * 64 * 2**19
        assert largest * 2**group.shift < group.ring.modulus // 2
