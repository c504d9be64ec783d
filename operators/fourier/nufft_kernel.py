"""Least-squares interpolation kernels of the non-uniform FFT, and the choice of grid and width."""

import functools
import math
from typing import NamedTuple

import numpy as np

from operators.algebra import ArgumentError

MAX_WIDTH = 16
# The native kernels hold the coefficients of one more power.
_MAX_DEGREE = 30
_OVERSAMPLING = (1.25, 1.3, 1.4, 1.5, 1.75, 2.0)


class Kernel(NamedTuple):
    """An interpolation kernel of ``width`` grid cells for images filling ``1 / oversampling`` of the period.

    Tap j of a point x (in grid cells) sits at cell ``i0 + j``, ``i0 = floor(x - width / 2) + 1``, and weighs
    ``sum_p coefficients[p, j] * u**p`` with ``u = 2 * (i0 - (x - width / 2)) - 1`` in (-1, 1].

    Attributes:
      width: number of taps.
      oversampling: grid cells per pixel, the smallest of all axes.
      coefficients: (degree + 1, width) float64.
      error: root mean square, over positions and over pixels, of the relative error along one axis.
    """

    width: int
    oversampling: float
    coefficients: np.ndarray
    error: float


class Layout(NamedTuple):
    """How an image shape is gridded.

    Attributes:
      grid_shape: oversampled grid, 5-smooth sizes.
      kernel: the kernel, common to all axes.
      scales: per axis, the factors by which pixels are multiplied before (type 2) or after (type 1) the FFT;
        the division by the root of the number of pixels is in them.
    """

    grid_shape: tuple[int, ...]
    kernel: Kernel
    scales: tuple[np.ndarray, ...]


@functools.lru_cache(maxsize=256)
def design_kernel(width: int, oversampling: float) -> Kernel:
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
    taps = _kaiser_bessel(width, oversampling, position)
    for _ in range(12):
        scale = _best_scale(taps, position, frequency)
        root = np.sqrt(weights)[:, None]
        basis = root * scale[:, None] * _phases(frequency, np.arange(width) - width / 2)
        target = root * _phases(frequency, -(position + 1) / 2)
        taps = np.linalg.lstsq(basis, target, rcond=1e-15)[0].real.T
    error = _rms_error(taps, position, frequency, weights)
    for degree in range(2, _MAX_DEGREE + 1):
        fit = np.polynomial.chebyshev.chebfit(position, taps, degree)
        fitted = np.polynomial.chebyshev.chebval(position, fit).T
        fitted_error = _rms_error(fitted, position, frequency, weights)
        if fitted_error <= 1.05 * error + 1e-15:
            break
    coefficients = np.stack([np.polynomial.chebyshev.cheb2poly(c) for c in fit.T], axis=1)
    return Kernel(width, oversampling, coefficients, float(fitted_error))


class Axis(NamedTuple):
    """One axis of an image on its grid.

    Attributes:
      scale: best scaling of the centered pixels, (pixels,) float64.
      error: root mean square of the relative error over positions and pixels.
      gain: root mean square by which the scaling amplifies rounding errors made on the grid.
    """

    scale: np.ndarray
    error: float
    gain: float


