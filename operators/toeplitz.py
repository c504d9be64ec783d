"""Products with Toeplitz matrices of non-uniform transforms by circulant embedding."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from operators.nufft_kernel import smooth_size


def spectrum(lags: jax.Array, image_shape: tuple[int, ...]) -> jax.Array:
    """Spectrum of the circulant in which the Toeplitz matrix ``lags[n - n']`` is embedded.

    The circulant is twice a 5-smooth size h >= image_shape, and its frequencies 2 j + p are kept by parity p:
    each parity then needs only FFTs of size h, of the image times a modulation, instead of padding.

    Args:
      lags: complex (..., 2 ny, 2 nx), centred: element n is at lag (n - ny). Hermitian, so that the spectrum
        is real.
      image_shape: (ny, nx), or of any number of axes.

    Returns:
      Real (..., 2^ndim, *h).
    """
    ndim = len(image_shape)
    half = tuple(smooth_size(n) for n in image_shape)
    axes = tuple(range(lags.ndim - ndim, lags.ndim))
    for axis, n in zip(axes, image_shape, strict=True):
        # The lag -n has no partner and is never used.
        lags = lags * jnp.ones(2 * n).at[0].set(0).reshape(-1, *(1,) * (lags.ndim - 1 - axis))
    padding = [(0, 0)] * (lags.ndim - ndim)
    padding += [(h - n, h - n) for h, n in zip(half, image_shape, strict=True)]
    circulant = jnp.roll(jnp.pad(lags, padding), [-h for h in half], axes)
    values = jnp.fft.fftn(circulant, axes=axes).real
    split = [size for h in half for size in (h, 2)]
    values = values.reshape(*values.shape[: axes[0]], *split)
    lead = axes[0]
    order = [*range(lead), *(lead + 2 * a + 1 for a in range(ndim)), *(lead + 2 * a for a in range(ndim))]
    return values.transpose(order).reshape(*values.shape[:lead], 2**ndim, *half)


def apply(spectrum: jax.Array, images: jax.Array, image_shape: tuple[int, ...]) -> jax.Array:
    """The Toeplitz product: (..., *image_shape) complex, leading axes broadcast against the spectrum's."""
    ndim = len(image_shape)
    half = spectrum.shape[-ndim:]
    axes = tuple(range(-ndim, 0))
    padding = [(0, 0)] * (images.ndim - ndim)
    padding += [(0, h - n) for h, n in zip(half, image_shape, strict=True)]
    padded = jnp.pad(images, padding)
    lead = np.broadcast_shapes(spectrum.shape[: -ndim - 1], images.shape[:-ndim])

    def add(total, part):
        values, modulation = part
        modulated = jnp.fft.fftn(padded * modulation, axes=axes)
        return total + jnp.fft.ifftn(modulated * values, axes=axes) * modulation.conj(), None

    modulations = jnp.asarray(_modulations(half), images.dtype)
    values = jnp.moveaxis(spectrum, -ndim - 1, 0)
    zero = jnp.broadcast_to(0 * padded, (*lead, *half)) + 0 * values[0]
    total = jax.lax.scan(add, zero, (values, modulations))[0]
    crop = (..., *(slice(n) for n in image_shape))
    return total[crop] / 2**ndim


def _modulations(half: tuple[int, ...]) -> np.ndarray:
    waves = [np.exp(-1j * math.pi * np.arange(h) / h) for h in half]
    products = []
    for parity in itertools.product((0, 1), repeat=len(half)):
        factors = [w if p else np.ones_like(w) for w, p in zip(waves, parity, strict=True)]
        products.append(np.prod(np.meshgrid(*factors, indexing="ij"), axis=0))
    return np.stack(products)
