"""Filtered back-projection of detectors that see one side of the object, and of scans given as vectors."""

import warnings

import jax
import numpy as np
import pytest

import operators
from operators import ConeBeam, FanBeam, ParallelBeam, ParallelBeam3D, VectorGeometry, fbp, fdk
from operators.ct import as_vectors
from operators.ct.geometry.circular import as_circular
from operators.phantoms import Ellipses, Ellipsoids

project_phantom = jax.jit(operators.phantoms.project_phantom, static_argnames="bins")
MU, N = 0.02, 64
TURN = np.arange(240) * (2 * np.pi / 240)
# Off-center and without symmetry: two discs, in an image whose inscribed circle they nearly fill.
PLACES, RADII, VALUES = [(-9.0, 6.0), (17.0, -9.0)], [18.0, 9.0], [MU, 2 * MU]


def masks():
    y, x = (N - 1) / 2 - np.mgrid[:N, :1][0], np.arange(N) - (N - 1) / 2
    return [np.hypot(x - a, y - b) < r - 3 for (a, b), r in zip(PLACES, RADII, strict=True)]


def assert_discs(image):
    for mask, value in zip(masks(), VALUES, strict=True):
        interior = np.asarray(image)[mask]
        np.testing.assert_allclose(interior.mean(), value, rtol=5e-3)
        np.testing.assert_allclose(interior, value, rtol=0.06)


def discs():
    return Ellipses(PLACES, [[r, r] for r in RADII], [0.0, 0.0], VALUES)


DISPLACED = {
    "flat": lambda: FanBeam(TURN, 95, 1.0, 150.0, 100.0, detector_offset=30.0),
    "curved": lambda: FanBeam(TURN, 95, 1.0, 150.0, 100.0, True, detector_offset=-30.0),
    "axis": lambda: FanBeam(TURN[::-1] + 0.3, 95, 1.0, 150.0, 100.0, axis_offset=17.0),
    "parallel": lambda: ParallelBeam(TURN, 48, detector_offset=-18.0),
    "parallel axis": lambda: ParallelBeam(TURN, 48, axis_offset=-18.0),
}


@pytest.mark.parametrize("kind", DISPLACED)
def test_a_displaced_detector_sees_the_whole_object_in_a_turn(kind):
    geometry = DISPLACED[kind]()
    y = project_phantom(discs(), geometry, bins=2)
    assert_discs(fbp(y, geometry, (N, N)))
    if kind == "flat":
        np.testing.assert_allclose(
            fbp(np.stack([y, 2 * y]), geometry, (N, N))[1], 2 * fbp(y, geometry, (N, N)), rtol=1e-4, atol=1e-6
        )


def test_a_displaced_cone_sees_the_middle_plane():
    geometry = ConeBeam(TURN, (6, 95), (1.0, 1.0), 150.0, 100.0, detector_offset=30.0)
    phantom = Ellipsoids([(*p, 0.0) for p in PLACES], [[r, r, 40.0] for r in RADII], [0.0, 0.0], VALUES)
    assert_discs(fdk(project_phantom(phantom, geometry, bins=2), geometry, (1, N, N))[0])


@pytest.mark.parametrize("arc", [np.pi, 1.2 * np.pi, 1.9 * np.pi])
def test_a_displaced_detector_and_no_full_turn_is_warned_about(arc):
    """Rays are missing: conjugates of those that only the long side of the detector sees."""
    angles = np.arange(120) * (arc / 120)
    for geometry in (
        ParallelBeam(angles, 48, detector_offset=-18.0),
        FanBeam(angles, 95, 1.0, 150.0, 100.0, detector_offset=30.0),
    ):
        with pytest.warns(UserWarning, match="expected a full turn, or an image that both sides"):
            fbp(np.ones(geometry.shape, np.float32), geometry, (N, N))
    # A wide detector may be displaced, and so may one whose image is small.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scan, size in ((ParallelBeam(angles, 120, detector_offset=-18.0), N), (geometry, 18)):
            fbp(np.ones(scan.shape, np.float32), scan, (size, size))


