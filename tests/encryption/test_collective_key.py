"""Ring arithmetic against direct sums, and what single answers of holders of a collective key tell."""

import numpy as np
import pytest

from fedrecon.encryption import Encoding, collective
from fedrecon.encryption.collective_key import parameters
from fedrecon.encryption.ring import gaussian, ring, ternary, uniform_bits

ENCODING = Encoding(terms=16)


def negacyclic(x, y, modulus):
    """The product modulo X^N + 1 by its definition."""
    total = np.zeros(len(x), object)
    for i, a in enumerate(x.tolist()):
        shifted = np.roll(y.astype(object), i)
        shifted[:i] *= -1
        total += a * shifted
    return total % modulus


def test_products_are_those_of_polynomials():
    r, rng = ring(16, 3), np.random.default_rng(0)
    assert all(q % 32 == 1 and q < 2**30 for q in r.primes[:, 0])
    x, y = (rng.integers(-(2**40), 2**40, 16) for _ in range(2))
    product = r.backward(r.multiply(r.forward(r.residues(x)), r.forward(r.residues(y))))
    expected = negacyclic(x, y, r.modulus)
    assert ((r.centered(product) - expected) % r.modulus == 0).all()
    np.testing.assert_array_equal(r.centered(r.residues(x)), x)
    large = ring(8192, 2)
    z = rng.integers(-(2**50), 2**50, 8192)
    np.testing.assert_array_equal(large.backward(large.forward(large.residues(z))), large.residues(z))


def test_draws_have_their_distributions():
    t, g, u = ternary(30_000), gaussian(30_000), uniform_bits(30_000, 20)
    counts = np.bincount(t + 1)
    assert len(counts) == 3 and ((counts - 10_000) ** 2 / 10_000).sum() < 20
    assert abs(g.std() - 3.2) < 0.07 and abs(g.mean()) < 0.1
    assert -(2**20) <= u.min() < -(2**20) * 0.99 and 0.99 * 2**20 < u.max() < 2**20
    r = ring(4096, 2)
    a = r.uniform(b"seed")
    assert (a < r.primes).all() and abs(a.mean() / 2**29 - 1) < 0.05
    np.testing.assert_array_equal(a, r.uniform(b"seed"))
    assert (a != r.uniform(b"another")).mean() > 0.99


def test_all_but_one_share_leave_noise():
    """The correlation of what n - 1 answers give with the truth is none; that of all is one."""
    scheme, group = collective(ENCODING, 3), parameters(ENCODING, 3)
    keys, r = scheme.keygen(), group.ring
    truth = np.random.default_rng(1).integers(-ENCODING.largest, ENCODING.largest, r.degree)
    vector = scheme.encrypt(keys.public, truth)
    answers = [scheme.partial_decrypt(share, vector) for share in keys.shares]
    np.testing.assert_array_equal(scheme.combine(keys.public, vector, answers), truth)
    # Smudging is fresh: the same holder answers differently, and the sum is the same.
    again = scheme.partial_decrypt(keys.shares[0], vector)
    assert again != answers[0]
    np.testing.assert_array_equal(scheme.combine(keys.public, vector, [again, *answers[1:]]), truth)
    noise = difference(r, again, answers[0]) / 2.0**group.smudging
    # Of two uniform draws in (-1, 1) the difference has the variance 2/3.
    assert abs(noise.std() - np.sqrt(2 / 3)) < 0.03 and np.abs(noise).max() > 1.5
    first = np.frombuffer(vector.blocks[0], "<u4").reshape(2, -1, r.degree)[0].astype(np.uint64)
    partial = [np.frombuffer(x, "<u4").reshape(-1, r.degree).astype(np.uint64) for x in answers[:2]]
    found = r.centered(r.backward((first + sum(partial)) % r.primes)).astype(float)
    assert abs(np.corrcoef(found, truth)[0, 1]) < 0.05
    zero = bytes(len(answers[2]))
    with pytest.raises(ValueError, match=r"^shares: expected those of the key"):
        scheme.combine(keys.public, vector, [*answers[:2], zero])


def difference(r, x, y):
    a, b = (np.frombuffer(z, "<u4").reshape(-1, r.degree).astype(np.uint64) for z in (x, y))
    return r.centered(r.backward((a + r.primes - b) % r.primes)).astype(float)


@pytest.mark.slow
@pytest.mark.parametrize("holders", [2, 5, 16])
def test_groups_of_every_size(holders):
    scheme = collective(Encoding(terms=16), holders)
    keys = scheme.keygen()
    rows = np.random.default_rng(holders).integers(-(2**18), 2**18, (holders, 10_000))
    total = scheme.add(keys.public, [scheme.encrypt(keys.public, row) for row in rows])
    assert len(total.blocks) == 2
    np.testing.assert_array_equal(scheme.decrypt(keys, total), rows.sum(0))
