"""Projections of homogeneous boxes against chords that are computed ray by ray from the definitions."""

import jax
import numpy as np
import pytest

from operators import ConeBeam, FanBeam, ParallelBeam, ParallelBeam3D, Radon

ANGLES = np.array([0.1, 0.9, 1.5, 2.2, 3.0, 4.1])
GEOMETRIES = {
    "parallel": lambda: ParallelBeam(ANGLES, 31, 0.7, 0.2, -0.4),
    "fan": lambda: FanBeam(ANGLES, 31, 1.5, 40.0, 30.0, detector_offset=0.4, axis_offset=-0.3),
    "curved": lambda: FanBeam(ANGLES, 31, 1.5, 40.0, 30.0, True, detector_offset=0.4),
    "parallel 3d": lambda: ParallelBeam3D(ANGLES, (3, 31), (0.8, 0.7), axis_offset=0.3),
    "cone": lambda: ConeBeam(ANGLES, (3, 31), (0.8, 1.5), 40.0, 30.0, axis_offset=-0.3),
}

project = jax.jit(lambda A, x: A(x))


def rays(geometry):
    """Points and unit directions of the rays in double precision: (views, [rows,] columns, 2 or 3)."""
    t = np.asarray(geometry.angles, np.float64)[:, None, None]
    e = np.stack([np.cos(t), np.sin(t), 0 * t], -1)
    n = np.stack([-np.sin(t), np.cos(t), 0 * t], -1)
    counts, steps = geometry.shape[1:], np.ravel(geometry.detector_spacing)
    s = (np.arange(counts[-1]) - (counts[-1] - 1) / 2) * steps[-1] + float(geometry.detector_offset)
    s = s[:, None]
    v = np.zeros((1, 1, 1))
    if geometry.ndim == 3:
        v = ((np.arange(counts[0]) - (counts[0] - 1) / 2) * steps[0] + float(geometry.row_offset))[
            :, None, None
        ]
    up, axis = np.array([0.0, 0.0, 1.0]), float(geometry.axis_offset)
    if geometry.divergent:
        near, far = float(geometry.source_distance), float(geometry.detector_distance)
        turn = s / (near + far)
        ahead, aside = (np.cos(turn), np.sin(turn)) if getattr(geometry, "curved", False) else (1.0, turn)
        directions = (near + far) * (ahead * n + aside * e) + v * up
        points = np.broadcast_to(-near * n - axis * e, directions.shape)
    else:
        points = (s - axis) * e + v * up
        directions = np.broadcast_to(n, points.shape)
    directions = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    shape = (*geometry.shape, 3)
    return points.reshape(shape)[..., : geometry.ndim], directions.reshape(shape)[..., : geometry.ndim]


def chords(points, directions, low, high):
    """Lengths of rays in the box from ``low`` to ``high``, and the axes on which they enter and leave it."""
    with np.errstate(divide="ignore"):
        ends = np.sort(np.stack([(low - points) / directions, (high - points) / directions]), axis=0)
    enter, leave = ends[0].max(-1), ends[1].min(-1)
    return np.maximum(leave - enter, 0), ends[0].argmax(-1), ends[1].argmin(-1)


@pytest.mark.parametrize("backend", ["jax", "auto"])
@pytest.mark.parametrize("kind", GEOMETRIES)
def test_rays_from_face_to_face_measure_their_path_in_a_box(kind, backend):
    """Interpolation adds nothing to a constant: where rays keep away from edges, the scale is exact."""
    geometry, pixel = GEOMETRIES[kind](), 0.6
    shape = (12, 15) if geometry.ndim == 2 else (30, 12, 15)
    half = pixel / 2 * np.array(shape[::-1])
    points, directions = rays(geometry)
    # Away from edges: a box that is narrower by a pixel on every other side is entered on the same faces.
    length, enter, leave = chords(points, directions, -half, half)
    main = np.abs(directions).argmax(-1)
    clear = (enter == main) & (leave == main)
    for axis in range(geometry.ndim):
        narrow = half - np.where(np.arange(geometry.ndim) == axis, 0, pixel)
        _, first, last = chords(points, directions, -narrow, narrow)
        clear &= (main != axis) | ((first == main) & (last == main))
    assert clear.sum() > 20
    found = np.asarray(
        project(Radon(geometry, shape, pixel, backend=backend), np.full(shape, 0.02, np.float32))
    )
    np.testing.assert_allclose(found[clear], 0.02 * length[clear], rtol=2e-5)
