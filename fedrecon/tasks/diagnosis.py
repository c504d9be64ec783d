"""Accuracy of classifications."""

import jax
import jax.numpy as jnp

from fedrecon.tasks.labels import examined
from fedrecon.tasks.network import total
from fedrecon.types import Batch, Metrics


def auc_pairs(scores: jax.Array, positive: jax.Array, negative: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Area under the ROC curve, as the pairs it counts (Mann and Whitney 1947).

    Args:
      scores: (examples,) float, higher for positive; pairs with NaN make the first result NaN.
      positive: (examples,) bool.
      negative: (examples,) bool; an example in neither is left out.

    Returns:
      (won, pairs): the number of (positive, negative) pairs that the positive example wins, ties counting
      one half, and the number of pairs; their ratio is the area.
    """
    wins = (scores[:, None] > scores) + 0.5 * (scores[:, None] == scores)
    unknown = jnp.isnan(scores)
    wins = jnp.where(unknown[:, None] | unknown, jnp.nan, wins)
    return total(wins, positive[:, None] & negative)


def true_positives_at(
    scores: jax.Array, positive: jax.Array, negative: jax.Array, specificity: float
) -> tuple[jax.Array, jax.Array]:
    """Sensitivity at a fixed specificity, as counts.

    The threshold is the lowest at which at least the share ``specificity`` of the negative examples scores
    at or below it; a positive example is detected when it scores above it.

    Args:
      scores: (examples,) float, higher for positive; NaN of an example that counts makes the first result
        NaN.
      positive: (examples,) bool.
      negative: (examples,) bool; an example in neither is left out.
      specificity: share between 0 and 1.

    Returns:
      (detected, positives): (0, 0) when there is no negative example to set the threshold.
    """
    count = negative.sum()
    # The margin keeps (1 - 0.9) * 10 negatives from rounding down to none.
    allowed = jnp.floor((1 - specificity) * count + 1e-4).astype(int)
    descending = -jnp.sort(-jnp.where(negative, scores, -jnp.inf))
    threshold = descending[jnp.minimum(allowed, scores.shape[0] - 1)]
    detected = scores > jnp.where(allowed < count, threshold, -jnp.inf)
    unknown = (jnp.isnan(scores) & (positive | negative)).any()
    detected = jnp.where(unknown, jnp.nan, detected)
    return total(detected, positive & (count > 0))


def classification_metrics(
    logits: jax.Array, batch: Batch, specificity: float = 0.9, ignore: int | None = None
) -> Metrics:
    """Accuracy, AUC and sensitivity at a fixed specificity within one client.

    With two classes, class 1 is positive; with more, each class in turn is against all others, as in
    scikit-learn's ``roc_auc_score(multi_class="ovr")``. AUC and sensitivity are within the client: pairs
    across clients are never compared. Edge cases:
      - a class without positive or negative examples has no area, and a client without any counts 0;
      - the sums of what an example with logits that are not finite has a part in are NaN, and so are those of
        a valid label that is no class.

    Args:
      logits: (examples, classes) float.
      batch: "label" (examples,) int; "valid" (examples,) bool.
      specificity: where the sensitivity is taken.
      ignore: a label whose examples count as not valid.

    Returns:
      {"accuracy": (correct, examples), "auc": (pairs won, pairs), "sensitivity": (detected, positives)}. With
      more than two classes "auc" is (sum of the classes' areas, classes with an area), the macro average, and
      "auc_weighted" (sum of areas times examples of the class, these examples).

    Raises:
      ValueError: outside of compiled functions, for a valid label that is no class.
    """
    label, classes = batch["label"], logits.shape[-1]
    wrong, valid = examined(batch, "label", classes, ignore)
    unknown = wrong | ~jnp.isfinite(logits).all(-1)
    areas, sensitivity, members = [], [], []
    for c in [1] if classes == 2 else range(classes):
        others = jnp.where(jnp.arange(classes) == c, -jnp.inf, logits)
        # The logit of class c against the rest: monotone in its probability, without saturation.
        margin = logits[:, c] - jax.nn.logsumexp(others, axis=-1)
        margin = jnp.where(unknown, jnp.nan, margin)
        groups = margin, valid & (label == c), valid & (label != c)
        areas.append(auc_pairs(*groups))
        members.append(groups[1].sum(dtype=float))
        sensitivity.append(true_positives_at(*groups, specificity))
    return {
        "accuracy": total(jnp.where(unknown, jnp.nan, jnp.argmax(logits, -1) == label), valid),
        **(_many_classes(areas, members) if classes > 2 else {"auc": areas[0]}),
        "sensitivity": tuple(sum(part) for part in zip(*sensitivity, strict=True)),
    }


def _many_classes(areas: list[tuple[jax.Array, jax.Array]], members: list[jax.Array]) -> Metrics:
    """Macro and weighted averages of the areas (pairs won, pairs) of the classes."""
    won, pairs = (jnp.stack(part) for part in zip(*areas, strict=True))
    area = won / jnp.maximum(pairs, 1)
    size = jnp.stack(members)
    weighted = total(area * size, pairs > 0)[0], jnp.where(pairs > 0, size, 0).sum()
    return {"auc": total(area, pairs > 0), "auc_weighted": weighted}
