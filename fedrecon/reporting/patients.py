"""Scores of diagnosis by patient, with intervals."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray


class PatientMasks(NamedTuple):
    """Lesions of each patient, counted over all slices; arrays ``(patients,)``.

    Attributes:
      overlap: pixels that are marked and lesion.
      marked: pixels that are marked.
      lesion: pixels that are lesion.
    """

    overlap: Array
    marked: Array
    lesion: Array

    @property
    def dice(self) -> Array:
        """Dice of each patient's volume; NaN for patients without a lesion, whom Dice says nothing about."""
        size = self.marked + self.lesion
        return np.where(self.lesion > 0, 2 * self.overlap / np.maximum(size, 1), np.nan)


def patient_masks(marked: Array, lesion: Array, patient: Array) -> PatientMasks:
    """Sums masks over the slices of each patient.

    Args:
      marked: ``(examples, ny, nx)`` bool, the prediction.
      lesion: ``(examples, ny, nx)``, nonzero where there is a lesion.
      patient: ``(examples,)`` integers; the result is in their increasing order.
    """
    marked, lesion = np.asarray(marked) > 0, np.asarray(lesion) > 0
    _, rows = np.unique(patient, return_inverse=True)
    counts = [np.bincount(rows, mask.sum((1, 2))) for mask in (marked & lesion, marked, lesion)]
    return PatientMasks(*counts)


def auc(scores: Array, labels: Array, groups: Array | None = None) -> float:
    """Area under the ROC curve: the share of pairs (positive, negative) in the right order, ties one half.

    Args:
      scores: ``(examples,)``, higher for positive.
      labels: ``(examples,)``, nonzero for positive.
      groups: ``(examples,)``; only pairs within a group are compared; None for one group.

    Returns:
      The area, NaN without a pair (Mann and Whitney 1947).
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels) > 0
    groups = np.zeros(len(scores), int) if groups is None else np.asarray(groups)
    pairs = labels[:, None] & ~labels & (groups[:, None] == groups)
    wins = (scores[:, None] > scores) + 0.5 * (scores[:, None] == scores)
    return float(wins[pairs].mean()) if pairs.any() else float("nan")


def bootstrap_interval(
    statistic: Callable[[Array], float], patients: int, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of 95 % over patients drawn with replacement (Efron 1979).

    Args:
      statistic: of the indices of drawn patients ``(patients,)``; draws where it is NaN are left out.
      patients: number of patients.
      resamples: how often they are drawn.
      seed: of the draws.

    Returns:
      (low, high); NaN with fewer than two patients, or if more than half of the draws are left out.
    """
    rng = np.random.default_rng(seed)
    if patients < 2:
        return float("nan"), float("nan")
    values = np.asarray([statistic(rng.integers(0, patients, patients)) for _ in range(resamples)])
    values = values[~np.isnan(values)]
    if len(values) < resamples / 2:
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def best_threshold(score: Callable[[float], float], thresholds: Sequence[float]) -> float:
    """The threshold of the highest score; of equal ones the middle, NaN counting as the lowest."""
    values = np.nan_to_num([score(t) for t in thresholds], nan=-np.inf)
    best = np.flatnonzero(values == values.max())
    return float(thresholds[best[len(best) // 2]])
