"""Lesions one by one: which were found, and which of those found are there."""

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from fedrecon.errors import ArgumentError


class Lesions(NamedTuple):
    """Counts of lesions of one patient, or sums of them.

    Attributes:
      detected: reference lesions that the prediction covers.
      references: reference lesions.
      correct: predicted lesions that the reference covers.
      predictions: predicted lesions.
    """

    detected: int
    references: int
    correct: int
    predictions: int

    @property
    def sensitivity(self) -> float:
        """Share of the reference lesions that were found; NaN without any."""
        return self.detected / self.references if self.references else math.nan

    @property
    def precision(self) -> float:
        """Share of the predicted lesions that are there; NaN without any."""
        return self.correct / self.predictions if self.predictions else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 where lesions are on one side only, NaN where they are on none."""
        if not self.references and not self.predictions:
            return math.nan
        if not self.detected or not self.correct:
            return 0.0
        return 2 / (1 / self.sensitivity + 1 / self.precision)


def match_lesions(prediction: np.ndarray, reference: np.ndarray, overlap: float = 0.0) -> Lesions:
    """Compares the lesions of one patient: pixels that touch, also at corners, are one lesion.

    Counts add over patients: ``Lesions(*np.sum(counts, 0))``.

    Args:
      prediction: ([nz,] ny, nx) bool, a whole patient, since lesions go on from slice to slice.
      reference: the same.
      overlap: a lesion is covered when more than this share of its pixels is in the other mask; by default
        when one pixel is.

    Raises:
      ValueError: the shapes differ, or overlap is none from 0 to less than 1.
    """
    prediction, reference = np.asarray(prediction, bool), np.asarray(reference, bool)
    if prediction.shape != reference.shape:
        raise ArgumentError("prediction", f"the shape of the reference, {reference.shape}", prediction.shape)
    if not 0 <= overlap < 1:
        raise ArgumentError("overlap", "a number from 0 to less than 1", overlap)
    detected, references = _covered(reference, prediction, overlap)
    correct, predictions = _covered(prediction, reference, overlap)
    return Lesions(detected, references, correct, predictions)


def _covered(lesions: np.ndarray, other: np.ndarray, overlap: float) -> tuple[int, int]:
    labels, count = ndimage.label(lesions, np.ones((3,) * lesions.ndim))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    inside = np.bincount(labels[other], minlength=count + 1)[1:]
    return int((inside > overlap * sizes).sum()), count
