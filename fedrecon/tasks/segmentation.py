"""Segmentation of images and volumes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.tasks.labels import examined, spoil
from fedrecon.tasks.network import check_batch, map_chunks, network, random_flips, total
from fedrecon.tasks.overlap import predicted_classes, segmentation_metrics
from fedrecon.tasks.patches import sample_patches, sliding_window
from fedrecon.tasks.segmentation_losses import SegmentationLoss, segmentation_loss
from fedrecon.types import Batch, Metrics, PyTree, Task

# Folded into the key of a step, for the places of patches: no number of an example.
_PATCHES = 2**31 - 1


def segmentation_task(
    model: nn.Module,
    example: Mapping,
    *,
    loss: SegmentationLoss | None = None,
    patch: Sequence[int] | None = None,
    foreground: float = 1 / 3,
    flip: bool = False,
    chunk: int = 8,
    ignore: int | None = None,
    tolerance: float | None = None,
    normalize: Callable[[jax.Array], jax.Array] | None = None,
) -> Task:
    """Trains a network to segment images or volumes.

    ``metrics`` report the loss of each example as a batch of its own. Where a model returns several logits in
    training, finest first (deep supervision), their losses have the weights 1, 1/2, 1/4 ..., divided by their
    sum. Distances of boundaries that examples have as "distance" (`boundary_distances`) go to the loss.

    Args:
      model: called as ``model(image, train=, valid=)``, such as ``UNet``, or without those of the two that
        it does not take; returns logits (examples, [nz,] ny, nx, channels): one channel for one foreground
        class (sigmoid), otherwise one per class with background first (softmax).
      example: a batch of arrays or ``jax.ShapeDtypeStruct``: "image" (examples, [nz,] ny, nx, channels) float
        and "segmentation" (examples, [nz,] ny, nx), the class of each pixel in any numeric dtype; perhaps
        "spacing" (examples, 2 or 3), distances of the pixels.
      loss: of a batch, as `segmentation_loss` makes; by default what it makes without arguments, the mean of
        cross-entropy and soft Dice loss.
      patch: trains on one random patch of this many pixels of each image, and predicts by `sliding_window`.
      foreground: share of the patches that are centered at a pixel of some class, see `sample_patches`.
      flip: mirrors training images and their references left to right at random.
      chunk: images segmented at a time in ``metrics``, which bounds memory.
      ignore: a label, often 255, of pixels that neither loss nor metrics see; images of nothing else count as
        not valid.
      tolerance: adds the metric "surface_dice", see ``segmentation_metrics``.
      normalize: of whole images (examples, [nz,] ny, nx, channels), before anything else sees them.

    Returns:
      A task; ``metrics`` are those of ``segmentation_metrics`` and "loss" per example; ``predict`` returns
      the probabilities of all classes (examples, [nz,] ny, nx, classes), background first. The loss of an
      image with a label that is no class is NaN.

    Raises:
      ValueError: a key is missing in ``example``.
    """
    check_batch(example, ("image", "segmentation"))
    pixels = tuple(range(1, len(example["segmentation"].shape)))
    image = example["image"]
    seen_at_once = image.shape if patch is None else (image.shape[0], *patch, image.shape[-1])
    inputs = {"image": jax.ShapeDtypeStruct(seen_at_once, image.dtype)}
    net = network(model, lambda batch: (batch["image"],), inputs)
    measure = loss or segmentation_loss()
    prepare = normalize or (lambda image: image)

    def evaluate(params: PyTree, stats: PyTree, image: jax.Array) -> jax.Array:
        return two_sided(net.evaluate(params, stats, {"image": image}))

    classes = 2
    if patch is not None:
        variables = jax.eval_shape(net.init, jax.random.key(0))
        classes = jax.eval_shape(evaluate, *variables, inputs["image"]).shape[-1]

    def logits_of(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        image = prepare(batch["image"])
        if patch is None:
            return evaluate(params, stats, image)
        return sliding_window(partial(evaluate, params, stats), image, patch)

    def train(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        batch = {**batch, "image": prepare(batch["image"])}
        names = [name for name in ("image", "segmentation", "distance") if name in batch]
        if flip:
            flipped = random_flips(key, *(batch[name] for name in names), axis=pixels[-1])
            batch |= dict(zip(names, flipped, strict=True))
        if patch is not None:
            labels = batch["segmentation"]
            marked = labels if ignore is None else jnp.where(labels == ignore, 0, labels)
            parts, place = [batch[name] for name in names], jax.random.fold_in(key, _PATCHES)
            drawn = sample_patches(place, parts, marked, patch, foreground, classes)
            batch |= dict(zip(names, drawn, strict=True))
        output, stats = net.train(params, stats, batch, key)
        outputs = output if isinstance(output, tuple) else (output,)
        logits = two_sided(outputs[0])
        wrong, scored = examined(batch, "segmentation", logits.shape[-1], ignore)
        value = _supervised(measure, outputs, _references(batch, scored))
        value = spoil(value, logits, wrong.any())
        seen = scored.any(pixels).sum(dtype=float)
        return value, (stats, {"loss": (value * seen, seen)})

    def predict(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        return jax.nn.softmax(logits_of(params, stats, batch), -1)

    def metrics(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        def score(part: Batch) -> tuple[jax.Array, ...]:
            logits = logits_of(params, stats, part)
            wrong, scored = examined(part, "segmentation", logits.shape[-1], ignore)
            # Of padding a loss, too, that is left out afterwards.
            seen = scored | ~part["valid"].reshape(-1, *(1,) * len(pixels))
            arrays = (logits, *_references(part, seen))
            each = jax.vmap(lambda *case: measure(*jax.tree.map(lambda x: x[None], case)))
            losses = spoil(each(*arrays), logits, wrong)
            return losses, scored.any(pixels), predicted_classes(logits)

        classes = jax.eval_shape(logits_of, params, stats, batch).shape[-1]
        each, scored, labels = map_chunks(score, batch, chunk)
        found = segmentation_metrics(labels, batch, classes, ignore, tolerance)
        return {"loss": total(each, scored), **found}

    return Task(net.init, train, metrics, predict, net.normalization)


def two_sided(logits: jax.Array) -> jax.Array:
    """Logits of all classes: the softmax of (0, z) is the sigmoid of z."""
    return jnp.concatenate([jnp.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits


def _references(batch: Batch, scored: jax.Array) -> tuple:
    """What a loss is given besides the logits."""
    distance = (batch["distance"],) if "distance" in batch else ()
    return (batch["segmentation"], scored, batch.get("spacing"), *distance)


def _supervised(loss: SegmentationLoss, outputs: Sequence[jax.Array], references: tuple) -> jax.Array:
    """The losses of outputs of several scales, finest first, with weights 1, 1/2, 1/4 ... of sum 1."""
    weights = [0.5**level for level in range(len(outputs))]
    value = jnp.zeros((), outputs[0].dtype)
    for weight, logits in zip(weights, outputs, strict=True):
        value += weight / sum(weights) * loss(two_sided(logits), *references)
    return value
