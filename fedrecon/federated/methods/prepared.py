"""Tasks whose network sees prepared images, in training and wherever the model goes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from fedrecon.errors import ArgumentError
from fedrecon.types import Batch, Metrics, PyTree, Task, Variables


def image_shape(example: Mapping[str, Any]) -> tuple[int, ...]:
    """(ny, nx, channels) of the images of a batch.

    Raises:
      ValueError: there is no "image" of two dimensions.
    """
    if "image" not in example or len(example["image"].shape) != 4:
        found = {name: x.shape[1:] for name, x in example.items()}
        raise ArgumentError("example", "one with 'image' (examples, ny, nx, channels)", found)
    return tuple(example["image"].shape[1:])


def prepared(
    task: Task, name: str, start: Callable[[], PyTree], prepare: Callable[[PyTree, Batch], Batch]
) -> Task:
    """The task on batches that are prepared first, by what its statistics keep.

    Args:
      task: any.
      name: of the group among the statistics, beside those of the task.
      start: ``start() -> pytree`` of arrays, the group's initial value; no loss changes it.
      prepare: ``prepare(group, batch) -> batch``, differentiable.
    """

    def init(key: jax.Array) -> Variables:
        variables = task.init(key)
        return Variables(variables.params, {**variables.stats, name: start()})

    def plain(stats: Mapping) -> dict:
        return {key: x for key, x in stats.items() if key != name}

    def loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        value, (new, metrics) = task.loss(params, plain(stats), prepare(stats[name], batch), key)
        return value, ({**new, name: stats[name]}, metrics)

    def seen(function: Callable) -> Callable:
        return lambda params, stats, batch: function(params, plain(stats), prepare(stats[name], batch))

    kept = jax.tree.map(lambda x: False, jax.eval_shape(start))
    normalization = Variables(task.normalization.params, {**task.normalization.stats, name: kept})
    return Task(init, loss, seen(task.metrics), seen(task.predict), normalization)
