"""Parallel-beam geometries, in two and three dimensions.

The world has x to the right, y up and z along the rotation axis, in one unit of length. At angle t the
detector's columns run along ``e = (cos t, sin t)`` and rays from the source to the detector along
``n = (-sin t, cos t)``, as in ASTRA; detector rows run along z. Images (ny, nx) have row 0 at the top,
volumes (nz, ny, nx) ascend in z.

A limited arc or uneven angles are simply the angles; a quarter detector shift is
``detector_offset = detector_spacing / 4``.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from operators.algebra import Leaf, assign, frozen_pytree, leaf, positive_integer, positive_number, static
from operators.ct.geometry.coordinates import detector_indices, positions, project, view_axes, world_points
from operators.ct.geometry.parameters import detector_pair, number_or_leaf, real_leaf, view_angles


@frozen_pytree
class ParallelBeam:
    """Parallel-beam geometry: one sinogram row per angle, one column per detector element.

    At angle t the detector axis is ``(cos t, sin t)`` and rays run along ``(-sin t, cos t)``, x to the right
    and y up, as in ASTRA. The ray of element j is the line ``x cos t + y sin t = s_j`` with
    ``s_j = (j - (detector_count - 1) / 2) * detector_spacing + detector_offset - axis_offset``; the rotation
    axis is the origin and the center of the image.

    Offsets given as Python numbers are static; given as arrays they are leaves, and differentiable.

    Attributes:
      angles: (views,) in radians, a leaf; it may be traced and differentiated.
      detector_count: number of detector elements.
      detector_spacing: distance of neighboring elements, in the unit of the pixel size.
      detector_offset: position of the center of the detector along its axis.
      axis_offset: position of the projected rotation axis along the detector axis.

    Raises:
      ValueError: if ``angles`` is not one axis of at least one finite angle, an angle exceeds 4 pi in
        magnitude (the sign of degrees), a count or spacing is not positive, or an offset is not finite or
        not scalar. Values are checked where they are concrete.
      TypeError: if ``angles`` is complex, or a count, spacing or offset is no real number.

    Example:
      >>> geometry = operators.ParallelBeam(jnp.array([0.0, 1.0]), 5, 0.5)
      >>> geometry.shape, geometry.ray_positions().tolist()
      ((2, 5), [-1.0, -0.5, 0.0, 0.5, 1.0])
    """

    angles: Leaf
    detector_count: int = static()
    detector_spacing: float = static(default=1.0)
    detector_offset: float | jax.Array = 0.0
    axis_offset: float | jax.Array = 0.0

    divergent = False
    ndim = 2

    def __post_init__(self) -> None:
        angles = view_angles(self.angles, "ParallelBeam: angles")
        offsets = {
            name: number_or_leaf(getattr(self, name), angles.dtype, f"ParallelBeam: {name}")
            for name in ("detector_offset", "axis_offset")
        }
        assign(
            self,
            angles=angles,
            detector_count=positive_integer(self.detector_count, "ParallelBeam: detector_count"),
            detector_spacing=positive_number(self.detector_spacing, "ParallelBeam: detector_spacing"),
            **offsets,
        )

    views = property(lambda self: self.angles.shape[-1], doc="Number of views.")
    shape = property(lambda self: (self.views, self.detector_count), doc="(views, detector_count).")
    dtype = property(lambda self: self.angles.dtype, doc="dtype of angles and rays.")

    def ray_positions(self) -> np.ndarray | jax.Array:
        """Signed distances s_j of the rays from the rotation axis: (detector_count,).

        float64 numpy where the offsets are static, else a jax array.
        """
        centered = np.arange(self.detector_count) - (self.detector_count - 1) / 2
        return centered * self.detector_spacing + self.detector_offset - self.axis_offset

    def rays(self, columns: ArrayLike) -> tuple[jax.Array, jax.Array]:
        """The rays through detector positions.

        Args:
          columns: (k,), detector indices.

        Returns:
          Points nearest to the rotation axis and unit directions, each (views, k, 2) as (x, y).
        """
        across, along = view_axes(self.angles)
        s = positions(columns, self.detector_count, self.detector_spacing, self.dtype)
        s = s + (self.detector_offset - self.axis_offset)
        points = s[:, None] * across[:, None]
        return points, jnp.broadcast_to(along[:, None], points.shape)

    def detector_coordinates(self, points: ArrayLike) -> jax.Array:
        """Where the rays through world points meet the detector: (..., 2) -> (views, ...), in indices."""
        across, _ = view_axes(self.angles)
        s = project(points, across, 2) - (self.detector_offset - self.axis_offset)
        return s / self.detector_spacing + (self.detector_count - 1) / 2


@frozen_pytree
class ParallelBeam3D:
    """Parallel-beam geometry with a flat two-dimensional detector.

    The ray of row i and column j at angle t runs along ``(-sin t, cos t, 0)`` through ``s_j e + z_i z`` with
    ``s_j = (j - (columns - 1) / 2) * column_spacing + detector_offset - axis_offset`` and
    ``z_i = (i - (rows - 1) / 2) * row_spacing + row_offset``.

    Attributes:
      angles: (views,) in radians.
      detector_shape: (rows, columns), static.
      detector_spacing: (row_spacing, column_spacing), static.
      detector_offset: position of the center of the detector along its columns' axis e.
      row_offset: position of the center of the detector along z.
      axis_offset: position of the rotation axis along e.

    Raises:
      ValueError, TypeError: as :class:`ParallelBeam`.

    Example:
      >>> geometry = operators.ParallelBeam3D(jnp.array([0.0, 1.0]), (2, 3), (1.0, 0.5))
      >>> geometry.shape, geometry.divergent
      ((2, 2, 3), False)
    """

    angles: Leaf
    detector_shape: tuple[int, int] = static()
    detector_spacing: tuple[float, float] = static()
    detector_offset: Leaf = leaf(default=0.0)
    row_offset: Leaf = leaf(default=0.0)
    axis_offset: Leaf = leaf(default=0.0)

    divergent = False
    ndim = 3

    def __post_init__(self) -> None:
        angles = view_angles(self.angles, "ParallelBeam3D: angles")
        shape, spacing = detector_pair(self.detector_shape, self.detector_spacing, "ParallelBeam3D")
        leaves = {
            name: real_leaf(getattr(self, name), angles.dtype, f"ParallelBeam3D: {name}")
            for name in ("detector_offset", "row_offset", "axis_offset")
        }
        assign(self, angles=angles, detector_shape=shape, detector_spacing=spacing, **leaves)

    views = property(lambda self: self.angles.shape[-1], doc="Number of views.")
    shape = property(lambda self: (self.views, *self.detector_shape), doc="(views, rows, columns).")
    dtype = property(lambda self: self.angles.dtype, doc="dtype of angles and rays.")

    def rays(self, rows: ArrayLike, columns: ArrayLike) -> tuple[jax.Array, jax.Array]:
        """The rays through detector positions.

        Args:
          rows: (r,), row indices.
          columns: (k,), column indices.

        Returns:
          Points nearest to the rotation axis and unit directions, each (views, r, k, 3) as (x, y, z).
        """
        across, along = view_axes(self.angles)
        (count_z, count), (step_z, step) = self.detector_shape, self.detector_spacing
        s = positions(columns, count, step, self.dtype) + (self.detector_offset - self.axis_offset)
        z = positions(rows, count_z, step_z, self.dtype) + self.row_offset
        shape = (self.views, z.size, s.size)
        flat = jnp.broadcast_to((s[:, None] * across[:, None])[:, None], (*shape, 2))
        points = jnp.concatenate([flat, jnp.broadcast_to(z[:, None, None], (*shape, 1))], axis=-1)
        directions = jnp.pad(along, ((0, 0), (0, 1)))
        return points, jnp.broadcast_to(directions[:, None, None], points.shape)

    def detector_coordinates(self, points: ArrayLike) -> jax.Array:
        """Where the rays through world points meet the detector.

        Args:
          points: (..., 3) as (x, y, z).

        Returns:
          (views, ..., 2) as (row, column) indices.
        """
        points = world_points(points, 3, self.dtype)
        across, _ = view_axes(self.angles)
        s = project(points[..., :2], across, 2) - (self.detector_offset - self.axis_offset)
        z = jnp.broadcast_to(points[..., 2] - self.row_offset, s.shape)
        return detector_indices(z, s, self.detector_shape, self.detector_spacing)
