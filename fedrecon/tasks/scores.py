"""From sums and counts to scores."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

_LOWER = ("loss", "error", "distance", "hd95", "nmse")


def lower_is_better(metric: str) -> bool:
    """Whether less is better in a metric whose name ends so: in loss, error, distance, hd95 or nmse."""
    return metric.endswith(_LOWER)


def means(metrics: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """``{name: (sum, count)}`` as ``{name: sum / count}``, on the host.

    Two things are told apart:
      - nothing to score (a count of 0): NaN;
      - a score that is not a number although something was scored, as of a network that diverged: the worst
        there is, infinity where lower is better and minus infinity elsewhere.

    Args:
      metrics: sums and counts of any shape, for instance (clients,), as `Task.metrics` and `make_evaluate`
        return them; `lower_is_better` knows them by their names.

    Returns:
      float64 arrays of the shape of the sums.
    """
    scores = {}
    for name, (total, count) in jax.device_get(dict(metrics)).items():
        total, count = np.asarray(total, np.float64), np.asarray(count, np.float64)
        worst = np.inf if lower_is_better(name) else -np.inf
        score = np.where(np.isnan(total), worst, total / np.where(count > 0, count, 1))
        scores[name] = np.where(count > 0, score, np.nan)
    return scores
