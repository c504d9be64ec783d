"""Line integrals of ellipses and ellipsoids against closed forms, quadrature and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import ConeBeam, FanBeam, ParallelBeam, ParallelBeam3D, shepp_logan
from operators.phantoms import (
    Ellipses,
    Ellipsoids,
    ellipse_sinogram,
    forbild_like_head,
    line_integrals,
    project_phantom,
    random_ellipses,
    rasterize_phantom,
    shepp_logan_3d,
)

ANGLES = np.linspace(0, 2 * np.pi, 8, endpoint=False)
integrals = jax.jit(line_integrals)


def test_disc_and_ball_are_chords(x64):
    d = np.array([0.0, 0.4, 1.1, 1.999, 2.0, 3.0])
    chords = 2 * 0.3 * np.sqrt(np.maximum(4 - d**2, 0))
    disc = Ellipses([[1.0, -2.0]], [[2.0, 2.0]], [0.4], [0.3])
    points = np.stack([1 + d, -2 + 0 * d], -1)
    # A tangent's rounding goes through a square root.
    np.testing.assert_allclose(line_integrals(disc, points, [[0.0, -5.0]]), chords, atol=1e-7)
    ball = Ellipsoids([[1.0, -2.0, 3.0]], [[2.0, 2.0, 2.0]], [0.4], [0.3])
    across = np.array([2.0, 1.0, -2.0]) / 3
    points = np.array([1.0, -2.0, 3.0]) + d[:, None] * across + [[1.0, 2.0, 2.0]]
    np.testing.assert_allclose(line_integrals(ball, points, [[1.0, 2.0, 2.0]]), chords, atol=1e-7)


@given(
    center=st.tuples(*[st.floats(-2, 2)] * 3),
    axes=st.tuples(*[st.floats(0.2, 3)] * 3),
    turn=st.floats(-7, 7),
    point=st.tuples(*[st.floats(-1, 1)] * 3),
    seed=st.integers(0, 99),
)
def test_any_ellipse_by_quadrature(center, axes, turn, point, seed):
    direction = np.random.default_rng(seed).standard_normal(3)
    s, step = np.linspace(-9, 9, 20001, retstep=True)
    cos, sin = np.cos(turn), np.sin(turn)
    for ndim, kind in ((2, Ellipses), (3, Ellipsoids)):
        unit = direction[:ndim] / np.linalg.norm(direction[:ndim])
        c, a, p = np.array(center)[:ndim], np.array(axes)[:ndim], np.array(point)[:ndim]
        x = p + s[:, None] * unit - c
        x[:, :2] = x[:, :2] @ np.array([[cos, -sin], [sin, cos]])
        expected = 1.7 * step * np.sum(((x / a) ** 2).sum(-1) <= 1)
        phantom = kind(c[None], a[None], [turn], [1.7])
        found = integrals(phantom, p[None].astype(np.float32), direction[None, :ndim].astype(np.float32))
        assert abs(found[0] - expected) < 2.5 * 1.7 * step + 2e-3


def test_parallel_sinogram_is_that_of_the_phantoms_module(x64):
    geometry = ParallelBeam(ANGLES, 33, 0.07, 0.01, -0.03)
    found = project_phantom(shepp_logan(), geometry)
    np.testing.assert_allclose(found, ellipse_sinogram(shepp_logan(), geometry), atol=1e-12)


def test_fan_rays_are_parallel_rays(x64):
    """A fan ray at gamma of view t is the parallel ray of angle t - gamma at distance R sin(gamma)."""
    fan = FanBeam([0.9], 7, 0.05, 3.0, 1.0, curved=True)
    found = project_phantom(shepp_logan(), fan)[0]
    gamma = (np.arange(7) - 3) * 0.05 / 4
    for g, value in zip(gamma, found, strict=True):
        view = ParallelBeam([0.9 - g], 1, 1.0, detector_offset=3 * np.sin(g))
        assert value == pytest.approx(float(ellipse_sinogram(shepp_logan(), view)[0, 0]), abs=1e-12)


def test_flips_and_rotations(x64):
    e = shepp_logan()
    geometry = FanBeam(ANGLES, 21, 0.2, 4.0, 2.0)
    plain = project_phantom(e, geometry)
    turned = Ellipses(e.center @ np.array([[0, 1], [-1, 0]]), e.axes, e.angle + np.pi / 2, e.value)
    np.testing.assert_allclose(project_phantom(turned, geometry), np.roll(plain, 2, axis=0), atol=1e-12)
    flipped = Ellipses(e.center * np.array([-1, 1]), e.axes, -e.angle, e.value)
    mirrored = np.roll(plain[::-1, ::-1], 1, axis=0)
    np.testing.assert_allclose(project_phantom(flipped, geometry), mirrored, atol=1e-12)


@pytest.mark.slow
def test_central_slice_of_ellipsoids_is_the_ellipses(x64):
    e = Ellipses([[0.3, -0.2], [-0.1, 0.4]], [[0.6, 0.3], [0.2, 0.5]], [0.4, -1.0], [0.5, 0.2])
    flat = np.zeros((2, 1))
    solid = Ellipsoids(np.hstack([e.center, flat]), np.hstack([e.axes, flat + 0.7]), e.angle, e.value)
    fan = FanBeam(ANGLES, 11, 0.3, 4.0, 2.0)
    cone = ConeBeam(ANGLES, (3, 11), (0.2, 0.3), 4.0, 2.0)
    np.testing.assert_allclose(project_phantom(solid, cone)[:, 1], project_phantom(e, fan), atol=1e-12)
    image = rasterize_phantom(e, (16, 14), 0.15, 3)
    volume = rasterize_phantom(solid, (5, 16, 14), 0.15, 3)
    assert volume.shape == (5, 16, 14)
    # The slice is thin: only pixels on an edge differ.
    assert np.abs(volume[2] - image).max() < 0.25 and np.abs(volume[2] - image).mean() < 4e-3
    total = 4 / 3 * np.pi * (0.5 * 0.6 * 0.3 + 0.2 * 0.2 * 0.5) * 0.7
    mass = float(rasterize_phantom(solid, (16, 16, 16), 0.12, 3).sum()) * 0.12**3
    assert mass == pytest.approx(total, rel=0.01)


def test_views_keep_the_mass(x64):
    """The integral of a parallel view over the detector is the integral of the phantom."""
    phantom = shepp_logan_3d()
    geometry = ParallelBeam3D([0.3, 2.0], (40, 40), (0.05, 0.05))
    views = project_phantom(phantom, geometry, bins=2)
    mass = 4 / 3 * np.pi * float(jnp.sum(phantom.value * jnp.prod(phantom.axes, axis=1)))
    np.testing.assert_allclose(views.sum((1, 2)) * 0.05**2, mass, rtol=5e-3)


def test_bins_average_over_elements(x64):
    e = Ellipses([[0.1, -0.2]], [[0.7, 0.5]], [0.3], [2.0])
    coarse, fine = FanBeam(ANGLES, 8, 0.3, 4.0, 2.0), FanBeam(ANGLES, 800, 0.003, 4.0, 2.0)
    means = np.asarray(project_phantom(e, fine)).reshape(8, 8, 100).mean(-1)
    errors = [np.abs(project_phantom(e, coarse, bins) - means).max() for bins in (1, 4, 16)]
    assert errors[0] > 0.02 and errors[1] < 0.5 * errors[0] and errors[2] < 0.1 * errors[0]


def test_values_of_the_heads():
    # Overlaps add: skull and brain, and air in the sinus.
    head = rasterize_phantom(forbild_like_head(), (25, 21), 1.0, 1)
    assert head[12, 10] == pytest.approx(0.21, abs=2e-3) and head[0, 10] == pytest.approx(0.36)
    assert head[3, 10] == pytest.approx(0.0, abs=1e-6)
    volume = rasterize_phantom(shepp_logan_3d(), (9, 9, 9), 0.2, 1)
    assert volume[4, 4, 4] == pytest.approx(0.2) and volume[0, 0, 0] == 0
    original = rasterize_phantom(shepp_logan_3d(modified=False), (9, 9, 9), 0.2, 1)
    assert original[4, 4, 4] == pytest.approx(1.02)


def test_derivatives_are_right_and_finite_at_tangency(x64):
    e = Ellipses([[0.0, 0.0]], [[1.0, 1.0]], [0.0], [1.0])

    @jax.jit
    @jax.grad
    def slope(phantom, points, directions):
        return jnp.sum(line_integrals(phantom, points, directions))

    touching = slope(e, jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.array([[0.0, 1.0], [0.0, 1.0]]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(touching))
    # Chord 2 sqrt(r^2 - x^2) at x = 0.6: the derivative along the center is 2 x / 0.8.
    found = slope(e, jnp.array([[0.6, 0.0]]), jnp.array([[0.0, 3.0]]))
    np.testing.assert_allclose(found.center, [[1.5, 0.0]], atol=1e-12)
    np.testing.assert_allclose(found.value, [1.6])


def test_axis_offset_is_found_by_gradient_descent(x64):
    """Exact line integrals through any geometry are differentiable in the geometry."""
    e = Ellipses([[0.2, -0.3]], [[0.6, 0.4]], [0.3], [1.0])

    def project(offset):
        return project_phantom(e, FanBeam(ANGLES, 40, 0.1, 4.0, 2.0, axis_offset=offset))

    target = project(0.11)
    step = jax.jit(jax.value_and_grad(lambda a: jnp.mean((project(a) - target) ** 2)))
    offset = jnp.zeros(())
    for _ in range(60):
        offset = offset - 0.1 * step(offset)[1]
    assert offset == pytest.approx(0.11, abs=1e-3)


def test_random_ellipses_have_their_distribution():
    make = jax.jit(lambda key: random_ellipses(key, 4000, radius=3.0, attenuation=0.2))
    e = make(jax.random.key(1))
    assert np.abs(e.center).max() <= 1.5 and np.abs(np.mean(e.center)) < 0.05
    assert np.mean(e.axes) == pytest.approx(0.6, rel=0.05) and np.min(e.axes) > 0
    assert np.mean(e.value) == pytest.approx(0.2 * 0.2 * 0.3, rel=0.2)
    assert np.mean(np.asarray(e.value) < 0) == pytest.approx(0.3, abs=0.03)
    assert not np.array_equal(e.value, make(jax.random.key(2)).value)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: Ellipsoids([[0, 0, 0]], [[1, 1]], [0], [1.0]), ValueError, ["axes", "(1, 3)", "(1, 2)"]),
        (lambda: Ellipsoids([[0, 0, 0]], [[1, 1, 1]], [0], 1.0), ValueError, ["value", "(n,)"]),
        (lambda: line_integrals(shepp_logan(), np.ones(3), np.ones(3)), ValueError, ["points", "(..., 2)"]),
        (
            lambda: project_phantom(shepp_logan_3d(), ParallelBeam(ANGLES, 5)),
            ValueError,
            ["geometry", "3", "2"],
        ),
        (lambda: project_phantom(shepp_logan(), ParallelBeam(ANGLES, 5), 0), ValueError, ["bins", "0"]),
        (
            lambda: rasterize_phantom(shepp_logan_3d(), (4, 4)),
            ValueError,
            ["image_shape", "3 axes", "(4, 4)"],
        ),
        (lambda: rasterize_phantom(shepp_logan_3d(), (4, 4, 4), -1.0), ValueError, ["pixel_size", "-1"]),
        (lambda: random_ellipses(jax.random.key(0), 0), ValueError, ["count", "0"]),
        (lambda: forbild_like_head(-0.2), ValueError, ["water", "-0.2"]),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
