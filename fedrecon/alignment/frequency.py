"""Amplitudes and phases of images and of kernels of convolutions."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError


def amplitude(images: jax.Array) -> jax.Array:
    """|F| of the two-dimensional Fourier transform of every channel, not scaled.

    Args:
      images: (..., ny, nx, channels), real.

    Returns:
      (..., ny, nx, channels), frequencies in the order of ``jnp.fft.fft2``, zero first.
    """
    return jnp.abs(jnp.fft.fft2(images, axes=(-3, -2)))


def frequency_window(shape: Sequence[int], part: float) -> np.ndarray:
    """Low frequencies: |f_y| <= b and |f_x| <= b with b = floor(part * min(ny, nx)).

    Symmetric, so that what is changed inside of it stays the spectrum of a real image. ``part`` 0 is the mean
    intensity alone, 1/2 everything.

    Args:
      shape: (ny, nx).
      part: L, in [0, 1/2].

    Returns:
      bool (ny, nx), frequencies in the order of ``jnp.fft.fft2``.

    Raises:
      ValueError: ``part`` is out of range.
    """
    if not 0 <= part <= 0.5:
        raise ArgumentError("part", "a number in [0, 0.5]", repr(part))
    half = math.floor(part * min(shape)) if part < 0.5 else max(shape)
    near = [np.abs(np.fft.fftfreq(n, 1 / n)) <= half for n in shape]
    return near[0][:, None] & near[1]


def with_amplitude(
    images: jax.Array,
    target: jax.Array,
    window: np.ndarray | jax.Array | None = None,
    mix: float | jax.Array = 1.0,
) -> jax.Array:
    """Images whose amplitudes are ``(1 - mix) |F| + mix target`` inside the window; phases stay.

    Where an image has no amplitude its phase counts as zero.

    Args:
      images: (..., ny, nx, channels), real.
      target: amplitudes as `amplitude` makes of real images, or means of such; broadcast to ``images``.
      window: bool (ny, nx), symmetric as of `frequency_window`; None is everywhere.
      mix: lambda, in [0, 1]; broadcast to ``images``.

    Returns:
      (..., ny, nx, channels), real.

    Raises:
      ValueError: a window of numpy is not symmetric: its images would not be real.
    """
    if isinstance(window, np.ndarray) and (window != np.roll(window[::-1, ::-1], (1, 1), (0, 1))).any():
        raise ArgumentError("window", "one that is symmetric in frequency", "another")
    spectrum = jnp.fft.fft2(images, axes=(-3, -2))
    own = jnp.abs(spectrum)
    # Zero amplitudes are divided by nothing, also in the backward pass.
    phase = jnp.where(own > 0, spectrum / jnp.where(own > 0, own, 1), 1)
    new = own + mix * (target - own)
    if window is not None:
        new = jnp.where(jnp.asarray(window)[..., None], new, own)
    return jnp.fft.ifft2(new * phase, axes=(-3, -2)).real.astype(images.dtype)


def shared_amplitudes(
    kernels: jax.Array, part: float | jax.Array, included: jax.Array | None = None
) -> jax.Array:
    """Kernels of several clients with their mean amplitudes at low frequencies; phases stay.

    A kernel of a convolution is the matrix of (ky * features_in) rows and (kx * features_out) columns, a
    dense one is a matrix as it is (PRR-FL's progressive Fourier aggregation, with |f_y| <= part ny / 2 and
    |f_x| <= part nx / 2, which is symmetric, and the mean over all clients).

    Args:
      kernels: (clients, [ky, kx,] features_in, features_out).
      part: L, in [0, 1]; an array () of a round is not checked.
      included: bool (clients,), whose amplitudes the mean is of; None for all.

    Returns:
      Like ``kernels``.

    Raises:
      ValueError: ``part`` is a number out of range, or kernels have another number of axes.
    """
    if not isinstance(part, jax.Array) and not 0 <= part <= 1:
        raise ArgumentError("part", "a number in [0, 1]", repr(part))
    if kernels.ndim not in (3, 5):
        raise ArgumentError("kernels", "(clients, [ky, kx,] features_in, features_out)", kernels.shape)
    matrices = kernels
    if kernels.ndim == 5:
        clients, ky, kx, before, after = kernels.shape
        matrices = kernels.transpose(0, 3, 1, 2, 4).reshape(clients, before * ky, kx * after)
    near = [np.abs(np.fft.fftfreq(n, 1 / n)) <= part * n / 2 for n in matrices.shape[1:]]
    found = amplitude(matrices[..., None])
    mean = found.mean(0)
    if included is not None:
        chosen = included[:, None, None, None]
        mean = jnp.where(chosen, found, 0).sum(0) / jnp.maximum(included.sum(), 1)
    mixed = with_amplitude(matrices[..., None], mean, near[0][:, None] & near[1])[..., 0]
    if kernels.ndim == 5:
        mixed = mixed.reshape(clients, before, ky, kx, after).transpose(0, 2, 3, 1, 4)
    return mixed
