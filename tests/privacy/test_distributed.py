"""Noise in shares: exact samplers, and sums whose noise, sensitivity and modulus are those accounted."""

import math
import random

import dp_accounting
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from fedrecon.errors import ArgumentError
from fedrecon.privacy import DistributedNoise, Ledger, Release
from fedrecon.privacy.discrete import discrete_gaussian, skellam
from fedrecon.privacy.distributed import MECHANISMS, ORDERS, rotate, unrotate


def seeded(seed=0):
    """Uniform bytes of a seed, for tests alone."""
    return np.random.default_rng(seed).bytes


def noise(**changes):
    fields = {"clip": 1.0, "stddev": 1.0, "clients": 10, "dropouts": 0, "size": 65536, "scale": 1024.0}
    return DistributedNoise(**{**fields, "bits": 32, **changes})


def chi_square(draws, distribution, low, high):
    """p of the counts of low .. high, all that is beyond at the ends."""
    values = np.arange(low, high + 1)
    found = np.bincount(np.clip(draws, low, high) - low, minlength=len(values))
    mass = distribution(values)
    mass[0], mass[-1] = distribution(np.arange(low - 500, low + 1)).sum(), 0
    mass[-1] = 1 - mass.sum()
    return scipy.stats.chisquare(found, mass * len(draws)).pvalue


@pytest.mark.parametrize("variance", [0.3, 2.25])
def test_discrete_gaussian_has_the_stated_probabilities(variance):
    draws = discrete_gaussian(variance, 6000, random.Random(1).randrange)
    grid = np.exp(-(np.arange(-60, 61) ** 2) / (2 * variance))
    high = 3 if variance > 1 else 1
    assert chi_square(draws, lambda x: np.exp(-(x**2) / (2 * variance)) / grid.sum(), -high, high) > 1e-3


@pytest.mark.parametrize("variance", [0.5, 40.0, 1e6])
def test_skellam_has_the_stated_probabilities(variance):
    draws = skellam(variance, 100_000, seeded(1))
    if variance < 1e5:
        high = round(3 * math.sqrt(variance))
        law = scipy.stats.skellam(variance / 2, variance / 2).pmf
        assert chi_square(draws, law, -high, high) > 1e-3
    assert draws.var() == pytest.approx(variance, rel=0.02)
    assert abs(draws.mean()) < 4 * math.sqrt(variance / len(draws))


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_epsilon_is_that_of_the_papers(mechanism, tmp_path):
    """Ten sums of ten clients at delta 1e-5: 4.753 for continuous noise; rounding to coarse steps costs."""

    def epsilon(scale):
        curve = 10 * noise(scale=scale, mechanism=mechanism).rdp()
        return dp_accounting.rdp.compute_epsilon(ORDERS, curve, 1e-5)[0]

    assert epsilon(1024.0) == pytest.approx(4.795, abs=1e-3)
    assert epsilon(64.0) == pytest.approx(12.37, abs=1e-2)
    grids = [epsilon(2.0**power) for power in (6, 8, 10, 12, 16)]
    assert grids == sorted(grids, reverse=True) and grids[-1] == pytest.approx(4.753, abs=1e-3)
    event = noise(mechanism=mechanism).event
    releases = [Release("site", "site", "train", round, event, 1e-5) for round in range(10)]
    assert Ledger(tmp_path / "ledger.jsonl").spend(releases)[-1] == pytest.approx(epsilon(1024.0), rel=1e-9)


def test_rotations_are_orthonormal_and_inverted():
    rng = np.random.default_rng(0)
    x, signs = rng.normal(size=16), rng.choice([-1, 1], 16)
    np.testing.assert_allclose(rotate(x, signs), scipy.linalg.hadamard(16) @ (x * signs) / 4, atol=1e-12)
    np.testing.assert_allclose(unrotate(rotate(x, signs), signs), x, atol=1e-12)


def encoded_sum(mechanism, x, signs, *, dropped=0):
    """(sum of the words of those that stay, the same without a modulus)."""
    draw = seeded(3)
    words = [mechanism.encode(row, signs, draw).astype(np.int64) for row in x[dropped:]]
    half = 2 ** (mechanism.bits - 1)
    return sum(words), sum((word + half) % (2 * half) - half for word in words)


