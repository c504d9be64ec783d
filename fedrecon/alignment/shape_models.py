"""Statistical shape models: label maps by modes of their signed distances."""

from typing import NamedTuple

import numpy as np

from fedrecon.errors import ArgumentError


class ShapeModel(NamedTuple):
    """Signed distances of the structures of label maps, normal around their mean (Cootes et al. 1995).

    Attributes:
      mean: (numbers,) of distances, negative inside, all structures one after another.
      modes: (modes, numbers), of length 1.
      deviations: (modes,) of the coefficients.
      shape: (structures, ny, nx).
    """

    mean: np.ndarray
    modes: np.ndarray
    deviations: np.ndarray
    shape: tuple[int, ...]

    def labels(self, coefficients: np.ndarray) -> np.ndarray:
        """Label maps int32 (examples, ny, nx) of coefficients (examples, modes).

        A pixel is of the structure in which it lies deepest, or of the background, 0.
        """
        distances = (self.mean + coefficients @ self.modes).reshape(-1, *self.shape)
        return np.where(distances.min(1) < 0, 1 + distances.argmin(1), 0).astype(np.int32)

    def drawn(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Label maps int32 (count, ny, nx) of normal coefficients."""
        return self.labels(rng.normal(size=(count, len(self.deviations))) * self.deviations)


def signed_distances(labels: np.ndarray, classes: int) -> np.ndarray:
    """Distances in pixels to boundaries of structures, negative inside: (examples, classes - 1, ny, nx).

    Boundaries lie half a pixel from the centers on either side. Of an absent structure it is the image's
    diagonal everywhere.

    Args:
      labels: (examples, ny, nx), the class of each pixel.
      classes: their number, with the background.
    """
    far = float(np.hypot(*labels.shape[1:]))

    # Takes time to import, and few programs need it.
    from scipy import ndimage

    def one(mask: np.ndarray) -> np.ndarray:
        if mask.all() or not mask.any():
            return np.full(mask.shape, -far if mask.all() else far)
        inside, outside = (ndimage.distance_transform_edt(m) for m in (mask, ~mask))
        return np.where(mask, 0.5 - inside, outside - 0.5)

    return np.stack([[one(x == number) for number in range(1, classes)] for x in np.asarray(labels)])


def shape_model(labels: np.ndarray, classes: int, modes: int = 16) -> ShapeModel:
    """The mean of signed distances and their principal modes.

    Args:
      labels: (examples, ny, nx), the class of each pixel, of two examples or more.
      classes: their number, with the background.
      modes: the most modes; there are at most one less than examples.

    Raises:
      ValueError: fewer examples, or no mode.
    """
    if labels.ndim != 3 or len(labels) < 2:
        raise ArgumentError("labels", "(examples of at least 2, ny, nx)", labels.shape)
    if modes < 1:
        raise ArgumentError("modes", "at least 1", modes)
    distances = signed_distances(labels, classes)
    flat = distances.reshape(len(labels), -1)
    mean = flat.mean(0)
    _, lengths, found = np.linalg.svd(flat - mean, full_matrices=False)
    kept = min(modes, len(labels) - 1)
    return ShapeModel(mean, found[:kept], lengths[:kept] / np.sqrt(len(labels) - 1), distances.shape[1:])
