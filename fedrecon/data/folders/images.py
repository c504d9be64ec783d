"""Images of different matrices and units on one grid: values from 0 to 1, areas, centered."""

from collections.abc import Callable

import numpy as np

from fedrecon.data.folders.manifest import Intensity

# Weights of the primaries in luminance, ITU-R BT.601.
_LUMINANCE = np.asarray([0.299, 0.587, 0.114], np.float32)


def normalized(image: np.ndarray, intensity: Intensity) -> np.ndarray:
    """Values from 0 at the lower to 1 at the upper bound, clipped; float32.

    Raises:
      ValueError: the bounds of percentiles are one value.
    """
    low, high = intensity.low, intensity.high
    if intensity.rule == "percentile":
        low, high = (float(v) for v in np.percentile(image, (low, high)))
        if high <= low:
            raise ValueError(f"the value {low:g} from percentile {intensity.low:g} to {intensity.high:g}")
    return np.clip((np.asarray(image, np.float32) - low) / (high - low), 0, 1).astype(np.float32)


def in_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Gray pictures ``(..., 1)`` of colors ``(..., 3)``, or the reverse."""
    if image.shape[-1] == channels:
        return image
    return image @ _LUMINANCE[:, None] if channels == 1 else np.repeat(image, channels, -1)


def fitted(image: np.ndarray, matrix: tuple[int, int]) -> np.ndarray:
    """Scales ``(slices, ny, nx, ...)`` by one factor until it fits, and centers it between zeros.

    A new pixel is the mean of the old ones over its area.
    """
    size = size_in((image.shape[1], image.shape[2]), matrix)
    scaled = by_area(image, size)
    before = [(m - n) // 2 for n, m in zip(size, matrix, strict=True)]
    widths = [(b, m - n - b) for b, n, m in zip(before, size, matrix, strict=True)]
    return np.pad(scaled, [(0, 0), *widths, *[(0, 0)] * (image.ndim - 3)])


def size_in(shape: tuple[int, int], matrix: tuple[int, int]) -> tuple[int, int]:
    """The largest size of an image (ny, nx) of the same proportions in a matrix."""
    factor = min(matrix[0] / shape[0], matrix[1] / shape[1])
    ny, nx = (max(min(round(n * factor), m), 1) for n, m in zip(shape, matrix, strict=True))
    return ny, nx


def by_area(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Means of ``(slices, ny, nx, ...)`` over the pixels of a grid of the same field of view."""
    for axis, new in zip((1, 2), shape, strict=True):
        if image.shape[axis] != new:
            weights = _overlaps(image.shape[axis], new)
            image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)
    return np.asarray(image, np.float32)


def classes_by_area(
    masks: np.ndarray, count: int, scale: Callable[[np.ndarray], np.ndarray], area: float
) -> np.ndarray:
    """Numbers of structures on another grid: of the largest, where all together take more than ``area``.

    Args:
      masks: integers ``(slices, ny, nx)`` from 0, none, to ``count``.
      count: of structures.
      scale: gives the part of each new pixel that a mask of 0 and 1 covers.
      area: part of a pixel.

    Returns:
      uint8 on the grid of ``scale``.
    """
    parts = np.stack([scale((masks == number).astype(np.float32)) for number in range(1, count + 1)])
    return np.where(parts.sum(0) > area, parts.argmax(0) + 1, 0).astype(np.uint8)


def _overlaps(old: int, new: int) -> np.ndarray:
    """(new, old): the part of each new pixel that each old one covers."""
    edges = np.arange(new + 1) * old / new
    low = np.maximum(edges[:-1, None], np.arange(old))
    high = np.minimum(edges[1:, None], np.arange(1, old + 1))
    return (np.maximum(high - low, 0) * new / old).astype(np.float32)
