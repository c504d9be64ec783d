"""Learned gradient descent: a small network that sees two gradients and remembers."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.models.convolutions import Conv
from fedrecon.models.operator_scale import excess
from fedrecon.models.regularizers import bind, from_channels, to_channels
from fedrecon.models.unrolled import CascadeInputs, cascade_inputs, start_image, unroll
from operators import FiniteDifferences, LinearOperator


class GradientUpdate(nn.Module):
    """Three convolutions with ReLUs in between, and a ReLU of what is remembered.

    Attributes:
      features: channels of the first two.
      memory: channels that are remembered.
    """

    features: int
    memory: int

    @nn.compact
    def __call__(self, u: jax.Array, outputs: int) -> tuple[jax.Array, jax.Array]:
        """(examples, [nz,] ny, nx, channels) -> the step, in ``outputs`` channels, and the memory."""
        init, offset = nn.initializers.xavier_normal(), nn.initializers.constant(0.01)
        for i in (1, 2):
            u = nn.relu(Conv(self.features, kernel_init=init, bias_init=offset, name=f"conv{i}")(u))
        # From zero: the step begins at nothing; the ReLU of the memory would have no derivative there.
        step = Conv(outputs, kernel_init=nn.initializers.zeros, name="step")(u)
        return step, nn.relu(Conv(self.memory, kernel_init=init, name="memory")(u))


class _State(NamedTuple):
    image: jax.Array
    memory: jax.Array


class LearnedGradient(nn.Module):
    """``(d, s) = N([x, g, r, s])`` and ``x <- x + d``, repeated, with the gradients of data and of a prior.

    ``g = A^H (A x - y) / max(1, |A|^2)`` and ``r = D^H D x / |D|^2``, D the differences of neighbors: the
    gradients of ``|A x - y|^2 / 2`` and of Tikhonov's ``|D x|^2 / 2``, each over its largest factor. The
    memory s starts at zeros and is real, also of complex images, which come as real and imaginary parts.
    x starts at A^H y, which of filtered Radon transforms is the filtered back projection of the publication;
    untrained, it stays there. Defaults are those of the publication: 13318 parameters of real images, which
    all steps share.

    Deviations: factors of both gradients; the last convolution starts at zero where it gives the step.

    Attributes:
      cascades: number of steps.
      features: channels of the network inside.
      memory: channels of s.
      shared: uses one network in all steps.
      remat: recomputes each step in the backward pass, which stores one state per step only.

    Source: Adler and Öktem, Inverse Problems 33:124007, 2017, arXiv:1704.04058.
    """

    cascades: int = 10
    features: int = 32
    memory: int = 5
    shared: bool = True
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
        """Reconstructs a batch of images or volumes; arguments and result as in ``VarNet``."""
        inputs = cascade_inputs(operators, measurements, train, valid)
        image = start_image(inputs, initial)
        differences = FiniteDifferences(image.shape[1:], image.dtype)
        # No more than 2 of each axis.
        most, scale = 4.0 * len(image.shape[1:]), excess(inputs.operators)

        def step(cascade: nn.Module, state: _State, inputs: CascadeInputs) -> _State:
            x, memory = state
            gradient = (inputs.gram(x) - inputs.back_projection) / scale
            seen = [to_channels(v) for v in (x, gradient, differences.gram(x) / most)]
            update = bind(GradientUpdate(self.features, self.memory, parent=None), cascade, "update")
            d, memory = update(jnp.concatenate([*seen, memory], -1), seen[0].shape[-1])
            return _State(x + from_channels(d, x.dtype), memory)

        memory = jnp.broadcast_to(0 * image.real[..., None], (*image.shape, self.memory))
        state = _State(image, memory)
        return unroll(step, state, inputs, self.cascades, shared=self.shared, remat=self.remat).image