def updates(mechanism, seed=0, norm=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(mechanism.clients, mechanism.size))
    signs = rng.choice([-1, 1], mechanism.dimension)
    return x / np.linalg.norm(x, axis=1, keepdims=True) * norm, signs


def test_without_noise_the_sum_is_the_plain_one_of_clipped_updates():
    quiet = noise(stddev=1e-9, clients=4, size=100, scale=2.0**20)
    x, signs = updates(quiet, norm=3.0)
    total, _ = encoded_sum(quiet, x, signs)
    np.testing.assert_allclose(quiet.decode(total, signs), x.sum(0) / 3, atol=4 * math.sqrt(128) / 2**20)


@pytest.mark.parametrize("dropped", [0, 2])
def test_a_sum_has_the_noise_that_is_accounted_and_does_not_wrap(dropped):
    one = DistributedNoise.of_multiplier(0.8, clip=1.0, clients=6, dropouts=2, size=2**15 - 7, bits=18)
    x, signs = updates(one)
    total, unwrapped = encoded_sum(one, x, signs, dropped=dropped)
    error = one.decode(total, signs) - x[dropped:].sum(0)
    assert error.var() == pytest.approx((6 - dropped) * one.stddev**2, rel=0.03)
    assert one.central_stddev == pytest.approx(2 * one.stddev)
    assert error.var() >= 0.97 * one.central_stddev**2
    assert one.central_stddev / one.sensitivity == one.noise_multiplier == pytest.approx(0.8, rel=0.01)
    half = 2 ** (one.bits - 1)
    assert np.mean((unwrapped < -half) | (unwrapped >= half)) < 1e-4


def test_the_modulus_leaves_room_for_aligned_updates():
    one = DistributedNoise.of_multiplier(0.5, clip=1.0, clients=20, dropouts=0, size=2**16, bits=16)
    x, signs = updates(one)
    draw, half = seeded(5), 2**15
    # The sum without a modulus: all rotated updates are the same, noise is that of twenty shares.
    rotated = 20 * one.scale * rotate(x[0], signs)
    shares = skellam(20 * (one.scale * one.stddev) ** 2, one.dimension, draw)
    assert np.mean(np.abs(rotated + shares) >= half) < 1e-4
    # The grid is as fine as that allows: a modulus of half the size would not do.
    assert np.mean(np.abs(rotated + shares) >= half / 2) > 1e-3


def test_rounding_never_exceeds_the_sensitivity():
    """A short update on a coarse grid: rounding at random would often be longer than accounted."""
    coarse = noise(stddev=0.01, clients=2, size=64, scale=2.0)
    x, draw = np.full(64, 1 / 8), seeded()
    lengths = [np.linalg.norm(coarse._rounded(x * 2.0, draw)) for _ in range(3000)]
    free = np.floor(2 * x + np.random.default_rng(0).random((3000, 64)))
    assert max(lengths) <= 2.0 * coarse.sensitivity < np.linalg.norm(free, axis=1).max()
    assert coarse.sensitivity > 1.0


def test_of_dropouts_and_sizes_that_do_not_fit():
    with pytest.raises(ArgumentError, match="bits: expected at least 22, so that sums do not wrap"):
        noise(scale=2.0**17, bits=20)
    with pytest.raises(ArgumentError, match="bits: expected more than 4 for 10 clients"):
        DistributedNoise.of_multiplier(1.0, clip=1.0, clients=10, dropouts=0, size=10, bits=3)
    with pytest.raises(ArgumentError, match="dropouts: expected an integer from 0 to 9"):
        noise(dropouts=10)
    with pytest.raises(ArgumentError, match="x: expected finite numbers of shape"):
        noise(size=4).encode(np.asarray([1.0, np.nan, 0, 0]), np.ones(4))
    with pytest.raises(ArgumentError, match="variance: expected a positive number"):
        skellam(0.0, 3)
