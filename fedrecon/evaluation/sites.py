"""Models of sites on the data of other sites."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.evaluation.agreement import kappa


class CrossSite(NamedTuple):
    """Scores of every site's model at every site.

    Attributes:
      scores: (models, sites), NaN where there is nothing to score.
      own: mean of the diagonal, models at their own sites.
      others: mean of the rest; both leave out NaN and are NaN without any score.
    """

    scores: np.ndarray
    own: float
    others: float


def cross_site(scores: np.ndarray) -> CrossSite:
    """The means of a square matrix (models, sites) of scores, in which model i is of site i.

    Raises:
      ArgumentError: the matrix is not square.
    """
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ArgumentError("scores", "a model for each site", scores.shape)
    diagonal = np.eye(len(scores), dtype=bool)
    return CrossSite(scores, _mean(scores[diagonal]), _mean(scores[~diagonal]))


def cross_site_kappa(
    predicted: Sequence[Sequence[np.ndarray]], labels: Sequence[np.ndarray], weights: str = "linear"
) -> CrossSite:
    """Kappa of what every site's model says at every site, as Roth et al. (arXiv:2009.01871) compare sites.

    Args:
      predicted: of each model and site, the classes (examples,).
      labels: of each site, the classes (examples,).
      weights: as in `kappa`.

    Raises:
      ArgumentError: not a model for each site, or not a prediction for each example.
    """
    return cross_site(np.asarray([[kappa(p, y, weights) for p, y in zip(row, labels, strict=True)]
                                  for row in predicted]))  # fmt: skip


def _mean(scores: np.ndarray) -> float:
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else float("nan")
