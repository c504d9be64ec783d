"""Filters of back-projection, and the footprints that they average over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import operators
from operators.ct.inversion import parallel
from operators.ct.inversion.ramp_filters import filter_finely, footprint, highest_frequency


@pytest.mark.parametrize("frequency", [0.0, 0.25, 0.4375])
def test_finely_filtered_rows_are_means_over_the_footprint(x64, frequency):
    """A wave and the one that its samples cannot be told from, each through element and pixel."""
    n, widths, highest = 64, np.array([0.7, 1.3]), 0.6
    rows = np.tile(np.cos(2 * np.pi * frequency * np.arange(n)), (2, 1, 1))
    found = filter_finely(rows, np.ones(n // 2 + 1), n, jnp.asarray(widths), highest)
    x, expected = np.arange(2 * n - 1) / 2, 0
    for wave in {frequency, 1 - frequency} - {1.0}:
        if wave <= highest:
            roll_off = np.cos(np.pi / 2 * max(wave - 0.5, 0) / (highest - 0.5)) ** 2
            gain = roll_off * np.sinc(wave) * np.sinc(wave * widths) / np.sinc(wave / 2) ** 2
            expected = expected + gain[:, None, None] * np.cos(2 * np.pi * wave * x)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_footprints_are_those_of_lines_of_pixels():
    angles = jnp.array([0.0, np.pi / 4, np.pi / 2, np.pi])
    np.testing.assert_allclose(footprint(angles, (2.0, 2.0)), [2, np.sqrt(2), 2, 2], rtol=1e-6)
    np.testing.assert_allclose(footprint(angles, (0.5, 0.5)), footprint(angles, (1.0, 1.0)))


def test_few_views_are_rolled_off_sooner():
    ends = [highest_frequency("ram-lak", 1.0, sampling) for sampling in (0, 1 / 12, 1 / 6, 1, 5)]
    np.testing.assert_allclose(ends, [0.5, 0.55, 0.7, 0.7, 0.7])
    assert highest_frequency("ram-lak", 0.8, 1 / 12) == 0.4
    assert highest_frequency("hann", 1.0, 1.0) == 0.5


@pytest.mark.slow
def test_few_views_leave_fewer_streaks_for_it(monkeypatch):
    geometry = operators.ParallelBeam(np.linspace(0, np.pi, 20, endpoint=False), 137, 1.0)
    phantom = operators.phantoms.random_ellipses(jax.random.key(0), 12, radius=40.0)
    sinogram = operators.phantoms.project_phantom(phantom, geometry, bins=4)
    truth = operators.phantoms.rasterize_phantom(phantom, (96, 96))

    def error():
        jax.clear_caches()
        return float(jnp.linalg.norm(operators.fbp(sinogram, geometry, (96, 96)) - truth))

    own = error()
    monkeypatch.setattr(parallel, "highest_frequency", lambda *_: 0.7)
    assert own < error()
    jax.clear_caches()
