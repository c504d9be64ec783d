"""Conformal intervals of images, calibrated by several sites without their errors leaving them.

A score is an absolute error over a scale, |x - t| / u; the interval of a pixel is x ± q u with the quantile q
of the scores of calibration. Sites tell a histogram of their scores, which is a sum over pixels and adds over
sites, also under a secure sum; q is the upper edge of the bin that the quantile is in, so that coverage on
the calibration itself is never below the level. Pixels of one patient are not exchangeable with those of
another: on new patients the level holds on average over patients like those of the calibration, not for each.

Source: Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random World*, 2005; Lu et al., "Federated
conformal predictors", ICML 2023 (quantiles of several clients by sketches).
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter

# Upper edges of the bins of scores, 1.5 % apart; the last bin has what is larger.
EDGES = np.geomspace(1e-4, 1e4, 1241)


class Coverage(NamedTuple):
    """How often references were inside of their intervals.

    Attributes:
      coverage: part of the pixels, NaN of none.
      width: mean of 2 q u.
      pixels: how many.
    """

    coverage: float
    width: float
    pixels: int


def error_scale(images: np.ndarray, start: np.ndarray, floor: float = 0.02) -> np.ndarray:
    """A scale of errors that needs no reference: where a network changed much, much may be wrong.

    The change |x - x0|, averaged over windows of 5 x 5 pixels (at edges over those that there are), plus
    ``floor`` of the largest |x0| of the image.

    Args:
      images: x (examples, ny, nx), real or complex.
      start: x0 alike, such as the zero-filled image.
      floor: positive.
    """
    change = np.abs(np.abs(images) - np.abs(start))
    window = (1, 5, 5)
    # Where a window leaves the image, the part of it inside.
    total, part = (
        uniform_filter(x, window, mode="constant") for x in (change, np.ones(change.shape, change.dtype))
    )
    return total / part + floor * np.abs(start).max((1, 2), keepdims=True)


def score_histogram(scores: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Numbers of scores by bin, int64 (len(EDGES) + 1,): scores in (edge before, edge]; what a site tells.

    Args:
      scores: any shape, not negative.
      counted: bool of that shape, which count.

    Raises:
      ValueError: the shapes differ.
    """
    if scores.shape != counted.shape:
        raise ValueError(f"counted: expected the shape {scores.shape} of the scores, found {counted.shape}")
    bins = np.searchsorted(EDGES, scores[counted], side="left")
    return np.bincount(bins, minlength=len(EDGES) + 1)


def conformal_quantile(histogram: np.ndarray, level: float) -> float:
    """q: the upper edge of the bin of the ceil((n + 1) level)-th smallest score.

    Args:
      histogram: of `score_histogram`, of one site or summed over sites.
      level: of coverage, in (0, 1), such as 0.9.

    Returns:
      A number; infinity where there are too few scores, or the quantile is beyond the last edge.

    Raises:
      ValueError: the level is out of range, or the histogram has another length or negative numbers.
    """
    counts = np.asarray(histogram, np.int64)
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, found {level}")
    if counts.shape != (len(EDGES) + 1,) or counts.min() < 0:
        expected = f"{len(EDGES) + 1} numbers of 0 or more"
        raise ValueError(f"histogram: expected {expected}, found the shape {counts.shape}")
    rank = math.ceil((counts.sum() + 1) * level)
    place = int(np.searchsorted(np.cumsum(counts), rank))
    return float(EDGES[place]) if place < len(EDGES) else math.inf


def coverage(errors: np.ndarray, scale: np.ndarray, counted: np.ndarray, quantile: float) -> Coverage:
    """How many of the absolute errors are at most ``quantile * scale``; arrays of one shape."""
    inside = (errors <= quantile * scale) & counted
    pixels = int(counted.sum())
    if not pixels:
        return Coverage(math.nan, math.nan, 0)
    width = 2 * quantile * float(np.mean(scale[counted], dtype=np.float64))
    return Coverage(float(inside.sum() / pixels), width, pixels)
