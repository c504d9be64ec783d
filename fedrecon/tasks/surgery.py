"""Tasks whose networks have no batch normalization, made of tasks that have."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models import BatchNorm
from fedrecon.types import Task, Variables

KINDS = ("group", "instance", "layer")


def without_batch_normalization(task: Task, kind: str = "group") -> tuple[Task, dict[str, str]]:
    """Replaces batch normalization in a task's flax modules by a normalization of single examples.

    This is deepee's surgeon (Ziller et al.). Scales and shifts keep their names, numbers and values; running
    statistics are gone. Where an example has no pixels, its channels are normalized together. Layers of this
    package and ``flax.linen.BatchNorm`` are found, wherever in the modules they are, when the task's
    functions are traced.

    Args:
      task: any that calls flax modules.
      kind: "group": group normalization with the most groups, up to 32, that divide the channels; "instance":
        every channel by itself; "layer": all channels together.

    Returns:
      The task, and what was replaced: path of a layer -> words.

    Raises:
      ValueError: running statistics remain: of other layers, or of functions that were compiled before.
    """
    if kind not in KINDS:
        raise ArgumentError("kind", f"one of {', '.join(KINDS)}", repr(kind))
    replaced: dict[str, str] = {}
    intercept = functools.partial(_replace, kind, replaced)

    def under(function: Callable) -> Callable:
        @functools.wraps(function)
        def intercepted(*arguments: Any) -> Any:
            with nn.intercept_methods(intercept):
                return function(*arguments)

        return intercepted

    # Traced anew: a compiled initialization would not see the interceptor.
    init = jax.jit(under(lambda key: task.init(key)))
    shapes = jax.eval_shape(init, jax.random.key(0))
    if found := jax.tree_util.tree_leaves_with_path(shapes.stats):
        where = ", ".join(jax.tree_util.keystr(path) for path, _ in found[:3])
        raise ArgumentError("task", "running statistics of batch normalization alone", where)
    made = Task(
        init,
        under(task.loss),
        under(task.metrics),
        under(task.predict),
        Variables(task.normalization.params, shapes.stats),
    )
    return made, replaced


def groups_of(channels: int, kind: str = "group") -> int:
    """Groups of channels that are normalized together: for "group" the most, up to 32, that divide them."""
    if kind == "group":
        return next(count for count in range(min(32, channels), 0, -1) if channels % count == 0)
    return channels if kind == "instance" else 1


def _replace(
    kind: str, replaced: dict[str, str], call: Callable, args: tuple, kwargs: dict, context: Any
) -> Any:
    module = context.module
    if not isinstance(module, BatchNorm | nn.BatchNorm) or context.method_name != "__call__":
        return call(*args, **kwargs)
    x = args[0] if args else kwargs["x"]
    channels = x.shape[-1]
    # Of a single pixel nothing would be left.
    groups = groups_of(channels, kind) if math.prod(x.shape[1:-1]) > 1 else 1
    replaced["/".join(module.path)] = f"{groups} groups of {channels} channels"
    grouped = x.reshape(len(x), -1, groups, channels // groups)
    mean = grouped.mean((1, 3), keepdims=True)
    variance = jnp.square(grouped - mean).mean((1, 3), keepdims=True)
    found = ((grouped - mean) * jax.lax.rsqrt(variance + module.epsilon)).reshape(x.shape)
    if getattr(module, "use_scale", True):
        found = found * module.param("scale", nn.initializers.ones, (channels,))
    if getattr(module, "use_bias", True):
        found = found + module.param("bias", nn.initializers.zeros, (channels,))
    return found.astype(x.dtype)
