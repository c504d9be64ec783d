"""Normalization layers, and where their leaves are in a model's variables."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from operators.algebra import vary_together

PyTree = Any


def _scale_and_bias(module: nn.Module, channels: int, trained: bool = True) -> tuple[jax.Array, jax.Array]:
    if not trained:
        return jnp.ones(channels), jnp.zeros(channels)
    scale = module.param("scale", nn.initializers.ones, (channels,))
    return scale, module.param("bias", nn.initializers.zeros, (channels,))


def _spatial(x: jax.Array) -> tuple[int, ...]:
    """The axes of pixels of (examples, [nz,] ny, nx, channels)."""
    return tuple(range(1, x.ndim - 1))


def _affine(x: jax.Array, gain: jax.Array, mean: jax.Array, bias: jax.Array) -> jax.Array:
    """Normalizes, scales and shifts by one multiply-add per pixel."""
    return x * gain + (bias - mean * gain)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, epsilon: float) -> jax.Array:
    """Group normalization whose derivative keeps no image but ``x``, and passes over it twice."""
    return _normalize_forward(x, scale, bias, groups, epsilon)[0]


def _normalize_forward(x, scale, bias, groups, epsilon):
    axes = _spatial(x)
    channel_mean = x.mean(axes, keepdims=True)
    variance = jnp.square(x - channel_mean).mean(axes, keepdims=True)
    mean = _over_groups(channel_mean, groups)
    variance = _over_groups(variance + jnp.square(channel_mean - mean), groups)
    inverse = jax.lax.rsqrt(variance + epsilon)
    return _affine(x, scale * inverse, mean, bias), (x, mean, inverse, scale)


def _normalize_backward(groups, epsilon, residuals, cotangent):
    x, mean, inverse, scale = residuals
    axes, pixels = _spatial(x), math.prod(x.shape[1:-1])
    bias_gradient = cotangent.sum(axes, keepdims=True)
    scale_gradient = (cotangent * (x - mean)).sum(axes, keepdims=True) * inverse
    shift = inverse * _over_groups(scale * bias_gradient, groups) / pixels
    slope = jnp.square(inverse) * _over_groups(scale * scale_gradient, groups) / pixels
    dx = scale * inverse * cotangent - slope * (x - mean) - shift
    return dx, scale_gradient.sum((0, *axes)), bias_gradient.sum((0, *axes))


_normalize.defvjp(_normalize_forward, _normalize_backward)


def _alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays of one dtype that vary over the same mesh axes, so that a custom VJP sees equal types."""
    dtype = jnp.result_type(*arrays)
    return vary_together(*(a.astype(dtype) for a in arrays))


