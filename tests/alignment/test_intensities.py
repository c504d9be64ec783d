"""Moments and percentiles of all sites, from what each tells, against those of all pixels together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.alignment import not_above, pooled_intensities, pooled_percentiles, site_intensities
from fedrecon.alignment.intensities import SHARES

tell = jax.jit(jax.vmap(site_intensities))
ask = jax.jit(jax.vmap(not_above, in_axes=(0, 0, None)))


def sites(seed, counts, size=200):
    """Pixels of two channels, of either sign; what is not inside would show."""
    rng = np.random.default_rng(seed)
    values = np.full((len(counts), size, 2), 1e9, np.float32)
    inside = np.zeros((len(counts), size), bool)
    for i, n in enumerate(counts):
        chosen = rng.permutation(size)[:n]
        inside[i, chosen] = True
        values[i, chosen] = rng.normal(3 * i - 2, 1 + i, (n, 2))
    return values, inside


@pytest.mark.parametrize("counts", [[200, 50, 1, 7], [7, 200, 1, 50], [64, 64, 64, 66], [0, 258 - 90, 90, 0]])
def test_pooled_moments_are_those_of_all_pixels(counts):
    """For any split, in any order of the sites."""
    values, inside = sites(3, counts)
    # Far from 0, which empty sites tell.
    values += 30
    everything = values[inside].astype(np.float64)
    order = np.random.default_rng(1).permutation(4)
    for places in (np.arange(4), order):
        found = pooled_intensities(tell(values[places], inside[places]))
        assert found.count == len(everything) == 258
        np.testing.assert_allclose(found.mean, everything.mean(0), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.deviation, everything.std(0), rtol=1e-6)
        np.testing.assert_array_equal(found.least, everything.min(0).astype(np.float32))
        np.testing.assert_array_equal(found.most, everything.max(0).astype(np.float32))


def expected(values, share):
    return np.quantile(values, share, axis=0, method="inverted_cdf")


def test_a_site_s_own_percentiles_are_values_that_it_has():
    values, inside = sites(5, [200, 30, 1, 0])
    found = tell(values, inside)
    for i in range(3):
        own = np.stack([expected(values[i][inside[i]], share) for share in SHARES])
        np.testing.assert_array_equal(found.percentiles[i], own)
    assert found.count[3] == 0 and not np.any(jax.tree.map(lambda x: x[3], found.percentiles))
    # The estimate is their mean, weighted by numbers of pixels.
    share = np.array([200, 30, 1, 0]) / 231
    mean = np.tensordot(share, np.asarray(found.percentiles), 1)
    np.testing.assert_allclose(pooled_intensities(found).percentiles, mean, rtol=1e-6)


@pytest.mark.parametrize("counts", [[200, 50, 1, 7], [0, 0, 3, 0]])
def test_counts_find_the_percentiles_of_all_pixels_exactly(counts):
    values, inside = sites(7, counts)
    values[2, np.flatnonzero(inside[2])[:1]] = [[0.0, 5.0]]
    if counts[2] == 3:
        values[2, inside[2]] = [[0.0, 5.0], [0.0, -2.0], [1.0, -2.0]]
    everything, questions = values[inside], []

    def counted(thresholds):
        questions.append(thresholds)
        return np.asarray(ask(values, inside, thresholds)).sum(0)

    found = pooled_percentiles(counted, len(everything), 2)
    np.testing.assert_array_equal(found, np.stack([expected(everything, share) for share in SHARES]))
    assert len(questions) <= 33 and all(x.shape == (3, 2) and x.dtype == np.float32 for x in questions)
    # What is told are whole numbers, of all sites together.
    assert jnp.issubdtype(ask(values, inside, questions[0]).dtype, jnp.integer)
