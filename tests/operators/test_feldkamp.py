"""Feldkamp's algorithm for cones and helices, and upright parallel beams slice by slice."""

import jax
import numpy as np
import pytest

import operators
from operators import ConeBeam, ParallelBeam, ParallelBeam3D, fbp, fdk
from operators.phantoms import Ellipsoids, rasterize_phantom

project_phantom = jax.jit(operators.phantoms.project_phantom, static_argnames="bins")

MU = 0.019
VOLUME = (12, 30, 32)


def even(views, arc=2 * np.pi, start=0.0):
    return start + np.arange(views) * (arc / views)


def inside(shape, pixel, center, radius):
    y = ((shape[0] - 1) / 2 - np.arange(shape[0])) * pixel - center[1]
    x = (np.arange(shape[1]) - (shape[1] - 1) / 2) * pixel - center[0]
    return x**2 + y[:, None] ** 2 < radius**2


def ball(center=(3.0, -2.0, 0.5), axes=(9.0, 9.0, 9.0)):
    return Ellipsoids([center], [axes], [0.0], [MU])


def assert_ball(volume, slices, center, radius, rtol=5e-3):
    for k in slices:
        interior = np.asarray(volume)[k][inside(VOLUME[1:], 1.0, center, radius - 3)]
        np.testing.assert_allclose(interior.mean(), MU, rtol=rtol)


OFF_AXIS = {"axis_offset": 1.0, "detector_offset": 0.4, "row_offset": 0.7}


@pytest.mark.parametrize(
    "curved, angles, offsets",
    [
        (False, even(120), {}),
        (True, even(120, np.pi + 0.6, 1.0), OFF_AXIS),
        pytest.param(True, even(120), {}, marks=pytest.mark.slow),
        pytest.param(False, even(120, np.pi + 0.6, 1.0), OFF_AXIS, marks=pytest.mark.slow),
    ],
    ids=["flat full", "curved short", "curved full", "flat short"],
)
def test_feldkamp_keeps_the_scale_in_the_middle(curved, angles, offsets):
    zeros = dict.fromkeys(("axis_offset", "detector_offset", "row_offset"), 0.0)
    geometry = ConeBeam(angles, (24, 61), (1.5, 1.3), 110.0, 60.0, curved, **{**zeros, **offsets})
    volume = fdk(project_phantom(ball(), geometry, bins=2), geometry, VOLUME)
    assert_ball(volume, (5, 6), (3.0, -2.0), 9.0)
    truth = rasterize_phantom(ball(), VOLUME)
    assert np.linalg.norm(volume - truth) < 0.15 * np.linalg.norm(truth)


@pytest.mark.parametrize("curved, pitch", [(False, 8.0), pytest.param(True, -8.0, marks=pytest.mark.slow)])
def test_a_helix_keeps_the_scale_of_a_long_ellipsoid(curved, pitch):
    angles = even(360, 6 * np.pi, -3 * np.pi)
    geometry = ConeBeam(angles, (20, 61), (1.5, 1.3), 110.0, 60.0, curved, pitch)
    phantom = ball((3.0, -2.0, 0.0), (9.0, 9.0, 40.0))
    volume = fdk(project_phantom(phantom, geometry), geometry, VOLUME)
    assert_ball(volume, range(VOLUME[0]), (3.0, -2.0), 8.0, 1e-2)


def test_upright_parallel_beams_are_inverted_slice_by_slice():
    geometry = ParallelBeam3D(even(120, np.pi), (16, 61), (1.0, 0.8), 0.2, 0.0, 0.1)
    volume = fdk(project_phantom(ball(), geometry, bins=2), geometry, VOLUME)
    assert_ball(volume, (4, 5, 6, 7), (3.0, -2.0), 8.0)
    planar = ParallelBeam(geometry.angles, 61, 0.8, 0.2, 0.1)
    y = project_phantom(ball(), geometry)
    np.testing.assert_allclose(fdk(y, geometry, VOLUME)[3], fbp(y[:, 5], planar, VOLUME[1:]), atol=2e-3 * MU)


@pytest.mark.parametrize("pitch", [0.0, 8.0])
def test_a_traced_scan_gives_the_same_volume(pitch, normal):
    geometry = ConeBeam(even(120, 4 * np.pi), (20, 31), (1.5, 2.6), 110.0, 60.0, pitch=pitch)
    y = normal(geometry.shape)
    traced = jax.jit(lambda y, g: fdk(y, g, VOLUME))(y, geometry)
    exact = fdk(y, geometry, VOLUME)
    assert np.linalg.norm(traced - exact) < 1e-3 * np.linalg.norm(exact)
