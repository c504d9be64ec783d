"""Unrolled proximal gradient descent with learned sparsity."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.models.convolutions import Conv
from fedrecon.models.data_steps import gradient_step
from fedrecon.models.regularizers import from_channels, regularized, to_channels
from fedrecon.models.unrolled import cascade_inputs, start_image, unroll
from operators import LinearOperator


class SparseTransform(nn.Module):
    """R(x) = -G(F'(soft(F(D(x)), theta))): features D, transform F, trained threshold theta, F' and G back.

    D and G are a convolution, F and F' two with a ReLU in between, all without biases; G starts at zero.
    R(s x) is s R(x) for s > 0: the root mean square of each example is divided out.

    Attributes:
      features: channels of the transform.
      threshold: theta to start from, positive; the parameter is its logarithm, "log_threshold".
    """

    features: int
    threshold: float = 0.01

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """R(x) of images (batch, ny, nx) or volumes (batch, nz, ny, nx), of the same shape and dtype."""
        del train, valid

        def conv(name: str) -> Conv:
            return Conv(self.features, use_bias=False, name=name)

        u = to_channels(x)
        scale = jnp.sqrt(jnp.square(u).mean(tuple(range(1, u.ndim)), keepdims=True) + 1e-12)
        theta = jnp.exp(self.param("log_threshold", nn.initializers.constant(math.log(self.threshold)), ()))
        v = conv("features")(u / scale)
        v = conv("analysis2")(nn.relu(conv("analysis1")(v)))
        v = v - jnp.clip(v, -theta, theta)
        v = conv("synthesis2")(nn.relu(conv("synthesis1")(v)))
        v = Conv(u.shape[-1], use_bias=False, kernel_init=nn.initializers.zeros, name="image")(v)
        return from_channels(-v * scale, x.dtype)


class ISTANet(nn.Module):
    """ISTA-Net+ for images and volumes: ``x <- z + G(F'(soft(F(D(z)), theta)))``, z a gradient step from x.

    Untrained, it is gradient descent. The penalty of the paper that ties F' to the inverse of F is not in it.
    Steps are those of `VarNet`.

    Attributes:
      cascades: number of unrolled steps; those of the publication by default, as features and threshold.
      features: channels of the transform F.
      threshold: theta to start from, positive.
      shared: uses one step in all cascades.
      remat: recomputes each cascade in the backward pass, which stores one image per cascade only.

    Source: Zhang and Ghanem, CVPR 2018.
    """

    cascades: int = 9
    features: int = 32
    threshold: float = 0.01
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
        step = regularized(gradient_step(), SparseTransform(self.features, self.threshold, parent=None))
        inputs = cascade_inputs(operators, measurements, train, valid, normalized=True)
        state = start_image(inputs, initial)
        return unroll(step, state, inputs, self.cascades, shared=self.shared, remat=self.remat)
