"""Several findings in one image, each present or absent."""

from collections.abc import Mapping, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models import Classifier
from fedrecon.tasks.diagnosis import auc_pairs, true_positives_at
from fedrecon.tasks.labels import examined, spoil
from fedrecon.tasks.network import check_batch, map_chunks, mean, network, random_flips, total
from fedrecon.types import Batch, Metrics, PyTree, Task


def several_findings_task(example: Mapping, *, channels: int = 8, pools: int = 2) -> Task:
    """`findings_task` of a `Classifier`, as a task of a program: ``--task=fedrecon.tasks.findings:NAME``.

    Args:
      example: as in `findings_task`.
      channels, pools: of the network.
    """
    check_batch(example, ("image", "label"))
    if len(shape := example["label"].shape) != 2:
        raise ArgumentError("label", "arrays (examples, findings)", shape)
    return findings_task(Classifier(classes=shape[1], channels=channels, pools=pools), example)


def findings_task(
    model: nn.Module,
    example: Mapping,
    *,
    positive_weights: Sequence[float] | None = None,
    flip: bool = False,
    specificity: float = 0.9,
    chunk: int = 32,
    ignore: int | None = None,
) -> Task:
    """Trains a network to see findings that may come together: classification with several labels.

    The loss of an example is the mean over its labeled findings of ``-w y log p - (1 - y) log(1 - p)``, p
    being the sigmoid of a finding's logit; an example without a labeled finding counts as not valid. Where a
    batch has a "weight" (examples, findings), the terms are multiplied by it.

    Args:
      model: called as ``model(image, train=, valid=)``, such as ``ResNet``, or without those of the two that
        it does not take; returns logits (examples, findings).
      example: a batch of arrays or ``jax.ShapeDtypeStruct``: "image" (examples, [nz,] ny, nx, channels) float
        and "label" (examples, findings), 1 where present and 0 where absent, in any numeric dtype.
      positive_weights: (findings,) w, often absent over present cases; all 1 by default.
      flip: mirrors training images left to right at random.
      specificity: where the metric "sensitivity" is taken, for each finding.
      chunk: images seen at a time in ``metrics``, which bounds memory.
      ignore: a label, for instance -1, of findings that are uncertain in an example.

    Returns:
      A task; ``predict`` returns the probabilities (examples, findings). ``metrics`` are "loss" per example,
      "accuracy" over labeled findings, "auc", the mean of the areas of the findings that are present in some
      example and absent in some, and "sensitivity" over all present findings; see ``classification_metrics``
      for what is not finite. The loss of an example whose label is neither 0, 1 nor ``ignore`` is NaN.

    Raises:
      ValueError: a key is missing in ``example``, the model returns other logits than one for each finding,
        or the weights are not one for each, above 0.
    """
    check_batch(example, ("image", "label"))
    shape = example["label"].shape
    if len(shape) != 2:
        raise ArgumentError("label", "arrays (examples, findings)", shape)
    weights = jnp.ones(shape[1]) if positive_weights is None else jnp.asarray(positive_weights, float)
    if weights.shape != shape[1:] or not bool((weights > 0).all()):
        raise ArgumentError("positive_weights", f"{shape[1]} numbers above 0", positive_weights)
    net = network(model, lambda batch: (batch["image"],), example)

    def losses(logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        if logits.shape != batch["label"].shape:
            raise ArgumentError("model", f"logits {batch['label'].shape}, one per finding", logits.shape)
        wrong, scored = examined(batch, "label", 2, ignore)
        present = batch["label"] == 1
        each = jnp.where(present, -weights * jax.nn.log_sigmoid(logits), -jax.nn.log_sigmoid(-logits))
        each = jnp.where(scored, each * batch.get("weight", 1), 0).sum(-1) / jnp.maximum(scored.sum(-1), 1)
        return spoil(each, logits, wrong), scored.any(-1) | wrong

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
        return jax.nn.sigmoid(net.evaluate(params, stats, batch))

    def metrics(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        logits = map_chunks(lambda part: net.evaluate(params, stats, part), batch, chunk)
        evaluated = total(*losses(logits, batch))
        wrong, scored = examined(batch, "label", 2, ignore)
        known = jnp.isfinite(logits) & ~wrong[:, None]
        scores, present = jnp.where(known, logits, jnp.nan), batch["label"] == 1
        groups = (scores.T, (scored & present).T, (scored & ~present).T)
        won, pairs = jax.vmap(auc_pairs)(*groups)
        detected, positives = jax.vmap(partial(true_positives_at, specificity=specificity))(*groups)
        return {
            "loss": evaluated,
            "accuracy": total(jnp.where(known, (logits > 0) == present, jnp.nan), scored),
            "auc": total(won / jnp.maximum(pairs, 1), pairs > 0),
            "sensitivity": (detected.sum(), positives.sum()),
        }

    return Task(net.init, loss, metrics, predict, net.normalization)
