"""How far the data of sites lie apart, and what goes along with it."""

from typing import NamedTuple

import numpy as np
from scipy import linalg, stats

from fedrecon.errors import ArgumentError


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Distance of two normal distributions fitted to features (Dowson and Landau 1982; Heusel et al. 2017).

    |m - n|^2 + tr(S + T - 2 (S T)^(1/2)) of the means m, n and covariances S, T: 0 for the same features, and
    symmetric. It is a squared length in the units of the features, biased upwards where there are few
    examples for their number; compare sites of like sizes.

    Args:
      first, second: (examples, features), of an encoder at two sites.

    Raises:
      ArgumentError: fewer than two examples, different features, or numbers that are not finite.
    """
    parts = [np.asarray(x, float) for x in (first, second)]
    for name, x in zip(("first", "second"), parts, strict=True):
        if x.ndim != 2 or len(x) < 2 or x.shape[1] != parts[0].shape[1]:
            raise ArgumentError(name, "features (examples of at least 2, as many features in both)", x.shape)
        if not np.isfinite(x).all():
            raise ArgumentError(name, "finite features", "others")
    means = [x.mean(0) for x in parts]
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in parts]
    # The square root of S T has the trace of that of the symmetric S^(1/2) T S^(1/2).
    values, vectors = linalg.eigh(covariances[0])
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum()
    spread = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross
    return float(max(((means[0] - means[1]) ** 2).sum() + spread, 0.0))


class RankCorrelation(NamedTuple):
    """Spearman's correlation of ranks with its interval; NaN where it is not known."""

    rho: float
    low: float
    high: float


def rank_correlation(first: np.ndarray, second: np.ndarray, confidence: float = 0.95) -> RankCorrelation:
    """Spearman's correlation of two figures of the same sites, ties having the mean of their ranks.

    The interval is that of Fisher's transformation with the variance (1 + rho^2 / 2) / (n - 3) (Bonett and
    Wright, Psychometrika 65:23, 2000). It takes sites for independent draws; of few it is wide.

    Args:
      first, second: (sites,); sites where either is not finite are left out.
      confidence: of the interval.

    Returns:
      NaN with fewer than three sites or where all have the same figure, of the bounds with fewer than four;
      a correlation of 1 or -1 bounds itself.

    Raises:
      ArgumentError: other numbers of sites, or a confidence out of (0, 1).
    """
    x, y = np.asarray(first, float), np.asarray(second, float)
    if x.shape != y.shape or x.ndim != 1:
        raise ArgumentError("second", f"{x.size} figures, one of each site", y.shape)
    if not 0 < confidence < 1:
        raise ArgumentError("confidence", "a number in (0, 1)", confidence)
    known = np.isfinite(x) & np.isfinite(y)
    ranks = [stats.rankdata(values[known]) for values in (x, y)]
    count, nan = int(known.sum()), float("nan")
    if count < 3 or any(np.ptp(values) == 0 for values in ranks):
        return RankCorrelation(nan, nan, nan)
    rho = float(np.clip(np.corrcoef(*ranks)[0, 1], -1, 1))
    if count < 4:
        return RankCorrelation(rho, nan, nan)
    if abs(rho) > 1 - 1e-12:
        return RankCorrelation(round(rho), round(rho), round(rho))
    half = stats.norm.ppf((1 + confidence) / 2) * np.sqrt((1 + rho**2 / 2) / (count - 3))
    low, high = np.tanh(np.arctanh(rho) + half * np.array([-1, 1]))
    return RankCorrelation(rho, float(low), float(high))
