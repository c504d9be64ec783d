"""Unrolled variational network over any linear operator."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.models.normalisation import InstanceNorm
from fedrecon.models.unet import UNet
from operators import SENSE, LinearOperator


def _to_channels(x: jax.Array) -> jax.Array:
    return jnp.stack([x.real, x.imag], -1) if jnp.iscomplexobj(x) else x[..., None]


def _from_channels(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    x = jax.lax.complex(x[..., 0], x[..., 1]) if jnp.issubdtype(dtype, jnp.complexfloating) else x[..., 0]
    return x.astype(dtype)


class _Regulariser(nn.Module):
    """R(x): a U-Net on real and imaginary part, each normalised to mean 0 and deviation 1 per example."""

    channels: int
    pools: int
    norm: Callable[..., nn.Module]
    zero_init: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, valid: jax.Array | None) -> jax.Array:
        u = _to_channels(x)
        mean = u.mean((1, 2), keepdims=True)
        deviation = jnp.sqrt(jnp.square(u - mean).mean((1, 2), keepdims=True) + 1e-12)
        network = UNet(
            self.channels, self.pools, u.shape[-1], norm=self.norm, zero_init=self.zero_init, name="unet"
        )
        return _from_channels(network((u - mean) / deviation, train, valid) * deviation, x.dtype)


class _Cascade(nn.Module):
    """One step x - eta (A^H A x - A^H y) - R(x), in the form that ``nn.scan`` takes."""

    channels: int
    pools: int
    norm: Callable[..., nn.Module]
    zero_init: bool
    train: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, operators: LinearOperator, back_projection: jax.Array, valid: jax.Array | None
    ) -> tuple[jax.Array, None]:
        step = self.param("step", nn.initializers.ones, ())
        gradient = jax.vmap(lambda A, x: A.gram(x))(operators, x) - back_projection
        regulariser = _Regulariser(self.channels, self.pools, self.norm, self.zero_init, name="regulariser")
        return (x - step * gradient - regulariser(x, self.train, valid)).astype(x.dtype), None


class _CoilMapRefiner(nn.Module):
    """Adds a U-Net's correction to every coil map and restores sum |S|^2 = 1 on their support."""

    channels: int
    pools: int
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, maps: jax.Array, train: bool, valid: jax.Array | None) -> jax.Array:
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


class VarNet(nn.Module):
    """Variational network: gradient descent on the data term, interleaved with learned corrections.

    ``x <- x - eta_t (A^H A x - A^H y) - R_t(x)`` for t = 1 ... cascades, with one step size and one U-Net
    per cascade (Hammernik et al. 2018; Sriram et al. 2020, here in image space). All cascades run in one
    ``lax.scan`` with stacked parameters. Step sizes start at 1, for operators of norm about 1 or less
    (SENSE with orthonormal Fourier transform and maps of sum |S|^2 = 1, filtered Radon transforms); scale
    others first.

    Attributes:
      cascades: number of unrolled iterations.
      channels: features of the finest level of each U-Net.
      pools: poolings of each U-Net.
      learn_coil_maps: refines the coil maps of ``SENSE`` operators by a small U-Net per coil
        (``channels // 2`` features) before the cascades; starts as the identity on normalised maps.
      norm: normalisation layer, a type in ``NORMALISATION`` or a partial of one.
      zero_init: starts every R_t at zero, so that the untrained network is ``cascades`` steps of gradient
        descent on ||A x - y||^2 / 2.
      remat: recomputes each cascade in the backward pass, which stores one image per cascade only.
    """

    cascades: int
    channels: int
    pools: int
    learn_coil_maps: bool = False
    norm: Callable[..., nn.Module] = InstanceNorm
    zero_init: bool = True
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        operators: LinearOperator,
        measurements: jax.Array,
        initial: jax.Array | None = None,
        train: bool = False,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Reconstructs a batch of images.

        Args:
          operators: an operator stacked leaf by leaf: every array leaf has a leading batch axis.
          measurements: (batch, *out_shape).
          initial: (batch, *in_shape) to start from; None for A^H y.
          train: whether batch normalisation uses and updates batch statistics.
          valid: (batch,) bool, False at padding; None for all valid.

        Returns:
          (batch, *in_shape), complex where the operator's ``in_dtype`` is.

        Raises:
          ValueError: the operators do not act on two-dimensional images, or ``initial`` has a wrong shape.
          TypeError: ``learn_coil_maps`` with operators that have no coil maps.
        """
        if len(operators.in_shape) != 2:
            raise ValueError(f"operators must act on images (ny, nx); found in_shape {operators.in_shape}")
        # Leaves may be numpy arrays, which the loop over cascades cannot hold.
        operators = jax.tree.map(jnp.asarray, operators)
        if self.learn_coil_maps:
            if not isinstance(operators, SENSE):
                raise TypeError(
                    f"learn_coil_maps needs operators with coil maps, SENSE; found {type(operators).__name__}"
                )
            refiner = _CoilMapRefiner(max(1, self.channels // 2), self.pools, self.norm, name="coil_maps")
            maps = refiner(operators.coil_maps, train, valid)
            operators = jax.vmap(lambda A, s: dataclasses.replace(A, coil_maps=s))(operators, maps)
        back_projection = jax.vmap(lambda A, y: A.H(y))(operators, measurements)
        x = back_projection if initial is None else initial.astype(back_projection.dtype)
        if x.shape != back_projection.shape:
            raise ValueError(f"initial must have shape {back_projection.shape}; found {x.shape}")
        cascade = nn.remat(_Cascade, prevent_cse=False) if self.remat else _Cascade
        scanned = nn.scan(
            cascade,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.cascades,
        )
        cascades = scanned(self.channels, self.pools, self.norm, self.zero_init, train, name="cascades")
        return cascades(x, operators, back_projection, valid)[0]
