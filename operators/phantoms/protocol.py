"""What every phantom gives."""

from typing import Protocol, runtime_checkable

import jax

from operators.ct import Geometry


@runtime_checkable
class Phantom(Protocol):
    """An object known exactly: its image, its line integrals and its Fourier transform belong together.

    :class:`operators.phantoms.Ellipses` and :class:`operators.phantoms.Ellipsoids` are phantoms. The world is
    that of :class:`operators.ct.Geometry`: x to the right, y up, z along the rotation axis, the origin in the
    center of the field of view, lengths in any unit. Values are per pixel of the image: image intensity, or
    attenuation in 1/length.

    Attributes:
      ndim: 2 for images (ny, nx), 3 for volumes (nz, ny, nx).
      rasterize: ``rasterize(image_shape, pixel_size=1.0, supersampling=4)`` returns the image as the
        projectors see images, as :func:`operators.phantoms.rasterize_phantom` does.
      project: ``project(geometry, bins=1)`` returns the line integrals along the rays of a geometry of
        ``ndim`` dimensions, as :func:`operators.phantoms.project_phantom` does.
      kspace: ``kspace(frequencies)`` returns the Fourier transform, the integral over all r of
        ``value(r) * exp(-2 pi i k . r)``, at frequencies k (..., ndim), as (kx, ky) or (kx, ky, kz) in cycles
        per unit of length: (...) complex, value times length ** ndim. It raises ValueError where they have
        another number of axes.
    """

    @property
    def ndim(self) -> int: ...

    def rasterize(
        self, image_shape: tuple[int, ...], pixel_size: float = 1.0, supersampling: int = 4
    ) -> jax.Array: ...

    def project(self, geometry: Geometry, bins: int = 1) -> jax.Array: ...

    def kspace(self, frequencies: jax.Array) -> jax.Array: ...


def project_phantom(phantom: Phantom, geometry: Geometry, bins: int = 1) -> jax.Array:
    """The exact sinogram of a phantom, or its mean over each detector element.

    Args:
      phantom: ellipses for a geometry in two dimensions, ellipsoids in three.
      geometry: any geometry.
      bins: Gauss-Legendre points across each element, along each axis of the detector; 1 is its center.

    Returns:
      ``geometry.shape`` floats: attenuation times length.

    Raises:
      ValueError, TypeError: if the dimensions do not fit or ``bins`` is no positive integer.
    """
    return phantom.project(geometry, bins)


def rasterize_phantom(
    phantom: Phantom,
    image_shape: tuple[int, ...],
    pixel_size: float = 1.0,
    supersampling: int = 4,
) -> jax.Array:
    """The image of a phantom as the projectors see images: the mean over each pixel.

    Pixel (i, c) is at ``x = (c - (nx - 1) / 2) * pixel_size``, ``y = ((ny - 1) / 2 - i) * pixel_size``, and
    slice k at ``z = (k - (nz - 1) / 2) * pixel_size``.

    Args:
      phantom: ellipses, or ellipsoids.
      image_shape: (ny, nx), or (nz, ny, nx).
      pixel_size: width of the pixels.
      supersampling: points per pixel along each axis.

    Returns:
      ``image_shape`` floats, in 1/length.

    Raises:
      ValueError, TypeError: if a shape, size or number is out of range.
    """
    return phantom.rasterize(image_shape, pixel_size, supersampling)
