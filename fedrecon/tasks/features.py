"""What layers of a task's network see, whatever module it is of."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models import NORMALIZATION, Encoder, VarNet
from fedrecon.types import Batch, PyTree, Task

Features = Callable[[PyTree, PyTree, Batch], dict[str, jax.Array]]


def layer_features(task: Task, chosen: Callable[[nn.Module], bool] | None = None) -> Features:
    """A function of what chosen layers of the network see in ``task.predict``.

    Args:
      task: any; of one that calls no flax modules, nothing is found.
      chosen: whether a bound module is meant; by default, normalization layers.

    Returns:
      ``features(params, stats, batch) -> {path: input}`` of the layers that were called, by their paths
      joined by "/". Those of repeated cascades (``fedrecon.models.unrolled.unroll``) are left out; layers
      inside of other compiled or repeated parts of a network are not supported.
    """
    wanted = chosen or (lambda module: isinstance(module, NORMALIZATION))

    def features(params: PyTree, stats: PyTree, batch: Batch) -> dict[str, jax.Array]:
        seen: dict[str, jax.Array] = {}

        def watch(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            # What cascades see does not outlive their scan.
            inside = "cascades" in context.module.path
            if context.method_name == "__call__" and not inside and wanted(context.module):
                seen["/".join(context.module.path)] = args[0]
            return call(*args, **kwargs)

        with nn.intercept_methods(watch):
            task.predict(params, stats, batch)
        return seen

    return features


def bottleneck(task: Task, parts: int = 2) -> Callable[[PyTree, PyTree, Batch], jax.Array]:
    """A function of what the first cascade of a reconstruction's `VarNet` has at its coarsest level.

    Args:
      task: whose predictions call a `VarNet`.
      parts: the level is averaged over as many windows along each axis, see `pooled`.

    Returns:
      ``represent(params, stats, batch) -> (examples, parts * parts * features)``, with the network's own
      parameters, without running anything after the first cascade. Raises ValueError of another network, or
      one whose cascades share their parameters.
    """

    def represent(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        calls: list[tuple[VarNet, PyTree, tuple]] = []

        def instead(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            if context.method_name != "__call__" or not isinstance(context.module, VarNet):
                return call(*args, **kwargs)
            calls.append((context.module.clone(parent=None), context.module.variables, args))
            return jnp.zeros((len(batch["valid"]), 1, 1))

        with nn.intercept_methods(instead):
            task.predict(params, stats, batch)
        if len(calls) != 1 or calls[0][0].shared:
            raise ArgumentError("task", "one VarNet, whose cascades have parameters of their own", "another")
        return pooled(_coarsest(*calls[0]), parts).reshape(len(batch["valid"]), -1)

    return represent


def _coarsest(model: VarNet, variables: PyTree, args: tuple) -> jax.Array:
    """The coarsest level (examples, ny, nx, features) of the first cascade."""

    def of_cascades(module: nn.Module, name: str) -> bool:
        return name == "__call__" and isinstance(module, Encoder) and module.path[0] == "cascades"

    first = {
        kind: {
            name: jax.tree.map(lambda x: x[:1], leaves) if name == "cascades" else leaves
            for name, leaves in tree.items()
        }
        for kind, tree in variables.items()
    }
    _, seen = model.clone(cascades=1).apply(
        first, *args, mutable=["intermediates"], capture_intermediates=of_cascades
    )
    # Tuples of one call, of the levels, with an axis of one cascade.
    (levels,) = jax.tree.leaves(seen["intermediates"], is_leaf=lambda x: isinstance(x, tuple))
    return levels[0][-1][0]


def pooled(x: jax.Array, parts: int) -> jax.Array:
    """Means over ``parts`` x ``parts`` windows: (examples, ny, nx, features) to those windows.

    Window i of n pixels are those from floor(i n / parts) to before ceil((i + 1) n / parts), as in
    adaptive average pooling.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        windows = [(i * size // parts, -(-(i + 1) * size // parts)) for i in range(parts)]
        means = [
            jax.lax.slice_in_dim(x, low, max(high, low + 1), axis=axis).mean(axis) for low, high in windows
        ]
        x = jnp.stack(means, axis)
    return x
