"""Density compensation against areas that are known, each method against the others, and point spreads."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import density_compensation, radial_trajectory
from operators.mri import (
    cartesian_trajectory,
    kooshball_trajectory,
    pipe_menon_density,
    radial_density,
    spiral_density,
    spiral_trajectory,
    voronoi_density,
)

N = 32
SPIRAL = {"field_of_view": 0.2, "gradient_limit": 0.03, "slew_limit": 120.0, "dwell_time": 8e-6}
METHODS = ["pipe-menon", "voronoi", "analytic-radial"]


def radii(trajectory):
    return np.linalg.norm(np.asarray(trajectory, np.float64), axis=-1)


@pytest.mark.parametrize("method", ["pipe-menon", "voronoi"])
@pytest.mark.parametrize("shift", [0.0, 0.013])
@pytest.mark.parametrize("shape", [(8, 8), (7, 10)])
def test_weights_of_a_cartesian_grid_are_ones(method, shift, shape):
    weights = density_compensation(cartesian_trajectory(shape) + shift, shape, method)
    assert weights.shape == shape and weights.dtype == jnp.float32
    np.testing.assert_allclose(weights, 1, rtol=1e-5)


def test_pipe_menon_of_a_cartesian_volume_is_ones():
    shape = (3, 4, 5)
    weights = pipe_menon_density(cartesian_trajectory(shape), shape)
    np.testing.assert_allclose(weights, np.ones((12, 5)), rtol=1e-5)


@pytest.mark.parametrize("method", ["pipe-menon", "voronoi"])
def test_weights_are_areas_times_pixels(method):
    """A grid denser than Nyquist by 5/4 x 3/2 weighs the inverse."""
    weights = density_compensation(cartesian_trajectory((10, 12)), (8, 8), method)
    # Voronoi cells at the border reach half a Nyquist distance outwards.
    inner = np.asarray(weights)[1:-1, 1:-1] / (8 / 10 * 8 / 12)
    np.testing.assert_allclose(inner, 1, rtol=0.05)
    assert abs(inner.mean() - 1) < 0.01


@pytest.mark.parametrize(
    "options",
    [
        {"spokes": 50, "samples": 64},
        {"spokes": 60, "samples": 32, "order": "golden"},
        {"spokes": 80, "samples": 33, "full_circle": True, "center_out": True, "order": "tiny-golden"},
    ],
    ids=str,
)
def test_radial_weights_are_voronoi_cells(options):
    k = radial_trajectory(**options)
    analytic, voronoi = (np.asarray(f(k, (N, N))) for f in (radial_density, voronoi_density))
    inner = (radii(k) > 2 / N) & (radii(k) < 0.46)
    np.testing.assert_allclose(analytic[inner], voronoi[inner], rtol=2e-3)
    # All spokes share the disc at DC, and all cells sum to the disc of k-space.
    at_dc = radii(k) == 0
    np.testing.assert_allclose(analytic[at_dc].sum(), voronoi[at_dc].sum(), rtol=0.02)
    np.testing.assert_allclose(analytic.sum(), np.pi / 4 * N**2, rtol=0.04)


def test_radial_ramp():
    """Equal spokes through DC: ring of radius j and width one, shared by both ends of all spokes."""
    spokes, samples = 9, 16
    weights = radial_density(radial_trajectory(spokes, samples), (N, N))
    j = np.abs(np.arange(samples) - samples // 2)
    ring = np.where(j > 0, 2 * np.pi * j / (2 * spokes), np.pi / 4 / spokes)
    np.testing.assert_allclose(weights, np.broadcast_to(ring, weights.shape) * (N / samples) ** 2, rtol=1e-4)


@pytest.mark.parametrize("center_out", [False, True])
def test_radial_shells(center_out):
    """Shells of width one, in space; the directions share them equally."""
    spokes, samples = 11, 12
    k = kooshball_trajectory(spokes, samples, center_out=center_out)
    weights = np.asarray(radial_density(k, (N, N, N)))
    j = np.arange(samples) if center_out else np.abs(np.arange(samples) - samples // 2)
    shell = 4 / 3 * np.pi * ((j + 0.5) ** 3 - np.maximum(j - 0.5, 0) ** 3)
    shell = shell / np.where((j == 0) | center_out, spokes, 2 * spokes)
    spacing = 1 / (2 * samples if center_out else samples)
    np.testing.assert_allclose(weights, np.broadcast_to(shell * (N * spacing) ** 3, weights.shape), rtol=1e-4)


def test_equal_spokes_share():
    k = radial_trajectory(8, 16)
    single = np.asarray(radial_density(k, (N, N)))
    # Three copies of one spoke, one of them reversed, and two of another one.
    repeated = np.concatenate([k, k[:1], k[:1, ::-1], k[5:6]])
    weights = np.asarray(radial_density(repeated, (N, N)))
    np.testing.assert_allclose(weights[[0, 8]], single[[0, 0]] / 3, rtol=1e-4)
    np.testing.assert_allclose(weights[9, ::-1], single[0] / 3, rtol=1e-4)
    np.testing.assert_allclose(weights[[5, 10]], single[[5, 5]] / 2, rtol=1e-4)
    np.testing.assert_allclose(weights[[1, 2, 3, 4, 6, 7]], single[[1, 2, 3, 4, 6, 7]], rtol=1e-4)


@pytest.mark.parametrize("density", [(1.0, 1.0), (2.0, 0.8)])
def test_spiral_weights_are_voronoi_cells(density):
    k = spiral_trajectory(8, N, density=density, **SPIRAL)
    analytic, voronoi, iterated = (
        np.asarray(f(k, (N, N))) for f in (spiral_density, voronoi_density, pipe_menon_density)
    )
    inner = (radii(k) > 2 / N) & (radii(k) < 0.44)
    np.testing.assert_allclose(analytic[inner], voronoi[inner], rtol=0.01)
    np.testing.assert_allclose(analytic[inner], iterated[inner], rtol=0.08)
    assert np.sqrt(np.mean((iterated / analytic - 1)[inner] ** 2)) < 0.02
    np.testing.assert_allclose(analytic.sum(), np.pi / 4 * N**2, rtol=0.02)


@pytest.mark.parametrize("samples", [32, 64])
def test_pipe_menon_of_spokes_is_the_ramp(samples):
    k = radial_trajectory(52, samples)
    weights, ramp = (np.asarray(f(k, (N, N))) for f in (pipe_menon_density, radial_density))
    inner = (radii(k) > 2 / N) & (radii(k) < 0.42)
    np.testing.assert_allclose(weights[inner], ramp[inner], rtol=0.06)
    assert np.sqrt(np.mean((weights / ramp - 1)[inner] ** 2)) < 0.015
    np.testing.assert_allclose(weights.sum(), np.pi / 4 * N**2, rtol=0.05)
    # Scale: the whole disc around DC has its area.
    center = radii(k) < 3.01 / N
    np.testing.assert_allclose(weights[center].sum(), ramp[center].sum(), rtol=0.03)


def test_pipe_menon_of_a_kooshball_is_the_ramp():
    k = kooshball_trajectory(160, 16)
    weights, ramp = (np.asarray(f(k, (8, 8, 8))) for f in (pipe_menon_density, radial_density))
    rings = np.abs(np.arange(16) - 8)
    for ring in (3, 4, 5):
        mean = weights[:, rings == ring].mean()
        np.testing.assert_allclose(mean, ramp[:, rings == ring].mean(), rtol=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_point_spread_is_that_of_a_disc(method):
    """A.H(w * A(delta)) by direct sums: the jinc of a disc of k-space, of height pi / 4, near the point."""
    k = radial_trajectory(110, 128)
    w = np.asarray(density_compensation(k, (2 * N, 2 * N), method), np.float64).ravel()
    k = np.asarray(k, np.float64).reshape(-1, 2)
    n = np.arange(-8, 9)
    rows, columns = (np.exp(2j * np.pi * np.outer(k[:, axis], n)) for axis in (0, 1))
    spread = np.einsum("m,my,mx->yx", w, rows, columns) / (2 * N) ** 2
    fine = (np.arange(512) - 255.5) / 512
    disc = fine[:, None] ** 2 + fine**2 <= 0.25
    waves = np.exp(2j * np.pi * np.outer(fine, n))
    expected = np.einsum("ab,ay,bx->yx", disc, waves, waves, optimize=True) / 512**2
    # The border ring of the weights reaches half a sample further than the disc or, clipped, less.
    np.testing.assert_allclose(spread, expected, atol=0.03)
    assert np.unravel_index(np.abs(spread).argmax(), spread.shape) == (8, 8)


@settings(max_examples=8)
@given(count=st.integers(1, 60), seed=st.integers(0, 99), copies=st.integers(1, 3))
def test_voronoi_of_any_points(count, seed, copies):
    """Cells tile the enlarged hull, duplicates share; also for points on a line, or a single one."""
    rng = np.random.default_rng(seed)
    k = rng.uniform(-0.5, 0.5, (count, 2)) * ([1, 1] if seed % 3 else [1, 0])
    k = np.concatenate([k + 1e-9 * i for i in range(copies)])
    with jax.enable_x64(True):
        weights = np.asarray(voronoi_density(k, (N, 2 * N)))
    assert weights.dtype == np.float64 and (weights > 0).all()
    np.testing.assert_allclose(
        weights.reshape(copies, count), np.broadcast_to(weights[:count], (copies, count))
    )
    # The area of the hull by the shoelace formula over directions: the width function of a convex set.
    corners = np.array([[a, b] for a in (-0.5, 0.5) for b in (-0.5, 0.5)])
    points = ((k * (N, 2 * N))[:, None] + corners).reshape(-1, 2)
    np.testing.assert_allclose(weights.sum(), hull_area(points), rtol=1e-5)


def hull_area(points):
    """Monotone chains."""
    points = sorted(map(tuple, points))
    area = 0.0
    for chain in (points, points[::-1]):
        hull = []
        for p in chain:
            while len(hull) > 1 and cross(hull[-2], hull[-1], p) <= 0:
                hull.pop()
            hull.append(p)
        area += sum(a[0] * b[1] - a[1] * b[0] for a, b in itertools.pairwise(hull)) / 2
    return area


def cross(o, a, b):
    return (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0])


def test_under_jit_and_vmap():
    frames = jnp.stack([radial_trajectory(7, 16), radial_trajectory(7, 16, "golden")])
    for method in (pipe_menon_density, radial_density):
        together = jax.jit(jax.vmap(lambda k, method=method: method(k, (16, 16))))(frames)
        for k, weights in zip(frames, together, strict=True):
            np.testing.assert_allclose(weights, method(k, (16, 16)), rtol=1e-4)


@pytest.mark.slow
def test_gradients():
    with jax.enable_x64(True):
        spiral = spiral_trajectory(8, 8, **SPIRAL)
        for density, k in (
            (lambda k: pipe_menon_density(k, (8, 8), 3), spiral + 0.001),
            (lambda k: radial_density(k, (8, 8)), 0.9 * radial_trajectory(4, 6, "golden")),
            (lambda k: spiral_density(k, (8, 8)), spiral),
        ):
            gradient = jax.grad(lambda k, density=density: jnp.sum(jnp.sin(density(k))))(k)
            assert jnp.isfinite(gradient).all()
            # Stretching keeps spokes straight and DC in its place.
            slope = [jnp.sum(jnp.sin(density((1 + step) * k))) / 2e-6 for step in (1e-6, -1e-6)]
            np.testing.assert_allclose(jnp.sum(gradient * k), slope[0] - slope[1], rtol=1e-5)


SPOKES = np.zeros((3, 8, 2))


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: density_compensation(SPOKES, (8, 8), "ramp"), ValueError, ["method", "'ramp'", "voronoi"]),
        (lambda: density_compensation(SPOKES, (8, 8, 8)), ValueError, ["trajectory", "3)", "(3, 8, 2)"]),
        (lambda: density_compensation(40 + SPOKES, (8, 8)), ValueError, ["cycles/pixel", "from_per_fov"]),
        (lambda: density_compensation(SPOKES, (8,)), ValueError, ["image_shape", "(8,)"]),
        (lambda: voronoi_density(SPOKES, (8, 8, 8)), ValueError, ["voronoi_density: image_shape", "2 axes"]),
        (lambda: radial_density(SPOKES[0], (8, 8)), ValueError, ["radial_density", "(8, 2)"]),
        (lambda: spiral_density(SPOKES[:, :1], (8, 8)), ValueError, ["two samples", "(3, 1, 2)"]),
        (lambda: pipe_menon_density(SPOKES, (8, 8), 0), ValueError, ["iterations", "0"]),
        (lambda: jax.jit(lambda k: voronoi_density(k, (8, 8)))(SPOKES), TypeError, ["concrete", "jit"]),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
