"""From sums and counts to scores."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

# Of the metrics of the tasks; of all others more is better.
LOWER_IS_BETTER = ("loss", "hd95", "nmse")


def means(
    metrics: Mapping[str, Any], lower_is_better: Iterable[str] = LOWER_IS_BETTER
) -> dict[str, np.ndarray]:
    """``{name: (sum, count)}`` as ``{name: sum / count}``, on the host.

    Two things are told apart:
      - nothing to score (a count of 0): NaN;
      - a score that is not a number although something was scored, as of a network that diverged: the worst
        there is, infinity where lower is better and minus infinity elsewhere.

    Args:
      metrics: sums and counts of any shape, for instance (clients,), as `Task.metrics` and `make_evaluate`
        return them.
      lower_is_better: names of the metrics of which less is better.

    Returns:
      float64 arrays of the shape of the sums.
    """
    lower = frozenset(lower_is_better)
    scores = {}
    for name, (total, count) in jax.device_get(dict(metrics)).items():
        total, count = np.asarray(total, np.float64), np.asarray(count, np.float64)
        worst = np.inf if name in lower else -np.inf
        score = np.where(np.isnan(total), worst, total / np.where(count > 0, count, 1))
        scores[name] = np.where(count > 0, score, np.nan)
    return scores
