"""What layers of a task's network see, whatever module it is of."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from fedrecon.models import NORMALIZATION
from fedrecon.types import Batch, PyTree, Task

Features = Callable[[PyTree, PyTree, Batch], dict[str, jax.Array]]


def layer_features(task: Task, chosen: Callable[[nn.Module], bool] | None = None) -> Features:
    """A function of what chosen layers of the network see in ``task.predict``.

    Args:
      task: any; of one that calls no flax modules, nothing is found.
      chosen: whether a bound module is meant; by default, normalization layers.

    Returns:
      ``features(params, stats, batch) -> {path: input}`` of the layers that were called, by their paths
      joined by "/". Layers inside of compiled or repeated parts of a network are not supported.
    """
    wanted = chosen or (lambda module: isinstance(module, NORMALIZATION))

    def features(params: PyTree, stats: PyTree, batch: Batch) -> dict[str, jax.Array]:
        seen: dict[str, jax.Array] = {}

        def watch(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            if context.method_name == "__call__" and wanted(context.module):
                seen["/".join(context.module.path)] = args[0]
            return call(*args, **kwargs)

        with nn.intercept_methods(watch):
            task.predict(params, stats, batch)
        return seen

    return features
