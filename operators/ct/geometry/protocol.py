"""The protocol of geometries of computed tomography."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jax.typing import ArrayLike


@runtime_checkable
class Geometry(Protocol):
    """A detector and the rays through it, view by view: a pytree whose arrays may be traced.

    ``ParallelBeam``, ``FanBeam``, ``ParallelBeam3D``, ``ConeBeam`` and ``VectorGeometry`` are geometries.

    The world has x to the right, y up and z along the rotation axis, in one unit of length. Points and
    directions are (x, y) in two dimensions and (x, y, z) in three. Indices count detector elements: centers
    are at 0 ... count - 1, edges at -0.5 ... count - 0.5, and fractions are allowed.

    Attributes:
      ndim: 2 for images (ny, nx), 3 for volumes (nz, ny, nx).
      views: number of views.
      shape: of the sinogram: (views, columns) in two dimensions, (views, rows, columns) in three.
      dtype: dtype of the rays, float32 or float64.
      divergent: whether rays start at a source.
      rays: ``rays(columns)`` in two dimensions, ``rays(rows, columns)`` in three, with detector indices (k,)
        or (r,) and (k,), returns points and directions, each (views, k, 2) or (views, r, k, 3). Points are
        the sources where ``divergent``.
      detector_coordinates: where the rays through world points (..., ndim) meet the detector: (views, ...)
        column indices in two dimensions, (views, ..., 2) as (row, column) in three.
    """

    @property
    def ndim(self) -> int: ...

    @property
    def views(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def divergent(self) -> bool: ...

    @property
    def rays(self) -> Callable[..., tuple[jax.Array, jax.Array]]: ...

    @property
    def detector_coordinates(self) -> Callable[[ArrayLike], jax.Array]: ...
