"""Orthogonal wavelet transforms of images and volumes."""

import functools
import math

import jax.numpy as jnp
import numpy as np

from operators.algebra.arguments import ArgumentError
from operators.algebra.dtypes import default_dtype
from operators.algebra.linear_operator import LinearOperator
from operators.algebra.pytree import assign, frozen_pytree, static

_WAVELETS = ("haar", *(f"db{p}" for p in range(1, 11)))


@functools.cache
def daubechies_filter(vanishing_moments: int) -> np.ndarray:
    """The orthonormal low-pass filter of Daubechies with extremal phase, by spectral factorization.

    Args:
      vanishing_moments: p from 1 (Haar) to 10; details of polynomials of degree below p vanish.

    Returns:
      (2 p,) float64 of sum ``sqrt(2)`` and unit energy; its even shifts are orthogonal.

    Raises:
      ValueError: if ``vanishing_moments`` is out of range.

    Source: Daubechies, Commun. Pure Appl. Math. 41:909, 1988.
    """
    p = vanishing_moments
    if not 1 <= p <= 10:
        raise ArgumentError("daubechies_filter: vanishing_moments", "a number between 1 and 10", p)
    # |H|^2 = 2 cos^(2p) P(sin^2): each root y of P gives z + 1/z = 2 - 4 y, of which one lies in the circle.
    half = 1 - 2 * np.roots([math.comb(p - 1 + k, k) for k in range(p)][::-1]).astype(complex)
    far = np.sqrt(half * half - 1)
    roots = 1 / np.where(np.abs(half + far) > 1, half + far, half - far)
    taps = np.poly(np.concatenate([np.full(p, -1.0), roots])).real
    taps *= math.sqrt(2) / taps.sum()
    taps.flags.writeable = False
    return taps