@functools.lru_cache(maxsize=1024)
def scale_axis(kernel_of: tuple[int, float], pixels: int, cells: int) -> Axis:
    """The axis of ``pixels`` on ``cells`` for the kernel of (width, oversampling)."""
    width = kernel_of[0]
    position = np.cos(np.pi * (np.arange(3 * width) + 0.5) / (3 * width))
    taps = evaluate(design_kernel(*kernel_of), position)
    frequency = (np.arange(pixels) - pixels // 2) / cells
    scale = _best_scale(taps, position, frequency)
    error = np.abs(1 - scale[:, None] * _responses(taps, position, frequency)) ** 2
    gain = math.sqrt(np.mean(scale**2) * np.mean(np.sum(taps**2, axis=1)))
    return Axis(scale, math.sqrt(error.mean()), gain)


def evaluate(kernel: Kernel, u: np.ndarray) -> np.ndarray:
    """Weights of all taps at positions ``u`` in (-1, 1]: (..., width) float64."""
    return np.polynomial.polynomial.polyval(u, kernel.coefficients).T


@functools.lru_cache(maxsize=256)
def choose_layout(image_shape: tuple[int, ...], samples: int, eps: float, double: bool) -> Layout:
    """The cheapest grid and kernel whose relative error is at most ``eps``.

    The error is the kernel's, for images of white noise, and that of rounding in the precision used, which
    small grids amplify.

    Raises:
      ValueError: if no kernel reaches ``eps``.
    """
    best, reached = None, math.inf
    for oversampling in _OVERSAMPLING:
        for width in range(2, MAX_WIDTH + 1):
            grid = tuple(_grid_size(n, oversampling, width) for n in image_shape)
            ratio = min(g / n for g, n in zip(grid, image_shape, strict=True))
            # Rounded down, so that similar shapes share kernels.
            kernel_of = width, max(math.floor(ratio * 10) / 10, oversampling)
            axes = [scale_axis(kernel_of, n, g) for n, g in zip(image_shape, grid, strict=True)]
            error = _total_error(axes, grid, double)
            reached = min(reached, error)
            if error <= eps:
                cost = _cost(grid, width, samples)
                if best is None or cost < best[0]:
                    best = cost, grid, kernel_of, axes
                break
    if best is None:
        precision = "double" if double else "single"
        raise ArgumentError("NUFFT: eps", f"at least {reached:.1e} in {precision} precision", eps)
    _, grid, kernel_of, axes = best
    scales = tuple(axis.scale / math.sqrt(len(axis.scale)) for axis in axes)
    return Layout(grid, design_kernel(*kernel_of), scales)


def _total_error(axes: list[Axis], grid: tuple[int, ...], double: bool) -> float:
    rounding = (2.0**-52 if double else 2.0**-23) * math.sqrt(math.log2(math.prod(grid) + 1))
    rounding *= math.prod(axis.gain for axis in axes)
    # Half as much again, because one image or one set of samples may be worse than the mean.
    return 1.5 * math.hypot(rounding, *(axis.error for axis in axes))


def smooth_size(minimum: int) -> int:
    """The smallest 5-smooth integer not below ``minimum``."""
    best = 1 << max(minimum - 1, 0).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            quotient = -(-minimum // three)
            best = min(best, three << max(quotient - 1, 0).bit_length())
            three *= 3
        five *= 5
    return best


def _grid_size(pixels: int, oversampling: float, width: int) -> int:
    # A grid of at least twice the width keeps the taps of one point on distinct cells.
    return smooth_size(max(math.ceil(oversampling * pixels), 2 * width))


def _cost(grid: tuple[int, ...], width: int, samples: int) -> float:
    # In units of one multiply-add on eight coils, as measured on the native kernels.
    return samples * (width ** len(grid) + 25) + _fft_cost(grid)


def _fft_cost(grid: tuple[int, ...]) -> float:
    cells = math.prod(grid)
    return 1.5 * cells * math.log2(max(cells, 2))


def toeplitz_is_cheaper(layout: Layout, image_shape: tuple[int, ...], samples: int) -> bool:
    """Whether a gram by Toeplitz embedding costs less than gridding there and back."""
    half = tuple(smooth_size(n) for n in image_shape)
    embedded = 2 * 2 ** len(half) * _fft_cost(half)
    # It needs no sorting and touches less memory, which the units do not count.
    return embedded < 1.3 * 2 * _cost(layout.grid_shape, layout.kernel.width, samples)


def _phases(frequency: np.ndarray, offset: np.ndarray) -> np.ndarray:
    return np.exp(-2j * np.pi * frequency[:, None] * offset)


def _responses(taps: np.ndarray, position: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """What the taps make of ``exp(-2 pi i frequency x)``, relative to it: (frequencies, positions)."""
    width = taps.shape[1]
    response = _phases(frequency, np.arange(width) - width / 2) @ taps.T
    return response * _phases(frequency, (position + 1) / 2)


def _best_scale(taps: np.ndarray, position: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    response = _responses(taps, position, frequency)
    return response.real.mean(1) / (np.abs(response) ** 2).mean(1)


def _rms_error(taps: np.ndarray, position: np.ndarray, frequency: np.ndarray, weights: np.ndarray) -> float:
    scale = _best_scale(taps, position, frequency)
    error = np.abs(1 - scale[:, None] * _responses(taps, position, frequency)) ** 2
    return math.sqrt(weights @ error.mean(1) / weights.sum())


def _kaiser_bessel(width: int, oversampling: float, position: np.ndarray) -> np.ndarray:
    distance = (position[:, None] + 1) / 2 + np.arange(width) - width / 2
    beta = math.pi * math.sqrt(max((width * (1 - 0.5 / oversampling)) ** 2 - 0.8, 0.25))
    return np.i0(beta * np.sqrt(np.maximum(1 - (2 * distance / width) ** 2, 0))) / np.i0(beta)
