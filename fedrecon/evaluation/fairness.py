"""Whether a federation serves all of its clients, and those who give most."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from fedrecon.errors import ArgumentError


class Fairness(NamedTuple):
    """Performance fairness of scores by client, higher being better.

    Attributes:
      mean, worst, spread, deviation: of the scores; spread is best minus worst, deviation that of a sample.
      worst_tenth: mean of the worst tenth of the clients, of at least one.
      jain: (sum a)^2 / (n sum a^2), from 1 / n to 1 where all are equal (Jain, Chiu and Hawe 1984).
      gini: mean absolute difference over twice the mean, 0 where all are equal.
      regret: the most that a client loses against training alone, at least 0; NaN without those scores.
      unscored: clients whose score is NaN; they are left out of everything else.
    """

    mean: float
    worst: float
    worst_tenth: float
    spread: float
    deviation: float
    jain: float
    gini: float
    regret: float
    unscored: int


def performance_fairness(scores: Sequence[float], alone: Sequence[float] | None = None) -> Fairness:
    """Performance fairness of a federation.

    Args:
      scores: by client, higher is better; ``jain`` and ``gini`` are NaN where one is below 0.
      alone: those of each client's own training.

    Raises:
      ArgumentError: no score, or another number of scores alone.
    """
    values = np.asarray(scores, float)
    own = np.full_like(values, np.nan) if alone is None else np.asarray(alone, float)
    if own.shape != values.shape:
        raise ArgumentError("alone", f"{values.size} scores", own.size)
    known = ~np.isnan(values)
    if not known.any():
        raise ArgumentError("scores", "at least one that is a number", values.size)
    losses = (own - values)[known & ~np.isnan(own)]
    values = np.sort(values[known])
    count, total = values.size, values.sum()
    negative = values[0] < 0
    pairs = np.abs(values[:, None] - values[None]).sum()
    return Fairness(
        mean=values.mean(),
        worst=values[0],
        worst_tenth=values[: max(1, count // 10)].mean(),
        spread=values[-1] - values[0],
        deviation=values.std(ddof=1) if count > 1 else 0.0,
        jain=np.nan if negative else total**2 / (count * np.square(values).sum()) if total else 1.0,
        gini=np.nan if negative else pairs / (2 * count * total) if total else 0.0,
        regret=max(0.0, losses.max()) if losses.size else float("nan"),
        unscored=int((~known).sum()),
    )


def collaboration(
    contribution: Sequence[float], federated: Sequence[float], alone: Sequence[float]
) -> Mapping[str, float]:
    """Whether those who contribute more gain more: Pearson's and Spearman's correlations over clients.

    Returns:
      "benefit_pearson", "benefit_spearman": of contribution and federated minus alone; "alone_pearson",
      "alone_spearman": of contribution and the score alone. NaN where one of both does not vary.
    """
    given, gain = np.asarray(contribution, float), np.asarray(federated, float) - np.asarray(alone, float)
    found = {}
    for name, other in (("benefit", gain), ("alone", np.asarray(alone, float))):
        varies = np.ptp(given) > 0 and np.ptp(other) > 0
        found[f"{name}_pearson"] = stats.pearsonr(given, other)[0] if varies else float("nan")
        found[f"{name}_spearman"] = stats.spearmanr(given, other)[0] if varies else float("nan")
    return {name: float(value) for name, value in found.items()}
