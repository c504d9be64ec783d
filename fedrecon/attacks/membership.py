"""Membership inference: whether an example was trained on, from losses of released models.

Scores are the higher the likelier an example was in. `loss_scores` and `logit_scores` need the released model
alone, `lira` shadow models as well (Carlini et al. 2022). In a federation the attacker is the server, which
sees a model every round: `mean_over_rounds`. A result names true-positive rates at low false-positive rates:
accuracy says little.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from fedrecon.errors import ArgumentError
from fedrecon.types import Batch, Task, Variables


class Membership(NamedTuple):
    """How well members are told from others.

    Attributes:
      auc: area under the ROC curve; 0.5 is a guess.
      auc_interval: of 95 %, by the variance of Hanley and McNeil (1982).
      tpr_0_1, tpr_1: true-positive rate at 0.1 % and at 1 % false positives.
      tpr_1_interval: Clopper-Pearson, of 95 %, of the latter at that threshold.
      members, others: how many there were.
    """

    auc: float
    auc_interval: tuple[float, float]
    tpr_0_1: float
    tpr_1: float
    tpr_1_interval: tuple[float, float]
    members: int
    others: int


def loss_scores(
    task: Task, variables: Variables, examples: Batch, key: jax.Array | None = None
) -> np.ndarray:
    """(examples,): minus the loss of each example by itself; of segmentations and reconstructions, too.

    Args:
      task: what was learned.
      variables: a released model.
      examples: leaves (examples, ...).
      key: of the losses; a fixed one by default.
    """
    key = jax.random.key(0) if key is None else key
    count = len(jax.tree.leaves(examples)[0])
    batch = {**examples, "valid": jnp.ones(count, bool)}

    def one(example: Batch) -> jax.Array:
        alone = jax.tree.map(lambda x: x[None], example)
        return -task.loss(*variables, alone, key)[0]

    return np.asarray(jax.jit(lambda batch: jax.lax.map(one, batch))(batch), np.float64)


def logit_scores(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(examples,): log p_y - log of the sum of the others, of a classification.

    Args:
      probabilities: (examples, classes).
      labels: int (examples,).
    """
    p = np.asarray(probabilities, np.float64)
    own = np.take_along_axis(p, np.asarray(labels)[:, None], 1)[:, 0]
    return np.log(np.maximum(own, 1e-30)) - np.log(np.maximum(p.sum(1) - own, 1e-30))


def mean_over_rounds(scores: np.ndarray) -> np.ndarray:
    """(examples,): mean of the scores (rounds, examples) of the models that a server saw."""
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2:
        raise ArgumentError("scores", "(rounds, examples)", scores.shape)
    return scores.mean(0)


def membership_figures(scores: np.ndarray, members: np.ndarray) -> Membership:
    """The figures of an attack.

    Args:
      scores: (examples,) finite.
      members: bool (examples,).

    Raises:
      ValueError: shapes disagree, scores are not finite, or one of the groups is empty.
    """
    scores, members = np.asarray(scores, np.float64), np.asarray(members, bool)
    if scores.shape != members.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise ArgumentError("scores", f"finite numbers {members.shape}", scores.shape)
    inside, outside = scores[members], scores[~members]
    n, m = len(inside), len(outside)
    if not n or not m:
        raise ArgumentError("members", "some members and some others", f"{n} and {m}")
    auc = float(stats.mannwhitneyu(inside, outside).statistic / (n * m))
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (n - 1) * (q1 - auc**2) + (m - 1) * (q2 - auc**2)) / (n * m)
    half = 1.96 * np.sqrt(max(variance, 0))
    caught = int((inside > _threshold(outside, 0.01)).sum())
    exact = stats.binomtest(caught, n).proportion_ci(0.95, "exact")
    return Membership(
        auc,
        (max(0.0, auc - half), min(1.0, auc + half)),
        float((inside > _threshold(outside, 0.001)).mean()),
        caught / n,
        (float(exact.low), float(exact.high)),
        n,
        m,
    )


def lira(
    scores: np.ndarray,
    shadows: np.ndarray,
    members: np.ndarray,
    *,
    online: bool = True,
) -> np.ndarray:
    """(examples,): likelihood ratios by shadow models (LiRA), with medians and one variance for all.

    Args:
      scores: (examples,) of the attacked model.
      shadows: (models, examples) of models trained on random halves of the examples.
      members: bool (models, examples), which those were.
      online: compares normal densities with and without the example; else only how far a score lies above
        those of models without it, for which no shadow model needs the example.

    Raises:
      ValueError: shapes disagree, or an example is in all models, or (online) in none.
    """
    scores, shadows = np.asarray(scores, np.float64), np.asarray(shadows, np.float64)
    members = np.asarray(members, bool)
    if shadows.shape != members.shape or shadows.shape[1:] != scores.shape:
        raise ArgumentError("shadows", f"(models, {len(scores)}), as members", shadows.shape)
    if members.all(0).any() or (online and not members.any(0).all()):
        raise ArgumentError("members", "models with and without every example", "one that is always alike")
    center, width = _normals(shadows, ~members)
    outside = stats.norm.logpdf(scores, center, width)
    if not online:
        return stats.norm.logcdf(scores, center, width)
    return stats.norm.logpdf(scores, *_normals(shadows, members)) - outside


def shadow_halves(models: int, examples: int, seed: int = 0) -> np.ndarray:
    """bool (models, examples): random halves, every example in half of the models."""
    if models < 2 or models % 2:
        raise ArgumentError("models", "an even number of at least 2", models)
    rng = np.random.default_rng(seed)
    return rng.permuted(np.tile((np.arange(models) < models // 2)[:, None], (1, examples)), axis=0)


def shadow_scores(
    train: Callable[[np.ndarray, int], Variables],
    score: Callable[[Variables], np.ndarray],
    halves: np.ndarray,
) -> np.ndarray:
    """(models, examples): scores of models that are trained on halves.

    Args:
      train: ``train(members, number) -> variables`` with bool (examples,).
      score: ``score(variables) -> (examples,)``.
      halves: bool (models, examples), of `shadow_halves`.
    """
    return np.stack([score(train(half, number)) for number, half in enumerate(halves)])


def _threshold(outside: np.ndarray, rate: float) -> float:
    """The lowest score above which at most this part of the others lies."""
    allowed = int(np.floor(rate * len(outside)))
    return float(np.sort(outside)[::-1][allowed])


def _normals(shadows: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, float]:
    """Medians of the chosen scores of each example, and one standard deviation for all."""
    values = np.where(chosen, shadows, np.nan)
    center = np.nanmedian(values, axis=0)
    width = np.sqrt(np.nanmean((values - center) ** 2))
    return center, float(max(width, 1e-9))
