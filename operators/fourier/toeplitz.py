"""Products with Toeplitz matrices of non-uniform transforms by circulant embedding."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad

from operators.fourier.nufft_kernel import smooth_size
from operators.kernels import batch_length, call, native, over_trajectories, register, sum_to


def spectrum(lags: jax.Array, image_shape: tuple[int, ...]) -> jax.Array:
    """Spectrum of the circulant in which the Toeplitz matrix ``lags[n - n']`` is embedded.

    The circulant is twice a 5-smooth size h >= image_shape, and its frequencies 2 j + p are kept by parity p:
    each parity then needs only FFTs of size h, of the image times a modulation, instead of padding.

    Args:
      lags: complex (..., 2 ny, 2 nx), centered: element n is at lag (n - ny). Hermitian, so that the spectrum
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
        lags = lags * jnp.ones(2 * n, lags.dtype).at[0].set(0).reshape(-1, *(1,) * (lags.ndim - 1 - axis))
    padding = [(0, 0)] * (lags.ndim - ndim)
    padding += [(h - n, h - n) for h, n in zip(half, image_shape, strict=True)]
    circulant = jnp.roll(jnp.pad(lags, padding), [-h for h in half], axes)
    values = jnp.fft.fftn(circulant, axes=axes).real
    split = [size for h in half for size in (h, 2)]
    values = values.reshape(*values.shape[: axes[0]], *split)
    lead = axes[0]
    order = [*range(lead), *(lead + 2 * a + 1 for a in range(ndim)), *(lead + 2 * a for a in range(ndim))]
    return values.transpose(order).reshape(*values.shape[:lead], 2**ndim, *half)


def gram(spectrum: jax.Array, images: jax.Array, maps: jax.Array | None, backend: str = "auto") -> jax.Array:
    """``sum_c conj(maps_c) T (maps_c images)``, T the Toeplitz matrix of the spectrum; Hermitian.

    Args:
      spectrum: real (t, 2^ndim, *h), as :func:`spectrum` returns it.
      images: complex (t, b, *image_shape).
      maps: complex (t, c, *image_shape), or None. An axis t of length one is shared.
      backend: "auto" or "jax".

    Returns:
      (t, b, *image_shape).
    """
    operands = (spectrum, images) if maps is None else (spectrum, images, maps)
    return call(gram_p, operands, {"backend": backend})


gram_p = Primitive("nufft_gram")


def _plain(primitive, spectrum, images, maps=None, *, backend):
    return over_trajectories(_plain_one, (spectrum, images, maps))


def _plain_one(spectrum, images, maps):
    """The gram of one trajectory: (2^ndim, *h), (b, *shape), (c, *shape) or None -> (b, *shape)."""
    shape, half = images.shape[1:], spectrum.shape[1:]
    planes = images if maps is None else images[:, None] * maps
    axes = tuple(range(-len(shape), 0))
    padding = [(0, 0)] * (planes.ndim - len(shape))
    padding += [(0, h - n) for h, n in zip(half, shape, strict=True)]
    padded = jnp.pad(planes, padding)

    def add(total, part):
        values, modulation = part
        modulated = jnp.fft.fftn(padded * modulation, axes=axes)
        return total + jnp.fft.ifftn(modulated * values, axes=axes) * modulation.conj(), None

    modulations = jnp.asarray(_modulations(half), images.dtype)
    total = jax.lax.scan(add, 0 * padded + 0 * spectrum[0], (spectrum, modulations))[0]
    total = total[(..., *(slice(n) for n in shape))] / 2 ** len(shape)
    return total if maps is None else jnp.sum(maps.conj() * total, axis=1)


def _on_cpu(primitive, spectrum, images, maps=None, *, backend):
    if backend == "jax" or not native.supports(images.dtype):
        return _plain(primitive, spectrum, images, maps, backend=backend)
    return native.toeplitz(spectrum, images, maps, _out_shape(primitive, spectrum, images, maps))


def _out_shape(primitive, spectrum, images, maps=None, **_):
    return batch_length(spectrum, images, *([] if maps is None else [maps])), *images.shape[1:]


def _jvp(primitive, primals, tangents, **params):
    out = call(primitive, primals, params)
    terms = []
    if not isinstance(tangents[1], ad.Zero):
        terms.append(call(primitive, (primals[0], tangents[1], *primals[2:]), params))
    others = [i for i in (0, 2) if i < len(primals) and not isinstance(tangents[i], ad.Zero)]
    if others:
        # Rarely wanted, and not worth kernels of its own.
        def of(*values):
            operands = list(primals)
            for i, value in zip(others, values, strict=True):
                operands[i] = value
            return _plain(primitive, *operands, **params)

        terms.append(jax.jvp(of, [primals[i] for i in others], [tangents[i] for i in others])[1])
    return out, functools.reduce(jnp.add, terms) if terms else ad.Zero.from_primal_value(out)


def _transpose(primitive, cotangent, spectrum, images, *maps, **params):
    if isinstance(cotangent, ad.Zero):
        return (None,) * (2 + len(maps))
    # A Hermitian map transposes to its conjugate.
    back = call(primitive, (spectrum, cotangent.conj(), *maps), params).conj()
    return None, sum_to(back, images.aval.shape[0]), *([None] * len(maps))


register(gram_p, out_shape=_out_shape, plain=_plain, on_cpu=_on_cpu, jvp=_jvp, transpose=_transpose)


def _modulations(half: tuple[int, ...]) -> np.ndarray:
    waves = [np.exp(-1j * math.pi * np.arange(h) / h) for h in half]
    products = []
    for parity in itertools.product((0, 1), repeat=len(half)):
        factors = [w if p else np.ones_like(w) for w, p in zip(waves, parity, strict=True)]
        products.append(np.prod(np.meshgrid(*factors, indexing="ij"), axis=0))
    return np.stack(products)
