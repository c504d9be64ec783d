"""How the output of a network that reads images is compared with labels: loss, scores and prediction."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.tasks.diagnosis import classification_metrics
from fedrecon.tasks.labels import examined, spoil
from fedrecon.tasks.network import mean
from fedrecon.tasks.overlap import predicted_classes, segmentation_metrics
from fedrecon.tasks.segmentation import two_sided
from fedrecon.tasks.segmentation_losses import SegmentationLoss, check_weights, focal, segmentation_loss
from fedrecon.types import Batch, Metrics


class Reading(NamedTuple):
    """What is read from images.

    Attributes:
      target: key of the labels.
      loss: ``loss(output, batch, labeled) -> ()`` of the examples where ``labeled`` (examples,) is True; 0
        without any.
      losses: the same of each example by itself, (examples,).
      metrics: ``metrics(output, batch) -> {name: (sum, count)}`` of the valid examples.
      predict: ``predict(output)``: probabilities, background or the first class first.
    """

    target: str
    loss: Callable[[jax.Array, Batch, jax.Array], jax.Array]
    losses: Callable[[jax.Array, Batch, jax.Array], jax.Array]
    metrics: Callable[[jax.Array, Batch], Metrics]
    predict: Callable[[jax.Array], jax.Array]


def segmentation_reading(
    loss: SegmentationLoss | None = None, *, ignore: int | None = None, tolerance: float | None = None
) -> Reading:
    """Masks: "segmentation" (examples, ny, nx), with loss and scores of `segmentation_task`.

    Args:
      loss: as `segmentation_loss` makes; by default the mean of cross-entropy and soft Dice loss.
      ignore, tolerance: as in `segmentation_task`.
    """
    measure = loss or segmentation_loss()

    def parts(output: jax.Array, batch: Batch, labeled: jax.Array) -> tuple[jax.Array, ...]:
        logits = two_sided(output)
        wrong, scored = examined({**batch, "valid": labeled}, "segmentation", logits.shape[-1], ignore)
        return logits, wrong, scored

    def together(output: jax.Array, batch: Batch, labeled: jax.Array) -> jax.Array:
        logits, wrong, scored = parts(output, batch, labeled)
        value = measure(logits, batch["segmentation"], scored, batch.get("spacing"))
        # The overlap of nothing with nothing is no loss.
        return spoil(jnp.where(scored.any(), value, 0), logits, wrong.any())

    def each(output: jax.Array, batch: Batch, labeled: jax.Array) -> jax.Array:
        logits, wrong, scored = parts(output, batch, labeled)
        arrays = (logits, batch["segmentation"], scored, batch.get("spacing"))
        losses = jax.vmap(lambda *case: measure(*jax.tree.map(lambda x: x[None], case)))(*arrays)
        return spoil(losses, logits, wrong)

    def metrics(output: jax.Array, batch: Batch) -> Metrics:
        logits = two_sided(output)
        labels = predicted_classes(logits)
        return segmentation_metrics(labels, batch, logits.shape[-1], ignore, tolerance)

    return Reading(
        "segmentation", together, each, metrics, lambda output: jax.nn.softmax(two_sided(output), -1)
    )


def classification_reading(
    *, class_weights: Sequence[float] | None = None, ignore: int | None = None, specificity: float = 0.9
) -> Reading:
    """Classes: "label" (examples,), with loss and scores of `classification_task`, of the same arguments."""
    check_weights(class_weights, 0.0)

    def each(output: jax.Array, batch: Batch, labeled: jax.Array) -> tuple[jax.Array, jax.Array]:
        classes = output.shape[-1]
        wrong, scored = examined({**batch, "valid": labeled}, "label", classes, ignore)
        reference = jax.nn.one_hot(batch["label"], classes, dtype=output.dtype)
        losses = focal(jax.nn.log_softmax(output), reference, class_weights, 0.0)
        return spoil(losses, output, wrong), scored

    return Reading(
        "label",
        lambda output, batch, labeled: mean(*each(output, batch, labeled)),
        lambda output, batch, labeled: each(output, batch, labeled)[0],
        lambda output, batch: classification_metrics(output, batch, specificity, ignore),
        lambda output: jax.nn.softmax(output),
    )
