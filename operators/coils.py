"""Receive coils: the SENSE operator, sensitivity estimation and coil combination."""

import jax
import jax.numpy as jnp
import numpy as np

from operators.fourier import ifft2c
from operators.linear_operator import LinearOperator, as_inexact, is_complex, safe_sqrt, squared
from operators.masks import center_slice
from operators.pytree import assign, frozen_pytree


@frozen_pytree
class SENSE(LinearOperator):
    """Multi-coil measurement: image (..., *image_shape) -> (..., coils, *fourier.out_shape).

    ``A(x)[c] = fourier(coil_maps[c] * x)`` (Pruessmann et al., Magn. Reson. Med. 42:952, 1999).

    Attributes:
      fourier: a Fourier operator of complex images.
      coil_maps: sensitivities (coils, *fourier.in_shape); coils of zeros (padding) measure zero.

    Raises:
      ValueError: if ``coil_maps`` is not (coils, *fourier.in_shape) with at least one coil.
      TypeError: if ``fourier`` is no operator of complex images.
    """

    fourier: LinearOperator
    coil_maps: jax.Array

    def __post_init__(self):
        if not isinstance(self.fourier, LinearOperator):
            raise TypeError(f"SENSE: fourier must be a LinearOperator, found {type(self.fourier).__name__}")
        if not is_complex(self.fourier.in_dtype):
            raise TypeError(f"SENSE: fourier must act on complex images, found {self.fourier.in_dtype}")
        maps, shape = as_inexact(self.coil_maps), self.fourier.in_shape
        if maps.ndim != 1 + len(shape) or maps.shape[1:] != shape or maps.shape[0] < 1:
            expected = ("coils", *shape)
            raise ValueError(f"SENSE: coil_maps must have shape {expected}, found {maps.shape}")
        assign(self, coil_maps=maps)

    # Counted from the end, so that they hold for stacked operators too.
    in_shape = property(lambda self: self.fourier.in_shape)
    out_shape = property(lambda self: (self.coils, *self.fourier.out_shape))
    in_dtype = property(lambda self: jnp.promote_types(self.fourier.in_dtype, self.coil_maps.dtype))
    out_dtype = property(lambda self: jnp.promote_types(self.fourier.out_dtype, self.coil_maps.dtype))

    @property
    def coils(self) -> int:
        """Number of coils, padding included."""
        return self.coil_maps.shape[-1 - len(self.in_shape)]

    def _expand(self, x):
        return self.coil_maps * jnp.expand_dims(x, x.ndim - len(self.in_shape))

    def _combine(self, images):
        return jnp.sum(self.coil_maps.conj() * images, axis=-1 - len(self.in_shape))

    def _forward(self, x):
        if hasattr(self.fourier, "_coil_forward"):
            return self.fourier._coil_forward(x, self.coil_maps)
        return self.fourier._forward(self._expand(x))

    def _adjoint(self, y):
        if hasattr(self.fourier, "_coil_adjoint"):
            return self.fourier._coil_adjoint(y, self.coil_maps)
        return self._combine(self.fourier._adjoint(y))

    def _gram(self, x, weights):
        if hasattr(self.fourier, "_coil_gram"):
            return self.fourier._coil_gram(x, self.coil_maps, weights)
        return self._combine(self.fourier._gram(self._expand(x), weights))


def rss(images: jax.Array, axis: int = -3) -> jax.Array:
    """Root of the sum of squares over the coil axis (Roemer et al., Magn. Reson. Med. 16:192, 1990).

    Its gradient is zero, not NaN, where all coils are zero.

    Args:
      images: complex or real; by default (..., coils, ny, nx).
      axis: the coil axis.

    Returns:
      Real array without that axis.
    """
    return safe_sqrt(jnp.sum(squared(jnp.asarray(images)), axis=axis))


def estimate_coil_maps(kspace: jax.Array, calibration_shape: tuple[int, int]) -> jax.Array:
    """Coil sensitivities from the fully sampled centre of k-space.

    The centre block, weighted by a Hann window against ringing, is transformed to low-resolution coil images,
    which are divided by their root of the sum of squares: ``sum |S|^2 = 1`` in every pixel, background
    included, and the phase of each map is the coil's times the image's own, so that a combined image is
    close to real and positive (McKenzie et al., Magn. Reson. Med. 47:529, 2002). Coils of zeros (padding) get
    zero maps; where all coils are zero the maps are the constant ``coils ** -0.5``.

    Args:
      kspace: (..., coils, ny, nx), centred; only its centre block is read.
      calibration_shape: (ny, nx) of the fully sampled block around DC.

    Returns:
      (..., coils, ny, nx) complex.

    Raises:
      ValueError: if ``kspace`` has fewer than three axes or the block is empty or larger than k-space.
    """
    kspace = as_inexact(kspace)
    if kspace.ndim < 3:
        raise ValueError(f"estimate_coil_maps: kspace must be (..., coils, ny, nx), found {kspace.shape}")
    shape, block = kspace.shape[-2:], tuple(calibration_shape)
    if len(block) != 2 or any(not 1 <= c <= n for c, n in zip(block, shape, strict=True)):
        raise ValueError(
            f"estimate_coil_maps: calibration_shape must lie between (1, 1) and {shape}, found {block}"
        )
    window = np.outer(*(_hann(n, c) for n, c in zip(shape, block, strict=True)))
    images = ifft2c(jnp.asarray(window, kspace.real.dtype) * kspace)
    # A tiny scale under- or overflows when squared.
    scale = jnp.max(jnp.abs(images), axis=(-3, -2, -1), keepdims=True)
    images = images / jnp.where(scale > 0, scale, 1)
    power = jnp.sum(squared(images), axis=-3, keepdims=True)
    inverse = 1 / jnp.sqrt(jnp.where(power > 0, power, 1))
    return jnp.where(power > 0, images * inverse, kspace.shape[-3] ** -0.5)


def coil_combine(images: jax.Array, maps: jax.Array) -> jax.Array:
    """``sum_c conj(maps_c) images_c``: the least-squares combination when ``sum |maps|^2 = 1``.

    Args:
      images: (..., coils, ny, nx) complex.
      maps: sensitivities, broadcastable to ``images``.

    Returns:
      (..., ny, nx) complex.

    Raises:
      ValueError: if the numbers of coils or the image shapes differ.
    """
    images, maps = jnp.asarray(images), jnp.asarray(maps)
    if images.shape[-3:] != maps.shape[-3:]:
        raise ValueError(
            f"coil_combine: images and maps must agree in (coils, ny, nx), found {images.shape[-3:]} and "
            f"{maps.shape[-3:]}"
        )
    return jnp.sum(maps.conj() * images, axis=-3)


def _hann(length: int, count: int) -> np.ndarray:
    window = np.zeros(length)
    center = center_slice(length, count)
    window[center] = np.cos(np.pi * (np.arange(length)[center] - length // 2) / (count + 1)) ** 2
    return window
