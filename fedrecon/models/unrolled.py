"""What unrolled networks share: regularisers, refined coil maps, and the loop over cascades."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.models.unet import UNet
from operators import SENSE, LinearOperator


def _to_channels(x: jax.Array) -> jax.Array:
    return jnp.stack([x.real, x.imag], -1) if jnp.iscomplexobj(x) else x[..., None]


def _from_channels(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    x = jax.lax.complex(x[..., 0], x[..., 1]) if jnp.issubdtype(dtype, jnp.complexfloating) else x[..., 0]
    return x.astype(dtype)


class Regulariser(nn.Module):
    """R(x): a U-Net on real and imaginary part, normalised to mean 0 and deviation 1 per example.

    Attributes:
      channels, pools, norm, zero_init: of the U-Net.
      joint_deviation: divides both parts by one deviation, so that a part that is small stays small; else
        each part by its own.
    """

    channels: int
    pools: int
    norm: Callable[..., nn.Module]
    zero_init: bool
    joint_deviation: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, valid: jax.Array | None) -> jax.Array:
        """R(x) of images (batch, ny, nx), real or complex, of the same shape and dtype."""
        u = _to_channels(x)
        axes = (1, 2, 3) if self.joint_deviation else (1, 2)
        mean = u.mean((1, 2), keepdims=True)
        deviation = jnp.sqrt(jnp.square(u - mean).mean(axes, keepdims=True) + 1e-12)
        network = UNet(
            self.channels, self.pools, u.shape[-1], norm=self.norm, zero_init=self.zero_init, name="unet"
        )
        return _from_channels(network((u - mean) / deviation, train, valid) * deviation, x.dtype)


class CoilMapRefiner(nn.Module):
    """Adds a U-Net's correction to every coil map and restores sum |S|^2 = 1 on their support."""

    channels: int
    pools: int
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, maps: jax.Array, train: bool, valid: jax.Array | None) -> jax.Array:
        """Refined maps (batch, coils, ny, nx); where all coils are zero, and coils of zeros, stay zero."""
        batch, coils, *shape = maps.shape
        flat = _to_channels(maps.reshape(batch * coils, *shape))
        network = UNet(self.channels, self.pools, 2, norm=self.norm, zero_init=True, name="unet")
        valid = None if valid is None else jnp.repeat(valid, coils)
        correction = _from_channels(network(flat, train, valid), maps.dtype).reshape(maps.shape)
        magnitude = jnp.square(maps.real) + jnp.square(maps.imag)
        # Coils of zeros are padding and pixels of zeros lie outside the object: both stay zero.
        support = (magnitude.sum((2, 3), keepdims=True) > 0) & (magnitude.sum(1, keepdims=True) > 0)
        refined = jnp.where(support, maps + correction, 0)
        power = (jnp.square(refined.real) + jnp.square(refined.imag)).sum(1, keepdims=True)
        return refined * jax.lax.rsqrt(jnp.where(power > 0, power, 1))


def unroll(
    model: nn.Module,
    cascade: type[nn.Module],
    options: Mapping[str, Any],
    operators: LinearOperator,
    measurements: jax.Array,
    initial: jax.Array | None,
    valid: jax.Array | None,
    train: bool,
) -> jax.Array:
    """Runs a model's cascades in one ``lax.scan`` with stacked parameters; to be called in ``nn.compact``.

    Args:
      model: has ``cascades``, ``channels``, ``pools``, ``learn_coil_maps``, ``norm`` and ``remat``.
      cascade: its step, built with ``options`` and called as ``cascade(x, operators, A^H y, valid) ->
        (x, None)``.
      options: attributes of ``cascade``.
      operators: an operator stacked leaf by leaf: every array leaf has a leading batch axis.
      measurements: (batch, *out_shape).
      initial: (batch, *in_shape) to start from; None for A^H y.
      valid: (batch,) bool, False at padding; None for all valid.
      train: whether batch normalisation uses and updates batch statistics.

    Returns:
      (batch, *in_shape).

    Raises:
      ValueError: the operators do not act on two-dimensional images, or ``initial`` has a wrong shape.
      TypeError: ``learn_coil_maps`` with operators that have no coil maps.
    """
    if len(operators.in_shape) != 2:
        raise ValueError(f"operators must act on images (ny, nx); found in_shape {operators.in_shape}")
    # Leaves may be numpy arrays, which the loop over cascades cannot hold.
    operators = jax.tree.map(jnp.asarray, operators)
    if model.learn_coil_maps:
        if not isinstance(operators, SENSE):
            raise TypeError(
                f"learn_coil_maps needs operators with coil maps, SENSE; found {type(operators).__name__}"
            )
        refiner = CoilMapRefiner(max(1, model.channels // 2), model.pools, model.norm, name="coil_maps")
        maps = refiner(operators.coil_maps, train, valid)
        operators = jax.vmap(lambda A, s: dataclasses.replace(A, coil_maps=s))(operators, maps)
    back_projection = jax.vmap(lambda A, y: A.H(y))(operators, measurements)
    x = back_projection if initial is None else initial.astype(back_projection.dtype)
    if x.shape != back_projection.shape:
        raise ValueError(f"initial must have shape {back_projection.shape}; found {x.shape}")
    scanned = nn.scan(
        nn.remat(cascade, prevent_cse=False) if model.remat else cascade,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=model.cascades,
    )
    return scanned(**options, name="cascades")(x, operators, back_projection, valid)[0]
