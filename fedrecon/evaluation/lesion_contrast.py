"""How much of the contrast of a small lesion a reconstruction shows.

The contrast recovery coefficient: the contrast that a lesion adds to a reconstruction over the contrast that
it adds to the reference. 1 is right, 0 is a lesion that is not there, more than 1 one that is exaggerated.
"""

import math

import numpy as np
from scipy import ndimage

from fedrecon.errors import ArgumentError

# Below this part of the 99th percentile of the intensities there is no tissue.
_TISSUE = 0.1


def disc(shape: tuple[int, int], center: tuple[float, float], radius: float) -> np.ndarray:
    """Pixels that are at most ``radius`` from ``center`` (y, x), bool ``shape``, lengths in pixels."""
    return _distance(shape, center) <= radius


def contrast(image: np.ndarray, center: tuple[float, float], radius: float) -> float:
    """Mean of a disc less that of the ring around it, from one to ``radius + 2`` pixels beyond its edge.

    Args:
      image: (ny, nx), real.
      center: (y, x) of the disc, in pixels.
      radius: of the disc, in pixels.

    Raises:
      ValueError: no pixel is in the disc, or none in the ring.
    """
    inside, ring = disc(image.shape, center, radius), _ring(image.shape, center, radius)
    if not inside.any() or not ring.any():
        expected = f"a disc with a ring inside {image.shape[0]} x {image.shape[1]} pixels"
        raise ArgumentError("center and radius", expected, (center, radius))
    return float(image[inside].mean(dtype=np.float64) - image[ring].mean(dtype=np.float64))


def contrast_recovery(
    images: tuple[np.ndarray, np.ndarray],
    references: tuple[np.ndarray, np.ndarray],
    center: tuple[float, float],
    radius: float,
) -> float:
    """The contrast that a lesion adds to a reconstruction over the one that it adds to the reference.

    Differences of both take away what the anatomy has of contrast.

    Args:
      images, references: (with the lesion, without it), each (ny, nx), real.
      center, radius: of the lesion, see `contrast`.

    Returns:
      The coefficient; NaN where the lesion adds no contrast to the reference.

    Raises:
      ValueError: as `contrast`.
    """
    found, true = (
        contrast(present, center, radius) - contrast(absent, center, radius)
        for present, absent in (images, references)
    )
    return found / true if true else math.nan


def lesion_place(rng: np.random.Generator, reference: np.ndarray, radius: float) -> tuple[int, int] | None:
    """A random pixel (y, x) whose disc and ring lie in tissue; None where there is none.

    Tissue is above a tenth of the 99th percentile of the image; holes of single pixels do not count.

    Args:
      rng: draws the place.
      reference: (ny, nx), real, not negative.
      radius: of the lesion, in pixels.
    """
    tissue = ndimage.median_filter(reference, 3) > _TISSUE * np.percentile(reference, 99)
    reach = int(2 * radius + 2)
    size = (2 * reach + 1, 2 * reach + 1)
    around = disc(size, (reach, reach), 2 * radius + 2)
    places = np.argwhere(ndimage.binary_erosion(tissue, around, border_value=0))
    if not len(places):
        return None
    y, x = places[rng.integers(len(places))]
    return int(y), int(x)


def _ring(shape: tuple[int, int], center: tuple[float, float], radius: float) -> np.ndarray:
    distance = _distance(shape, center)
    return (distance > radius + 1) & (distance <= 2 * radius + 2)


def _distance(shape: tuple[int, int], center: tuple[float, float]) -> np.ndarray:
    y, x = (np.arange(n) - c for n, c in zip(shape, center, strict=True))
    return np.hypot(y[:, None], x[None])
