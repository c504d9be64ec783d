"""Displaced detectors: full turns whose detector passes the object on one side only (half-fan, offset scan).

Rays near the axis are measured twice, those farther out on the long side once. Their shares go from zero at
the near edge of the detector to one at the same distance on the far side; those of a ray and of its conjugate
sum to one. The detector is then continued on the near side with rays of share zero, so that filtered views
have their tails there.
"""

import dataclasses
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operators.ct.geometry.image_grid import ImageGrid
from operators.ct.inversion.short_scan import angular_coverage

# In elements; a quarter shift is none.
_LEAST = 2.01
# The part of the circle inscribed in an image that objects may be expected to stay in.
_NEAR_ENOUGH = 0.9
_MISSING = (
    "the detector passes the image on one side, and its angles are no full turn: expected a full turn, or an "
    "image that both sides of the detector see; values are wrong where rays are missing"
)


def even_out(sinogram: jax.Array, geometry: Any, grid: ImageGrid) -> tuple[jax.Array, Any]:
    """Weighs the rays of a displaced detector, and widens it to see the object on both sides.

    Args:
      sinogram: (..., columns).
      geometry: ParallelBeam, FanBeam, ParallelBeam3D or ConeBeam. Nothing is done where its numbers are
        traced, its angles do not cover a full turn (a warning says so), or its detector sees the circle
        inscribed in the image on both sides.
      grid: of the image or volume. Where it is not around the axis, the smallest circle around the axis is
        taken that holds the inscribed one.

    Returns:
      The sinogram, rays weighted by twice their shares, and the geometry of a wider detector; or both as they
      were.

    Source: Wang, Med. Phys. 29:1634, 2002.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(geometry)):
        return sinogram, geometry
    count = geometry.shape[-1]
    edges = _conjugate_coordinate(geometry, np.array([-0.5, count - 0.5]))
    near, far = np.sort(np.abs(edges)) if edges[0] < 0 < edges[1] else (0.0, np.abs(edges).max())
    radius = max(grid.half[:2]) + math.hypot(*grid.center[:2])
    if geometry.divergent:
        distance = math.hypot(float(geometry.source_distance), float(geometry.axis_offset))
        radius = math.asin(min(radius / distance, 1.0))
    step = (edges[1] - edges[0]) / count
    if near >= radius or far - near < _LEAST * step:
        return sinogram, geometry
    if not angular_coverage(geometry.angles, 2 * math.pi).complete:
        if near < _NEAR_ENOUGH * radius:
            warnings.warn(_MISSING, stacklevel=4)
        return sinogram, geometry
    rays = _conjugate_coordinate(geometry, np.arange(count))
    long_side = 1.0 if edges.sum() > 0 else -1.0
    along = np.clip(long_side * rays / max(near, 1e-3 * step), -1, 1)
    weights = 1 + np.sin(math.pi / 2 * along)
    spacing = np.ravel(geometry.detector_spacing)[-1]
    extra = math.ceil((min(far, radius) - near) / step) + 1
    pad = (extra, 0) if long_side > 0 else (0, extra)
    sinogram = jnp.pad(
        sinogram * jnp.asarray(weights, sinogram.dtype), [(0, 0)] * (sinogram.ndim - 1) + [pad]
    )
    wider: dict[str, Any] = {"detector_offset": geometry.detector_offset - long_side * extra * spacing / 2}
    if geometry.ndim == 2:
        wider["detector_count"] = count + extra
    else:
        wider["detector_shape"] = (geometry.detector_shape[0], count + extra)
    return sinogram, dataclasses.replace(geometry, **wider)


def _conjugate_coordinate(geometry: Any, columns: np.ndarray) -> np.ndarray:
    """What changes its sign between a ray and its conjugate, increasing with the column: (k,).

    The distance from the axis, or with a source the angle at it from the ray through the axis.
    """
    spacing = np.ravel(geometry.detector_spacing)[-1]
    offset, axis = float(geometry.detector_offset), float(geometry.axis_offset)
    s = (columns - (geometry.shape[-1] - 1) / 2) * spacing + offset
    if not geometry.divergent:
        return s - axis
    ratio = s / (float(geometry.source_distance) + float(geometry.detector_distance))
    return (ratio if geometry.curved else np.arctan(ratio)) - math.atan2(
        axis, float(geometry.source_distance)
    )
