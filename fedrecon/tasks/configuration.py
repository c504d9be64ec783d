"""Configuration of a segmentation by rules, from counts over all sites (nnU-Net, Isensee et al. 2021)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrecon.errors import ArgumentError

# Sizes in mm are counted in bins of 2 %, the same at all sites.
_LOWEST, _RATIO, _BINS = 0.01, 1.02, 640
# Intensities of either sign in bins of 2 % above this one, up to 1e6 times it.
_SMALLEST, _SIDE = 1e-3, 700
# Features of nnU-Net's reference networks in 8 GB, and the batches that go with them, by number of axes.
_REFERENCE = {2: (85_000_000, 12), 3: (560_000_000, 2)}
_MOST_FEATURES = {2: 512, 3: 320}
_FIRST_PIXELS = {2: 2048**2, 3: 256**3}
_SMALLEST_EDGE = 4
_ANISOTROPY = 3


class Fingerprint(NamedTuple):
    """What a site tells about its images: counts and sums, which add over sites.

    Attributes:
      spacing: (axes, bins) float64, cases by the distance of their pixels along each axis.
      extent: (axes, bins) float64, cases by the length of their images.
      cases: float64, number of cases.
      intensity: (3,) float64: number, sum and sum of squares of foreground pixels.
      histogram: (bins,) float64, foreground pixels by their intensity, from the lowest up.
    """

    spacing: np.ndarray
    extent: np.ndarray
    cases: np.ndarray
    intensity: np.ndarray
    histogram: np.ndarray


class Configuration(NamedTuple):
    """How to segment.

    Attributes:
      spacing: of the pixels that images are brought to, along each axis.
      shape: pixels of the median image then.
      patch: pixels of training patches and of windows; multiples of ``2**pools``.
      batch: patches in a step.
      pools: halvings along each axis.
      mean: of foreground pixels, by which intensities in units of their own are normalized, as of CT; NaN
        where no site has told.
      deviation: their standard deviation.
      low, high: their percentiles 0.5 and 99.5, to which intensities are clipped before.
      strides: of each halving the factors along the axes, 1 or 2, as ``UNet(pools=strides)`` takes them.
      windows: of each level the widths of the convolutions: 1 along axes whose pixels have always been twice
        as long as the shortest, or longer, 3 along the others and at the coarsest level.
      most: features that no level exceeds.
    """

    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    patch: tuple[int, ...]
    batch: int
    pools: tuple[int, ...]
    mean: float
    deviation: float
    low: float
    high: float
    strides: tuple[tuple[int, ...], ...]
    windows: tuple[tuple[int, ...], ...]
    most: int


def fingerprint(
    shapes: Sequence[Sequence[int]] | np.ndarray,
    spacings: Sequence[Sequence[float]] | np.ndarray,
    foreground: Sequence[float] | np.ndarray = (),
    minimum: int = 5,
) -> Fingerprint:
    """The aggregates of one site, in which counts below ``minimum`` are 0.

    Args:
      shapes: (cases, axes), pixels.
      spacings: (cases, axes), distances of the pixels in mm.
      foreground: intensities of foreground pixels of all cases, in any order; of fewer cases than ``minimum``
        nothing is told.
      minimum: the smallest count that leaves the site; 1 for all.

    Raises:
      ValueError: the arrays do not fit, or sizes are not positive and below 3 km.
    """
    shape, spacing = np.asarray(shapes, float), np.asarray(spacings, float)
    if shape.ndim != 2 or shape.shape != spacing.shape or shape.shape[1] not in _REFERENCE:
        found = f"shapes {shape.shape} and spacings {spacing.shape}"
        raise ArgumentError("shapes", "(cases, 2 or 3), and spacings like them", found)
    lengths = _counts("spacings", spacing, minimum), _counts("shapes", shape * spacing, minimum)
    values = np.asarray(foreground, float).ravel()
    values = values if len(shape) >= minimum else values[:0]
    intensity = np.array([len(values), values.sum(), np.square(values).sum()])
    cases = np.asarray(float(len(shape) if len(shape) >= minimum else 0))
    bins = np.clip(np.round(_place(values)), -_SIDE, _SIDE).astype(int) + _SIDE
    histogram = np.bincount(bins, minlength=2 * _SIDE + 1).astype(float)
    return Fingerprint(*lengths, cases, intensity, np.where(histogram < minimum, 0, histogram))


def _place(intensities: np.ndarray) -> np.ndarray:
    """Where intensities are in the histogram, from its middle."""
    return np.sign(intensities) * np.log1p(np.abs(intensities) / _SMALLEST) / math.log(_RATIO)


def _percentile(histogram: np.ndarray, share: float) -> float:
    """The middle of the bin in which a share of the pixels is reached; NaN of none."""
    if not histogram.sum():
        return math.nan
    place = int((np.cumsum(histogram) < share * histogram.sum() - 1e-9).sum()) - _SIDE
    return math.copysign(_SMALLEST * math.expm1(abs(place) * math.log(_RATIO)), place)


def _counts(name: str, lengths: np.ndarray, minimum: int) -> np.ndarray:
    if not ((lengths > _LOWEST) & (lengths < _LOWEST * _RATIO**_BINS)).all():
        raise ArgumentError(name, f"lengths above {_LOWEST} and below 3e3 mm", lengths.tolist())
    bins = np.floor(np.log(lengths / _LOWEST) / math.log(_RATIO)).astype(int)
    counts = np.stack([np.bincount(column, minlength=_BINS) for column in bins.T]).astype(float)
    return np.where(counts < minimum, 0, counts)


def _quantile(name: str, counts: np.ndarray, share: float) -> np.ndarray:
    """(axes,): the middle of the bin in which a share of the cases is reached."""
    total = counts.sum(1)
    if (total == 0).any():
        raise ArgumentError(name, "counts of cases that are not all suppressed", total.tolist())
    below = np.cumsum(counts, 1) < share * total[:, None] - 1e-9
    return _LOWEST * _RATIO ** (below.sum(1) + 0.5)


def configure(
    fingerprints: Sequence[Fingerprint], *, memory: float = 1.0, channels: int = 32, classes: int = 2
) -> Configuration:
    """Chooses spacing, patch, batch and levels by the published rules of nnU-Net.

    The spacing is the median; along an axis three times as coarse as all others, with a third as many pixels,
    the tenth percentile. The patch has the proportions of the median image, as many halvings as leave four
    pixels and as spacings within a factor of 2 allow, and shrinks until the features of the network, counted
    as nnU-Net counts them, fit. What memory is left makes the batch larger, up to a twentieth of all pixels.

    Args:
      fingerprints: of the sites, or one that is their sum.
      memory: relative to that of nnU-Net's reference, 8 GB.
      channels: of the finest level.
      classes: number of classes.

    Raises:
      ValueError: of some size nothing is known, or memory is not positive.
    """
    if not fingerprints or memory <= 0:
        raise ArgumentError("fingerprints", "one or more, and memory above 0", (len(fingerprints), memory))
    whole = Fingerprint(*(np.sum(parts, 0) for parts in zip(*fingerprints, strict=True)))
    spacing = _target_spacing(whole)
    shape = np.maximum(1, np.round(_quantile("extent", whole.extent, 0.5) / spacing)).astype(int)
    first = np.round((1 / spacing) * (_FIRST_PIXELS[len(spacing)] * spacing.prod()) ** (1 / len(spacing)))
    patch, pools = _divisible(spacing, np.minimum(first.astype(int), shape))
    reference, cases_at_once = _REFERENCE[len(spacing)]
    reference = reference * memory
    while (features := _features(patch, pools, spacing, channels, classes)) > reference:
        axis = int(np.argsort(patch / shape, kind="stable")[-1])
        smaller = patch.copy()
        smaller[axis] -= 2 ** pools[axis]
        _, fewer = _divisible(spacing, smaller)
        patch[axis] -= 2 ** fewer[axis]
        if patch[axis] < 1:
            raise ArgumentError("memory", "enough for the smallest patch", memory)
        patch, pools = _divisible(spacing, patch)
    twentieth = round(float(whole.cases) * float(shape.prod()) * 0.05 / float(patch.prod()))
    batch = max(2, min(round(reference / features * cases_at_once), twentieth))
    count, total, squares = whole.intensity
    mean = total / count if count else math.nan
    deviation = math.sqrt(max(squares / count - mean**2, 0)) if count else math.nan
    return Configuration(
        tuple(spacing.tolist()),
        tuple(shape.tolist()),
        tuple(patch.tolist()),
        batch,
        tuple(pools.tolist()),
        float(mean),
        float(deviation),
        _percentile(whole.histogram, 0.005),
        _percentile(whole.histogram, 0.995),
        *_network(spacing, patch),
        _MOST_FEATURES[len(spacing)],
    )


def _network(spacing: np.ndarray, patch: np.ndarray) -> tuple[tuple, tuple]:
    """(strides, windows) of nnU-Net: see `Configuration`."""
    seen, strides, windows = np.zeros(len(patch), bool), [], []
    for able in _levels(spacing, patch):
        seen |= spacing / spacing.min() < 2
        windows.append(tuple(np.where(seen, 3, 1).tolist()))
        strides.append(tuple(np.where(able, 2, 1).tolist()))
        spacing = np.where(able, 2 * spacing, spacing)
    return tuple(strides), (*windows, (3,) * len(patch))


def _target_spacing(whole: Fingerprint) -> np.ndarray:
    spacing = _quantile("spacing", whole.spacing, 0.5)
    shape = _quantile("extent", whole.extent, 0.5) / spacing
    worst = int(np.argmax(spacing))
    others = np.delete(np.arange(len(spacing)), worst)
    coarse = spacing[worst] > _ANISOTROPY * spacing[others].max()
    if coarse and shape[worst] * _ANISOTROPY < shape[others].min():
        low = _quantile("spacing", whole.spacing, 0.1)[worst]
        spacing[worst] = max(low, spacing[others].max())
    return spacing


def _levels(spacing: np.ndarray, patch: np.ndarray) -> list[np.ndarray]:
    """Which axes are halved at each level."""
    spacing, size, levels = spacing.copy(), patch.astype(int), []
    while (able := size >= 2 * _SMALLEST_EDGE).any():
        able &= spacing / spacing[able].min() < 2
        if able.sum() == 1 and (size[able] < 3 * _SMALLEST_EDGE).any():
            break
        levels.append(able)
        spacing = np.where(able, 2 * spacing, spacing)
        size = np.where(able, -(-size // 2), size)
    return levels


def _divisible(spacing: np.ndarray, patch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(patch, enlarged to multiples of ``2**pools``; pools)."""
    pools = sum(_levels(spacing, patch), np.zeros(len(patch), int))
    return -(-patch // 2**pools) * 2**pools, pools


def _features(
    patch: np.ndarray, pools: np.ndarray, spacing: np.ndarray, channels: int, classes: int
) -> float:
    """Numbers that nnU-Net's network holds for one patch: two convolutions in every block, both ways."""
    most = _MOST_FEATURES[len(patch)]
    sizes = [patch]
    for able in _levels(spacing, patch):
        sizes.append(np.where(able, sizes[-1] // 2, sizes[-1]))
    pixels = [float(size.prod()) for size in sizes]
    widths = [min(channels << level, most) for level in range(len(sizes))]
    down = sum(2 * width * count for width, count in zip(widths, pixels, strict=True))
    up = sum((3 * width + classes) * count for width, count in zip(widths[:-1], pixels[:-1], strict=True))
    return down + up
