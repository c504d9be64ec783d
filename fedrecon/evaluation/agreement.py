"""Agreement of readers, methods and curves: kappa, DeLong's intervals, operating points, Bland and Altman."""

from typing import NamedTuple

import numpy as np
from scipy import stats

from fedrecon.errors import ArgumentError


def kappa(first: np.ndarray, second: np.ndarray, weights: str = "none") -> float:
    """Cohen's kappa of two sets of classes (examples,): 1 for agreement, 0 for that of chance.

    Args:
      first, second: integers.
      weights: "none", "linear" or "quadratic" in the distance of classes, also of those between that nobody
        named.

    Returns:
      kappa; NaN where both name one class only.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape or not first.size:
        raise ArgumentError("second", f"{first.size} classes, at least one", second.size)
    classes = np.union1d(first, second)
    table = np.zeros((classes.size, classes.size))
    np.add.at(table, (np.searchsorted(classes, first), np.searchsorted(classes, second)), 1)
    table /= table.sum()
    distance = np.abs(classes[:, None] - classes[None])
    costs = {"none": distance > 0, "linear": distance, "quadratic": distance**2}
    if weights not in costs:
        raise ArgumentError("weights", " or ".join(costs), repr(weights))
    expected = (costs[weights] * np.outer(table.sum(1), table.sum(0))).sum()
    return float(1 - (costs[weights] * table).sum() / expected) if expected else float("nan")


class AreaInterval(NamedTuple):
    """Area under the ROC curve with its interval of DeLong et al. (1988)."""

    area: float
    low: float
    high: float


def delong_interval(scores: np.ndarray, labels: np.ndarray, confidence: float = 0.95) -> AreaInterval:
    """The area under the ROC curve, and its interval on the scale of logits, which stays within (0, 1).

    Args:
      scores: (examples,), higher for label 1.
      labels: 0 and 1.
      confidence: of the interval.

    Returns:
      the interval is the area itself where it is 0 or 1, whose variance cannot be estimated.

    Raises:
      ArgumentError: fewer than two examples of a class.
    """
    scores, labels = _scored(scores, labels)
    positive, negative = scores[labels], scores[~labels]
    if min(positive.size, negative.size) < 2:
        raise ArgumentError("labels", "at least two examples of each class", (negative.size, positive.size))
    below = np.searchsorted(np.sort(negative), positive, "left")
    upto = np.searchsorted(np.sort(negative), positive, "right")
    of_positive = (below + upto) / 2 / negative.size
    above = positive.size - np.searchsorted(np.sort(positive), negative, "right")
    from_equal = positive.size - np.searchsorted(np.sort(positive), negative, "left")
    of_negative = (above + from_equal) / 2 / positive.size
    area = float(of_positive.mean())
    variance = of_positive.var(ddof=1) / positive.size + of_negative.var(ddof=1) / negative.size
    if not variance or area in (0.0, 1.0):
        return AreaInterval(area, area, area)
    half = stats.norm.ppf((1 + confidence) / 2) * np.sqrt(variance) / (area * (1 - area))
    center = np.log(area / (1 - area))
    low, high = (1 / (1 + np.exp(-x)) for x in (center - half, center + half))
    return AreaInterval(area, float(low), float(high))


class OperatingPoint(NamedTuple):
    """A threshold with what it gives: label 1 is said of scores at or above it."""

    threshold: float
    sensitivity: float
    specificity: float


def operating_point(scores: np.ndarray, labels: np.ndarray, specificity: float) -> OperatingPoint:
    """The threshold of the highest sensitivity among those with at least this specificity.

    Choose it on validation, and report what `at_threshold` gives on the test.
    """
    scores, labels = _scored(scores, labels)
    if labels.all() or not labels.any():
        raise ArgumentError("labels", "examples of both classes", labels.size)
    candidates = np.append(np.unique(scores), np.inf)
    points = [at_threshold(scores, labels, threshold) for threshold in candidates]
    return max(
        (p for p in points if p.specificity >= specificity), key=lambda p: (p.sensitivity, p.threshold)
    )


def at_threshold(scores: np.ndarray, labels: np.ndarray, threshold: float) -> OperatingPoint:
    """Sensitivity and specificity at a threshold; NaN where a class has no example."""
    said, labels = np.asarray(scores) >= threshold, np.asarray(labels).astype(bool)
    sensitivity = said[labels].mean() if labels.any() else np.nan
    specificity = (~said[~labels]).mean() if (~labels).any() else np.nan
    return OperatingPoint(float(threshold), float(sensitivity), float(specificity))


def _scored(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores, float), np.asarray(labels).astype(bool)
    if scores.shape != labels.shape or np.isnan(scores).any():
        raise ArgumentError("scores", f"a number for each of {labels.size} labels", "NaN or another shape")
    return scores, labels


class Limits(NamedTuple):
    """Bias and limits of agreement of two measurements of the same (Bland and Altman 1986)."""

    bias: float
    low: float
    high: float


def limits_of_agreement(first: np.ndarray, second: np.ndarray) -> Limits:
    """Mean difference first minus second, and 1.96 deviations of the differences to both sides."""
    differences = np.asarray(first, float) - np.asarray(second, float)
    if differences.size < 2:
        raise ArgumentError("first", "at least two pairs", differences.size)
    spread = 1.96 * differences.std(ddof=1)
    mean = differences.mean()
    return Limits(float(mean), float(mean - spread), float(mean + spread))
