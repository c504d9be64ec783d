"""Normalisation layers, and where their leaves are in a model's variables."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

PyTree = Any


def _affine(module: nn.Module, x: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
    """Normalises and applies the module's scale and bias as one multiply-add per pixel."""
    scale = module.param("scale", nn.initializers.ones, (x.shape[-1],))
    bias = module.param("bias", nn.initializers.zeros, (x.shape[-1],))
    gain = scale * jax.lax.rsqrt(variance + module.epsilon)
    return x * gain + (bias - mean * gain)


def _channel_moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean = x.mean((1, 2), keepdims=True)
    return mean, jnp.square(x - mean).mean((1, 2), keepdims=True)


class InstanceNorm(nn.Module):
    """Instance normalisation: moments over the pixels of each example and channel (Ulyanov et al. 2016).

    Attributes:
      epsilon: added to the variance.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """Normalises x (examples, ny, nx, channels); ``train`` and ``valid`` change nothing."""
        return _affine(self, x, *_channel_moments(x))


class GroupNorm(nn.Module):
    """Group normalisation: moments over the pixels and the channels of each group (Wu & He 2018).

    Attributes:
      groups: number of groups of consecutive channels; must divide the number of channels.
      epsilon: added to the variance.
    """

    groups: int = 4
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """Normalises x (examples, ny, nx, channels); ``train`` and ``valid`` change nothing."""
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(
                f"groups must divide the channels: found {self.groups} groups, {channels} channels"
            )

        def over_groups(moment: jax.Array) -> jax.Array:
            grouped = moment.reshape(*moment.shape[:-1], self.groups, -1).mean(-1, keepdims=True)
            return jnp.broadcast_to(grouped, (*grouped.shape[:-1], channels // self.groups)).reshape(
                moment.shape
            )

        mean, variance = _channel_moments(x)
        group_mean = over_groups(mean)
        return _affine(self, x, group_mean, over_groups(variance + jnp.square(mean - group_mean)))


class BatchNorm(nn.Module):
    """Batch normalisation with running statistics in the collection "batch_stats" (Ioffe & Szegedy 2015).

    Training uses the moments of the valid examples of the batch and moves the running mean and (biased)
    variance towards them; evaluation uses the running ones. A batch without valid examples moves nothing.

    Attributes:
      momentum: share of the old running statistics kept at each training step.
      epsilon: added to the variance.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """Normalises x (examples, ny, nx, channels); ``valid`` is (examples,) bool, None for all."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_variance = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if not train:
            return _affine(self, x, running_mean.value, running_variance.value)
        weight = jnp.ones(x.shape[0], x.dtype) if valid is None else valid.astype(x.dtype)
        count = weight.sum()
        weight = weight / jnp.maximum(count, 1)

        def average(per_pixel: jax.Array) -> jax.Array:
            return jnp.einsum("n,nc->c", weight, per_pixel.mean((1, 2)))

        mean = average(x)
        variance = average(jnp.square(x - mean))
        if not self.is_initializing():
            rate = jnp.where(count > 0, 1 - self.momentum, 0.0)
            for running, new in ((running_mean, mean), (running_variance, variance)):
                running.value = (running.value + rate * (new - running.value)).astype(running.value.dtype)
        return _affine(self, x, mean, variance)


NORMALISATION: tuple[type[nn.Module], ...] = (InstanceNorm, GroupNorm, BatchNorm)


def normalisation_leaves(init: Callable[..., PyTree], *args: Any) -> tuple[PyTree, PyTree]:
    """Finds the leaves that belong to normalisation layers, by the type of the module that owns them.

    Args:
      init: function that returns flax variables, such as ``model.init``; traced for shapes only.
      *args: its arguments (arrays or ``jax.ShapeDtypeStruct``).

    Returns:
      (params_mask, stats_mask): pytrees of bools like the collections "params" and "batch_stats" (an empty
      dict where the model has none), True at the leaves of modules of a type in ``NORMALISATION``.
    """
    owners = set()

    def record(call, call_args, call_kwargs, context):
        if isinstance(context.module, NORMALISATION):
            owners.add(context.module.path)
        return call(*call_args, **call_kwargs)

    with nn.intercept_methods(record):
        variables = jax.eval_shape(init, *args)

    def owned(path: tuple, _: Any) -> bool:
        names = tuple(key.key for key in path)
        return any(names[: len(owner)] == owner for owner in owners)

    masks = (
        jax.tree_util.tree_map_with_path(owned, variables.get(collection, {}))
        for collection in ("params", "batch_stats")
    )
    return tuple(masks)
