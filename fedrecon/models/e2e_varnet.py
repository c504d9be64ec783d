"""End-to-end variational network: k-space iterates, and coil maps that are estimated by a network."""

import dataclasses
from functools import partial
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models.data_steps import sampled, start_kspace
from fedrecon.models.normalization import InstanceNorm
from fedrecon.models.regularizers import bind, from_channels, to_channels
from fedrecon.models.unet import UNet, pad_to_multiple
from fedrecon.models.unrolled import CascadeInputs, cascade_inputs, unroll
from operators import SENSE, LinearOperator, fft2c, ifft2c, rss

# Edges are padded to a multiple of it, whatever the number of poolings.
_MULTIPLE = 16


class NormalizedUNet(nn.Module):
    """A U-Net on real and imaginary part, each of mean 0 and deviation 1, restored afterwards.

    fastMRI's ``NormUnet``: the deviation divides by n - 1, normalization layers have no parameters, and edges
    are padded with zeros to multiples of 16. A constant part stays as it is.

    Attributes:
      channels: features of the finest level.
      pools: number of poolings.
    """

    channels: int
    pools: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps complex images (batch, ny, nx) to complex images."""
        u = to_channels(x)
        mean = u.mean((1, 2), keepdims=True)
        variance = jnp.square(u - mean).sum((1, 2), keepdims=True) / (u[0, ..., 0].size - 1)
        # The root has no derivative at zero, where padding is.
        deviation = jnp.sqrt(jnp.where(variance > 0, variance, 1))
        u = (u - mean) / deviation
        u, crops = pad_to_multiple(u, _MULTIPLE)
        norm = partial(InstanceNorm, affine=False)
        u = UNet(self.channels, self.pools, 2, norm=norm, name="unet")(u)[:, *crops]
        return from_channels(jnp.where(variance > 0, u * deviation, 0) + mean, x.dtype)


def low_frequencies(mask: jax.Array) -> jax.Array:
    """The rectangle about the center of k-space that a mask samples: bool (ny, nx).

    Along each axis it has the lines about N // 2 without a gap on the line through the center, as many on
    both sides as there are on the shorter one, and one at least; all, where that line has no gap. Of columns
    this is what fastMRI's sensitivity network is given.

    Args:
      mask: (ny, nx) bool.
    """
    ny, nx = mask.shape
    return _middle(mask[:, nx // 2])[:, None] & _middle(mask[ny // 2])[None, :]


def _middle(line: jax.Array) -> jax.Array:
    size, center = len(line), len(line) // 2
    left = jnp.cumprod(jnp.flip(line[:center])).sum()
    right = jnp.cumprod(line[center:]).sum()
    count = jnp.where(line.all(), size, jnp.maximum(2 * jnp.minimum(left, right), 1))
    low = (size - count + 1) // 2
    place = jnp.arange(size)
    return (place >= low) & (place < low + count)


class CoilMapEstimator(nn.Module):
    """Coil maps of measured k-space: a network on the coil images of its low frequencies, then sum |S|^2 = 1.

    Attributes:
      channels, pools: of the U-Net, which all coils share.
    """

    channels: int
    pools: int

    @nn.compact
    def __call__(self, kspace: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps (batch, coils, ny, nx) of k-space; zero at coils of zeros, and where all coils are.

        Args:
          kspace: (batch, coils, ny, nx) complex.
          mask: (batch, ny, nx) bool, True where measured.
        """
        low = jax.vmap(low_frequencies)(mask)[:, None]
        images = ifft2c(jnp.where(low, kspace, 0))
        network = NormalizedUNet(self.channels, self.pools, name="network")
        maps = network(images.reshape(-1, *images.shape[2:])).reshape(images.shape)
        power = rss(maps, axis=1)[:, None]
        return maps / jnp.where(power > 0, power, 1)


def expanded(image: jax.Array, maps: jax.Array) -> jax.Array:
    """K-space of all coils (batch, coils, ny, nx) of images (batch, ny, nx)."""
    return fft2c(image[:, None] * maps)


def reduced(kspace: jax.Array, maps: jax.Array) -> jax.Array:
    """Images (batch, ny, nx) of the k-space of all coils: sum_c conj(S_c) F^-1 k_c."""
    return (ifft2c(kspace) * maps.conj()).sum(1)


class E2EVarNet(nn.Module):
    """The end-to-end variational network of fastMRI, parameter by parameter.

    ``k <- k - eta_t M (k - y) - F S_t(sum_c conj(S_c) F^-1 k_c)`` for t = 1 ... cascades: the state is the
    k-space k of all coils, M its mask, and coil maps S come from the low frequencies of the measurement, not
    from the operator. The result is the root of the sum of squares over coils. `fastmri_weights` reads the
    weights that are published. All cascades run in one ``lax.scan``.

    Attributes:
      cascades: number of unrolled steps.
      channels, pools: of the U-Net of each step.
      map_channels, map_pools: of the U-Net that estimates coil maps.
      remat: recomputes each cascade in the backward pass, which stores one k-space per cascade only.

    Source: Sriram et al., MICCAI 2020, arXiv:2004.06688.
    """

    cascades: int = 12
    channels: int = 18
    pools: int = 4
    map_channels: int = 8
    map_pools: int = 4
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
          operators: ``SENSE`` of ``CartesianFourier`` stacked leaf by leaf, of which the mask alone is used.
          measurements: (batch, coils, ny, nx), zero where nothing was measured.
          initial: None.
          train, valid: change nothing.

        Returns:
          (batch, ny, nx), real, not negative.

        Raises:
          TypeError: other operators.
          ValueError: ``initial`` is given, or the operators act on volumes.
        """
        if not isinstance(operators, SENSE):
            raise TypeError(f"operators: expected SENSE, found {type(operators).__name__}")
        if initial is not None:
            raise ArgumentError("initial", "None: iterates are k-space", initial.shape)
        if measurements.ndim != 4:
            raise ArgumentError("measurements", "(batch, coils, ny, nx)", measurements.shape)
        masks = jax.vmap(sampled)(operators)
        estimator = CoilMapEstimator(self.map_channels, self.map_pools, name="coil_maps")
        maps = estimator(jnp.asarray(measurements), masks)
        operators = jax.vmap(lambda A, s: dataclasses.replace(A, coil_maps=s))(operators, maps)
        inputs = cascade_inputs(operators, measurements, train, valid)

        def step(cascade: nn.Module, kspace: jax.Array, inputs: CascadeInputs) -> jax.Array:
            size = cascade.param("step", nn.initializers.ones, ())
            network = bind(NormalizedUNet(self.channels, self.pools, parent=None), cascade, "regularizer")
            masks = jax.vmap(sampled)(inputs.operators)[:, None]
            maps = cast(SENSE, inputs.operators).coil_maps
            moved = size * jnp.where(masks, kspace - inputs.measurements, 0)
            return kspace - moved - expanded(network(reduced(kspace, maps)), maps)

        kspace = unroll(step, start_kspace(inputs, None), inputs, self.cascades, remat=self.remat)
        return rss(ifft2c(kspace), axis=1)
