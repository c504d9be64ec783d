"""Geometries given view by view as vectors."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from operators.algebra import (
    ArgumentError,
    Leaf,
    OptionalLeaf,
    assign,
    frozen_pytree,
    positive_integer,
    static,
)
from operators.ct.geometry.coordinates import detector_indices, positions, world_points
from operators.ct.geometry.parameters import real_leaf


@frozen_pytree
class VectorGeometry:
    """A flat detector of any pose in every view, in two or three dimensions, as ASTRA's ``*_vec`` geometries.

    Element (i, j) is at ``detector + (j - (columns - 1) / 2) column_axis + (i - (rows - 1) / 2) row_axis``.
    Its ray runs from ``source`` to it or, with parallel rays, through it along ``source``.

    Attributes:
      source: (views, 2 or 3), position of the source, or direction of the rays if not ``divergent``.
      detector: (views, 2 or 3), center of the detector.
      column_axis: (views, 2 or 3), from one column to the next.
      row_axis: (views, 3), from one row to the next; None in two dimensions.
      detector_shape: (columns,) in two dimensions, (rows, columns) in three.
      divergent: whether rays start at a source.

    Raises:
      ValueError: if a shape does not fit, or an array that is concrete holds a number that is not finite.
      TypeError: if an array is not real or a count no integer.

    Example:
      >>> vectors = jnp.array([[0.0, -4.0]]), jnp.array([[0.0, 2.0]]), jnp.array([[1.0, 0.0]])
      >>> geometry = operators.VectorGeometry(*vectors, None, (3,))
      >>> geometry.shape, geometry.rays(jnp.array([0]))[1].tolist()
      ((1, 3), [[[-1.0, 6.0]]])
    """

    source: Leaf
    detector: Leaf
    column_axis: Leaf
    row_axis: OptionalLeaf
    detector_shape: tuple[int, ...] = static()
    divergent: bool = static(default=True)

    def __post_init__(self) -> None:
        source = np.shape(self.source)
        if len(source) != 2 or source[1] not in (2, 3) or not source[0]:
            raise ArgumentError("VectorGeometry: source", "shape (views, 2 or 3)", source)
        counts = tuple(self.detector_shape) if np.ndim(self.detector_shape) else (self.detector_shape,)
        if len(counts) != source[1] - 1:
            expected = "(columns,)" if source[1] == 2 else "(rows, columns)"
            raise ArgumentError("VectorGeometry: detector_shape", f"{expected}", counts)
        if (self.row_axis is None) != (source[1] == 2):
            expected = "None in two dimensions" if source[1] == 2 else "an array in three dimensions"
            raise ArgumentError("VectorGeometry: row_axis", f"{expected}", self.row_axis)
        dtype = jnp.result_type(float, jnp.asarray(self.source).dtype)
        names = ("source", "detector", "column_axis", *(("row_axis",) if source[1] == 3 else ()))
        leaves = {n: real_leaf(getattr(self, n), dtype, f"VectorGeometry: {n}", source) for n in names}
        counts = tuple(positive_integer(n, "VectorGeometry: detector_shape") for n in counts)
        assign(self, detector_shape=counts, divergent=bool(self.divergent), **leaves)

    ndim = property(lambda self: self.source.shape[-1], doc="2 or 3.")
    views = property(lambda self: self.source.shape[-2], doc="Number of views.")
    shape = property(lambda self: (self.views, *self.detector_shape), doc="Shape of the sinogram.")
    dtype = property(lambda self: self.source.dtype, doc="dtype of vectors and rays.")

    def rays(self, *indices: ArrayLike) -> tuple[jax.Array, jax.Array]:
        """The rays through detector positions.

        Args:
          *indices: ``columns`` (k,) in two dimensions, ``rows`` (r,) and ``columns`` (k,) in three.

        Returns:
          Points (the source, or the element) and directions, each (views, k, 2) or (views, r, k, 3).
        """
        if len(indices) != self.ndim - 1:
            raise ArgumentError("rays", f"{self.ndim - 1} arrays of indices", len(indices))
        offsets = [
            positions(i, n, 1.0, self.dtype) for i, n in zip(indices, self.detector_shape, strict=True)
        ]
        # From here on (views, rows, columns, ndim), with one row in two dimensions.
        elements = self.detector[:, None, None] + offsets[-1][:, None] * self.column_axis[:, None, None]
        if self.row_axis is not None:
            elements = elements + offsets[0][:, None, None] * self.row_axis[:, None, None]
        source = jnp.broadcast_to(self.source[:, None, None], elements.shape)
        points, directions = (source, elements - source) if self.divergent else (elements, source)
        return (points, directions) if self.ndim == 3 else (points[:, 0], directions[:, 0])

    def detector_coordinates(self, points: ArrayLike) -> jax.Array:
        """Where the rays through world points meet the detector.

        Args:
          points: (..., 2) or (..., 3).

        Returns:
          (views, ...) indices in two dimensions, (views, ..., 2) as (row, column) in three.
        """
        points = world_points(points, self.ndim, self.dtype)
        spread = (slice(None), *(None,) * (points.ndim - 1))
        source = self.source[spread]
        direction = (
            points - source if self.divergent else jnp.broadcast_to(source, (self.views, *points.shape))
        )
        start = (source if self.divergent else points) - self.detector[spread]
        u = self.column_axis[spread]
        if self.row_axis is None:
            column = _cross(direction, start) / _cross(direction, u)
            return column + (self.detector_shape[0] - 1) / 2
        # start + t direction = column u + row v, by Cramer's rule.
        v = self.row_axis[spread]
        normal = jnp.cross(u, v)
        t = -jnp.sum(start * normal, axis=-1) / jnp.sum(direction * normal, axis=-1)
        hit, size = start + t[..., None] * direction, jnp.sum(normal * normal, axis=-1)
        row = jnp.sum(jnp.cross(u, hit) * normal, axis=-1) / size
        column = jnp.sum(jnp.cross(hit, v) * normal, axis=-1) / size
        return detector_indices(row, column, self.detector_shape, (1.0, 1.0))


def _cross(a: jax.Array, b: jax.Array) -> jax.Array:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
