"""Least-squares interpolation kernels of the non-uniform FFT: their fit, and what they make of pixels."""

import math
from typing import NamedTuple

import numpy as np

# The native kernels hold the coefficients of one more power.
_MAX_DEGREE = 30


class Kernel(NamedTuple):
    """An interpolation kernel of ``width`` grid cells for images filling ``1 / oversampling`` of the period.

    Tap j of a point x (in grid cells) sits at cell ``i0 + j``, ``i0 = floor(x - width / 2) + 1``, and weighs
    ``sum_p coefficients[p, j] * u**p`` with ``u = 2 * (i0 - (x - width / 2)) - 1`` in (-1, 1].

    Attributes:
      width: number of taps.
      oversampling: grid cells per pixel, the smallest of all axes.
      coefficients: (degree + 1, width) float64.
      error: root mean square, over positions and over pixels, of the relative error along one axis.
      gain: root mean square by which the scaling amplifies rounding errors made on the grid.
    """

    width: int
    oversampling: float
    coefficients: np.ndarray
    error: float
    gain: float


def fit_kernel(width: int, oversampling: float) -> Kernel:
    """The kernel, and pixel scaling, of least mean square error (both optimized in turn).

    For fixed scaling s the best taps of a position solve a small least-squares problem (Fessler and Sutton,
    IEEE Trans. Signal Process. 51:560, 2003, in the mean instead of the maximum); for fixed taps the best
    scaling is in closed form. Alternating from a Kaiser-Bessel start lowers the error at every step. Each tap
    is then a polynomial in the position.
    """
    nodes, weights = np.polynomial.legendre.leggauss(4 * width + 16)
    frequency = nodes / (2 * oversampling)
    # Chebyshev positions, dense enough for the polynomials fitted below.
    position = np.cos(np.pi * (np.arange(2 * width + 16) + 0.5) / (2 * width + 16))
    weights /= weights.sum()
    taps = _kaiser_bessel(width, oversampling, position)
    for _ in range(12):
        scale = scaling(taps, position, frequency).scale
        root = np.sqrt(weights)[:, None]
        basis = root * scale[:, None] * _phases(frequency, np.arange(width) - width / 2)
        target = root * _phases(frequency, -(position + 1) / 2)
        taps = np.linalg.lstsq(basis, target, rcond=1e-15)[0].real.T
    error = _rms(scaling(taps, position, frequency).errors, weights)
    for degree in range(2, _MAX_DEGREE + 1):
        fit = np.polynomial.chebyshev.chebfit(position, taps, degree)
        found = scaling(np.polynomial.chebyshev.chebval(position, fit).T, position, frequency)
        if _rms(found.errors, weights) <= 1.05 * error + 1e-15:
            break
    coefficients = np.stack([np.polynomial.chebyshev.cheb2poly(c) for c in fit.T], axis=1)
    gain = _rms(found.scale**2, weights) * _rms(np.sum(taps**2, axis=1))
    return Kernel(width, oversampling, coefficients, _rms(found.errors, weights), gain)


class Scaling(NamedTuple):
    """How pixels are scaled for given taps.

    Attributes:
      scale: best real factors, (frequencies,) float64.
      errors: mean square, over positions, of the relative error that is left, (frequencies,).
    """

    scale: np.ndarray
    errors: np.ndarray


def scaling(taps: np.ndarray, position: np.ndarray, frequency: np.ndarray) -> Scaling:
    """The best scaling of pixels at ``frequency`` (cycles per cell) for taps (positions, width)."""
    width = taps.shape[1]
    # What the taps make of exp(-2 pi i frequency x), relative to it: (frequencies, positions).
    response = _phases(frequency, np.arange(width) - width / 2) @ taps.T
    response *= _phases(frequency, (position + 1) / 2)
    mean = response.real.mean(1)
    scale = mean / (response.real**2 + response.imag**2).mean(1)
    errors = (1 - scale[:, None] * response.real) ** 2 + (scale[:, None] * response.imag) ** 2
    return Scaling(scale, errors.mean(1))


def evaluate(kernel: Kernel, u: np.ndarray) -> np.ndarray:
    """Weights of all taps at positions ``u`` in (-1, 1]: (..., width) float64."""
    return np.polynomial.polynomial.polyval(u, kernel.coefficients).T


def _phases(frequency: np.ndarray, offset: np.ndarray) -> np.ndarray:
    return np.exp(-2j * np.pi * frequency[:, None] * offset)


def _rms(squares: np.ndarray, weights: np.ndarray | None = None) -> float:
    return math.sqrt(squares.mean() if weights is None else weights @ squares)


def _kaiser_bessel(width: int, oversampling: float, position: np.ndarray) -> np.ndarray:
    distance = (position[:, None] + 1) / 2 + np.arange(width) - width / 2
    beta = math.pi * math.sqrt(max((width * (1 - 0.5 / oversampling)) ** 2 - 0.8, 0.25))
    return np.i0(beta * np.sqrt(np.maximum(1 - (2 * distance / width) ** 2, 0))) / np.i0(beta)