def test_detectors_that_see_the_object_on_both_sides_weigh_as_ever():
    """A quarter shift, a detector cut on both sides, and half a turn: every ray by its usual weight."""
    for angles, offset, size in ((TURN, 0.25, 64), (TURN, 0.25, 128), (TURN[:120] / 1.0, 30.0, 64)):
        geometry = ParallelBeam(angles, 80, detector_offset=offset)
        y = np.random.default_rng(0).normal(size=geometry.shape).astype(np.float32)
        traced = jax.jit(
            lambda y, a, n=size, o=offset: fbp(y, ParallelBeam(a, 80, detector_offset=o), (n, n))
        )
        expected = traced(y, angles)
        error = np.abs(fbp(y, geometry, (size, size)) - expected).max()
        assert error < 2e-4 * np.abs(expected).max()


OFFSETS = {"detector_offset": 0.3, "axis_offset": -0.7}
SOME = np.array([0.4, 6.0, 1.1, 2.9, 4.0])
CIRCULAR = {
    "parallel": lambda: ParallelBeam(SOME, 40, 0.8, **OFFSETS),
    "fan": lambda: FanBeam(SOME, 60, 0.8, 41.0, 15.0, **OFFSETS),
    "parallel 3d": lambda: ParallelBeam3D(SOME, (6, 40), (1.2, 0.8), row_offset=0.4, **OFFSETS),
    "cone": lambda: ConeBeam(
        SOME, (6, 60), (1.2, 0.8), 41.0, 15.0, row_offset=0.4, axial_offset=0.2, **OFFSETS
    ),
    "helix": lambda: ConeBeam(
        np.arange(40) * 0.4 - 3, (6, 60), (1.2, 0.8), 41.0, 15.0, pitch=-5.0, axial_offset=1.0, **OFFSETS
    ),
}


@pytest.mark.parametrize("kind", CIRCULAR)
def test_vectors_of_a_circle_are_inverted_as_the_circle(kind):
    geometry = CIRCULAR[kind]()
    vectors = as_vectors(geometry)
    y = np.random.default_rng(0).normal(size=geometry.shape).astype(np.float32)
    invert, shape = (fbp, (20, 22)) if geometry.ndim == 2 else (fdk, (4, 20, 22))
    expected = np.asarray(invert(y, geometry, shape))
    np.testing.assert_allclose(invert(y, vectors, shape), expected, atol=2e-3 * np.abs(expected).max())
    found = as_circular(vectors, "fbp")
    assert type(found.geometry) is type(geometry) and not found.flips
    # Seen from behind: columns, and in space rows, that run the other way.
    rows = None if vectors.row_axis is None else -vectors.row_axis
    other = VectorGeometry(
        vectors.source,
        vectors.detector,
        -vectors.column_axis,
        rows,
        vectors.detector_shape,
        vectors.divergent,
    )
    flipped = y[..., ::-1] if rows is None else y[..., ::-1, ::-1]
    image = np.asarray(invert(flipped, other, shape))
    np.testing.assert_allclose(image, expected, atol=2e-3 * np.abs(expected).max())


def moved(name, change):
    vectors = as_vectors(CIRCULAR["cone"]())
    parts = {n: np.array(getattr(vectors, n)) for n in ("source", "detector", "column_axis", "row_axis")}
    parts[name] = change(parts[name])
    return VectorGeometry(**parts, detector_shape=vectors.detector_shape)


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("source", lambda a: a + [[1, 0, 0]], "the distance of the source from the axis from"),
        (
            "detector",
            lambda a: a + np.arange(5)[:, None] * [0, 0, 1],
            "height of the detector over the source",
        ),
        ("source", lambda a: a * [1, 1, 0] + (np.arange(5) ** 2)[:, None] * [0, 0, 1], "height|helix"),
        ("row_axis", lambda a: a + [[0.1, 0, 0]], "a tilted detector"),
        ("column_axis", lambda a: a * (1 + np.arange(5)[:, None]), "the width of columns"),
    ],
)
def test_other_vectors_are_refused_with_what_differs(name, change, words):
    vectors = moved(name, change)
    with pytest.raises(
        TypeError, match=f"fdk: geometry: expected ParallelBeam3D or ConeBeam, or vectors.*({words}).*cgls"
    ):
        fdk(np.zeros(vectors.shape, np.float32), vectors, (4, 20, 22))


def test_traced_vectors_are_refused():
    vectors = as_vectors(CIRCULAR["parallel"]())
    with pytest.raises(TypeError, match="traced vectors"):
        jax.jit(lambda g: fbp(np.zeros(g.shape, np.float32), g, (8, 8)))(vectors)
