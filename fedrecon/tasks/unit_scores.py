"""One number between 0 and 1 that says how good a model is on some data."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.tasks.network import map_chunks
from fedrecon.types import Batch, PyTree, Task

UnitScore = Callable[[PyTree, PyTree, Batch], jax.Array]


def macro_f1(predicted: jax.Array, label: jax.Array, valid: jax.Array, classes: int) -> jax.Array:
    """Mean over classes of ``2 TP / (2 TP + FP + FN)``, float32 (); of classes that occur, 0 without any.

    A class occurs if an example has it or is predicted to (as ``f1_score(average="macro")`` of scikit-learn).

    Args:
      predicted: (examples,) int.
      label: (examples,) int.
      valid: (examples,) bool, who counts.
      classes: their number.
    """
    number = jnp.arange(classes)
    found = (predicted[:, None] == number) & valid[:, None]
    true = (label[:, None] == number) & valid[:, None]
    both, either = 2.0 * (found & true).sum(0), found.sum(0) + true.sum(0)
    occurs = either > 0
    each = jnp.where(occurs, both / jnp.maximum(either, 1), 0)
    return (each.sum() / jnp.maximum(occurs.sum(), 1)).astype(jnp.float32)


def unit_score(task: Task, chunk: int = 32) -> UnitScore:
    """The mean Dice of a segmentation, or the macro-averaged F1 of a classification.

    Args:
      task: of one of the two; its batches have "segmentation" or "label".
      chunk: examples classified at a time.

    Returns:
      ``score(params, stats, batch) -> float32 ()`` in [0, 1]; 0 without valid examples and of models whose
      predictions are not finite.

    Raises:
      ValueError: from the score, for another task.
    """

    def score(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        if "segmentation" in batch:
            total, count = task.metrics(params, stats, batch)["dice"]
            value = total / jnp.maximum(count, 1)
        elif "label" in batch:
            p = map_chunks(lambda part: task.predict(params, stats, part), batch, chunk)
            value = macro_f1(jnp.argmax(p, -1), batch["label"], batch["valid"], p.shape[-1])
            value = jnp.where(jnp.isfinite(jnp.where(batch["valid"][:, None], p, 0)).all(), value, 0)
        else:
            expected = "a segmentation or a classification, which have a score between 0 and 1"
            raise ArgumentError("task", expected, f"examples with {', '.join(sorted(batch))}")
        return jnp.where(jnp.isfinite(value), value, 0).astype(jnp.float32)

    return score
