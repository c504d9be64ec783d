"""Segmentation of images."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.tasks.network import check_batch, map_chunks, mean, network, random_flips, total
from fedrecon.tasks.overlap import segmentation_metrics
from fedrecon.types import Batch, Metrics, PyTree, Task


def segmentation_task(model: nn.Module, example: Mapping, *, flip: bool = False, chunk: int = 8) -> Task:
    """Trains a network to segment images.

    The loss of a batch is (cross-entropy + soft Dice loss) / 2: cross-entropy as the mean over pixels and
    valid examples, soft Dice loss ``1 - (2 sum p s + 1) / (sum p + sum s + 1)`` as the mean over foreground
    classes. The sums run over the whole batch (as in nnU-Net): one by one, the many images without a
    lesion would outweigh the others. ``metrics`` report the loss of each example as a batch of its own.

    Args:
      model: called as ``model(image, train=, valid=)``, such as ``UNet``; returns logits (examples, ny, nx,
        channels): one channel for one foreground class (sigmoid), otherwise one per class with background
        first (softmax).
      example: a batch of arrays or ``jax.ShapeDtypeStruct``: "image" (examples, ny, nx, channels) float
        and "segmentation" (examples, ny, nx), the class of each pixel in any numeric dtype.
      flip: mirrors training images and their references left to right at random.
      chunk: images segmented at a time in ``metrics``, which bounds memory.

    Returns:
      A task; ``metrics`` are those of ``segmentation_metrics`` and "loss" per example; ``predict`` returns
      the probabilities of all classes (examples, ny, nx, classes), background first.

    Raises:
      ValueError: a key is missing in ``example``.
    """
    check_batch(example, ("image", "segmentation"))
    net = network(model, lambda batch: (batch["image"],), example)

    def loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        if flip:
            image, segmentation = random_flips(key, batch["image"], batch["segmentation"])
            batch = {**batch, "image": image, "segmentation": segmentation}
        logits, stats = net.train(params, stats, batch)
        value = _loss(_two_sided(logits), batch["segmentation"], batch["valid"])
        seen = batch["valid"].sum(dtype=float)
        return value, (stats, {"loss": (value * seen, seen)})

    def predict(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        return jax.nn.softmax(_two_sided(net.evaluate(params, stats, batch)), -1)

    def metrics(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        def evaluate(part: Batch) -> tuple[jax.Array, jax.Array]:
            logits = _two_sided(net.evaluate(params, stats, part))
            each = jax.vmap(lambda z, s: _loss(z[None], s[None], jnp.ones(1, bool)))
            return each(logits, part["segmentation"]), jnp.argmax(logits, -1)

        classes = max(2, jax.eval_shape(net.evaluate, params, stats, batch).shape[-1])
        each, labels = map_chunks(evaluate, batch, chunk)
        return {"loss": total(each, batch["valid"]), **segmentation_metrics(labels, batch, classes)}

    return Task(net.init, loss, metrics, predict, net.normalization)


def _two_sided(logits: jax.Array) -> jax.Array:
    """Logits of all classes: the softmax of (0, z) is the sigmoid of z."""
    return jnp.concatenate([jnp.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits


def _loss(logits: jax.Array, segmentation: jax.Array, valid: jax.Array) -> jax.Array:
    reference = jax.nn.one_hot(segmentation.astype(jnp.int32), logits.shape[-1], dtype=logits.dtype)
    log_probabilities = jax.nn.log_softmax(logits, -1)
    cross_entropy = mean(-(reference * log_probabilities).sum(-1).mean((1, 2)), valid)
    weight = valid[:, None, None, None].astype(logits.dtype)
    p, s = weight * jnp.exp(log_probabilities[..., 1:]), weight * reference[..., 1:]
    overlap, size = (p * s).sum((0, 1, 2)), p.sum((0, 1, 2)) + s.sum((0, 1, 2))
    soft_dice = ((2 * overlap + 1) / (size + 1)).mean()
    # Without a valid example the loss is constant.
    return (cross_entropy + 1 - soft_dice) / 2
