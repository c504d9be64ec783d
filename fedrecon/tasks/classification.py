"""Classification of images."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax

from fedrecon.errors import ArgumentError
from fedrecon.tasks.diagnosis import classification_metrics
from fedrecon.tasks.labels import examined, spoil
from fedrecon.tasks.network import check_batch, map_chunks, mean, network, random_flips, total
from fedrecon.tasks.segmentation_losses import check_weights, focal
from fedrecon.types import Batch, Metrics, PyTree, Task


def classification_task(
    model: nn.Module,
    example: Mapping,
    *,
    class_weights: Sequence[float] | None = None,
    focus: float = 0.0,
    flip: bool = False,
    specificity: float = 0.9,
    chunk: int = 32,
    ignore: int | None = None,
) -> Task:
    """Trains a network to classify images, by cross-entropy ``-w_y (1 - p_y)^focus log p_y``.

    Where a batch has a "weight" (examples,), losses are multiplied by it, too.

    Args:
      model: called as ``model(image, train=, valid=)``, such as ``Classifier``, or without those of the two
        that it does not take; returns logits (examples, classes) with at least two classes.
      example: a batch of arrays or ``jax.ShapeDtypeStruct``: "image" (examples, [nz,] ny, nx, channels) float
        and "label" (examples,) int.
      class_weights: (classes,) w, not negative; all 1 by default. Losses are not divided by them.
      focus: 0, or 1 and more: how much less examples count that are right already (Lin et al. 2017).
      flip: mirrors training images left to right at random.
      specificity: where the metric "sensitivity" is taken.
      chunk: images classified at a time in ``metrics``, which bounds memory.
      ignore: a label, for instance -1 for uncertain findings, whose examples count as not valid.

    Returns:
      A task; ``metrics`` are those of ``classification_metrics`` and "loss" per example; ``predict``
      returns the probabilities (examples, classes). The loss of an example whose label is no class is NaN.

    Raises:
      ValueError: a key is missing in ``example``; from ``loss`` and ``metrics``, if the model returns fewer
        than two logits, or another number than that of the weights.
    """
    check_batch(example, ("image", "label"))
    check_weights(class_weights, focus)
    net = network(model, lambda batch: (batch["image"],), example)

    def losses(logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ArgumentError("model", "logits (examples, classes >= 2)", logits.shape)
        wrong, scored = examined(batch, "label", logits.shape[1], ignore)
        reference = jax.nn.one_hot(batch["label"], logits.shape[1], dtype=logits.dtype)
        each = focal(jax.nn.log_softmax(logits), reference, class_weights, focus) * batch.get("weight", 1)
        return spoil(each, logits, wrong), scored

    def loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        if flip:
            image = batch["image"]
            batch = {**batch, "image": random_flips(key, image, axis=image.ndim - 2)[0]}
        logits, stats = net.train(params, stats, batch, key)
        each = losses(logits, batch)
        return mean(*each), (stats, {"loss": total(*each)})

    def predict(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        return jax.nn.softmax(net.evaluate(params, stats, batch))

    def metrics(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        logits = map_chunks(lambda part: net.evaluate(params, stats, part), batch, chunk)
        evaluated = total(*losses(logits, batch))
        return {"loss": evaluated, **classification_metrics(logits, batch, specificity, ignore)}

    return Task(net.init, loss, metrics, predict, net.normalization)
