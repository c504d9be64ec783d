"""The Radon transform in two and three dimensions, for every geometry, and its exact adjoint."""

from collections.abc import Callable

import jax
import numpy as np

from operators.algebra import (
    ArgumentError,
    LinearOperator,
    assign,
    frozen_pytree,
    static,
    vary_together,
)
from operators.ct.geometry.image_grid import ImageGrid, image_grid
from operators.ct.geometry.parallel import ParallelBeam
from operators.ct.geometry.protocol import Geometry
from operators.ct.geometry.vector import VectorGeometry
from operators.ct.geometry.visibility import check_grid
from operators.ct.projection import projector_primitive, volume_primitive
from operators.ct.projection.fourier_slice import fourier_slice, fourier_slice_adjoint
from operators.ct.projection.joseph import grid_of, joseph, joseph_adjoint
from operators.ct.projection.lines import ray_lines, shadows
from operators.ct.projection.planes import pose_stretch, ray_planes
from operators.kernels import native


def radon_models(geometry: Geometry) -> tuple[str, ...]:
    """The models that :class:`Radon` knows for a geometry."""
    if geometry.ndim == 3 and isinstance(geometry, VectorGeometry):
        return ("joseph",)
    models = ("joseph", "distance-driven")
    return (*models, "fourier") if isinstance(geometry, ParallelBeam) else models


