"""The Radon transform of two-dimensional tomography, for every geometry, and its exact adjoint."""

import jax
import numpy as np

from operators import native, projector_primitive
from operators.fourier_slice import fourier_slice, fourier_slice_adjoint
from operators.geometry import ParallelBeam, image_shape_2d, positive_number
from operators.geometry_checks import check_object
from operators.linear_operator import LinearOperator
from operators.mesh import vary_together
from operators.parallel_joseph import grid_of, joseph, joseph_adjoint
from operators.pytree import assign, frozen_pytree, static
from operators.ray_lines import ray_lines


def radon_models(geometry) -> tuple[str, ...]:
    """The models that :class:`Radon` knows for a geometry."""
    models = ("joseph", "distance-driven")
    return (*models, "fourier") if isinstance(geometry, ParallelBeam) else models


@frozen_pytree
class Radon(LinearOperator):
    """Line integrals of an image: (..., ny, nx) -> (..., views, detectors).

    The image covers ``nx * pixel_size`` by ``ny * pixel_size`` around the rotation axis, row 0 at the top:
    pixel (i, c) is at ``x = (c - (nx - 1) / 2) * pixel_size``, ``y = ((ny - 1) / 2 - i) * pixel_size``.
    The models:

    * "joseph": along the ray through the centre of every element, interpolating linearly across the image
      axis nearest to the ray's normal, once per row or column, times the path length (Joseph, IEEE Trans.
      Med. Imaging 1:192, 1982).
    * "distance-driven": the mean of every row, or column, between the rays through the edges of an element,
      times the path length (De Man and Basu, Phys. Med. Biol. 49:2463, 2004). Best where elements are at
      least as wide as pixels are there.
    * "fourier", parallel beams only: the Fourier-slice theorem through a NUFFT, with square pixels and
      elements of finite width as filters. The fastest for many views. Its weights may be negative, so that
      it does not suit multiplicative methods (MLEM), nor row sums (SIRT).

    The adjoint of every model has the same weights. Reverse-mode derivatives use it, also with respect to the
    geometry's leaves; forward-mode ones in the geometry are defined for "fourier" alone.

    Attributes:
      geometry: a two-dimensional geometry: ParallelBeam, FanBeam or VectorGeometry.
      image_shape: (ny, nx).
      pixel_size: width of the square pixels in the geometry's unit of length.
      model: one of :func:`radon_models`.
      backend: "auto" uses native kernels on CPU where they are at hand; "jax" never does.

    Raises:
      ValueError: if a shape, size, model or backend is out of range, the source lies inside the object or the
        detector does not see it (see :func:`check_object`).
      TypeError: if ``geometry`` is no geometry in two dimensions.
    """

    geometry: ParallelBeam
    image_shape: tuple[int, int] = static()
    pixel_size: float = static(default=1.0)
    model: str = static(default="joseph")
    backend: str = static(default="auto")

    def __post_init__(self):
        if getattr(self.geometry, "ndim", None) != 2:
            raise TypeError(
                "Radon: geometry must be two-dimensional (ParallelBeam, FanBeam or VectorGeometry), found "
                f"{type(self.geometry).__name__}"
            )
        if self.model not in radon_models(self.geometry):
            raise ValueError(
                f"Radon: model must be one of {radon_models(self.geometry)} for "
                f"{type(self.geometry).__name__}, found {self.model!r}"
            )
        if self.backend not in ("auto", "jax"):
            raise ValueError(f"Radon: backend must be 'auto' or 'jax', found {self.backend!r}")
        assign(
            self,
            image_shape=image_shape_2d(self.image_shape, "Radon: image_shape"),
            pixel_size=positive_number(self.pixel_size, "Radon: pixel_size"),
        )
        check_object(self.geometry, self.image_shape, self.pixel_size, "Radon")

    in_shape = property(lambda self: self.image_shape)
    out_shape = property(lambda self: self.geometry.shape)
    in_dtype = out_dtype = property(lambda self: self.geometry.dtype)

    def _forward(self, x):
        return self._apply(joseph, projector_primitive.project, fourier_slice, x)

    def _adjoint(self, y):
        return self._apply(joseph_adjoint, projector_primitive.back_project, fourier_slice_adjoint, y)

    def _apply(self, gather, lines, fourier, array: jax.Array) -> jax.Array:
        if self.model == "fourier":
            return fourier(self.geometry, self.image_shape, self.pixel_size, self.backend, array)
        if self._gathers:
            grid = grid_of(self.geometry, self.image_shape, self.pixel_size)
            return gather(grid, *vary_together(self.geometry.angles, array))
        rays, lengths = ray_lines(self.geometry, self.image_shape, self.pixel_size, self.model)
        images = array.reshape(1, -1, *array.shape[-2:])
        operands = vary_together(rays[None], lengths[None], images)
        out = lines(self.backend, self.image_shape, *operands)
        return out.reshape(*array.shape[:-2], *out.shape[2:])

    @property
    def _gathers(self) -> bool:
        # Plain JAX has a gather for the adjoint of this one alone; the others scatter.
        parallel = isinstance(self.geometry, ParallelBeam) and self.model == "joseph"
        constant = parallel and isinstance(self.geometry.ray_positions(), np.ndarray)
        return constant and not native.preferred(self.in_dtype, self.backend, "projector")
