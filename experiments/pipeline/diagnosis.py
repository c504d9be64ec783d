"""Scores of segmentations and classifications by patient, with thresholds from the validation split."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedrecon.data import ClientData
from fedrecon.reporting import PatientMasks, auc, best_threshold, bootstrap_interval, patient_masks
from fedrecon.training import Scores

THRESHOLDS = tuple(np.round(np.linspace(0.05, 0.95, 19), 2))
# An area under the curve of fewer slices of either kind says nothing.
_LEAST = 5


class Cases(NamedTuple):
    """The valid examples of several sites, one after another.

    Attributes:
      probability: of the positive class, ``(examples, ...)``.
      truth: ``(examples, ...)``, nonzero where positive.
      site: ``(examples,)`` index of the site.
      patient: ``(examples,)`` numbers, in the order of the sites.
      names: of the sites.
    """

    probability: np.ndarray
    truth: np.ndarray
    site: np.ndarray
    patient: np.ndarray
    names: tuple[str, ...]


class Diagnosis(NamedTuple):
    """Scores of one method.

    Attributes:
      sites: site -> metric -> value; NaN where there is nothing to score.
      overall: metric -> value over all patients; "low" and "high" bound 95 % for the first.
    """

    sites: Scores
    overall: dict[str, float]


def cases(probability: np.ndarray, data: ClientData, target: str) -> Cases:
    """The cases of predictions ``(sites, examples, ..., classes)``; ``target`` names the truth."""
    valid = np.asarray(data.valid)
    site, _ = np.nonzero(valid)
    volume = np.asarray(data.examples["volume"])[valid]
    patient = np.unique(np.stack([site, volume]), axis=1, return_inverse=True)[1].ravel()
    truth = np.asarray(data.examples[target])[valid]
    return Cases(np.asarray(probability)[valid][..., 1], truth, site, patient, data.names)


def segmentation_threshold(validation: Cases) -> float:
    """The threshold of the best mean Dice of patients with a lesion; the middle one where nobody has any."""

    def score(threshold: float) -> float:
        masks = patient_masks(validation.probability > threshold, validation.truth, validation.patient)
        return _mean(masks.dice)

    return best_threshold(score, THRESHOLDS)


def classification_threshold(validation: Cases) -> float:
    """The threshold of the largest sum of sensitivity and specificity (Youden 1950)."""

    def score(threshold: float) -> float:
        positive, called = validation.truth > 0, validation.probability > threshold
        return _mean(called[positive]) + _mean(~called[~positive])

    return best_threshold(score, THRESHOLDS)


def score_segmentation(test: Cases, thresholds: Sequence[float]) -> Diagnosis:
    """Dice of patients with a lesion, and how many of those without one are marked all the same.

    Args:
      test: the cases.
      thresholds: of each site; probabilities above it are marked.
    """
    masks = _masks(test, thresholds)
    _, first = np.unique(test.patient, return_index=True)
    site, ill = test.site[first], masks.lesion > 0

    def summary(here: np.ndarray) -> dict[str, float]:
        return {
            "dice": _mean(masks.dice[here]),
            "patients": int(np.sum(here & ill)),
            "found": int(np.sum(here & ill & (masks.overlap > 0))),
            "lesion_free": int(np.sum(here & ~ill)),
            "falsely_marked": int(np.sum(here & ~ill & (masks.marked > 0))),
        }

    values = masks.dice[ill]
    low, high = bootstrap_interval(lambda drawn: _mean(values[drawn]), len(values))
    sites = {name: summary(site == i) for i, name in enumerate(test.names)}
    return Diagnosis(sites, {**summary(np.ones_like(ill)), "low": low, "high": high})


def dice_of_patients(test: Cases, thresholds: Sequence[float]) -> np.ndarray:
    """Dice of each patient in the order of their numbers, NaN of those without a lesion.

    Args: as in `score_segmentation`.
    """
    return _masks(test, thresholds).dice


def _masks(test: Cases, thresholds: Sequence[float]) -> PatientMasks:
    bounds = np.asarray(thresholds)[test.site].reshape(-1, *[1] * (test.probability.ndim - 1))
    return patient_masks(test.probability > bounds, test.truth, test.patient)


def score_classification(test: Cases, thresholds: Sequence[float]) -> Diagnosis:
    """Area under the curve within sites, sensitivity and specificity at each site's threshold, as counts.

    Args:
      test: the cases.
      thresholds: of each site; probabilities above it are called positive.
    """
    positive = test.truth > 0
    called = test.probability > np.asarray(thresholds)[test.site]

    def summary(here: np.ndarray) -> dict[str, float]:
        counts = {
            "positives": int(np.sum(here & positive)),
            "detected": int(np.sum(here & positive & called)),
            "negatives": int(np.sum(here & ~positive)),
            "cleared": int(np.sum(here & ~positive & ~called)),
        }
        enough = min(counts["positives"], counts["negatives"]) >= _LEAST
        area = auc(test.probability[here], positive[here], test.site[here]) if enough else float("nan")
        return {"auc": area, **counts}

    rows = [np.flatnonzero(test.patient == p) for p in np.unique(test.patient)]

    def drawn_area(drawn: np.ndarray) -> float:
        chosen = np.concatenate([rows[i] for i in drawn])
        return auc(test.probability[chosen], positive[chosen], test.site[chosen])

    low, high = bootstrap_interval(drawn_area, len(rows))
    sites = {name: summary(test.site == i) for i, name in enumerate(test.names)}
    overall = summary(np.ones_like(positive))
    if np.isnan(overall["auc"]):
        low = high = float("nan")
    return Diagnosis(sites, {**overall, "low": low, "high": high})


def average(diagnoses: Sequence[Diagnosis]) -> dict[str, Any]:
    """Mean over several models of their overall scores; NaN where one has none."""
    return {name: float(np.mean([d.overall[name] for d in diagnoses])) for name in diagnoses[0].overall}


def _mean(values: np.ndarray) -> float:
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
