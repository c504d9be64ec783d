"""Whether probabilities mean what they say."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from fedrecon.errors import ArgumentError


class Reliability(NamedTuple):
    """Confidence and accuracy in bins of equal width.

    Attributes:
      confidence, accuracy: means within each bin (bins,), NaN in empty ones.
      count: int (bins,).
      error: the expected calibration error: mean of |accuracy - confidence| weighted by count.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray  # type: ignore[assignment]  # hides a method of tuples that nobody calls
    error: float


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Reliability:
    """Reliability of the most probable class (Guo et al. 2017, arXiv:1706.04599), or of one label.

    Args:
      probabilities: (examples, classes), or (examples,) of the label 1.
      labels: int (examples,).
      bins: of [0, 1].

    Raises:
      ArgumentError: no example, or something that is no probability.
    """
    probabilities, labels = np.asarray(probabilities, float), np.asarray(labels)
    if not labels.size or not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
        raise ArgumentError(
            "probabilities", "numbers from 0 to 1 of at least one example", probabilities.shape
        )
    if probabilities.ndim == 1:
        confidence, right = probabilities, labels > 0
    else:
        confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, confidence, bins) / count
        accuracy = np.bincount(place, right, bins) / count
    gap = np.where(count > 0, np.abs(accuracy - mean), 0)
    return Reliability(mean, accuracy, count, float((gap * count).sum() / count.sum()))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature by which logits (examples, classes) are divided for the least cross-entropy.

    Fit it on validation, as Guo et al.; it changes no prediction. Between 0.01 and 100.
    """
    logits, labels = np.asarray(logits, float), np.asarray(labels)

    def loss(log_temperature):
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -scaled[np.arange(len(labels)), labels].mean()

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.01), np.log(100)), method="bounded").x))
