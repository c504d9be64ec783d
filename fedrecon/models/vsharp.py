"""vSHARP: variables split, a denoiser of one of them, gradient steps on the data of the other."""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models.convolutions import Conv
from fedrecon.models.normalization import InstanceNorm
from fedrecon.models.operator_scale import excess
from fedrecon.models.recurrent_varnet import DilatedConv
from fedrecon.models.regularizers import bind, from_channels, to_channels
from fedrecon.models.unet import UNet
from fedrecon.models.unrolled import CascadeInputs, cascade_inputs, start_image, unroll
from operators import LinearOperator
from operators.algebra import vary_together


class MultiplierStart(nn.Module):
    """The multiplier before the first step, of the image: dilated convolutions, zero in the beginning.

    Attributes:
      features: of the first two convolutions; the last two have twice as many.
    """

    features: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(examples, ny, nx, channels) -> the same shape."""
        channels, f = x.shape[-1], self.features
        for i, (features, dilation) in enumerate(zip((f, f, 2 * f, 2 * f), (1, 1, 2, 4), strict=True)):
            x = nn.relu(DilatedConv(features, 3, dilation, name=f"conv{i}")(x))
        x = Conv(channels, 1, kernel_init=nn.initializers.zeros, name="out")(x)
        return jnp.where(x >= 0, x, self.param("slope", nn.initializers.constant(0.25), ()) * x)


class _State(NamedTuple):
    image: jax.Array
    split: jax.Array
    multiplier: jax.Array


class VSharp(nn.Module):
    """ADMM on ``|A x - y|^2 / 2 + G(z)`` where x = z, with networks in place of the proximal map of G.

    For t = 1 ... cascades, with a U-Net R_t and a weight rho_t of each,

    * ``z <- x + u / rho_t - R_t(z, x, u / rho_t)``;
    * ``x <- x - eta_j (A^H A x - A^H y + rho_t (x - z) + u) / max(1, |A|^2)`` for j = 1 ... gradient_steps;
    * ``u <- u + rho_t (x - z)``.

    Step sizes eta are those of all cascades; x and z start at A^H y, u at `MultiplierStart` of it. Networks
    see arrays over the root mean square of A^H y. Defaults are those of DIRECT. Untrained R and u are zero,
    and the network is an iteration of proximal points by gradient descent,
    ``x <- argmin_x |A x - y|^2 / 2 + rho_t |x - x_t|^2 / 2``.

    Deviations from DIRECT: networks give z itself there, and see arrays as they are: what is added and a
    factor. rho_t is positive, trained as its logarithm. ``published`` undoes these two, for weights of
    DIRECT (`fedrecon.published_weights`): ``z <- R_t(z, x, u / rho_t)``, whose U-Nets know the unit that
    k-space has, and rho_t of any sign. Steps of operators of norm above 1 are shorter. rho starts, as eta
    does, at a number that is not drawn. ``shared`` shares rho, too. Losses of all cascades are not added;
    the last one counts.

    Attributes:
      cascades: number of ADMM steps.
      channels: features of the finest level of each U-Net, and of `MultiplierStart`.
      pools: poolings of each U-Net.
      gradient_steps: on the data term, of each cascade.
      norm: normalization layer, a type in ``NORMALIZATION`` or a partial of one.
      rho: rho_t to start from, positive.
      step: eta to start from.
      shared: uses one rho and one U-Net in all cascades.
      remat: recomputes each cascade in the backward pass, which stores one state per cascade only.
      published: networks give z, as above.

    Source: Yiasemis et al., Magn. Reson. Imaging 115:110266, 2025, arXiv:2309.09954.
    """

    cascades: int = 10
    channels: int = 32
    pools: int = 4
    gradient_steps: int = 8
    norm: Callable[..., nn.Module] = InstanceNorm
    rho: float = 0.1
    step: float = 0.5
    shared: bool = False
    remat: bool = False
    published: bool = False

    @nn.compact
    def __call__(
        self,
        operators: LinearOperator,
        measurements: jax.Array,
        initial: jax.Array | None = None,
        train: bool = False,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Reconstructs a batch of images; arguments and result as in ``VarNet``."""
        inputs = cascade_inputs(operators, measurements, train, valid)
        image = start_image(inputs, initial)
        if image.ndim != 3:
            raise ArgumentError("in_shape", "images (ny, nx)", image.shape[1:])
        power = jnp.square(jnp.abs(inputs.back_projection)).mean((1, 2))
        scale = (jnp.ones_like(power) if self.published else jnp.sqrt(power + 1e-12))[:, None, None]
        start = MultiplierStart(self.channels, name="start")(to_channels(image / scale))
        sizes = self.param("steps", nn.initializers.constant(self.step), (self.gradient_steps,))
        norm = excess(inputs.operators)

        def step(cascade: nn.Module, state: _State, inputs: CascadeInputs) -> _State:
            x, z, u = state
            rho = self._rho(cascade).astype(scale.dtype)
            seen = jnp.concatenate([to_channels(v / scale) for v in (z, x, u / rho)], -1)
            parts = seen.shape[-1] // 3
            unet = UNet(
                self.channels, self.pools, parts, norm=self.norm, zero_init=not self.published, parent=None
            )
            correction = bind(unet, cascade, "unet")(seen, inputs.train, inputs.valid)
            found = scale * from_channels(correction, x.dtype)
            z = found if self.published else x + u / rho - found

            def descend(x: jax.Array, size: jax.Array) -> tuple[jax.Array, None]:
                slope = inputs.gram(x) - inputs.back_projection + rho * (x - z) + u
                return (x - size * slope / norm).astype(x.dtype), None

            x = jax.lax.scan(descend, vary_together(x, z, u, sizes)[0], sizes)[0]
            return _State(x, z, u + rho * (x - z))

        state = _State(image, image, scale * from_channels(start, image.dtype))
        return unroll(step, state, inputs, self.cascades, shared=self.shared, remat=self.remat).image

    def _rho(self, cascade: nn.Module) -> jax.Array:
        if self.published:
            return cascade.param("rho", nn.initializers.constant(self.rho), ())
        return jnp.exp(cascade.param("log_rho", nn.initializers.constant(math.log(self.rho)), ()))
