"""Classifications that tell more than accuracy and one area."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.tasks.diagnosis import auc_pairs
from fedrecon.tasks.network import map_chunks
from fedrecon.types import Batch, Metrics, PyTree, Task

_CHUNK = 32


def class_scores_task(task: Task, example: Mapping[str, Any]) -> Task:
    """A classification whose metrics also have "auc_class0", "f1_class0", ...: each class against all others.

    As sums the pairs that are won and their number, and ``2 TP`` and ``2 TP + FP + FN``, within a client; of
    two classes those of class 1 alone. Predictions that are not finite make the sums NaN.

    Args:
      task: its predictions are probabilities (examples, classes).
      example: not used.
    """
    del example

    def scores(p: jax.Array, batch: Batch) -> Metrics:
        label, valid, found = batch["label"], batch["valid"], {}
        unknown = ~jnp.isfinite(jnp.where(valid[:, None], p, 0)).all()
        for c in [1] if p.shape[1] == 2 else range(p.shape[1]):
            own, said = valid & (label == c), valid & (jnp.argmax(p, 1) == c)
            found[f"auc_class{c}"] = auc_pairs(p[:, c], own, valid & (label != c))
            both = 2.0 * (own & said).sum()
            found[f"f1_class{c}"] = jnp.where(unknown, jnp.nan, both), 1.0 * (own.sum() + said.sum())
        return found

    return _with_metrics(task, scores)


def ordered_task(task: Task, example: Mapping[str, Any]) -> Task:
    """A classification of classes in an order, whose metrics also have "kappa", linearly weighted.

    Cohen's kappa within a client is ``1 - O / E``, O being the mean distance of predicted and true classes
    and E that of chance, of independent ones as frequent as both are. As sums ``n (E - O)`` and ``n E``: over
    clients they add up to a mean in which E weighs. Where both name one class only there is nothing to score.

    Args:
      task: its predictions are probabilities (examples, classes).
      example: not used.
    """
    del example

    def agreement(p: jax.Array, batch: Batch) -> Metrics:
        classes, valid = p.shape[1], batch["valid"]
        said = jax.nn.one_hot(jnp.argmax(p, 1), classes) * valid[:, None]
        true = jax.nn.one_hot(batch["label"], classes) * valid[:, None]
        number = jnp.arange(classes)
        distance = jnp.abs(number[:, None] - number).astype(float)
        observed = (said @ distance * true).sum()
        expected = said.sum(0) @ distance @ true.sum(0) / jnp.maximum(valid.sum(), 1)
        known = jnp.isfinite(jnp.where(valid[:, None], p, 0)).all()
        return {"kappa": (jnp.where(known, expected - observed, jnp.nan), expected)}

    return _with_metrics(task, agreement)


def _with_metrics(task: Task, further: Callable[[jax.Array, Batch], Metrics]) -> Task:
    def metrics(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        p = map_chunks(lambda part: task.predict(params, stats, part), batch, _CHUNK)
        return {**task.metrics(params, stats, batch), **further(jnp.asarray(p), batch)}

    return task._replace(metrics=metrics)
