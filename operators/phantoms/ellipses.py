"""Phantoms made of ellipses, with their exact image, k-space and sinogram.

One world for all three: x to the right, y up, the field of view centered on the origin, row 0 at the top,
pixel (i, c) of an (ny, nx) image at ``x = (c - (nx - 1) / 2) * width / nx`` and
``y = ((ny - 1) / 2 - i) * height / ny``. So :func:`rasterize` followed by CartesianFourier or Radon
approximates :func:`ellipse_kspace` or :func:`ellipse_sinogram`.
"""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import (
    ArgumentError,
    Leaf,
    assign,
    complex_dtype,
    frozen_pytree,
    image_shape_2d,
    positive_integer,
    positive_number,
    renamed,
    safe_sqrt,
)
from operators.ct import Geometry, ParallelBeam
from operators.fourier import jinc
from operators.phantoms.parts import parts_kspace, project_parts


@frozen_pytree
class Ellipses:
    """A sum of uniform ellipses: where they overlap, values add.

    Attributes:
      center: (n, 2), x and y.
      axes: (n, 2), positive semi-axes along the ellipse's own x and y.
      angle: (n,), rotation in radians, counter-clockwise.
      value: (n,), density: image intensity, or attenuation in 1/length.

    Raises:
      ValueError: if the shapes do not agree.
    """

    center: Leaf
    axes: Leaf
    angle: Leaf
    value: Leaf

    def __post_init__(self) -> None:
        n = np.shape(self.value)
        if len(n) != 1:
            raise ArgumentError("Ellipses: value", "shape (n,)", n)
        shapes = {"center": (*n, 2), "axes": (*n, 2), "angle": n, "value": n}
        values = {name: jnp.asarray(getattr(self, name), float) for name in shapes}
        for name, shape in shapes.items():
            if values[name].shape != shape:
                raise ArgumentError(f"Ellipses: {name}", f"shape {shape}", values[name].shape)
        assign(self, **values)

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    def rasterize(
        self, image_shape: tuple[int, ...], pixel_size: float = 1.0, supersampling: int = 4
    ) -> jax.Array:
        """The image, see :func:`operators.phantoms.rasterize_phantom`."""
        shape = tuple(image_shape)
        if len(shape) != 2:
            raise ArgumentError("rasterize_phantom: image_shape", "2 axes", shape)
        size = positive_number(pixel_size, "rasterize_phantom: pixel_size")
        height, width = shape
        return rasterize(self, (height, width), (height * size, width * size), supersampling)

    def project(self, geometry: Geometry, bins: int = 1) -> jax.Array:
        """The exact sinogram, see :func:`operators.phantoms.project_phantom`."""
        return project_parts(self, geometry, bins)

    def kspace(self, frequencies: jax.Array) -> jax.Array:
        """The exact Fourier transform at any frequencies, see :class:`operators.phantoms.Phantom`."""
        return parts_kspace(self, frequencies)


