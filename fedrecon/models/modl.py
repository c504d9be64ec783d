"""Unrolled network with proximal data consistency over any linear operator."""

from collections.abc import Callable

import flax.linen as nn
import jax

from fedrecon.models.coil_maps import CoilMapRefiner, refine_coil_maps
from fedrecon.models.data_steps import proximal_step
from fedrecon.models.normalization import InstanceNorm
from fedrecon.models.regularizers import UNetRegularizer, regularized
from fedrecon.models.unrolled import cascade_inputs, start_image, unroll
from operators import LinearOperator


class MoDL(nn.Module):
    """Model-based network: the nearest image that explains the data, then a learned correction, repeated.

    ``z <- argmin_z |A z - y|^2 + w_t |z - x|^2`` and ``x <- z - R_t(z)`` for t = 1 ... cascades, with one
    weight w_t and one U-Net per cascade (Aggarwal, Mani and Jacob 2019, there with ``shared``). The
    correction comes last, so that the noise of the data does not return to the image. The minimizer is found
    by conjugate gradients and differentiated implicitly: few cascades suffice where a gradient step is short,
    as in undersampled parallel imaging. All cascades run in one ``lax.scan`` with stacked parameters. For
    operators of norm about 1; scale others first.

    Attributes:
      cascades: number of unrolled iterations.
      channels: features of the finest level of each U-Net.
      pools: poolings of each U-Net.
      learn_coil_maps: refines the coil maps of ``SENSE`` operators, as in ``VarNet``.
      norm: normalization layer, a type in ``NORMALIZATION`` or a partial of one.
      zero_init: starts every R_t at zero, so that the untrained network is iterated Tikhonov
        regularization.
      remat: recomputes each cascade in the backward pass, which stores one image per cascade only.
      weight: initial w_t, positive; trained as its logarithm.
      cg_iterations: upper bound of the steps of each solve, forward and backward.
      shared: uses one weight and one U-Net in all cascades.
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
    shared: bool = False

    @nn.compact
    def __call__(
        self,
        operators: LinearOperator,
        measurements: jax.Array,
        initial: jax.Array | None = None,
        train: bool = False,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Reconstructs a batch of images, or of volumes.

        Args:
          operators: an operator stacked leaf by leaf: every array leaf has a leading batch axis.
          measurements: (batch, *out_shape).
          initial: (batch, *in_shape) to start from; None for A^H y.
          train: whether batch normalization uses and updates batch statistics.
          valid: (batch,) bool, False at padding; None for all valid.

        Returns:
          (batch, *in_shape), complex where the operator's ``in_dtype`` is.

        Raises:
          ValueError: the operators act neither on images nor on volumes, or ``initial`` has a wrong shape.
          TypeError: ``learn_coil_maps`` with operators that have no coil maps.
        """
        if self.learn_coil_maps:
            refiner = CoilMapRefiner(max(1, self.channels // 2), self.pools, self.norm, name="coil_maps")
            operators = refine_coil_maps(operators, refiner, train, valid)
        regularizer = UNetRegularizer(
            self.channels,
            self.pools,
            self.norm,
            self.zero_init,
            joint_deviation=True,
            parent=None,
            name="regulariser",  # Initial values depend on it.
        )
        step = regularized(proximal_step(self.weight, self.cg_iterations), regularizer)
        inputs = cascade_inputs(operators, measurements, train, valid)
        state = start_image(inputs, initial)
        return unroll(step, state, inputs, self.cascades, shared=self.shared, remat=self.remat)
