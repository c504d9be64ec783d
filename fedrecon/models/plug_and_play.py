"""A U-Net that removes noise of any level, and reconstruction with it as the prior."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.models.normalization import ModulatedNorm
from fedrecon.models.regularizers import from_channels, to_channels
from fedrecon.models.unet import UNet
from fedrecon.models.unrolled import cascade_inputs, start_image
from fedrecon.priors import Denoiser, diffpir, noise_levels, plug_and_play
from operators import LinearOperator


class NoiseUNet(nn.Module):
    """``D(v, s) = c v + b F(a v, s)``: the mean of images x that v = x + s n can come from, as it is trained.

    ``c = d^2 / (s^2 + d^2)``, ``b = s d / sqrt(s^2 + d^2)`` and ``a = 1 / sqrt(s^2 + d^2)`` (Karras et al.,
    NeurIPS 2022), d the deviation of images: what F has to find is of one size at all levels. Normalization
    layers of F are scaled and shifted by s and by the mean and the size of a v, which they remove. F starts
    from zero, D as the best linear denoiser of white images.

    Attributes:
      channels, pools: of the U-Net F.
      deviation: d, root mean square of the pixels of images (of complex ones, of each part).
      hidden: features of the two hidden layers that see s.
    """

    channels: int
    pools: int
    deviation: float = 0.5
    hidden: int = 16

    @nn.compact
    def __call__(
        self, v: jax.Array, level: jax.Array, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array:
        """Denoises v (batch, [nz,] ny, nx), real or complex, of levels s (batch,), positive."""
        u = to_channels(v)
        s = level.reshape(-1, *(1,) * (u.ndim - 1)).astype(u.dtype)
        total = jnp.sqrt(s**2 + self.deviation**2)
        seen = u / total
        axes = tuple(range(1, u.ndim - 1))
        size = jnp.sqrt(jnp.square(seen).mean((*axes, -1))[:, None] + 1e-12)
        known = jnp.concatenate([jnp.log(level)[:, None] / 4, seen.mean(axes), size], -1)
        for i in range(2):
            known = nn.silu(nn.Dense(self.hidden, name=f"level{i}")(known))
        norm = partial(ModulatedNorm, known)
        network = UNet(self.channels, self.pools, u.shape[-1], norm=norm, zero_init=True, name="unet")
        found = (self.deviation / total) * (self.deviation * seen + s * network(seen, train, valid))
        return from_channels(found, v.dtype)


class PlugAndPlay(nn.Module):
    """`fedrecon.priors.plug_and_play` with a `NoiseUNet`, which has seen images and no measurement.

    One denoiser serves all operators. It is trained by `fedrecon.tasks.denoising_task`; its parameters are
    those of this module.

    Attributes:
      channels, pools, deviation: of the `NoiseUNet`.
      steps: iterations.
      largest, smallest: noise levels of the first and of the last iteration.
      noise: standard deviation of the errors of measurements that is assumed (of complex ones, of each part).
      cg_iterations: upper bound of the steps of each solve.
    """

    channels: int
    pools: int
    deviation: float = 0.5
    steps: int = 12
    largest: float = 0.2
    smallest: float = 0.03
    noise: float = 0.05
    cg_iterations: int = 10

    @nn.nowrap
    def prior(self) -> NoiseUNet:
        """The denoiser alone, whose parameters are those of this module."""
        return NoiseUNet(self.channels, self.pools, self.deviation, parent=None)

    def setup(self) -> None:
        self.denoiser = NoiseUNet(self.channels, self.pools, self.deviation)
        nn.share_scope(self, self.denoiser)

    def __call__(
        self, operators: LinearOperator, measurements: jax.Array, initial: jax.Array | None = None
    ) -> jax.Array:
        """Reconstructs a batch of images or volumes; arguments and result as in ``VarNet``."""
        inputs = cascade_inputs(operators, measurements)
        start = start_image(inputs, initial)
        if self.is_initializing():
            return self.denoiser(start, jnp.ones(len(start)))
        levels = noise_levels(self.largest, self.smallest, self.steps)
        denoiser = self.bound()

        def one(A: LinearOperator, y: jax.Array, x: jax.Array) -> jax.Array:
            limit = self.cg_iterations
            return plug_and_play(A, y, denoiser, levels, noise=self.noise, cg_iterations=limit, initial=x)

        return jax.vmap(one)(inputs.operators, inputs.measurements, start)

    def sample(
        self,
        operators: LinearOperator,
        measurements: jax.Array,
        keys: jax.Array,
        noise: jax.Array,
        *,
        steps: int = 60,
        largest: float = 3.0,
        smallest: float = 0.01,
    ) -> jax.Array:
        """Draws an image that explains each measurement, by `fedrecon.priors.diffpir` with this denoiser.

        Levels fall between those that `fedrecon.tasks.denoising_task` has trained. Errors of denoised images
        are taken to be those of white images, for which samples are exact in short steps; those of others are
        approximate, as `diffpir` says.

        Args:
          operators, measurements: as of a reconstruction.
          keys: typed keys (batch,); equal ones draw equal samples.
          noise: (batch,) deviation of the errors of measurements (of complex ones, of each part), positive.
          steps, largest, smallest: of the noise levels.

        Returns:
          (batch, *in_shape).
        """
        inputs, denoiser = cascade_inputs(operators, measurements), self.bound()
        levels = noise_levels(largest, smallest, steps)

        def one(A: LinearOperator, y: jax.Array, key: jax.Array, noise: jax.Array) -> jax.Array:
            spread, limit = self.deviation, self.cg_iterations
            return diffpir(A, y, denoiser, key, levels, noise=noise, spread=spread, cg_iterations=limit)

        return jax.vmap(one)(inputs.operators, inputs.measurements, keys, noise)

    def bound(self) -> Denoiser:
        """The denoiser of single images, as a function of (v, s)."""
        network, variables = self.denoiser.unbind()

        def denoise(v: jax.Array, s: jax.Array) -> jax.Array:
            found: Any = network.apply(variables, v[None], jnp.reshape(s, (1,)))
            return found[0]

        return denoise
