"""Classification of images."""

from collections.abc import Mapping

import flax.linen as nn
import jax

from fedrecon.errors import ArgumentError
from fedrecon.tasks.diagnosis import classification_metrics
from fedrecon.tasks.labels import examined, spoil
from fedrecon.tasks.network import check_batch, map_chunks, mean, network, random_flips, total
from fedrecon.types import Batch, Metrics, PyTree, Task


def classification_task(
    model: nn.Module,
    example: Mapping,
    *,
    flip: bool = False,
    specificity: float = 0.9,
    chunk: int = 32,
    ignore: int | None = None,
) -> Task:
    """Trains a network to classify images, by cross-entropy.

    Args:
      model: called as ``model(image, train=, valid=)``, such as ``Classifier``, or without those of the two
        that it does not take; returns logits (examples, classes) with at least two classes.
      example: a batch of arrays or ``jax.ShapeDtypeStruct``: "image" (examples, ny, nx, channels) float
        and "label" (examples,) int.
      flip: mirrors training images left to right at random.
      specificity: where the metric "sensitivity" is taken.
      chunk: images classified at a time in ``metrics``, which bounds memory.
      ignore: a label, for instance -1 for uncertain findings, whose examples count as not valid.

    Returns:
      A task; ``metrics`` are those of ``classification_metrics`` and "loss" per example; ``predict``
      returns the probabilities (examples, classes). The loss of an example whose label is no class is NaN.

    Raises:
      ValueError: a key is missing in ``example``; from ``loss`` and ``metrics``, if the model returns fewer
        than two logits.
    """
    check_batch(example, ("image", "label"))
    net = network(model, lambda batch: (batch["image"],), example)

    def losses(logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ArgumentError("model", "logits (examples, classes >= 2)", logits.shape)
        wrong, scored = examined(batch, "label", logits.shape[1], ignore)
        reference = jax.nn.one_hot(batch["label"], logits.shape[1], dtype=logits.dtype)
        each = -(reference * jax.nn.log_softmax(logits)).sum(-1)
        return spoil(each, logits, wrong), scored

    def loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        if flip:
            batch = {**batch, "image": random_flips(key, batch["image"])[0]}
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
