"""How far the data of sites lie apart."""

import numpy as np
from scipy import linalg

from fedrecon.errors import ArgumentError


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Distance of two normal distributions fitted to features (Dowson and Landau 1982; Heusel et al. 2017).

    |m - n|^2 + tr(S + T - 2 (S T)^(1/2)) of the means m, n and covariances S, T: 0 for the same features, and
    symmetric. It is a squared length in the units of the features, biased upwards where there are few
    examples for their number; compare sites of like sizes.

    Args:
      first, second: (examples, features), of an encoder at two sites.

    Raises:
      ArgumentError: fewer than two examples, or different features.
    """
    parts = [np.asarray(x, float) for x in (first, second)]
    for name, x in zip(("first", "second"), parts, strict=True):
        if x.ndim != 2 or len(x) < 2 or x.shape[1] != parts[0].shape[1]:
            raise ArgumentError(name, "features (examples of at least 2, as many features in both)", x.shape)
    means = [x.mean(0) for x in parts]
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in parts]
    # The square root of S T has the trace of that of the symmetric S^(1/2) T S^(1/2).
    values, vectors = linalg.eigh(covariances[0])
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum()
    spread = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross
    return float(max(((means[0] - means[1]) ** 2).sum() + spread, 0.0))
