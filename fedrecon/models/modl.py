"""Unrolled network with proximal data consistency over any linear operator."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.models.normalisation import InstanceNorm
from fedrecon.models.unrolled import Regulariser, unroll
from operators import LinearOperator, cg


class _Cascade(nn.Module):
    """One step z = argmin |A z - y|^2 + weight |z - x|^2, x <- z - R(z), in the form ``nn.scan`` takes."""

    channels: int
    pools: int
    norm: Callable[..., nn.Module]
    zero_init: bool
    train: bool
    weight: float
    cg_iterations: int

    @nn.compact
    def __call__(
        self, x: jax.Array, operators: LinearOperator, back_projection: jax.Array, valid: jax.Array | None
    ) -> tuple[jax.Array, None]:
        log_weight = self.param("log_weight", nn.initializers.constant(math.log(self.weight)), ())
        weight = jnp.exp(log_weight)

        def nearest(A: LinearOperator, back: jax.Array, x: jax.Array) -> jax.Array:
            # x plus the solution of (A^H A + weight) d = A^H y - A^H A x, which is small near the data.
            residual = back - A.gram(x)
            return x + cg(A.gram, residual, l2=weight, max_iterations=self.cg_iterations)[0]

        z = jax.vmap(nearest)(operators, back_projection, x).astype(x.dtype)
        regulariser = Regulariser(
            self.channels, self.pools, self.norm, self.zero_init, joint_deviation=True, name="regulariser"
        )
        return (z - regulariser(z, self.train, valid)).astype(x.dtype), None


class MoDL(nn.Module):
    """Model-based network: the nearest image that explains the data, then a learned correction, repeated.

    ``z <- argmin_z |A z - y|^2 + w_t |z - x|^2`` and ``x <- z - R_t(z)`` for t = 1 ... cascades, with one
    weight w_t and one U-Net per cascade (Aggarwal, Mani and Jacob 2019, there with shared weights). The
    correction comes last, so that the noise of the data does not return to the image. The minimiser is found
    by conjugate gradients and differentiated implicitly: few cascades suffice where a gradient step is short,
    as in undersampled parallel imaging. All cascades run in one ``lax.scan`` with stacked parameters. For
    operators of norm about 1; scale others first.

    Attributes:
      cascades: number of unrolled iterations.
      channels: features of the finest level of each U-Net.
      pools: poolings of each U-Net.
      learn_coil_maps: refines the coil maps of ``SENSE`` operators, as in ``VarNet``.
      norm: normalisation layer, a type in ``NORMALISATION`` or a partial of one.
      zero_init: starts every R_t at zero, so that the untrained network is iterated Tikhonov
        regularisation.
      remat: recomputes each cascade in the backward pass, which stores one image per cascade only.
      weight: initial w_t, positive; trained as its logarithm.
      cg_iterations: upper bound of the steps of each solve, forward and backward.
    """

    cascades: int
    channels: int
    pools: int
    learn_coil_maps: bool = False
    norm: Callable[..., nn.Module] = InstanceNorm
    zero_init: bool = True
    remat: bool = False
    weight: float = 0.1
    cg_iterations: int = 4

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
        options = {
            "channels": self.channels,
            "pools": self.pools,
            "norm": self.norm,
            "zero_init": self.zero_init,
            "train": train,
            "weight": self.weight,
            "cg_iterations": self.cg_iterations,
        }
        return unroll(self, _Cascade, options, operators, measurements, initial, valid, train)
