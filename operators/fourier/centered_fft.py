"""Centered orthonormal Fourier transforms of images."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def fft2c(image: ArrayLike) -> jax.Array:
    """Centered, orthonormal Fourier transform over the last two axes.

    ``k[m] = N^(-1/2) sum_n x[n] exp(-2 pi i m (n - N // 2) / N)`` along each axis, frequency m running from
    ``-(N // 2)`` upwards, as in fastMRI.

    Args:
      image: (..., ny, nx), real or complex.

    Returns:
      (..., ny, nx) complex.

    Example:
      >>> print(np.asarray(operators.fft2c(jnp.ones((2, 2)))).real.round(3))
      [[0. 0.]
       [0. 2.]]
    """
    shifted = jnp.fft.ifftshift(image, (-2, -1))
    # Not norm="ortho": its scale is an array, which vmap inside shard_map fails to batch on jax 0.10.
    scale = 1 / math.sqrt(math.prod(shifted.shape[-2:]))
    return scale * jnp.fft.fftshift(jnp.fft.fft2(shifted), (-2, -1))


def ifft2c(kspace: ArrayLike) -> jax.Array:
    """Inverse (and adjoint) of :func:`fft2c`: (..., ny, nx) -> (..., ny, nx) complex.

    Example:
      >>> image = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> print(np.asarray(operators.ifft2c(operators.fft2c(image))).real.round(3))
      [[1. 2.]
       [3. 4.]]
    """
    shifted = jnp.fft.ifftshift(kspace, (-2, -1))
    scale = math.sqrt(math.prod(shifted.shape[-2:]))
    return scale * jnp.fft.fftshift(jnp.fft.ifft2(shifted), (-2, -1))
