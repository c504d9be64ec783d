"""Unrolled proximal gradient descent with learned sparsity."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.models.convolutions import Conv
from fedrecon.models.data_steps import gradient_step
from fedrecon.models.regularizers import from_channels, regularized, to_channels
from fedrecon.models.unrolled import Unrolled


class SparseTransform(nn.Module):
    """R(x) = -G(soft(F(x), theta)): transform F, trained threshold theta, synthesis G.

    F and G are two convolutions each, without biases, with a ReLU in between; G starts at zero. R(s x) is
    s R(x) for s > 0: the root mean square of each example is divided out.

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
        log_threshold = self.param("log_threshold", nn.initializers.constant(math.log(self.threshold)), ())
        v = conv("analysis2")(nn.relu(conv("analysis1")(u / scale)))
        v = v - jnp.clip(v, -jnp.exp(log_threshold), jnp.exp(log_threshold))
        v = nn.relu(conv("synthesis1")(v))
        v = Conv(u.shape[-1], use_bias=False, kernel_init=nn.initializers.zeros, name="synthesis2")(v)
        return from_channels(-v * scale, x.dtype)


def ista_net(cascades: int = 9, features: int = 32, threshold: float = 0.01, **options: Any) -> Unrolled:
    """ISTA-Net+ for images and volumes: ``x <- z + G(soft(F(z), theta))``, z a gradient step from x.

    Untrained, it is gradient descent. The penalty of the paper that ties G to the inverse of F is not in it.

    Args:
      cascades: number of unrolled steps.
      features: channels of the transform F.
      threshold: theta to start from, positive.
      **options: ``shared`` and ``remat`` of ``Unrolled``.

    Source: Zhang and Ghanem, CVPR 2018.
    """
    step = regularized(gradient_step(), SparseTransform(features, threshold, parent=None))
    return Unrolled(step, cascades, **options)
