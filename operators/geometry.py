"""Acquisition geometries of computed tomography: parallel beams, and what all geometries share.

The world has x to the right, y up and z along the rotation axis, in one unit of length. At angle t the
detector's columns run along ``e = (cos t, sin t)`` and rays from the source to the detector along
``n = (-sin t, cos t)``, as in ASTRA; detector rows run along z. Images (ny, nx) have row 0 at the top,
volumes (nz, ny, nx) ascend in z.

Every geometry gives ``views``, ``shape`` (of its sinogram), ``dtype``, ``divergent``, ``rays`` (detector
index to ray) and ``detector_coordinates`` (world point to detector index). Indices count elements: centres
are at 0 ... count - 1, edges at -0.5 ... count - 0.5, and fractions are allowed.

A limited arc or uneven angles are simply the angles; a quarter detector shift is
``detector_offset = detector_spacing / 4``.
"""

import math
import numbers

import jax
import jax.numpy as jnp
import numpy as np

from operators.linear_operator import as_inexact, is_complex
from operators.pytree import assign, frozen_pytree, static


class StaticFloat(float):
    """A float that is part of a pytree's structure: a node without leaves."""


jax.tree_util.register_pytree_node(StaticFloat, lambda x: ((), float(x)), lambda x, _: StaticFloat(x))


