"""Houlsby adapters: small perceptrons behind the blocks of any flax network, which stays as it is."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from fedrecon.errors import ArgumentError
from fedrecon.training.low_rank import leaves_like, trained_in_full
from fedrecon.types import PyTree, Task, Variables


class Adapters(NamedTuple):
    """A task whose network has adapters.

    Attributes:
      task: its parameters are ``{"base": of the network, "adapters": {place: {"down": (channels, width),
        "up": (width, channels)}}}``, with places such as "encoder.block1".
      share_mask: what travels: of the base only what is trained in full.
    """

    task: Task
    share_mask: Variables


def adapters(
    task: Task,
    base: Variables,
    example: Mapping[str, Any],
    *,
    reduction: int = 8,
    blocks: str = r"block\d+$",
    seed: int = 0,
    train: str = "",
) -> Adapters:
    """Adapters (Houlsby et al. 2019, arXiv:1902.00751): behind a block x becomes x + gelu(x D) U.

    D is normal with variance 1 / channels and U zero, so that training begins at the base, bit for bit. Of
    images it is a pair of 1 x 1 convolutions. A block that runs several times, such as that of a cascade with
    shared names, has one adapter.

    Args:
      task: what is learned, by flax modules.
      base: the model to start from; its running statistics, if any, are trained and shared.
      example: arrays of examples, or what has their shapes and dtypes.
      reduction: channels over the width of an adapter, which is one at least.
      blocks: regular expression, searched in paths of modules such as ``"encoder/block1"``, whose output is
        an array of numbers (..., channels).
      seed: of D, public.
      train: regular expression of leaves that are trained and sent in full besides, such as ``"^head/"``.

    Raises:
      ArgumentError: for a reduction below 1, or an expression that is found nowhere.
    """
    if not (isinstance(reduction, int) and reduction >= 1):
        raise ArgumentError("reduction", "a positive integer", repr(reduction))
    outputs = dict(_outputs(task, base, example))
    places = sorted(leaves_like("blocks", blocks or "$^", outputs))
    tree = {}
    for number, place in enumerate(places):
        channels, dtype = outputs[place]
        width = max(1, channels // reduction)
        key = jax.random.fold_in(jax.random.key(seed), number)
        down = jax.random.normal(key, (channels, width)) / math.sqrt(channels)
        tree[place.replace("/", ".")] = {
            "down": down.astype(dtype),
            "up": jnp.zeros((width, channels), dtype),
        }

    def under(function: Callable) -> Callable:
        def adapted(params: PyTree, *rest: Any) -> Any:
            with nn.intercept_methods(_behind(params["adapters"])):
                return function(params["base"], *rest)

        return adapted

    normal = Variables(
        {"base": task.normalization.params, "adapters": jax.tree.map(lambda _: False, tree)},
        task.normalization.stats,
    )
    made = Task(
        lambda key: Variables({"base": base.params, "adapters": tree}, base.stats),
        under(task.loss),
        under(task.metrics),
        under(task.predict),
        normal,
    )
    named = flatten_dict(base.params, sep="/")
    own = trained_in_full(named, leaves_like("train", train, named))
    return Adapters(made, Variables({"base": own, "adapters": True}, True))


def grouped_kernels(task: Task, base: Variables, example: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the kernels of grouped (depthwise) convolutions, which are no matrices."""
    found = []

    def look(module: nn.Module, output: Any) -> None:
        if getattr(module, "feature_group_count", 1) != 1:
            found.append("/".join((*module.path, "kernel")))

    _watch(task, base, example, look)
    return tuple(dict.fromkeys(found))


def _outputs(
    task: Task, base: Variables, example: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[int, Any]]]:
    """(path, (channels, dtype)) of every module whose output is an array of numbers."""
    found: dict[str, tuple[int, Any]] = {}

    def look(module: nn.Module, output: Any) -> None:
        array = module.path and isinstance(output, jax.Array) and output.ndim > 1
        if array and jnp.issubdtype(output.dtype, jnp.floating):
            found["/".join(module.path)] = output.shape[-1], output.dtype

    _watch(task, base, example, look)
    return iter(found.items())


def _watch(
    task: Task, base: Variables, example: Mapping[str, Any], look: Callable[[nn.Module, Any], None]
) -> None:
    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        output = call(*args, **kwargs)
        if context.method_name == "__call__":
            look(context.module, output)
        return output

    batch = {name: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for name, x in example.items()}
    batch["valid"] = jax.ShapeDtypeStruct((1,), bool)
    with nn.intercept_methods(intercept):
        jax.eval_shape(lambda *arguments: task.predict(*arguments), *base, batch)


def _behind(tree: Mapping[str, Mapping[str, jax.Array]]) -> Callable:
    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        output = call(*args, **kwargs)
        own = tree.get(".".join(context.module.path)) if context.method_name == "__call__" else None
        if own is None:
            return output
        return output + (nn.gelu(output @ own["down"]) @ own["up"]).astype(output.dtype)

    return intercept
