"""The variational network of fields of experts: filters and their penalties are learned, nothing else is."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.models.convolutions import convolution, transposed_convolution
from fedrecon.models.operator_scale import excess
from fedrecon.models.regularizers import bind, from_channels, to_channels
from fedrecon.models.unrolled import CascadeInputs, cascade_inputs, start_image, unroll
from operators import LinearOperator


class FieldOfExperts(nn.Module):
    """``R(u) = sum_i K_i^T phi_i(K_i u) / features``: the gradient of penalties of the responses of filters.

    Filters K_i have one kernel of each part, real and imaginary, and one response; kernels have mean 0 and
    all parts together norm 1, whatever their parameters are. ``phi_i(r) = sum_j w_ij exp(-(r - m_j)^2 /
    (2 s^2))`` with m_j from -1 to 1, s apart, starts at about r / 10 and ends at 0 outside. Images go on
    mirrored at their edges.

    Attributes:
      features: number of filters.
      window: pixels of the kernels along each axis, odd.
      bumps: Gaussians of each phi_i, 2 or more.
    """

    features: int
    window: int
    bumps: int

    @nn.compact
    def __call__(self, u: jax.Array) -> jax.Array:
        """R of images or volumes u (batch, [nz,] ny, nx, parts) about as large as 1, of the same shape."""
        axes, pad = tuple(range(u.ndim - 2)), self.window - 1
        spread = nn.initializers.normal(1 / math.sqrt(self.window ** len(axes)))
        shape = (*(self.window,) * len(axes), u.shape[-1], self.features)
        kernel = self.param("kernel", spread, shape).astype(u.dtype)
        kernel = kernel - kernel.mean(axes, keepdims=True)
        kernel /= jnp.sqrt(jnp.square(kernel).sum((*axes, -2), keepdims=True) + 1e-12)

        def line(_: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jnp.broadcast_to(0.04 * jnp.linspace(-1, 1, self.bumps)[:, None], shape)

        heights = self.param("heights", line, (self.bumps, self.features)).astype(u.dtype)
        padded = jnp.pad(u, ((0, 0), *((pad, pad),) * len(axes), (0, 0)), mode="symmetric")
        response = convolution(padded, kernel, padding="VALID")
        back = transposed_convolution(_sum_of_bumps(response, heights), kernel, padding="VALID")
        back /= self.features
        return back[:, *(slice(pad, pad + n) for n in u.shape[1:-1])]


@jax.checkpoint
def _sum_of_bumps(r: jax.Array, heights: jax.Array) -> jax.Array:
    """``sum_j heights_j exp(-(r - m_j)^2 / (2 s^2))``; terms are not kept for the backward pass."""
    place = (r + 1) * (len(heights) - 1) / 2
    return sum((height * jnp.exp(-jnp.square(place - j) / 2) for j, height in enumerate(heights)), 0 * r)


class VariationalNetwork(nn.Module):
    """``x <- x - lambda_t A^H (A x - y) / max(1, |A|^2) - R_t(x)`` with a `FieldOfExperts` R_t of each step.

    The network of the publication, which other variational networks have put U-Nets into (`VarNet`). R sees
    images over the largest magnitude of A^H y. Defaults are those of the publication: 131050 parameters of
    complex images.

    Deviations: kernels are normalized where they are used instead of projected after each update; lambda_t is
    trained as its logarithm, and data terms are over the operator's scale. As in the authors' code, which
    differs from the text there, lambda_t starts at 1, R is divided by the number of filters, and Gaussians
    reach from -1 to 1 of normalized images.

    Attributes:
      cascades: number of steps.
      features: filters of each step.
      window: pixels of the filters along each axis, odd.
      bumps: Gaussians of each activation.
      shared: uses one lambda and one R in all steps.
      remat: recomputes each step in the backward pass, which stores one image per step only.

    Source: Hammernik et al., Magn. Reson. Med. 79:3055, 2018, arXiv:1704.00447.
    """

    cascades: int = 10
    features: int = 48
    window: int = 11
    bumps: int = 31
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
        inputs = cascade_inputs(operators, measurements, train, valid)
        image = start_image(inputs, initial)
        norm = excess(inputs.operators)
        axes = tuple(range(1, image.ndim))
        largest = jnp.abs(inputs.back_projection).max(axes, keepdims=True)
        scale = jnp.where(largest > 0, largest, 1)

        def step(cascade: nn.Module, x: jax.Array, inputs: CascadeInputs) -> jax.Array:
            weight = jnp.exp(cascade.param("log_weight", nn.initializers.zeros, ()))
            experts = FieldOfExperts(self.features, self.window, self.bumps, parent=None)
            correction = bind(experts, cascade, "experts")(to_channels(x / scale))
            data = (weight / norm) * (inputs.gram(x) - inputs.back_projection)
            return x - data - scale * from_channels(correction, x.dtype)

        return unroll(step, image, inputs, self.cascades, shared=self.shared, remat=self.remat)