@frozen_pytree
class ParallelBeam:
    """Parallel-beam geometry: one sinogram row per angle, one column per detector element.

    At angle t the detector axis is ``(cos t, sin t)`` and rays run along ``(-sin t, cos t)``, x to the right
    and y up, as in ASTRA. The ray of element j is the line ``x cos t + y sin t = s_j`` with
    ``s_j = (j - (detector_count - 1) / 2) * detector_spacing + detector_offset - axis_offset``; the rotation
    axis is the origin and the centre of the image.

    Offsets given as Python numbers are static; given as arrays they are leaves, and differentiable.

    Attributes:
      angles: (views,) in radians, a leaf; it may be traced and differentiated.
      detector_count: number of detector elements.
      detector_spacing: distance of neighbouring elements, in the unit of the pixel size.
      detector_offset: position of the centre of the detector along its axis.
      axis_offset: position of the projected rotation axis along the detector axis.

    Raises:
      ValueError: if ``angles`` is not one axis of at least one finite angle, an angle exceeds 4 pi in
        magnitude (the sign of degrees), a count or spacing is not positive, or an offset is not finite or
        not scalar. Values are checked where they are concrete.
      TypeError: if ``angles`` is complex, or a count, spacing or offset is no real number.
    """

    angles: jax.Array
    detector_count: int = static()
    detector_spacing: float = static(default=1.0)
    detector_offset: float | jax.Array = 0.0
    axis_offset: float | jax.Array = 0.0

    divergent = False
    ndim = 2

    def __post_init__(self):
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

    def rays(self, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
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

    def detector_coordinates(self, points: jax.Array) -> jax.Array:
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
      detector_offset: position of the centre of the detector along its columns' axis e.
      row_offset: position of the centre of the detector along z.
      axis_offset: position of the rotation axis along e.

    Raises:
      ValueError, TypeError: as :class:`ParallelBeam`.
    """

    angles: jax.Array
    detector_shape: tuple[int, int] = static()
    detector_spacing: tuple[float, float] = static()
    detector_offset: jax.Array = 0.0
    row_offset: jax.Array = 0.0
    axis_offset: jax.Array = 0.0

    divergent = False
    ndim = 3

    def __post_init__(self):
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

    def rays(self, rows: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
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

    def detector_coordinates(self, points: jax.Array) -> jax.Array:
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


def view_axes(angles: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The axes e = (cos t, sin t) and n = (-sin t, cos t) of every view: (views, 2) each."""
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.stack([cos, sin], axis=-1), jnp.stack([-sin, cos], axis=-1)


def positions(indices, count: int, spacing: float, dtype) -> jax.Array:
    """Detector indices (k,) as lengths from the middle of the detector: (k,)."""
    # Centred before it is rounded: half-integers are exact where their products are not.
    return (jnp.asarray(indices, dtype).reshape(-1) - (count - 1) / 2) * spacing


def detector_indices(z: jax.Array, s: jax.Array, shape, spacing) -> jax.Array:
    """Lengths from the middle of the detector, along rows' and columns' axes, as indices: (..., 2)."""
    pairs = zip((z, s), shape, spacing, strict=True)
    return jnp.stack([length / step + (count - 1) / 2 for length, count, step in pairs], axis=-1)


def world_points(points, ndim: int, dtype) -> jax.Array:
    """``points`` as (..., ndim) of ``dtype``; raises ValueError otherwise."""
    points = jnp.asarray(points, dtype)
    if not points.ndim or points.shape[-1] != ndim:
        raise ValueError(f"points must have shape (..., {ndim}), found {points.shape}")
    return points


def project(points, axes: jax.Array, ndim: int) -> jax.Array:
    """Inner products of points (..., ndim) and one axis per view (views, ndim): (views, ...)."""
    points = world_points(points, ndim, axes.dtype)
    # Sums of products, not a matrix product: these may lose precision on accelerators.
    axes = axes.reshape(axes.shape[0], *(1,) * (points.ndim - 1), ndim)
    return jnp.sum(points * axes, axis=-1)


def view_angles(angles, name: str, helical: bool = False) -> jax.Array:
    """``angles`` as floats (views,).

    Raises ValueError naming ``name`` for another shape, and for concrete angles that are not finite or look
    like degrees: beyond 4 pi and, on a helix, more than pi / 2 apart. TypeError for complex ones.
    """
    angles = as_inexact(angles)
    if is_complex(angles.dtype):
        raise TypeError(f"{name} must be real, found {angles.dtype}")
    # Half precision would place rays elements beside where they are.
    angles = angles.astype(jnp.promote_types(angles.dtype, jnp.float32))
    if angles.ndim != 1 or not angles.size:
        raise ValueError(f"{name} must have shape (views,), found {angles.shape}")
    if isinstance(angles, jax.core.Tracer):
        return angles
    values = np.asarray(angles)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, found {values[~np.isfinite(values)][0]}")
    largest = float(np.abs(values).max())
    # A helix may take many turns: its degrees show by their steps, in whatever order the views are.
    step = float(np.median(np.diff(np.sort(values)))) if helical and values.size > 1 else math.inf
    if largest > 4 * math.pi and step > math.pi / 2:
        steps = f" and steps of {step:.6g}" if helical and values.size > 1 else ""
        raise ValueError(
            f"{name} must be in radians, found one of magnitude {largest:.6g}{steps}; "
            "convert degrees with jnp.deg2rad"
        )
    return angles


def real_leaf(value, dtype, name: str, shape: tuple[int, ...] = (), positive: bool = False) -> jax.Array:
    """``value`` as a real array of ``shape`` and ``dtype``; checks its values where they are concrete.

    Raises TypeError or ValueError naming ``name``.
    """
    if not isinstance(value, jax.Array):
        value = np.asarray(value)
    if value.dtype == bool or not jnp.issubdtype(value.dtype, jnp.number) or is_complex(value.dtype):
        raise TypeError(f"{name} must be real, found {value.dtype}")
    if value.shape != shape:
        expected = "a scalar" if shape == () else f"of shape {shape}"
        raise ValueError(f"{name} must be {expected}, found shape {value.shape}")
    if not isinstance(value, jax.core.Tracer):
        concrete = np.asarray(value)
        if not np.isfinite(concrete).all():
            raise ValueError(f"{name} must be finite, found {concrete[~np.isfinite(concrete)][0]}")
        if positive and (concrete <= 0).any():
            raise ValueError(f"{name} must be positive, found {concrete.min()}")
    return jnp.asarray(value, dtype)


def number_or_leaf(value, dtype, name: str) -> StaticFloat | jax.Array:
    """A plain number as a finite static float, an array as a scalar leaf."""
    if isinstance(value, jax.Array | np.ndarray):
        return real_leaf(value, dtype, name)
    return StaticFloat(finite_number(value, name))


def detector_pair(shape, spacing, owner: str) -> tuple[tuple[int, int], tuple[float, float]]:
    """Checked (rows, columns) and (row_spacing, column_spacing)."""
    found = tuple(shape) if np.ndim(shape) else (shape,)
    if len(found) != 2:
        raise ValueError(f"{owner}: detector_shape must be (rows, columns), found {shape}")
    steps = tuple(spacing) if np.ndim(spacing) else (spacing,)
    if len(steps) != 2:
        raise ValueError(f"{owner}: detector_spacing must be (row_spacing, column_spacing), found {spacing}")
    return (
        tuple(positive_integer(n, f"{owner}: detector_shape") for n in found),
        tuple(positive_number(step, f"{owner}: detector_spacing") for step in steps),
    )


def finite_number(value, name: str) -> float:
    """``value`` as a finite Python float; raises TypeError or ValueError naming ``name``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a plain number, found {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, found {value}")
    return float(value)


def positive_number(value, name: str) -> float:
    """``value`` as a positive Python float; raises TypeError or ValueError naming ``name``."""
    if finite_number(value, name) <= 0:
        raise ValueError(f"{name} must be positive, found {value}")
    return float(value)


def positive_integer(value, name: str) -> int:
    """``value`` as a positive Python int; raises TypeError or ValueError naming ``name``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, found {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be positive, found {value}")
    return int(value)


def image_shape_2d(shape, name: str) -> tuple[int, int]:
    """``shape`` as (ny, nx); raises ValueError or TypeError naming ``name``."""
    if np.ndim(shape) != 1 or len(shape) != 2:
        raise ValueError(f"{name} must be (ny, nx), found {shape}")
    return tuple(positive_integer(n, name) for n in shape)