def _over_groups(moment: jax.Array, groups: int) -> jax.Array:
    """Means over the channels of each group, at every channel."""
    channels = moment.shape[-1]
    if groups == channels:
        return moment
    grouped = moment.reshape(*moment.shape[:-1], groups, -1).mean(-1, keepdims=True)
    return jnp.broadcast_to(grouped, (*grouped.shape[:-1], channels // groups)).reshape(moment.shape)


class InstanceNorm(nn.Module):
    """Instance normalization: moments over the pixels of each example and channel (Ulyanov et al. 2016).

    Attributes:
      epsilon: added to the variance.
      affine: scales and shifts by trained parameters afterwards.
    """

    epsilon: float = 1e-5
    affine: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """Normalizes x (examples, [nz,] ny, nx, channels); ``train`` and ``valid`` change nothing."""
        scale, bias = _scale_and_bias(self, x.shape[-1], self.affine)
        return _normalize(*_alike(x, scale, bias), x.shape[-1], self.epsilon)


class ModulatedNorm(nn.Module):
    """Instance normalization that is scaled and shifted by a linear map of a vector of each example.

    ``y = (1 + g) normalized(x) + b`` with (g, b) = W c + d, which start at zero (Perez et al. 2018).

    Attributes:
      condition: c (examples, features).
      epsilon: added to the variance.
    """

    condition: jax.Array
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """Normalizes x (examples, [nz,] ny, nx, channels); ``train`` and ``valid`` change nothing."""
        y = InstanceNorm(self.epsilon, affine=False)(x)
        both = nn.Dense(2 * x.shape[-1], kernel_init=nn.initializers.zeros, name="modulation")(self.condition)
        gain, shift = jnp.split(both.reshape(len(x), *(1,) * (x.ndim - 2), -1), 2, -1)
        return (1 + gain) * y + shift


class GroupNorm(nn.Module):
    """Group normalization: moments over the pixels and the channels of each group (Wu & He 2018).

    Attributes:
      groups: number of groups of consecutive channels; must divide the number of channels. 0 takes the most
        groups, up to 32, that do.
      epsilon: added to the variance.
    """

    groups: int = 4
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """Normalizes x (examples, [nz,] ny, nx, channels); ``train`` and ``valid`` change nothing."""
        channels = x.shape[-1]
        groups = self.groups or next(g for g in range(32, 0, -1) if channels % g == 0)
        if channels % groups:
            raise ArgumentError("groups", f"a divisor of the {channels} channels", groups)
        scale, bias = _scale_and_bias(self, channels)
        return _normalize(*_alike(x, scale, bias), groups, self.epsilon)


class LargestGroupNorm(GroupNorm):
    """Group normalization with the most groups, up to 32, that divide the channels."""

    groups: int = 0


class BatchNorm(nn.Module):
    """Batch normalization with running statistics in the collection "batch_stats" (Ioffe & Szegedy 2015).

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
        """Normalizes x (examples, [nz,] ny, nx, channels); ``valid`` is (examples,) bool, None for all."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_variance = self.variable("batch_stats", "var", jnp.ones, (channels,))
        scale, bias = _scale_and_bias(self, channels)

        def normalized(mean: jax.Array, variance: jax.Array) -> jax.Array:
            return _affine(x, scale * jax.lax.rsqrt(variance + self.epsilon), mean, bias)

        if not train:
            return normalized(running_mean.value, running_variance.value)
        weight = jnp.ones(x.shape[0], x.dtype) if valid is None else valid.astype(x.dtype)
        count = weight.sum()
        weight = weight / jnp.maximum(count, 1)

        def average(per_pixel: jax.Array) -> jax.Array:
            return jnp.einsum("n,nc->c", weight, per_pixel.mean(_spatial(x)))

        mean = average(x)
        variance = average(jnp.square(x - mean))
        if not self.is_initializing():
            rate = jnp.where(count > 0, 1 - self.momentum, 0.0)
            for running, new in ((running_mean, mean), (running_variance, variance)):
                running.value = (running.value + rate * (new - running.value)).astype(running.value.dtype)
        return normalized(mean, variance)


NORMALIZATION: tuple[type[nn.Module], ...] = (
    *(InstanceNorm, ModulatedNorm, GroupNorm, BatchNorm),
    *(nn.BatchNorm, nn.GroupNorm, nn.InstanceNorm, nn.LayerNorm, nn.RMSNorm),
)
# By the names that settings and files have for them.
NORMS: dict[str, type[nn.Module]] = {
    "instance": InstanceNorm,
    "group": GroupNorm,
    "batch": BatchNorm,
    "group32": LargestGroupNorm,
}


def normalization_leaves(init: Callable[..., PyTree], *args: Any) -> tuple[PyTree, PyTree]:
    """Finds the leaves that belong to normalization layers, by the type of the module that owns them.

    Args:
      init: function that returns flax variables, such as ``model.init``; traced for shapes only.
      *args: its arguments (arrays or ``jax.ShapeDtypeStruct``).

    Returns:
      (params_mask, stats_mask): pytrees of bools like the collections "params" and "batch_stats" (an empty
      dict where the model has none), True at the leaves of modules of a type in ``NORMALIZATION``.
    """
    owners = set()

    def record(call, call_args, call_kwargs, context):
        if isinstance(context.module, NORMALIZATION):
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
