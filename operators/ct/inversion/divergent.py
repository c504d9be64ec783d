"""Filtered back-projection of fans and cones.

With the ray of a view at t through the fan angle p, from the source ``-R n - a e``, lying at the distance
``R sin p - a cos p`` from the axis, the inverse Radon transform in these variables is

    f = sum over views dt (1 / depth^2) ramp(w(t, p) (R + a tan p) cos p g)      in tan p, flat detectors
    f = sum over views dt (cos p / depth)^2 ramp'(w(t, p) (R cos p + a sin p) g)  in p, curved ones

with w the shares of rays that are measured twice, depth the distance from the source along n, and ramp' the
filter for equal angles. Cones multiply by the cosine of the ray's elevation.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from operators.ct.geometry import ConeBeam, FanBeam
from operators.ct.geometry.coordinates import positions, view_axes
from operators.ct.geometry.image_grid import ImageGrid
from operators.ct.inversion.back_projector import back_project
from operators.ct.inversion.ramp_filters import (
    filter_finely,
    footprint,
    highest_frequency,
    padded_length,
    ramp_response,
)
from operators.ct.inversion.short_scan import Coverage, fan_weights

# The part of a turn over which the views of a helix fade.
_FADE = 0.2


def invert_fan(
    sinogram: jax.Array,
    geometry: FanBeam,
    coverage: Coverage,
    grid: ImageGrid,
    filter: str,
    cutoff: float,
    backend: str,
) -> jax.Array:
    """See :func:`operators.fbp`: (..., views, columns) -> (..., ny, nx)."""
    count, spacing = geometry.detector_count, geometry.detector_spacing
    rows, column = _filtered_fan(
        geometry, count, spacing, sinogram[..., None, :], 0.0, coverage, grid, filter, cutoff
    )
    detector = jnp.stack([*column, jnp.zeros_like(column[0]), jnp.zeros_like(column[0])])
    poses = _poses(geometry, grid, jnp.zeros_like(geometry.angles))
    sinograms = rows.reshape(1, -1, *rows.shape[-3:])
    operands = poses[None], detector[None], coverage.weights[None, :, None]
    image = back_project(*operands, sinograms, (1, *grid.shape), geometry.curved, backend)
    return image.reshape(*sinogram.shape[:-2], *grid.shape)


def invert_cone(
    sinogram: jax.Array,
    geometry: ConeBeam,
    coverage: Coverage,
    grid: ImageGrid,
    filter: str,
    cutoff: float,
    backend: str,
) -> jax.Array:
    """See :func:`operators.fdk`: (..., views, rows, columns) -> (..., nz, ny, nx)."""
    (rows, columns), (row_spacing, spacing) = geometry.detector_shape, geometry.detector_spacing
    distance = geometry.source_distance + geometry.detector_distance
    heights = positions(np.arange(rows), rows, row_spacing, geometry.dtype) + geometry.row_offset
    filtered, column = _filtered_fan(
        geometry, columns, spacing, sinogram, heights / distance, coverage, grid, filter, cutoff
    )
    # Beyond the detector a circle sees nothing, a helix its last rows again.
    helical = geometry.pitch != 0
    ends = [jnp.where(helical, filtered[..., end, None, :], 0) for end in (0, -1)]
    filtered = jnp.concatenate([ends[0], filtered, ends[1]], axis=-2)
    origin = (rows - 1) / 2 + 1 - geometry.row_offset / row_spacing
    height = grid.steps[2]
    scale = height * distance / geometry.source_distance / row_spacing
    detector = jnp.stack([*column, scale, origin])
    window = _helix_window(geometry, coverage.weights, jnp.asarray(grid.heights, filtered.dtype))
    weights = jnp.where(helical, window, coverage.weights[:, None])
    poses = _poses(geometry, grid, (grid.center[2] - geometry.source_heights()) / height)
    sinograms = filtered.reshape(1, -1, *filtered.shape[-3:])
    operands = poses[None], detector[None], weights[None]
    volume = back_project(*operands, sinograms, grid.shape, geometry.curved, backend)
    return volume.reshape(*sinogram.shape[:-3], *grid.shape)


def _filtered_fan(geometry, count, spacing, sinogram, elevation, coverage, grid, filter, cutoff):
    """Weighted and filtered views, and what places them.

    Args:
      count, spacing: of the columns.
      elevation: height of detector rows over the distance of the detector, (rows,) or 0.
      coverage: of the angles.

    Returns:
      Views (..., views, rows, 2 columns + 1) at every half column with a zero at either end, and the scale
      and the origin of positions on them.
    """
    distance = geometry.source_distance + geometry.detector_distance
    ratio = (
        positions(np.arange(count), count, spacing, geometry.dtype) + geometry.detector_offset
    ) / distance
    fan = ratio if geometry.curved else jnp.arctan(ratio)
    cos, sin = jnp.cos(fan), jnp.sin(fan)
    lever = geometry.source_distance * cos + geometry.axis_offset * sin
    reach = 1.0 if geometry.curved else 1 / cos
    tilt = reach / jnp.hypot(reach, jnp.asarray(elevation, fan.dtype)[..., None])
    # The ray through the axis, from which conjugate rays are counted.
    central = jnp.arctan2(geometry.axis_offset, geometry.source_distance)
    share = fan_weights(coverage, geometry.angles, fan - central)
    weighted = sinogram * (share[:, None] * (tilt * lever / geometry.source_distance**2))
    length, step = padded_length(count), spacing / distance
    response = ramp_response(length, step, filter, cutoff, step if geometry.curved else None)
    seen = (step * distance / (geometry.source_distance * spacing) for step in grid.steps[:2])
    width = footprint(geometry.angles, tuple(seen))
    rows = filter_finely(weighted, response, length, width, highest_frequency(filter, cutoff))
    if geometry.curved:
        half = positions(np.arange(2 * count - 1), 2 * count - 1, spacing / 2, geometry.dtype)
        rows = rows * jnp.cos((half + geometry.detector_offset) / distance) ** 2
    rows = jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(1, 1)])
    return rows, (2 * distance / spacing, count - 2 * geometry.detector_offset / spacing)


def _poses(geometry, grid, heights):
    """Rows of :mod:`operators.ct.inversion.back_projector`, lengths in the distance of the source."""
    (e, n), near = view_axes(geometry.angles), geometry.source_distance
    dx, dy = (step / near for step in grid.steps[:2])
    ex, ey, nx, ny = e[:, 0] * dx, e[:, 1] * dy, n[:, 0] * dx, n[:, 1] * dy
    offset = jnp.full_like(ex, 1) * (geometry.axis_offset / near)
    depth = jnp.ones_like(ex)
    if grid.moved:
        center = jnp.asarray(grid.center[:2], e.dtype) / near
        offset, depth = offset + jnp.sum(e * center, -1), depth + jnp.sum(n * center, -1)
    return jnp.stack([ex, ey, offset, nx, ny, depth, heights], axis=-1)


def _helix_window(geometry, weights, z):
    """What every view stands for in every slice, (views, nz): a turn around it that fades at its ends."""
    pitch = jnp.where(geometry.pitch != 0, jnp.abs(geometry.pitch), 1)
    heights = geometry.source_heights()
    half = (1 + _FADE) / 2
    low, high = jnp.min(heights) / pitch, jnp.max(heights) / pitch
    middle = (low + high) / 2
    room = jnp.maximum((high - low) / 2 - half, 0)
    center = jnp.clip(z / pitch, middle - room, middle + room)
    turns = jnp.abs(heights[:, None] / pitch - center)
    weights = weights[:, None] * jnp.clip((half - turns) / _FADE, 0, 1)
    return weights * (2 * math.pi / jnp.maximum(jnp.sum(weights, axis=0), jnp.finfo(z.dtype).tiny))
