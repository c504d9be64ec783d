"""Centered orthonormal Fourier transforms and the Cartesian measurement operator of MRI."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import (
    ArgumentError,
    LinearOperator,
    as_inexact,
    assign,
    complex_dtype,
    default_dtype,
    frozen_pytree,
    is_complex,
    real_dtype,
    static,
)
from operators.fourier import cartesian_primitive
from operators.fourier.centered_fft import fft2c, ifft2c


def centered_resize(array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Crops or zero-pads the trailing axes to ``shape``, element N // 2 staying at the center."""
    slices, padding = [slice(None)] * (array.ndim - len(shape)), [(0, 0)] * (array.ndim - len(shape))
    for old, new in zip(array.shape[array.ndim - len(shape) :], shape, strict=True):
        start = max(old // 2 - new // 2, 0)
        slices.append(slice(start, start + min(old, new)))
        before = max(new // 2 - old // 2, 0)
        padding.append((before, new - min(old, new) - before))
    return jnp.pad(array[tuple(slices)], padding)


def fourier_resize(image: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Resamples an image to another matrix over the same field of view by cropping or padding k-space.

    Intensities are kept (a constant stays that constant) and pixel N // 2 stays where it is. A real image
    returns real: the real part is taken, which matters only for the unpaired frequency of an even axis.

    Args:
      image: (..., ny, nx), real or complex.
      shape: the new (ny, nx).

    Returns:
      (..., *shape).

    Raises:
      ValueError: if ``shape`` is not two positive integers, or the image has fewer than two axes.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise ArgumentError("fourier_resize: shape", "two positive integers", shape)
    image = as_inexact(image)
    if image.ndim < 2:
        raise ArgumentError("fourier_resize: image", "(..., ny, nx)", f"shape {image.shape}")
    scale = math.sqrt(math.prod(shape) / math.prod(image.shape[-2:]))
    resized = ifft2c(scale * centered_resize(fft2c(image), tuple(shape)))
    return resized if is_complex(image.dtype) else resized.real


@frozen_pytree
class CartesianFourier(LinearOperator):
    """Centered, orthonormal Fourier transform, sampled: image (..., ny, nx) -> k-space (..., ny, nx).

    ``A(x) = mask * fft2c(x)``: samples that are not measured are zero in the output, so ``out_shape`` is
    ``image_shape``. With a mask of zeros and ones, ``A.H(A(x))`` is the zero-filled reconstruction.

    Attributes:
      image_shape: (ny, nx).
      mask: real, broadcastable to (ny, nx): zeros and ones, or weights; (nx,) selects columns. None: all.
      dtype: dtype of image and k-space; default complex64, or that of the mask's precision.
      backend: "auto" uses native kernels on CPU where they are at hand and the shape has no prime factor
        above five; "jax" never does.

    Raises:
      ValueError: if ``image_shape`` is not two positive integers, ``mask`` does not broadcast to it, or
        ``backend`` is unknown.
      TypeError: if ``mask`` or ``dtype`` is of the wrong kind.

    Example:
      >>> A = operators.CartesianFourier((2, 2), jnp.array([[0.0, 0.0], [1.0, 1.0]]))
      >>> print(np.asarray(A(jnp.ones((2, 2)))).real.round(3))
      [[0. 0.]
       [0. 2.]]
    """

    image_shape: tuple[int, ...] = static()
    mask: jax.Array | None = None
    dtype: np.dtype | None = static(default=None)
    backend: str = static(default="auto")

    def __post_init__(self) -> None:
        if self.backend not in ("auto", "jax"):
            raise ArgumentError("CartesianFourier: backend", "'auto' or 'jax'", repr(self.backend))
        shape = tuple(int(n) for n in self.image_shape)
        if len(shape) != 2 or min(shape) < 1:
            raise ArgumentError("CartesianFourier: image_shape", "two positive integers", shape)
        mask, dtype = self.mask, self.dtype
        if mask is not None:
            mask = as_inexact(mask)
            if is_complex(mask.dtype):
                raise TypeError(f"CartesianFourier: mask: expected a real dtype, found {mask.dtype}")
            if mask.ndim > 2 or any(
                m not in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False)
            ):
                raise ArgumentError(
                    "CartesianFourier: mask",
                    f"a shape broadcastable to image_shape {shape}",
                    f"shape {mask.shape}",
                )
            mask = mask.reshape((1,) * (2 - mask.ndim) + mask.shape)
        if dtype is None:
            dtype = default_dtype(complex) if mask is None else complex_dtype(mask.dtype)
        dtype = jnp.dtype(dtype)
        if not is_complex(dtype):
            raise TypeError(f"CartesianFourier: dtype: expected a complex dtype, found {dtype}")
        assign(self, image_shape=shape, mask=mask, dtype=dtype)

    in_shape = out_shape = property(lambda self: self.image_shape)
    in_dtype = out_dtype = property(lambda self: self.dtype)

    def _forward(self, x):
        return self._forward_maps(x, None)[..., 0, :, :]

    def _adjoint(self, y):
        return self._adjoint_maps(y[..., None, :, :], None)

    # Maps are multiplied inside the transform; None stands for one map of ones.

    def _forward_maps(self, x, maps):
        images = x.reshape(1, -1, *self.image_shape)
        maps = None if maps is None else maps[None].astype(x.dtype)
        y = cartesian_primitive.forward(self._weights(x.dtype), maps, images, backend=self.backend)
        return y.reshape(*x.shape[:-2], *y.shape[2:])

    def _adjoint_maps(self, y, maps):
        values = y.reshape(1, -1, *y.shape[-3:])
        maps = None if maps is None else maps[None].astype(y.dtype)
        x = cartesian_primitive.adjoint(self._weights(y.dtype), maps, values, backend=self.backend)
        return x.reshape(*y.shape[:-3], *self.image_shape)

    def _weights(self, dtype):
        mask = jnp.ones((1, 1)) if self.mask is None else self.mask
        return jnp.broadcast_to(mask, self.image_shape)[None].astype(real_dtype(dtype))

    def _gram(self, x, weights):
        # A circular convolution: it commutes with the shifts of the image, and needs no transform along an
        # axis on which its spectrum is constant.
        spectrum = None if self.mask is None else self.mask**2
        if weights is not None:
            weights = weights.reshape((1,) * (2 - weights.ndim) + weights.shape)
            spectrum = weights if spectrum is None else spectrum * weights
        if spectrum is None:
            return x
        axes = tuple(axis for axis in (-2, -1) if spectrum.shape[axis] > 1)
        if not axes:
            return spectrum * x
        spectrum = jnp.fft.ifftshift(spectrum, axes)
        return jnp.fft.ifftn(spectrum * jnp.fft.fftn(x, axes=axes), axes=axes)
