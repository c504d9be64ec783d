"""Scores of clients, as means of summed metrics."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fedrecon.runtime import encode_numbers
from fedrecon.tasks import lower_is_better, means

Scores = dict[str, dict[str, float]]


def site_scores(sums: Mapping[str, Any], names: tuple[str, ...]) -> Scores:
    """``{name: (sum, count)}``, each (sites,), as ``{site: {name: mean}}``.

    NaN where nothing was counted, the worst infinity where what was counted is no number; see `means`.
    """
    scores = means(sums)
    return {site: {name: float(x[i]) for name, x in scores.items()} for i, site in enumerate(names)}


def cross_site_scores(sums: Mapping[str, Any], names: tuple[str, ...]) -> tuple[Scores, Scores]:
    """Metrics of each site's own model at home, and the mean of the other sites' models there.

    Args:
      sums: ``{name: (sum, count)}``, each (models, sites).
      names: of the sites.
    """
    scores = means(sums)
    at_home = site_scores({k: (np.diag(t), np.diag(c)) for k, (t, c) in jax.device_get(sums).items()}, names)
    others = ~np.eye(len(names), dtype=bool)
    # NaN where one of the other models had nothing to score.
    elsewhere = {
        site: {
            name: float(np.mean(x[others[:, j], j])) if len(names) > 1 else math.nan
            for name, x in scores.items()
        }
        for j, site in enumerate(names)
    }
    return at_home, elsewhere


def foreign_scores(sums: Mapping[str, Any], names: tuple[str, ...], metric: str) -> tuple[Scores, int]:
    """Mean over the models of their metrics on sites that trained none of them, and the median model.

    Args:
      sums: ``{name: (sum, count)}``, each (models, sites).
      names: of the sites.
      metric: by whose value at the first site the median model, of an even number the lower, is chosen.
    """
    each = means(sums)
    scores = {
        site: {name: float(values[:, i].mean()) for name, values in each.items()}
        for i, site in enumerate(names)
    }
    order = np.argsort(each[metric][:, 0], kind="stable")
    return scores, int(order[(len(order) - 1) // 2])


def mean_score(scores: Scores, metric: str) -> float:
    """Mean over the sites that have the metric."""
    return summary(scores, metric)[0]


def summary(scores: Scores, metric: str) -> tuple[float, float]:
    """Mean over the clients that have the metric, and that of the worst of them; infinite if one diverged."""
    values = [v for site in scores.values() if not math.isnan(v := site.get(metric, math.nan))]
    if not values:
        return math.nan, math.nan
    return float(np.mean(values)), max(values) if lower_is_better(metric) else min(values)


def as_json(value: Any) -> Any:
    """For JSON: null for NaN, which stands for nothing to score, and words for what diverged."""
    return encode_numbers(_without_nan(value))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
