"""Accuracy of classifications."""

import jax
import jax.numpy as jnp

from fedrecon.tasks.network import total
from fedrecon.types import Batch, Metrics


def auc_pairs(scores: jax.Array, positive: jax.Array, negative: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Area under the ROC curve, as the pairs it counts (Mann and Whitney 1947).

    Args:
      scores: (examples,) float, higher for positive.
      positive: (examples,) bool.
      negative: (examples,) bool; an example in neither is left out.

    Returns:
      (won, pairs): the number of (positive, negative) pairs that the positive example wins, ties counting
      one half, and the number of pairs; their ratio is the area.
    """
    wins = (scores[:, None] > scores) + 0.5 * (scores[:, None] == scores)
    return total(wins, positive[:, None] & negative)


def true_positives_at(
    scores: jax.Array, positive: jax.Array, negative: jax.Array, specificity: float
) -> tuple[jax.Array, jax.Array]:
    """Sensitivity at a fixed specificity, as counts.

    The threshold is the lowest at which at least the share ``specificity`` of the negative examples scores
    at or below it; a positive example is detected when it scores above it.

    Args:
      scores: (examples,) float, higher for positive.
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
    return total(detected, positive & (count > 0))


def classification_metrics(logits: jax.Array, batch: Batch, specificity: float = 0.9) -> Metrics:
    """Accuracy, AUC and sensitivity at a fixed specificity within one client.

    With two classes, class 1 is positive; with more, each class in turn is against all others and their
    counts add. AUC and sensitivity are within the client: pairs across clients are never compared.

    Args:
      logits: (examples, classes) float.
      batch: "label" (examples,) int; "valid" (examples,) bool.
      specificity: where the sensitivity is taken.

    Returns:
      {"accuracy": (correct, examples), "auc": (pairs won, pairs), "sensitivity": (detected, positives)}.
    """
    label, valid = batch["label"], batch["valid"]
    classes = logits.shape[-1]
    auc, sensitivity = [], []
    for c in [1] if classes == 2 else range(classes):
        others = jnp.where(jnp.arange(classes) == c, -jnp.inf, logits)
        # The logit of class c against the rest: monotone in its probability, without saturation.
        margin = logits[:, c] - jax.nn.logsumexp(others, axis=-1)
        groups = margin, valid & (label == c), valid & (label != c)
        auc.append(auc_pairs(*groups))
        sensitivity.append(true_positives_at(*groups, specificity))
    return {
        "accuracy": total(jnp.argmax(logits, -1) == label, valid),
        "auc": tuple(sum(part) for part in zip(*auc, strict=True)),
        "sensitivity": tuple(sum(part) for part in zip(*sensitivity, strict=True)),
    }
