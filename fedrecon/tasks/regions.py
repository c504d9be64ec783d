"""Dice of regions that are unions of classes, and of those classes alone that a case has."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.tasks.labels import examined
from fedrecon.tasks.network import check_batch, map_chunks, total
from fedrecon.tasks.overlap import dice, predicted_classes
from fedrecon.types import Batch, Metrics, PyTree, Task

# Whole tumor, tumor core and enhancing tumor of the labels of BraTS: 1 necrotic core, 2 edema, 4 enhancing.
BRATS_REGIONS: Mapping[str, tuple[int, ...]] = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}


def region_dice(
    labels: jax.Array,
    reference: jax.Array,
    valid: jax.Array,
    regions: Mapping[str, Sequence[int]] = BRATS_REGIONS,
) -> Metrics:
    """Dice of each region per case, summed over cases; 1 where prediction and reference lack the region.

    Args:
      labels: (examples, [nz,] ny, nx) predicted labels.
      reference: the same, true ones.
      valid: (examples,) bool, which cases count.
      regions: name -> the labels that make up a region; whole tumor, tumor core and enhancing tumor in the
        labels of BraTS by default.

    Returns:
      {name: (sum over cases, number of cases)}.
    """

    def one(members: Sequence[int]) -> tuple[jax.Array, jax.Array]:
        found, true = (jnp.isin(x, jnp.asarray(members)) for x in (labels, reference))
        return total(dice(found, true, labels.ndim - 1), valid)

    return {name: one(members) for name, members in regions.items()}


def without_absent_classes(task: Task, example: Mapping[str, Any], *, chunk: int = 8) -> Task:
    """The segmentation whose "dice" is of the foreground classes that each case has.

    A class that the reference of a case lacks is left out there, whatever is predicted; elsewhere it would
    count as 1 where nothing is predicted. A client none of whose cases has any foreground counts nothing.

    Args:
      task: of a segmentation.
      example: shapes and dtypes of a batch.
      chunk: images segmented at a time.

    Raises:
      ValueError: the examples have no "segmentation".
    """
    check_batch(example, ("image", "segmentation"))

    def metrics(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        classes = jax.eval_shape(task.predict, params, stats, batch).shape[-1]
        labels = _labels(task, params, stats, batch, chunk)[:, None]
        reference = batch["segmentation"][:, None].astype(jnp.int32)
        foreground = jnp.arange(1, classes).reshape(-1, *(1,) * (labels.ndim - 2))
        wrong, scored = examined(batch, "segmentation", classes)
        predicted, true = ((x == foreground) & scored[:, None] for x in (labels, reference))
        pixels = tuple(range(2, labels.ndim))
        present = true.any(pixels) | wrong[:, None]
        overlaps = jnp.where(wrong[:, None], jnp.nan, dice(predicted, true, labels.ndim - 2))
        return {**task.metrics(params, stats, batch), "dice": total(overlaps, present)}

    return task._replace(metrics=metrics)


def _labels(task: Task, params: PyTree, stats: PyTree, batch: Batch, chunk: int) -> jax.Array:
    return map_chunks(lambda part: predicted_classes(task.predict(params, stats, part)), batch, chunk)
