"""Cone-beam geometry, circular and helical."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from operators.algebra import Leaf, assign, frozen_pytree, leaf, static
from operators.ct.geometry.coordinates import detector_indices, positions, view_axes, world_points
from operators.ct.geometry.fan import fan_directions, fan_frame, fan_positions, fan_source
from operators.ct.geometry.parameters import detector_pair, real_leaf, view_angles

_LENGTHS = ("source_distance", "detector_distance")
_OFFSETS = ("detector_offset", "row_offset", "axis_offset", "axial_offset")


@frozen_pytree
class ConeBeam:
    """Cone-beam geometry with a flat or cylindrical detector on a circle or a helix.

    At angle t, with ``e = (cos t, sin t, 0)``, ``n = (-sin t, cos t, 0)`` and the z axis, the source is at
    ``-source_distance n - axis_offset e + (axial_offset + pitch t / (2 pi)) z``, and the ray of row i and
    column j runs along ``D n + s_j e + v_i z`` (flat) or ``D (cos(s_j / D) n + sin(s_j / D) e) + v_i z``
    (curved), where ``D = source_distance + detector_distance``,
    ``s_j = (j - (columns - 1) / 2) * column_spacing + detector_offset`` and
    ``v_i = (i - (rows - 1) / 2) * row_spacing + row_offset``. These directions reach from the source to the
    element. A curved detector is a cylinder around the line through the source along z; lengths on it are
    measured along the arc and along z. The rotation axis is the z axis, the origin the center of the volume.

    All but the detector's shape and spacing and ``curved`` are leaves; they may be traced and differentiated.

    Attributes:
      angles: (views,) in radians; for a helix they go on past 2 pi.
      detector_shape: (rows, columns).
      detector_spacing: (row_spacing, column_spacing), on the detector.
      source_distance: distance of the source from the rotation axis.
      detector_distance: distance of the detector from the rotation axis, on its other side.
      curved: whether the detector is a cylinder centered on the source.
      pitch: advance of source and detector along z per turn of 2 pi; 0 is a circle.
      detector_offset: position of the center of the detector along its columns' axis, from the central ray.
      row_offset: position of the center of the detector along z, from the source.
      axis_offset: position of the rotation axis along e, from the central ray, measured at the axis.
      axial_offset: z of the source at angle 0.

    Raises:
      ValueError: if ``angles`` is not one axis of at least one finite angle, or looks like degrees (magnitude
        above 4 pi and, with a pitch, neighbors more than pi / 2 apart), a count, spacing or distance is not
        positive, or another number is not finite or scalar. Values are checked where they are concrete.
      TypeError: if a number is not real.

    Example:
      >>> geometry = operators.ConeBeam(
      ...     jnp.array([0.0]), (2, 3), (1.0, 1.0), source_distance=4.0, detector_distance=2.0
      ... )
      >>> source, direction = geometry.rays(jnp.array([0]), jnp.array([1]))
      >>> source.tolist(), direction.tolist()
      ([[[[0.0, -4.0, 0.0]]]], [[[[0.0, 6.0, -0.5]]]])
    """

    angles: Leaf
    detector_shape: tuple[int, int] = static()
    detector_spacing: tuple[float, float] = static()
    source_distance: Leaf
    detector_distance: Leaf
    curved: bool = static(default=False)
    pitch: Leaf = leaf(default=0.0)
    detector_offset: Leaf = leaf(default=0.0)
    row_offset: Leaf = leaf(default=0.0)
    axis_offset: Leaf = leaf(default=0.0)
    axial_offset: Leaf = leaf(default=0.0)

    divergent = True
    ndim = 3

    def __post_init__(self) -> None:
        shape, spacing = detector_pair(self.detector_shape, self.detector_spacing, "ConeBeam")
        helical = isinstance(self.pitch, jax.core.Tracer) or bool(np.any(np.asarray(self.pitch) != 0))
        angles = view_angles(self.angles, "ConeBeam: angles", helical)
        leaves = {
            name: real_leaf(getattr(self, name), angles.dtype, f"ConeBeam: {name}", positive=name in _LENGTHS)
            for name in (*_LENGTHS, "pitch", *_OFFSETS)
        }
        assign(
            self,
            angles=angles,
            detector_shape=shape,
            detector_spacing=spacing,
            curved=bool(self.curved),
            **leaves,
        )

    views = property(lambda self: self.angles.shape[-1], doc="Number of views.")
    shape = property(lambda self: (self.views, *self.detector_shape), doc="(views, rows, columns).")
    dtype = property(lambda self: self.angles.dtype, doc="dtype of angles and rays.")

    def source_heights(self) -> jax.Array:
        """z of the source in every view: (views,)."""
        return self.axial_offset + self.pitch * (self.angles / (2 * math.pi))

    def rays(self, rows: ArrayLike, columns: ArrayLike) -> tuple[jax.Array, jax.Array]:
        """The rays through detector positions.

        Args:
          rows: (r,), row indices.
          columns: (k,), column indices.

        Returns:
          The source, and directions from it to the detector, each (views, r, k, 3) as (x, y, z).
        """
        across, along = view_axes(self.angles)
        (count_z, count), (step_z, step) = self.detector_shape, self.detector_spacing
        s = positions(columns, count, step, self.dtype) + self.detector_offset
        v = positions(rows, count_z, step_z, self.dtype) + self.row_offset
        flat = fan_directions(s, across, along, self.source_distance + self.detector_distance, self.curved)
        shape = (self.views, v.size, s.size)
        flat = jnp.broadcast_to(flat[:, None], (*shape, 2))
        directions = jnp.concatenate([flat, jnp.broadcast_to(v[:, None, None], (*shape, 1))], axis=-1)
        source = fan_source(across, along, self.source_distance, self.axis_offset)
        source = jnp.concatenate([source, self.source_heights()[:, None]], axis=-1)
        return jnp.broadcast_to(source[:, None, None], directions.shape), directions

    def detector_coordinates(self, points: ArrayLike) -> jax.Array:
        """Where the rays through world points meet the detector, for points in front of the source.

        Args:
          points: (..., 3) as (x, y, z).

        Returns:
          (views, ..., 2) as (row, column) indices.
        """
        points = world_points(points, 3, self.dtype)
        distance = self.source_distance + self.detector_distance
        depth, side = fan_frame(points[..., :2], self.angles, self.source_distance, self.axis_offset)
        heights = self.source_heights().reshape(self.views, *(1,) * (points.ndim - 1))
        reach = jnp.hypot(depth, side) if self.curved else depth
        v = distance * (points[..., 2] - heights) / reach - self.row_offset
        s = fan_positions(depth, side, distance, self.curved) - self.detector_offset
        return detector_indices(v, s, self.detector_shape, self.detector_spacing)
