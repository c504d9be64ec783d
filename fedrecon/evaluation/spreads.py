"""Whether the deviation of a pixel tells of its error."""

from typing import NamedTuple

import numpy as np
from scipy import stats

from fedrecon.errors import ArgumentError


class Spread(NamedTuple):
    """Deviations of pixels beside their errors.

    Attributes:
      correlation: Spearman's, of deviations and absolute errors; NaN of fewer than two pixels, or where
        either is everywhere the same.
      ratio: root mean square of the errors over that of the deviations: 1 if deviations are as large as
        errors, larger if they say too little; NaN of no pixels or no deviation.
      deviations, errors: root mean squares (bins,) in bins of equally many pixels, by rising deviation.
      pixels: how many count.
    """

    correlation: float
    ratio: float
    deviations: np.ndarray
    errors: np.ndarray
    pixels: int


def spread(errors: np.ndarray, deviations: np.ndarray, counted: np.ndarray, bins: int = 10) -> Spread:
    """Compares deviations, such as those of an ensemble or of samples, with errors of their mean.

    Args:
      errors: of any sign and shape.
      deviations: alike, not negative.
      counted: bool alike, which pixels count; backgrounds without errors make any deviation look good.
      bins: 1 or more; fewer where there are fewer pixels.

    Raises:
      ValueError: the shapes differ, or there are no bins.
    """
    if not errors.shape == deviations.shape == counted.shape:
        found = f"{deviations.shape} and {counted.shape}"
        raise ArgumentError("deviations, counted", f"the shape {errors.shape} of the errors", found)
    if bins < 1:
        raise ArgumentError("bins", "1 or more", bins)
    error, deviation = np.abs(errors[counted]).astype(float), deviations[counted].astype(float)
    pixels = len(error)
    if pixels < 2 or np.ptp(error) == 0 or np.ptp(deviation) == 0:
        correlation = float("nan")
    else:
        correlation = float(stats.spearmanr(error, deviation).statistic)
    total = np.sqrt(np.square(deviation).mean()) if pixels else 0.0
    ratio = float(np.sqrt(np.square(error).mean()) / total) if total > 0 else float("nan")
    parts = np.array_split(np.argsort(deviation, kind="stable"), max(1, min(bins, pixels)))
    deviations_in, errors_in = (
        np.array([np.sqrt(np.square(x[part]).mean()) for part in parts if len(part)])
        for x in (deviation, error)
    )
    return Spread(correlation, ratio, deviations_in, errors_in, pixels)