# Value, semi-axes, center and degrees of the ten ellipses of Shepp and Logan; modified values after Toft.
_SHEPP_LOGAN = (
    (2.0, 1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.98, -0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.02, -0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.02, -0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.01, 0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.01, 0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.01, 0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.01, 0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.01, 0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    (0.01, 0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)


def shepp_logan(modified: bool = True) -> Ellipses:
    """The head phantom of Shepp and Logan in the field of view [-1, 1]^2.

    Args:
      modified: the higher-contrast values of Toft (skull 1, brain 0.2) instead of the original ones (skull 2,
        brain 1.02).

    Returns:
      Ten ellipses.

    Source: Shepp and Logan, IEEE Trans. Nucl. Sci. 21:21, 1974; Toft, The Radon Transform, 1996, appendix B.

    Example:
      >>> phantom = operators.shepp_logan()
      >>> phantom.axes.shape, phantom.value[0].item()
      ((10, 2), 1.0)
    """
    table = np.array(_SHEPP_LOGAN)
    return Ellipses(
        center=table[:, 4:6],
        axes=table[:, 2:4],
        angle=np.deg2rad(table[:, 6]),
        value=table[:, 1 if modified else 0],
    )


@renamed(supersample="supersampling", shape="image_shape")
def rasterize(
    ellipses: Ellipses,
    image_shape: tuple[int, int],
    field_of_view: float | tuple[float, float] = 2.0,
    supersampling: int = 4,
) -> jax.Array:
    """The image of a phantom: the mean density of each pixel over ``supersampling ** 2`` points.

    Args:
      ellipses: the phantom.
      image_shape: (ny, nx).
      field_of_view: its (height, width), or one number for both, in the ellipses' unit of length.
      supersampling: points per pixel along each axis.

    Returns:
      (ny, nx) floats.

    Raises:
      ValueError, TypeError: if a shape, size or number is out of range.

    Example:
      >>> print(np.asarray(operators.rasterize(operators.shepp_logan(), (5, 5))[2]).round(2))
      [0.1  0.11 0.1  0.14 0.1 ]
    """
    shape = image_shape_2d(image_shape, "rasterize: image_shape")
    height, width = _field(field_of_view, "rasterize: field_of_view")
    points = positive_integer(supersampling, "rasterize: supersampling")
    dtype = ellipses.value.dtype
    x = jnp.asarray(_centers(shape[1] * points, width), dtype)
    y = jnp.asarray(-_centers(shape[0] * points, height), dtype)

    def add(image, ellipse):
        dx, dy = x - ellipse.center[0], (y - ellipse.center[1])[:, None]
        cos, sin = jnp.cos(ellipse.angle), jnp.sin(ellipse.angle)
        u, v = (cos * dx + sin * dy) / ellipse.axes[0], (cos * dy - sin * dx) / ellipse.axes[1]
        inside = (u * u + v * v <= 1).reshape(shape[0], points, shape[1], points)
        return image + ellipse.value * jnp.mean(inside, axis=(1, 3), dtype=dtype), None

    return jax.lax.scan(add, jnp.zeros(shape, dtype), ellipses)[0]


def ellipse_kspace(
    ellipses: Ellipses, image_shape: tuple[int, int], field_of_view: float | tuple[float, float] = 2.0
) -> jax.Array:
    """The exact Fourier transform of a phantom, sampled and scaled as ``CartesianFourier(image_shape)``.

    Its samples are those of the continuous phantom, free of the rasterised image's aliasing; ``ifft2c`` of
    them approximates ``rasterize(ellipses, image_shape, field_of_view)`` up to Gibbs ringing, pixel by pixel
    on the same grid. (CartesianFourier counts pixels from ``N // 2``; for even N that is half a pixel from
    the center of the field of view, and the samples carry the phase of this half pixel.)

    Args:
      ellipses: the phantom.
      image_shape: (ny, nx), of image and k-space.
      field_of_view: its (height, width), or one number for both, in the ellipses' unit of length.

    Returns:
      (ny, nx) complex.

    Raises:
      ValueError, TypeError: if a shape or size is out of range.

    Source: Van de Walle et al., IEEE Trans. Med. Imaging 19:1063, 2000; Koay et al., Magn. Reson. Med.
    58:430, 2007.

    Example:
      >>> phantom = operators.shepp_logan()
      >>> kspace = operators.ellipse_kspace(phantom, (8, 8))
      >>> image = operators.rasterize(phantom, (8, 8), supersampling=16)
      >>> print(round(8 * abs(complex(kspace[4, 4])), 1), round(float(image.sum()), 1))
      7.9 7.9
    """
    (ny, nx), dtype = image_shape_2d(image_shape, "ellipse_kspace: image_shape"), ellipses.value.dtype
    height, width = _field(field_of_view, "ellipse_kspace: field_of_view")
    rows, columns = np.arange(ny) - ny // 2, np.arange(nx) - nx // 2
    # Rows count downwards, y upwards.
    ky = jnp.asarray(-rows / height, dtype)[:, None]
    kx = jnp.asarray(columns / width, dtype)
    half_pixel = np.exp(
        -2j * np.pi * (rows * ((ny - 1) / 2 - ny // 2) / ny)[:, None]
        - 2j * np.pi * columns * ((nx - 1) / 2 - nx // 2) / nx
    )
    scale = math.sqrt(ny * nx) / (height * width)

    def add(kspace, ellipse):
        cos, sin = jnp.cos(ellipse.angle), jnp.sin(ellipse.angle)
        u, v = (cos * kx + sin * ky) * ellipse.axes[0], (cos * ky - sin * kx) * ellipse.axes[1]
        shape = 2 * math.pi * jnp.prod(ellipse.axes) * jinc(2 * math.pi * safe_sqrt(u * u + v * v))
        phase = 2 * math.pi * (kx * ellipse.center[0] + ky * ellipse.center[1])
        return kspace + ellipse.value * shape * jax.lax.complex(jnp.cos(phase), -jnp.sin(phase)), None

    kspace, _ = jax.lax.scan(add, jnp.zeros((ny, nx), complex_dtype(dtype)), ellipses)
    return jnp.asarray(scale * half_pixel, kspace.dtype) * kspace


def ellipse_sinogram(ellipses: Ellipses, geometry: ParallelBeam) -> jax.Array:
    """The exact line integrals of a phantom along the rays of a parallel-beam geometry.

    Args:
      ellipses: the phantom, in the geometry's unit of length, around the rotation axis.
      geometry: the parallel-beam geometry.

    Returns:
      (views, detectors) floats: density times length.
    """
    dtype = ellipses.value.dtype
    angles = geometry.angles[:, None].astype(dtype)
    positions = jnp.asarray(geometry.ray_positions(), dtype)

    def add(sinogram, ellipse):
        center = ellipse.center[0] * jnp.cos(angles) + ellipse.center[1] * jnp.sin(angles)
        cos, sin = jnp.cos(angles - ellipse.angle), jnp.sin(angles - ellipse.angle)
        reach = (ellipse.axes[0] * cos) ** 2 + (ellipse.axes[1] * sin) ** 2
        chord = safe_sqrt(jnp.maximum(reach - (positions - center) ** 2, 0))
        return sinogram + 2 * ellipse.value * jnp.prod(ellipse.axes) * chord / reach, None

    return jax.lax.scan(add, jnp.zeros(geometry.shape, dtype), ellipses)[0]


def _centers(count: int, length: float) -> np.ndarray:
    return (np.arange(count) - (count - 1) / 2) * (length / count)


def _field(field_of_view: Any, name: str) -> tuple[float, float]:
    if isinstance(field_of_view, numbers.Real):
        field_of_view = (field_of_view, field_of_view)
    if len(tuple(field_of_view)) != 2:
        raise ArgumentError(name, "a number or (height, width)", field_of_view)
    height, width = (positive_number(length, name) for length in field_of_view)
    return height, width
