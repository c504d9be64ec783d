"""Scores of clients, as means of summed metrics."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

Scores = dict[str, dict[str, float]]
LOWER_IS_BETTER = ("loss", "hd95", "nmse")


def site_scores(sums: Mapping[str, Any], names: tuple[str, ...]) -> Scores:
    """``{name: (sum, count)}``, each (sites,), as ``{site: {name: mean}}``; NaN where nothing was counted."""
    sums = jax.device_get(sums)
    return {
        site: {
            name: float(total[i] / count[i]) if count[i] > 0 else math.nan
            for name, (total, count) in sums.items()
        }
        for i, site in enumerate(names)
    }


def cross_site_scores(sums: Mapping[str, Any], names: tuple[str, ...]) -> tuple[Scores, Scores]:
    """Metrics of each site's own model at home, and the mean of the other sites' models there.

    Args:
      sums: ``{name: (sum, count)}``, each (models, sites).
      names: of the sites.
    """
    sums = jax.device_get(sums)
    at_home = site_scores({k: (np.diag(t), np.diag(c)) for k, (t, c) in sums.items()}, names)
    others = ~np.eye(len(names), dtype=bool)
    elsewhere: Scores = {}
    for j, site in enumerate(names):
        elsewhere[site] = {}
        for name, (total, count) in sums.items():
            total, count = total[others[:, j], j], count[others[:, j], j]
            known = len(count) > 0 and np.all(count > 0)
            elsewhere[site][name] = float(np.mean(total / count)) if known else math.nan
    return at_home, elsewhere


def mean_score(scores: Scores, metric: str) -> float:
    """Mean over the sites that have the metric."""
    return summary(scores, metric)[0]


def summary(scores: Scores, metric: str) -> tuple[float, float]:
    """Mean over the clients that have the metric, and that of the worst of them."""
    values = [v for site in scores.values() if not math.isnan(v := site.get(metric, math.nan))]
    if not values:
        return math.nan, math.nan
    return float(np.mean(values)), max(values) if metric in LOWER_IS_BETTER else min(values)


def without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null instead."""
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
