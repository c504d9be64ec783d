"""The table of interpolation kernels of the non-uniform FFT, and the choice of grid and width."""

import functools
import math
import pathlib
from typing import NamedTuple

import numpy as np

from operators.algebra import ArgumentError
from operators.fourier.kernel_fit import Kernel, evaluate, scaling

# What is tabulated, by ``python -m operators.fourier.kernel_table``.
WIDTHS = range(2, 17)
OVERSAMPLING = (1.25, 1.3, 1.4, 1.5, 1.75, 2.0)
TABLE = pathlib.Path(__file__).with_name("kernels.npz")


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


@functools.cache
def tabulated() -> dict[tuple[int, float], Kernel]:
    """The fitted kernels by (width, oversampling), for all of ``WIDTHS`` and ``OVERSAMPLING``."""
    with np.load(TABLE) as file:
        table = {name: file[name] for name in file.files}
    kernels, start = {}, 0
    for width, oversampling, powers, error, gain in zip(
        table["width"].tolist(),
        table["oversampling"].tolist(),
        table["powers"].tolist(),
        table["error"].tolist(),
        table["gain"].tolist(),
        strict=True,
    ):
        size = powers * width
        taps = table["coefficients"][start : start + size].reshape(powers, width)
        kernels[width, oversampling] = Kernel(width, oversampling, taps, error, gain)
        start += size
    return kernels


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
    taps = evaluate(tabulated()[kernel_of], position)
    frequency = (np.arange(pixels) - pixels // 2) / cells
    found = scaling(taps, position, frequency)
    gain = math.sqrt(np.mean(found.scale**2) * np.mean(np.sum(taps**2, axis=1)))
    return Axis(found.scale, math.sqrt(found.errors.mean()), gain)


@functools.lru_cache(maxsize=256)
def choose_layout(image_shape: tuple[int, ...], samples: int, eps: float, double: bool) -> Layout:
    """The cheapest grid and kernel whose relative error is at most ``eps``.

    The error is the kernel's, for images of white noise, and that of rounding in the precision used, which
    small grids amplify.

    Raises:
      ValueError: if no kernel reaches ``eps``.
    """
    reached = math.inf
    for _, grid, kernel_of in sorted(_candidates(image_shape, samples, eps, double)):
        axes = [scale_axis(kernel_of, n, g) for n, g in zip(image_shape, grid, strict=True)]
        error = _total_error([a.error for a in axes], [a.gain for a in axes], grid, double)
        if error <= eps:
            scales = tuple(axis.scale / math.sqrt(len(axis.scale)) for axis in axes)
            return Layout(grid, tabulated()[kernel_of], scales)
        reached = min(reached, error)
    precision = "double" if double else "single"
    raise ArgumentError("NUFFT: eps", f"at least {reached:.1e} in {precision} precision", eps)


def _candidates(image_shape, samples, eps, double):
    """All ((unlikely to be accurate, cost), grid, (width, oversampling of the kernel))."""
    for oversampling in OVERSAMPLING:
        for width in WIDTHS:
            grid = tuple(_grid_size(n, oversampling, width) for n in image_shape)
            ratio = min(g / n for g, n in zip(grid, image_shape, strict=True))
            kernel_of = width, max(o for o in OVERSAMPLING if o <= ratio)
            kernel = tabulated()[kernel_of]
            about = _total_error([kernel.error] * len(grid), [kernel.gain] * len(grid), grid, double)
            yield (about > 1.2 * eps, _cost(grid, width, samples)), grid, kernel_of


def _total_error(errors: list[float], gains: list[float], grid: tuple[int, ...], double: bool) -> float:
    rounding = (2.0**-52 if double else 2.0**-23) * math.sqrt(math.log2(math.prod(grid) + 1))
    rounding *= math.prod(gains)
    # Half as much again, because one image or one set of samples may be worse than the mean.
    return 1.5 * math.hypot(rounding, *errors)


@functools.lru_cache(maxsize=4096)
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
    ndim = len(half)
    # Parities share the transforms along earlier axes: 2 + 4 + 8 of 3 * 8 in volumes.
    embedded = 2 * (2 ** (ndim + 1) - 2) / ndim * _fft_cost(half)
    # The factors are measured, as are the units: volumes of one coil and of eight.
    factor = 0.4 if ndim == 3 else 0.9
    return embedded < factor * 2 * _cost(layout.grid_shape, layout.kernel.width, samples)
