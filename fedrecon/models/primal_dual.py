"""Learned primal-dual reconstruction."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.models.convolutions import Conv
from fedrecon.models.regularizers import bind
from fedrecon.models.unrolled import CascadeInputs, cascade_inputs, start_image, unroll
from operators import LinearOperator

# network(u, outputs): channels (examples, *sizes, channels) -> (examples, *sizes, outputs), of one dtype.
Network = Callable[[jax.Array, int], jax.Array]


class ConvolutionStack(nn.Module):
    """Three convolutions with leaky ReLUs in between, of images or volumes; the last one starts at zero.

    Attributes:
      features: channels of the first two.
    """

    features: int = 32

    @nn.compact
    def __call__(self, u: jax.Array, outputs: int) -> jax.Array:
        """Maps (examples, [nz,] ny, nx, channels), real or complex, to ``outputs`` channels."""
        is_complex = jnp.iscomplexobj(u)
        v = jnp.concatenate([u.real, u.imag], -1) if is_complex else u
        for i in (1, 2):
            v = nn.leaky_relu(Conv(self.features, name=f"conv{i}")(v), 0.2)
        v = Conv(outputs * (1 + is_complex), kernel_init=nn.initializers.zeros, name="conv3")(v)
        return jax.lax.complex(v[..., :outputs], v[..., outputs:]) if is_complex else v


class LearnedPrimalDual(nn.Module):
    """``h <- h + dual([h, A x_1, y])`` and ``x <- x + primal([x, A^H h_0])``, repeated.

    The state is (x, h): images (batch, *in_shape, memory), which start at A^H y or ``initial`` (in the paper
    at zeros), and dual variables (batch, *out_shape, memory), which start at zeros. The result is x_0, and
    x_1 is what is projected, x_0 where the memory is 1. With the right functions for networks, this is the
    iteration of Chambolle and Pock. For operators of norm about 1; scale others first.

    Attributes:
      cascades: number of unrolled steps.
      memory: images, and dual variables, that are carried from step to step.
      primal, dual: functions, or flax modules without a parent; None for ``ConvolutionStack()``. Axes of the
        data before the last ``len(in_shape)``, such as coils, are examples to the dual network.
      shared: uses one set of parameters in all cascades.
      remat: recomputes each cascade in the backward pass, which stores one state per cascade only.

    Source: Adler and Öktem, IEEE Trans. Med. Imaging 37:1322, 2018.
    """

    cascades: int = 10
    memory: int = 5
    primal: Network | None = None
    dual: Network | None = None
    shared: bool = False
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
        memory = self.memory
        primal = ConvolutionStack(parent=None) if self.primal is None else self.primal
        dual = ConvolutionStack(parent=None) if self.dual is None else self.dual
        inputs = cascade_inputs(operators, measurements, train, valid)

        def repeated(x: jax.Array) -> jax.Array:
            return jnp.broadcast_to(x[..., None], (*x.shape, memory))

        def step(
            cascade: nn.Module, state: tuple[jax.Array, jax.Array], inputs: CascadeInputs
        ) -> tuple[jax.Array, jax.Array]:
            x, h = state
            seen = jnp.stack([inputs.forward(x[..., min(1, memory - 1)]), inputs.measurements], -1)
            stacked = jnp.concatenate([h, seen.astype(h.dtype)], -1)
            stacked = stacked.reshape(-1, *stacked.shape[-len(x.shape[1:]) :])
            h = h + bind(dual, cascade, "dual")(stacked, memory).reshape(h.shape)
            stacked = jnp.concatenate([x, inputs.adjoint(h[..., 0])[..., None]], -1)
            return x + bind(primal, cascade, "primal")(stacked, memory), h

        image = start_image(inputs, initial)
        state = repeated(image), repeated(jnp.zeros_like(inputs.forward(image)))
        return unroll(step, state, inputs, self.cascades, shared=self.shared, remat=self.remat)[0][..., 0]