@frozen_pytree
class Radon(LinearOperator):
    """Line integrals of an image or a volume.

    Images (..., ny, nx) -> (..., views, detectors), volumes (..., nz, ny, nx) -> (..., views, rows, columns).
    The image covers ``nx * dx`` by ``ny * dy`` around ``image_center``, by default the rotation axis, row 0
    at the top: pixel (i, c) is at ``x = center_x + (c - (nx - 1) / 2) * dx``,
    ``y = center_y + ((ny - 1) / 2 - i) * dy``, and slice k of a volume at
    ``z = center_z + (k - (nz - 1) / 2) * dz``, so that z ascends. The models:

    * "joseph": along the ray through the center of every element, interpolating linearly across the image
      axis nearest to the ray's normal (in pixels), once per row or column, times the path length (Joseph,
      IEEE Trans. Med. Imaging 1:192, 1982). In a volume bilinearly on every plane of constant x or y, for a
      VectorGeometry also z.
    * "distance-driven": the mean of every row, or column, between the rays through the edges of an element,
      times the path length (De Man and Basu, Phys. Med. Biol. 49:2463, 2004). Best where elements are at
      least as wide as pixels are there. In a volume the mean of every plane over the element's shadow, taken
      as a rectangle: in x or y between the edges of its column, in z between those of its row. Not for a
      VectorGeometry in space, whose shadows are no rectangles.
    * "fourier", parallel beams only: the Fourier-slice theorem through a NUFFT, for pixels that are means of
      an image of their own band, and elements of finite width. The fastest, and the closest to the means over
      elements. Its weights may be negative, so that it does not suit multiplicative methods (MLEM), nor row
      sums (SIRT).

    The adjoint of every model has the same weights. Reverse-mode derivatives use it, also with respect to the
    geometry's leaves; forward-mode ones in the geometry are defined for "fourier" alone.

    Attributes:
      geometry: ParallelBeam, FanBeam, ParallelBeam3D, ConeBeam or VectorGeometry.
      image_shape: (ny, nx), or (nz, ny, nx) for a geometry in three dimensions.
      pixel_size: width of the pixels or voxels in the geometry's unit of length: a number, or one for each
        axis of ``image_shape``, (dy, dx) or (dz, dy, dx).
      model: one of :func:`radon_models`.
      backend: "auto" uses native kernels on CPU where they are at hand; "jax" never does.
      image_center: (x, y) or (x, y, z) of the center of the image; None is the origin.

    Raises:
      ValueError: if a shape, size, center, model or backend is out of range, the source lies inside the
        object or the detector does not see it (see :func:`check_object`).
      TypeError: if ``geometry`` is no geometry.

    Example:
      >>> A = operators.Radon(operators.ParallelBeam(jnp.array([0.0]), 3), (3, 3))
      >>> print(np.asarray(A(jnp.array([[0.0, 1.0, 0.0]] * 3))).round(3))
      [[0. 3. 0.]]
    """

    geometry: Geometry
    image_shape: tuple[int, ...] = static()
    pixel_size: float | tuple[float, ...] = static(default=1.0)
    model: str = static(default="joseph")
    backend: str = static(default="auto")
    image_center: tuple[float, ...] | None = static(default=None)

    def __post_init__(self) -> None:
        if not isinstance(self.geometry, Geometry) or self.geometry.ndim not in (2, 3):
            raise TypeError(
                "Radon: geometry: expected one of ParallelBeam, FanBeam, ParallelBeam3D, ConeBeam and "
                f"VectorGeometry, found {type(self.geometry).__name__}"
            )
        if self.model not in radon_models(self.geometry):
            raise ArgumentError(
                "Radon: model",
                f"one of {radon_models(self.geometry)} for {type(self.geometry).__name__}",
                repr(self.model),
            )
        if self.backend not in ("auto", "jax"):
            raise ArgumentError("Radon: backend", "'auto' or 'jax'", repr(self.backend))
        if np.ndim(self.image_shape) != 1:
            axes = "(ny, nx)" if self.geometry.ndim == 2 else "(nz, ny, nx)"
            raise ArgumentError("Radon: image_shape", f"{axes}", self.image_shape)
        grid = image_grid(self.image_shape, self.pixel_size, self.image_center, "Radon")
        check_grid(self.geometry, grid, "Radon")
        size = grid.steps[0] if grid.isotropic else grid.steps[::-1]
        assign(self, image_shape=grid.shape, pixel_size=size, image_center=grid.center)

    in_shape = property(lambda self: self.image_shape)
    out_shape = property(lambda self: self.geometry.shape)
    in_dtype = out_dtype = property(lambda self: self.geometry.dtype)

    @property
    def grid(self) -> ImageGrid:
        """Where the pixels are."""
        return image_grid(self.image_shape, self.pixel_size, self.image_center, "Radon")

    def _forward(self, x):
        if self.geometry.ndim == 3:
            return self._stretched(self._apply_to_volumes(volume_primitive.project, x))
        return self._apply(joseph, projector_primitive.project, fourier_slice, x)

    def _adjoint(self, y):
        if self.geometry.ndim == 3:
            return self._apply_to_volumes(volume_primitive.back_project, self._stretched(y))
        return self._apply(joseph_adjoint, projector_primitive.back_project, fourier_slice_adjoint, y)

    def _apply(
        self,
        gather: Callable[..., jax.Array],
        lines: Callable[..., jax.Array],
        fourier: Callable[..., jax.Array],
        array: jax.Array,
    ) -> jax.Array:
        grid = self.grid
        if self.model == "fourier":
            return fourier(self.geometry, grid, self.backend, array)
        if isinstance(self.geometry, ParallelBeam) and self._gathers:
            own = grid_of(self.geometry, self.image_shape, grid.steps[0])
            return gather(own, *vary_together(self.geometry.angles, array))
        rays, lengths = ray_lines(self.geometry, grid, self.model)
        shadow, curved = shadows(self.geometry, grid)
        images = array.reshape(1, -1, *array.shape[-2:])
        operands = vary_together(rays[None], lengths[None], shadow[None], images)
        out = lines(self.backend, self.image_shape, curved, *operands)
        return out.reshape(*array.shape[:-2], *out.shape[2:])

    def _apply_to_volumes(self, planes: Callable[..., jax.Array], array: jax.Array) -> jax.Array:
        model = self.model
        if isinstance(self.geometry, VectorGeometry):
            model = "diverging" if self.geometry.divergent else "parallel"
        grid = self.grid
        layout = volume_primitive.Layout(model, self.image_shape, self.geometry.shape[1:], grid.steps[2])
        table = ray_planes(self.geometry, grid, model)
        operands = vary_together(table[None], array.reshape(1, -1, *array.shape[-3:]))
        out = planes(self.backend, layout, *operands)
        return out.reshape(*array.shape[:-3], *out.shape[2:])

    def _stretched(self, y: jax.Array) -> jax.Array:
        # Tables of poses do not know the shape of voxels.
        if not isinstance(self.geometry, VectorGeometry) or self.grid.isotropic:
            return y
        return pose_stretch(self.geometry, self.grid) * y

    @property
    def _gathers(self) -> bool:
        # In plain JAX there is a faster pair for these.
        if not self.grid.plain or not isinstance(self.geometry, ParallelBeam) or self.model != "joseph":
            return False
        constant = isinstance(self.geometry.ray_positions(), np.ndarray)
        return constant and not native.preferred(self.in_dtype, self.backend, "projector")
