"""Crossings of a geometry's rays with planes of voxels: small tables for the projectors.

Lengths in the tables are in voxels from the middle of the volume, x to the right, y downwards (as rows of
slices are stored) and z up.
"""

import jax
import jax.numpy as jnp
import numpy as np

from operators.ct.geometry.image_grid import ImageGrid
from operators.ct.geometry.protocol import Geometry
from operators.ct.geometry.vector import VectorGeometry

COLUMN_ENTRIES = 9


def ray_planes(geometry: Geometry, grid: ImageGrid, model: str) -> jax.Array:
    """The table of :mod:`operators.ct.projection.volume_primitive` for a geometry, differentiable in it."""
    if isinstance(geometry, VectorGeometry):
        return pose_table(geometry, grid)
    return column_table(geometry, grid, model)


def pose_table(geometry: VectorGeometry, grid: ImageGrid) -> jax.Array:
    """Source (or direction), detector, column axis and row axis of every view: (views, 4, 3)."""
    assert geometry.row_axis is not None, "three dimensions"
    source = grid.relative(geometry.source) if geometry.divergent else geometry.source
    vectors = (source, grid.relative(geometry.detector), geometry.column_axis, geometry.row_axis)
    return jnp.stack(vectors, axis=1) * _per_voxel(grid, 1.0, geometry.dtype)


def pose_stretch(geometry: VectorGeometry, grid: ImageGrid) -> jax.Array:
    """Paths of the rays of poses over those that they had in cubes: (views, rows, columns).

    Projectors of poses measure in voxels, and multiply by their height ``grid.steps[2]``.
    """
    _, directions = geometry.rays(*(np.arange(n) for n in geometry.detector_shape))
    voxels = directions * _per_voxel(grid, grid.steps[2], geometry.dtype)
    return jnp.linalg.norm(directions, axis=-1) / jnp.linalg.norm(voxels, axis=-1)


def column_table(geometry: Geometry, grid: ImageGrid, model: str) -> jax.Array:
    """The paths of the rays of every column, where these share a path in the plane of x and y.

    The column belongs to the planes, of constant y or of constant x, that its rays meet more squarely. All
    entries are affine in the number of the plane, from the middle of the volume.

    Args:
      geometry: with ``rays(rows, columns)`` whose rows run along z.
      grid: of the volume.
      model: "joseph", or "distance-driven", which wants the rays through the edges of columns.

    Returns:
      (COLUMN_ENTRIES, views, columns):

      * 0: path in the plane of x and y from one plane of voxels to the next, in heights of a voxel, negative
        if these are of constant x.
      * 1, 2: x (or y, if negative) on plane 0 and its increase per plane, of the left edge or the center.
      * 3, 4: the same of the right edge or the center.
      * 5, 6: z of the middle row on plane 0 and its increase per plane.
      * 7, 8: distance of the rows along z on plane 0 and its increase per plane.
    """
    rows, columns = geometry.shape[1:]
    if model == "joseph":
        places, left, center, right = np.arange(columns), *(slice(None),) * 3
    else:
        places = np.arange(2 * columns + 1) / 2 - 0.5
        left, center, right = slice(0, -1, 2), slice(1, None, 2), slice(2, None, 2)
    points, directions = geometry.rays(np.array([-0.5, rows - 0.5]), places)
    points = grid.relative(points) * _per_voxel(grid, 1.0, geometry.dtype)
    directions = directions * _per_voxel(grid, grid.steps[2], geometry.dtype)
    middle = directions[:, 0, center]
    steep = jnp.abs(middle[..., 1]) >= jnp.abs(middle[..., 0])

    def own(vectors):
        # Across the planes, and along them.
        x, y = vectors[..., 0], vectors[..., 1]
        return jnp.where(steep, y, x), jnp.where(steep, x, y)

    def path(part):
        (across, along), (speed, drift) = own(points[:, 0, part]), own(directions[:, 0, part])
        # An edge along the planes crosses them nowhere; so does its column, unless through the source.
        flat = jnp.abs(speed) < 1e-4 * jnp.abs(drift)
        slope = jnp.where(flat, 0, drift / jnp.where(flat, 1, speed))
        return along - across * slope, slope

    across, speed = own(points[:, 0, center])[0], own(middle)[0]
    climb = directions[:, :, center, 2] / speed[:, None]
    height = points[:, :, center, 2] - across[:, None] * climb
    slope = path(center)[1]
    length = jnp.sqrt(1 + slope**2)
    if not grid.isotropic:
        dx, dy, dz = grid.steps
        length = jnp.where(steep, jnp.hypot(dy, dx * slope), jnp.hypot(dx, dy * slope)) / dz
    return jnp.stack(
        [
            jnp.where(steep, length, -length),
            *path(left),
            *path(right),
            (height[:, 0] + height[:, 1]) / 2,
            (climb[:, 0] + climb[:, 1]) / 2,
            (height[:, 1] - height[:, 0]) / rows,
            (climb[:, 1] - climb[:, 0]) / rows,
        ]
    )


def _per_voxel(grid: ImageGrid, unit: float, dtype: np.dtype) -> jax.Array:
    """Factors from the world, in units of ``unit``, to voxels."""
    dx, dy, dz = grid.steps
    return jnp.asarray([unit / dx, -unit / dy, unit / dz], dtype)
