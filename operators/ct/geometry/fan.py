"""Fan-beam geometry."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from operators.algebra import Leaf, assign, frozen_pytree, leaf, positive_integer, positive_number, static
from operators.ct.geometry.coordinates import positions, project, view_axes, world_points
from operators.ct.geometry.parameters import real_leaf, view_angles

_LENGTHS = ("source_distance", "detector_distance")
_OFFSETS = ("detector_offset", "axis_offset")


@frozen_pytree
class FanBeam:
    """Fan-beam geometry with a flat or curved detector.

    At angle t, with ``e = (cos t, sin t)`` and ``n = (-sin t, cos t)``, the source is at
    ``-source_distance n - axis_offset e`` and the ray of element j runs along ``D n + s_j e`` (flat) or
    ``D (cos(s_j / D) n + sin(s_j / D) e)`` (curved), where ``D = source_distance + detector_distance`` and
    ``s_j = (j - (detector_count - 1) / 2) * detector_spacing + detector_offset``. These directions reach from
    the source to the element. A curved detector is an arc centered on the source (equiangular); lengths on it
    are measured along the arc. The rotation axis is the origin and the center of the image.

    All but the count, the spacing and ``curved`` are leaves, which may be traced and differentiated.

    Attributes:
      angles: (views,) in radians.
      detector_count: number of detector elements.
      detector_spacing: distance of neighboring elements on the detector.
      source_distance: distance of the source from the rotation axis.
      detector_distance: distance of the detector from the rotation axis, on its other side.
      curved: whether the detector is an arc centered on the source.
      detector_offset: position of the center of the detector along it, from the ray along n, the central ray.
      axis_offset: position of the rotation axis along e, from the central ray, measured at the axis.

    Raises:
      ValueError: if ``angles`` is not one axis of at least one finite angle, or looks like degrees (magnitude
        above 4 pi), a count, spacing or distance is not positive, or another number is not finite or scalar.
        Values are checked where they are concrete.
      TypeError: if a number is not real.

    Example:
      >>> geometry = operators.FanBeam(jnp.array([0.0]), 3, 1.0, source_distance=4.0, detector_distance=2.0)
      >>> source, direction = geometry.rays(jnp.array([0]))
      >>> source.tolist(), direction.tolist()
      ([[[0.0, -4.0]]], [[[-1.0, 6.0]]])
    """

    angles: Leaf
    detector_count: int = static()
    detector_spacing: float = static()
    source_distance: Leaf
    detector_distance: Leaf
    curved: bool = static(default=False)
    detector_offset: Leaf = leaf(default=0.0)
    axis_offset: Leaf = leaf(default=0.0)

    divergent = True
    ndim = 2

    def __post_init__(self) -> None:
        angles = view_angles(self.angles, "FanBeam: angles")
        leaves = {
            name: real_leaf(getattr(self, name), angles.dtype, f"FanBeam: {name}", positive=name in _LENGTHS)
            for name in _LENGTHS + _OFFSETS
        }
        assign(
            self,
            angles=angles,
            detector_count=positive_integer(self.detector_count, "FanBeam: detector_count"),
            detector_spacing=positive_number(self.detector_spacing, "FanBeam: detector_spacing"),
            curved=bool(self.curved),
            **leaves,
        )

    views = property(lambda self: self.angles.shape[-1], doc="Number of views.")
    shape = property(lambda self: (self.views, self.detector_count), doc="(views, detector_count).")
    dtype = property(lambda self: self.angles.dtype, doc="dtype of angles and rays.")

    def rays(self, columns: ArrayLike) -> tuple[jax.Array, jax.Array]:
        """The rays through detector positions.

        Args:
          columns: (k,), detector indices.

        Returns:
          The source, and directions from it to the detector, each (views, k, 2) as (x, y).
        """
        across, along = view_axes(self.angles)
        s = positions(columns, self.detector_count, self.detector_spacing, self.dtype) + self.detector_offset
        directions = fan_directions(
            s, across, along, self.source_distance + self.detector_distance, self.curved
        )
        source = fan_source(across, along, self.source_distance, self.axis_offset)
        return jnp.broadcast_to(source[:, None], directions.shape), directions

    def detector_coordinates(self, points: ArrayLike) -> jax.Array:
        """Where the rays through world points meet the detector, for points in front of the source.

        Args:
          points: (..., 2) as (x, y).

        Returns:
          (views, ...), indices.
        """
        points = world_points(points, 2, self.dtype)
        depth, side = fan_frame(points, self.angles, self.source_distance, self.axis_offset)
        s = fan_positions(depth, side, self.source_distance + self.detector_distance, self.curved)
        return (s - self.detector_offset) / self.detector_spacing + (self.detector_count - 1) / 2


def fan_source(
    across: jax.Array, along: jax.Array, source_distance: jax.Array, axis_offset: jax.Array
) -> jax.Array:
    """Positions of the source: (views, 2)."""
    return -source_distance * along - axis_offset * across


def fan_directions(
    s: jax.Array, across: jax.Array, along: jax.Array, distance: jax.Array, curved: bool
) -> jax.Array:
    """Vectors from the source to detector positions s (k,): (views, k, 2)."""
    depth = distance * jnp.cos(s / distance) if curved else jnp.full_like(s, distance)
    side = distance * jnp.sin(s / distance) if curved else s
    return depth[:, None] * along[:, None] + side[:, None] * across[:, None]


def fan_frame(
    points: ArrayLike, angles: jax.Array, source_distance: jax.Array, axis_offset: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Coordinates of points (..., 2) along n and e from the source: (views, ...) each."""
    across, along = view_axes(angles)
    return project(points, along, 2) + source_distance, project(points, across, 2) + axis_offset


def fan_positions(depth: jax.Array, side: jax.Array, distance: jax.Array, curved: bool) -> jax.Array:
    """Where rays through points given by :func:`fan_frame` meet the detector, from the central ray."""
    return distance * (jnp.arctan2(side, depth) if curved else side / depth)
