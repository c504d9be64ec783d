"""Regularizers of unrolled networks, and how they join data steps."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models.normalization import InstanceNorm
from fedrecon.models.unet import UNet
from fedrecon.models.unrolled import CascadeInputs, PyTree, Step

# regularizer(x, train, valid) -> R(x), a correction to be subtracted, of the shape of x: a function, or a
# flax module without a parent.
Regularizer = Callable[[jax.Array, bool, jax.Array | None], jax.Array]


def bind(network: Callable, cascade: nn.Module, name: str) -> Callable:
    """A network as a submodule of a cascade, under its own name or else ``name``; functions stay as they are.

    Each call makes new variables: to be called once in a step.
    """
    if isinstance(network, nn.Module):
        return network.clone(parent=cascade, name=network.name or name)
    return network


def regularized(
    data_step: Step, regularizer: Regularizer, order: Literal["after", "before", "parallel"] = "after"
) -> Step:
    """Joins a data step D and a regularizer R; with ``R(x) = x - P(x)`` R is the map P, such as a denoiser.

    R sees and changes the first leaf of the state only. Its variables are named "regularizer", unless the
    module has a name.

    Args:
      data_step: D.
      regularizer: R.
      order: "after" for ``D(x) - R(D(x))``, "before" for ``D(x - R(x))``, "parallel" for ``D(x) - R(x)``.

    Raises:
      ValueError: unknown ``order``.
    """
    if order not in ("after", "before", "parallel"):
        raise ArgumentError("order", '"after", "before" or "parallel"', repr(order))

    def step(cascade: nn.Module, state: PyTree, inputs: CascadeInputs) -> PyTree:
        network = bind(regularizer, cascade, "regularizer")

        def corrected(changed: PyTree, seen: PyTree) -> PyTree:
            (image, *others), structure = jax.tree.flatten(changed)
            image = image - network(jax.tree.leaves(seen)[0], inputs.train, inputs.valid)
            return jax.tree.unflatten(structure, (image, *others))

        if order == "before":
            return data_step(cascade, corrected(state, state), inputs)
        new = data_step(cascade, state, inputs)
        return corrected(new, new if order == "after" else state)

    return step


def to_channels(x: jax.Array) -> jax.Array:
    """Real and imaginary part as a last axis of two; of one for real arrays."""
    return jnp.stack([x.real, x.imag], -1) if jnp.iscomplexobj(x) else x[..., None]


def from_channels(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The inverse of ``to_channels`` for arrays of ``dtype``."""
    x = jax.lax.complex(x[..., 0], x[..., 1]) if jnp.issubdtype(dtype, jnp.complexfloating) else x[..., 0]
    return x.astype(dtype)


class UNetRegularizer(nn.Module):
    """R(x): a U-Net on real and imaginary part, normalized to mean 0 and deviation 1 per example.

    Attributes:
      channels, pools, norm, zero_init: of the U-Net.
      joint_deviation: divides both parts by one deviation, so that a part that is small stays small; else
        each part by its own.
    """

    channels: int
    pools: int
    norm: Callable[..., nn.Module] = InstanceNorm
    zero_init: bool = True
    joint_deviation: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """R(x) of images (batch, ny, nx) or volumes (batch, nz, ny, nx), of the same shape and dtype.

        Raises:
          ValueError: x has another number of axes.
        """
        if x.ndim not in (3, 4):
            raise ArgumentError("in_shape", "images (ny, nx) or volumes (nz, ny, nx)", x.shape[1:])
        u = to_channels(x)
        spatial = tuple(range(1, x.ndim))
        mean = u.mean(spatial, keepdims=True)
        axes = (*spatial, x.ndim) if self.joint_deviation else spatial
        deviation = jnp.sqrt(jnp.square(u - mean).mean(axes, keepdims=True) + 1e-12)
        network = UNet(
            self.channels, self.pools, u.shape[-1], norm=self.norm, zero_init=self.zero_init, name="unet"
        )
        return from_channels(network((u - mean) / deviation, train, valid) * deviation, x.dtype)
