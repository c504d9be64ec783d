"""Crossings of a geometry's rays with rows and columns of an image, and shadows of its pixels."""

import jax
import jax.numpy as jnp
import numpy as np

from operators.ct.geometry.fan import FanBeam, fan_frame
from operators.ct.geometry.image_grid import ImageGrid
from operators.ct.geometry.parallel import ParallelBeam
from operators.ct.geometry.protocol import Geometry
from operators.ct.geometry.vector import VectorGeometry

MODELS = ("joseph", "distance-driven")


def ray_lines(geometry: Geometry, grid: ImageGrid, model: str) -> tuple[jax.Array, jax.Array]:
    """The operands of :mod:`operators.ct.projection.projector_primitive` for one 2-D geometry.

    Args:
      geometry: in two dimensions.
      grid: of the image, row 0 at the top.
      model: "joseph" (rays through the centers of the bins) or "distance-driven" (through their edges).

    Returns:
      (rays, lengths): (2, 2, views, knots) and (views, bins), differentiable in the geometry.
    """
    bins = geometry.shape[-1]
    columns = np.arange(bins) if model == "joseph" else np.arange(bins + 1) - 0.5
    points, directions = geometry.rays(columns)
    (ny, nx), (dx, dy) = grid.shape, grid.steps
    # In pixels from the middle of the image, rows downwards.
    point = grid.relative(points) * jnp.asarray([1 / dx, -1 / dy], points.dtype)
    direction = directions * jnp.asarray([1, -dx / dy], points.dtype)
    middle = jnp.asarray([(nx - 1) / 2, (ny - 1) / 2], points.dtype)
    rays, slopes = [], []
    for along, across in ((0, 1), (1, 0)):
        # Rays along the lines cross them nowhere: what is put here is never used.
        size = jnp.abs(direction[..., across])
        parallel = size < 1e-4 * jnp.abs(direction[..., along])
        safe = jnp.where(parallel, 1, direction[..., across])
        slope = jnp.where(parallel, 0, direction[..., along] / safe)
        base = point[..., along] - point[..., across] * slope + middle[along]
        rays.append(jnp.stack([base, slope]))
        slopes.append(slope)
    steep = jnp.abs(direction[..., 1]) >= jnp.abs(direction[..., 0])
    if model == "joseph":
        slope = jnp.where(steep, slopes[0], slopes[1])
    else:
        # A bin belongs to the lines that its central ray meets more squarely.
        left, right = direction[:, :-1], direction[:, 1:]
        center = right / _length(right, grid) + left / _length(left, grid)
        steep = jnp.abs(center[..., 1]) >= jnp.abs(center[..., 0])
        across = jnp.where(steep, center[..., 1], center[..., 0])
        slope = jnp.where(steep, center[..., 0], center[..., 1]) / across
    length = dx * jnp.sqrt(1 + slope**2)
    if dx != dy:
        length = jnp.where(steep, jnp.hypot(dy, dx * slope), jnp.hypot(dx, dy * slope))
    return jnp.stack(rays), jnp.where(steep, length, -length)


def shadows(geometry: Geometry, grid: ImageGrid) -> tuple[jax.Array, bool]:
    """Where the rays through pixels meet the detector, for ``projector_primitive``.

    Args:
      geometry: ParallelBeam, FanBeam or a VectorGeometry in two dimensions.
      grid: of the image.

    Returns:
      (shadows, curved): s (views, 8), and whether the detector is an arc. The ray through a point c columns
      right of and r rows below the middle of the image meets the detector at the index
      ``q = (s0 + s1 c + s2 r) / (s3 + s4 c + s5 r)`` or, on an arc, ``s6 arctan(q) + s7``.
    """
    geometry = jax.lax.stop_gradient(geometry)
    # Affine in the point, and so known from three.
    points = np.array(grid.steps) * np.array([[0, 0], [1, 0], [0, -1]]) + grid.center
    middle, curved = (geometry.shape[-1] - 1) / 2, False
    arc = jnp.ones((geometry.views, 2), geometry.dtype)
    if isinstance(geometry, FanBeam):
        depth, across = fan_frame(points, geometry.angles, geometry.source_distance, geometry.axis_offset)
        scale = (geometry.source_distance + geometry.detector_distance) / geometry.detector_spacing
        center = middle - geometry.detector_offset / geometry.detector_spacing
        curved = geometry.curved
        if curved:
            arc = arc * jnp.stack([scale, center])
        else:
            across = scale * across + center * depth
    elif isinstance(geometry, ParallelBeam) or not geometry.divergent:
        across = geometry.detector_coordinates(points)
        depth = jnp.ones_like(across)
    else:
        assert isinstance(geometry, VectorGeometry), "the other geometries are handled above"
        direction = jnp.asarray(points, geometry.dtype) - geometry.source[:, None]
        depth = _cross(direction, geometry.column_axis[:, None])
        across = _cross(direction, (geometry.source - geometry.detector)[:, None]) + middle * depth
    parts = [jnp.concatenate([v[:, :1], v[:, 1:] - v[:, :1]], -1) for v in (across, depth)]
    return jnp.concatenate([*parts, arc], -1), curved


def _cross(a: jax.Array, b: jax.Array) -> jax.Array:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _length(vectors: jax.Array, grid: ImageGrid) -> jax.Array:
    """Lengths in the world of vectors in pixels, in widths of a pixel."""
    dx, dy = grid.steps
    return jnp.sqrt(jnp.sum((vectors * jnp.asarray([1, dy / dx], vectors.dtype)) ** 2, -1, keepdims=True))
