"""Refinement of the coil maps of measurement operators."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.models.regularizers import from_channels, to_channels
from fedrecon.models.unet import UNet
from operators import SENSE, LinearOperator


class CoilMapRefiner(nn.Module):
    """Adds a U-Net's correction to every coil map and restores sum |S|^2 = 1 on their support."""

    channels: int
    pools: int
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, maps: jax.Array, train: bool, valid: jax.Array | None) -> jax.Array:
        """Refined maps (batch, coils, *shape); where all coils are zero, and coils of zeros, stay zero."""
        batch, coils, *shape = maps.shape
        flat = to_channels(maps.reshape(batch * coils, *shape))
        network = UNet(self.channels, self.pools, 2, norm=self.norm, zero_init=True, name="unet")
        valid = None if valid is None else jnp.repeat(valid, coils)
        correction = from_channels(network(flat, train, valid), maps.dtype).reshape(maps.shape)
        magnitude = jnp.square(maps.real) + jnp.square(maps.imag)
        # Coils of zeros are padding and pixels of zeros lie outside the object: both stay zero.
        spatial = tuple(range(2, maps.ndim))
        support = (magnitude.sum(spatial, keepdims=True) > 0) & (magnitude.sum(1, keepdims=True) > 0)
        refined = jnp.where(support, maps + correction, 0)
        power = (jnp.square(refined.real) + jnp.square(refined.imag)).sum(1, keepdims=True)
        return refined * jax.lax.rsqrt(jnp.where(power > 0, power, 1))


def refine_coil_maps(
    operators: LinearOperator, refiner: CoilMapRefiner, train: bool, valid: jax.Array | None
) -> LinearOperator:
    """Stacked ``SENSE`` operators with refined coil maps.

    Raises:
      TypeError: the operators have no coil maps.
    """
    if not isinstance(operators, SENSE):
        raise TypeError(f"learn_coil_maps: expected operators SENSE, found {type(operators).__name__}")
    maps = refiner(jnp.asarray(operators.coil_maps), train, valid)
    return jax.vmap(lambda A, s: dataclasses.replace(A, coil_maps=s))(operators, maps)