@frozen_pytree
class Wavelet(LinearOperator):
    """Orthogonal discrete wavelet transform: image (..., *image_shape) -> coefficients of the same shape.

    Separable and periodic along every axis. A level maps an axis of n samples to ``ceil(n / 2)``
    approximations followed by ``floor(n / 2)`` details, and the next level acts on the corner of
    approximations. Where n is odd the last sample joins the approximations as it is, so that the transform
    is square and orthogonal for every shape: ``A.H(A(x)) == x == A(A.H(x))``. (So at the far edge of an odd
    axis, and where the period wraps around, details of smooth images do not vanish.)

    Attributes:
      image_shape: (ny, nx), (nz, ny, nx) or any other.
      wavelet: "haar" or "db1" to "db10", Daubechies' filters; the number is that of vanishing moments.
      levels: number of levels; default: as many as find the shortest axis (of more than one sample) at
        least as long as the filter, and at least one.
      dtype: dtype of images and coefficients; default complex64.

    Raises:
      ValueError: if the shape, the name or the number of levels is out of range.

    Source: Mallat, IEEE Trans. Pattern Anal. Mach. Intell. 11:674, 1989; Daubechies, Commun. Pure Appl. Math.
    41:909, 1988.

    Example:
      >>> W = operators.Wavelet((4,), "haar", levels=1, dtype=jnp.float32)
      >>> print(np.asarray(W(jnp.array([1.0, 1.0, 4.0, 2.0]))).round(3))
      [1.414 4.243 0.    1.414]
    """

    image_shape: tuple[int, ...] = static()
    wavelet: str = static(default="db4")
    levels: int | None = static(default=None)
    dtype: np.dtype | None = static(default=None)

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.image_shape)
        if not shape or min(shape) < 1 or max(shape) < 2:
            raise ArgumentError("Wavelet: image_shape", "positive integers, one of them at least 2", shape)
        if self.wavelet not in _WAVELETS:
            raise ArgumentError("Wavelet: wavelet", f"one of {', '.join(_WAVELETS)}", repr(self.wavelet))
        levels, most = self.levels, (max(shape) - 1).bit_length()
        if levels is None:
            shortest = min(n for n in shape if n > 1)
            levels = max(1, (shortest // len(_low_pass(self.wavelet))).bit_length())
        if not 1 <= levels <= most:
            raise ArgumentError("Wavelet: levels", f"a number between 1 and {most} for shape {shape}", levels)
        dtype = default_dtype(complex) if self.dtype is None else jnp.dtype(self.dtype)
        assign(self, image_shape=shape, levels=int(levels), dtype=dtype)

    in_shape = out_shape = property(lambda self: self.image_shape)
    in_dtype = out_dtype = property(lambda self: self.dtype)

    @property
    def details(self) -> np.ndarray:
        """Boolean array of ``image_shape``: False for the approximations of the last level."""
        mask = np.ones(self.image_shape, bool)
        mask[tuple(slice(0, n) for n in self._corners()[-1])] = False
        return mask

    def _corners(self) -> list[tuple[int, ...]]:
        assert self.levels is not None, "set when it was made"
        corners = [self.image_shape]
        for _ in range(self.levels):
            corners.append(tuple((n + 1) // 2 for n in corners[-1]))
        return corners

    def _forward(self, x):
        low = _low_pass(self.wavelet)
        for corner in self._corners()[:-1]:
            index = (..., *(slice(0, n) for n in corner))
            part = x[index]
            for axis in range(-len(corner), 0):
                part = _analysis(part, low, axis)
            x = x.at[index].set(part)
        return x

    def _adjoint(self, y):
        low = _low_pass(self.wavelet)
        for corner in self._corners()[-2::-1]:
            index = (..., *(slice(0, n) for n in corner))
            part = y[index]
            for axis in range(-len(corner), 0):
                part = _synthesis(part, low, axis)
            y = y.at[index].set(part)
        return y

    def _gram(self, x, weights):
        return x if weights is None else self._adjoint(weights * self._forward(x))


def _low_pass(wavelet: str) -> np.ndarray:
    return daubechies_filter(1 if wavelet == "haar" else int(wavelet[2:]))


def _phases(low: np.ndarray) -> list[tuple[list[float], list[float]]]:
    """Even and odd taps of the low-pass and of the high-pass filter, as numbers that keep any precision."""
    high = low[::-1] * (-1.0) ** np.arange(len(low))
    return [(taps[0::2].tolist(), taps[1::2].tolist()) for taps in (low, high)]


def _analysis(x, low, axis):
    x = jnp.moveaxis(x, axis, -1)
    half = x.shape[-1] // 2
    pairs = x[..., : 2 * half].reshape(*x.shape[:-1], half, 2)
    bands = []
    if half:
        reach = len(low) // 2 - 1
        even, odd = (_wrap(pairs[..., i], 0, reach) for i in (0, 1))
        for even_taps, odd_taps in _phases(low):
            terms = [
                e * even[..., j : j + half] + o * odd[..., j : j + half]
                for j, (e, o) in enumerate(zip(even_taps, odd_taps, strict=True))
            ]
            bands.append(sum(terms))
    parts = [*bands[:1], x[..., 2 * half :], *bands[1:]]
    return jnp.moveaxis(jnp.concatenate(parts, -1), -1, axis)


def _synthesis(y, low, axis):
    y = jnp.moveaxis(y, axis, -1)
    half, length = y.shape[-1] // 2, y.shape[-1]
    if not half:
        return jnp.moveaxis(y, -1, axis)
    reach = len(low) // 2 - 1
    bands = [_wrap(band, reach, 0) for band in (y[..., :half], y[..., length - half :])]
    samples = []
    for phase in (0, 1):
        terms = [
            tap * band[..., reach - j : reach - j + half]
            for band, taps in zip(bands, _phases(low), strict=True)
            for j, tap in enumerate(taps[phase])
        ]
        samples.append(sum(terms))
    even_part = jnp.stack(samples, -1).reshape(*y.shape[:-1], 2 * half)
    return jnp.moveaxis(jnp.concatenate([even_part, y[..., half : length - half]], -1), -1, axis)


def _wrap(x, before, after):
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(before, after)], mode="wrap")
