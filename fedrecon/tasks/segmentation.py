"""Segmentation of images."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.tasks.network import check_batch, map_chunks, mean, network, total
from fedrecon.tasks.overlap import segmentation_metrics
from fedrecon.types import Batch, Metrics, PyTree, Task


def segmentation_task(model: nn.Module, example: Mapping, *, chunk: int = 8) -> Task:
    """Trains a network to segment images.

    The loss of an example is (cross-entropy + soft Dice loss) / 2: cross-entropy as the mean over pixels,
    soft Dice loss ``1 - (2 sum p s + 1) / (sum p + sum s + 1)`` as the mean over foreground classes, zero
    for an empty prediction of an empty reference.

    Args:
      model: called as ``model(image, train=, valid=)``, such as ``UNet``; returns logits (examples, ny, nx,
        channels): one channel for one foreground class (sigmoid), otherwise one per class with background
        first (softmax).
      example: a batch of arrays or ``jax.ShapeDtypeStruct``: "image" (examples, ny, nx, channels) float
        and "segmentation" (examples, ny, nx), the class of each pixel in any numeric dtype.
      chunk: images segmented at a time in ``metrics``, which bounds memory.

    Returns:
      A task; ``metrics`` are those of ``segmentation_metrics`` and "loss" per example; ``predict`` returns
      the probabilities of all classes (examples, ny, nx, classes), background first.

    Raises:
      ValueError: a key is missing in ``example``.
    """
    check_batch(example, ("image", "segmentation"))
    net = network(model, lambda batch: (batch["image"],), example)

    def loss(params: PyTree, stats: PyTree, batch: Batch, key: jax.Array):
        del key
        logits, stats = net.train(params, stats, batch)
        each = _losses(_two_sided(logits), batch["segmentation"])
        return mean(each, batch["valid"]), (stats, {"loss": total(each, batch["valid"])})

    def predict(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        return jax.nn.softmax(_two_sided(net.evaluate(params, stats, batch)), -1)

    def metrics(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        def evaluate(part: Batch) -> tuple[jax.Array, jax.Array]:
            logits = _two_sided(net.evaluate(params, stats, part))
            return _losses(logits, part["segmentation"]), jnp.argmax(logits, -1)

        classes = max(2, jax.eval_shape(net.evaluate, params, stats, batch).shape[-1])
        each, labels = map_chunks(evaluate, batch, chunk)
        return {"loss": total(each, batch["valid"]), **segmentation_metrics(labels, batch, classes)}

    return Task(net.init, loss, metrics, predict, net.normalisation)


def _two_sided(logits: jax.Array) -> jax.Array:
    """Logits of all classes: the softmax of (0, z) is the sigmoid of z."""
    return jnp.concatenate([jnp.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits


def _losses(logits: jax.Array, segmentation: jax.Array) -> jax.Array:
    reference = jax.nn.one_hot(segmentation.astype(jnp.int32), logits.shape[-1], dtype=logits.dtype)
    log_probabilities = jax.nn.log_softmax(logits, -1)
    cross_entropy = -(reference * log_probabilities).sum(-1).mean((1, 2))
    p, s = jnp.exp(log_probabilities[..., 1:]), reference[..., 1:]
    overlap, size = (p * s).sum((1, 2)), p.sum((1, 2)) + s.sum((1, 2))
    soft_dice = ((2 * overlap + 1) / (size + 1)).mean(-1)
    return (cross_entropy + 1 - soft_dice) / 2
