"""How a local step is computed: in parts of its batch, and in which precision. Tasks made of tasks."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models import Conv
from fedrecon.types import Batch, Metrics, PyTree, Task

PRECISIONS = ("float32", "bfloat16")


def accumulated(task: Task, parts: int) -> Task:
    """The task, with the loss of a batch computed in so many parts, one after another.

    The loss is the mean of those of the parts by what they count, and so is its gradient: that of the whole
    batch to rounding, where the loss is a mean over examples and draws nothing. The memory is that of a part,
    whose activations are computed again in the backward pass. Running statistics of batch normalization see
    the parts in turn, and parts draw by keys of their own. Of a batch of another size, the parts are as many
    as divide it.

    Args:
      task: whose metric "loss" counts what the loss is a mean of; without it valid examples count.
      parts: of a batch, at least 1; with 1 the task is returned as it is.

    Raises:
      ValueError: ``parts`` is not positive.
    """
    if parts < 1:
        raise ArgumentError("parts", "a positive number", parts)
    if parts == 1:
        return task

    def loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        count = math.gcd(parts, len(batch["valid"]))
        if count == 1:
            return task.loss(params, stats, batch, key)
        split = {name: x.reshape(count, len(x) // count, *x.shape[1:]) for name, x in batch.items()}

        @jax.checkpoint
        def of_part(params: PyTree, stats: PyTree, part: Batch, number: jax.Array) -> Any:
            value, (stats, metrics) = task.loss(params, stats, part, jax.random.fold_in(key, number))
            counted = metrics["loss"][1] if "loss" in metrics else part["valid"].sum()
            counted = jnp.asarray(counted, value.dtype)
            return jnp.where(counted > 0, value * counted, 0), counted, stats, metrics

        def add(carry: Any, inputs: Any) -> Any:
            total, counted, stats, metrics = carry
            value, number, stats, found = of_part(params, stats, *inputs)
            return (total + value, counted + number, stats, jax.tree.map(jnp.add, metrics, found)), None

        # The first part makes the carry, so that it varies as the data do.
        first = of_part(params, stats, {name: x[0] for name, x in split.items()}, jnp.int32(0))
        others = {name: x[1:] for name, x in split.items()}, jnp.arange(1, count)
        (total, counted, stats, metrics), _ = jax.lax.scan(add, first, others)
        return total / jnp.maximum(counted, 1), (stats, metrics)

    return task._replace(loss=loss)


def in_precision(task: Task, precision: str) -> Task:
    """The task, with the convolutions of its loss in this precision.

    With "bfloat16" convolution layers see their inputs, kernels and biases rounded to bfloat16; parameters,
    their gradients, normalization layers, operators and the loss stay as they are, and so does evaluation.

    Args:
      task: of a network with layers of `fedrecon.models`.
      precision: one of ``PRECISIONS``; with "float32" the task is returned as it is.

    Raises:
      ValueError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ArgumentError("precision", f"one of {', '.join(PRECISIONS)}", repr(precision))
    if precision == "float32":
        return task

    def loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        with nn.intercept_methods(_rounded_inputs):
            return task.loss(_rounded_kernels(params), stats, batch, key)

    return task._replace(loss=loss)


def _rounded_inputs(run: Any, arguments: tuple, options: dict[str, Any], context: Any) -> Any:
    if isinstance(context.module, Conv) and context.method_name == "__call__":
        arguments = (arguments[0].astype(jnp.bfloat16), *arguments[1:])
    return run(*arguments, **options)


def _rounded_kernels(params: PyTree) -> PyTree:
    """Kernels of images and volumes, with their biases, rounded; everything else as it is."""
    if not isinstance(params, dict):
        return params
    # Kernels of dense layers have two axes; those of unrolled networks one more than in a single cascade.
    kernel = params.get("kernel")
    if kernel is not None and jnp.ndim(kernel) >= 4:
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    return {name: _rounded_kernels(inside) for name, inside in params.items()}
