"""Segmentation of images."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.tasks.labels import examined, spoil
from fedrecon.tasks.network import check_batch, map_chunks, mean, network, random_flips, total
from fedrecon.tasks.overlap import predicted_classes, segmentation_metrics
from fedrecon.types import Batch, Metrics, PyTree, Task


def segmentation_task(
    model: nn.Module, example: Mapping, *, flip: bool = False, chunk: int = 8, ignore: int | None = None
) -> Task:
    """Trains a network to segment images.

    The loss of a batch is (cross-entropy + soft Dice loss) / 2: cross-entropy as the mean over pixels and
    valid examples, soft Dice loss ``1 - (2 sum p s + 1) / (sum p + sum s + 1)`` as the mean over foreground
    classes. The sums run over the whole batch (as in nnU-Net): one by one, the many images without a
    lesion would outweigh the others. ``metrics`` report the loss of each example as a batch of its own.

    Args:
      model: called as ``model(image, train=, valid=)``, such as ``UNet``, or without those of the two that
        it does not take; returns logits (examples, ny, nx, channels): one channel for one foreground class
        (sigmoid), otherwise one per class with background first (softmax).
      example: a batch of arrays or ``jax.ShapeDtypeStruct``: "image" (examples, ny, nx, channels) float
        and "segmentation" (examples, ny, nx), the class of each pixel in any numeric dtype.
      flip: mirrors training images and their references left to right at random.
      chunk: images segmented at a time in ``metrics``, which bounds memory.
      ignore: a label, often 255, of pixels that neither loss nor metrics see; images of nothing else count as
        not valid.

    Returns:
      A task; ``metrics`` are those of ``segmentation_metrics`` and "loss" per example; ``predict`` returns
      the probabilities of all classes (examples, ny, nx, classes), background first. The loss of an image
      with a label that is no class is NaN.

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
        logits, stats = net.train(params, stats, batch, key)
        logits = _two_sided(logits)
        wrong, scored = examined(batch, "segmentation", logits.shape[-1], ignore)
        value = _loss(logits, batch["segmentation"], scored, ignore)
        value = spoil(value, logits, wrong.any())
        seen = scored.any((1, 2)).sum(dtype=float)
        return value, (stats, {"loss": (value * seen, seen)})

    def predict(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        return jax.nn.softmax(_two_sided(net.evaluate(params, stats, batch)), -1)

    def metrics(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        def evaluate(part: Batch) -> tuple[jax.Array, ...]:
            logits = _two_sided(net.evaluate(params, stats, part))
            wrong, scored = examined(part, "segmentation", logits.shape[-1], ignore)
            # Of padding a loss, too, that is left out afterwards.
            seen = scored | ~part["valid"][:, None, None]
            each = jax.vmap(lambda z, s, seen: _loss(z[None], s[None], seen[None], ignore))
            losses = spoil(each(logits, part["segmentation"], seen), logits, wrong)
            return losses, scored.any((1, 2)), predicted_classes(logits)

        classes = max(2, jax.eval_shape(net.evaluate, params, stats, batch).shape[-1])
        each, scored, labels = map_chunks(evaluate, batch, chunk)
        return {"loss": total(each, scored), **segmentation_metrics(labels, batch, classes, ignore)}

    return Task(net.init, loss, metrics, predict, net.normalization)


def _two_sided(logits: jax.Array) -> jax.Array:
    """Logits of all classes: the softmax of (0, z) is the sigmoid of z."""
    return jnp.concatenate([jnp.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits


def _loss(logits: jax.Array, segmentation: jax.Array, scored: jax.Array, ignore: int | None) -> jax.Array:
    """The loss of a batch over the pixels that are ``scored`` (examples, ny, nx)."""
    reference = jax.nn.one_hot(segmentation.astype(jnp.int32), logits.shape[-1], dtype=logits.dtype)
    log_probabilities = jax.nn.log_softmax(logits, -1)
    entropies, valid = -(reference * log_probabilities).sum(-1), scored.any((1, 2))
    if ignore is None:
        entropies = entropies.mean((1, 2))
    else:
        entropies = jnp.where(scored, entropies, 0).sum((1, 2)) / jnp.maximum(scored.sum((1, 2)), 1)
    cross_entropy = mean(entropies, valid)
    weight = scored[..., None].astype(logits.dtype)
    p, s = weight * jnp.exp(log_probabilities[..., 1:]), weight * reference[..., 1:]
    overlap, size = (p * s).sum((0, 1, 2)), p.sum((0, 1, 2)) + s.sum((0, 1, 2))
    soft_dice = ((2 * overlap + 1) / (size + 1)).mean()
    # Without a valid example the loss is constant.
    return (cross_entropy + 1 - soft_dice) / 2
