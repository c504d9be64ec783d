"""Unrolled variational network over any linear operator."""

from collections.abc import Callable

import flax.linen as nn
import jax

from fedrecon.models.coil_maps import CoilMapRefiner, refine_coil_maps
from fedrecon.models.data_steps import gradient_step
from fedrecon.models.normalization import InstanceNorm
from fedrecon.models.regularizers import UNetRegularizer, regularized
from fedrecon.models.unrolled import cascade_inputs, start_image, unroll
from operators import LinearOperator


class VarNet(nn.Module):
    """Variational network: gradient descent on the data term, interleaved with learned corrections.

    ``x <- x - eta_t (A^H A x - A^H y) / |A|^2 - R_t(x)`` for t = 1 ... cascades, with one step size, 1 at the
    start, and one U-Net per cascade (Hammernik et al. 2018; Sriram et al. 2020, here in image space). All
    cascades run in one ``lax.scan`` with stacked parameters. |A|^2 is that of `squared_norms`; of Cartesian
    MRI it counts as 1, which it is for maps of sum |S|^2 = 1.

    Attributes:
      cascades: number of unrolled iterations.
      channels: features of the finest level of each U-Net.
      pools: poolings of each U-Net.
      learn_coil_maps: refines the coil maps of ``SENSE`` operators by a small U-Net per coil
        (``channels // 2`` features) before the cascades; starts as the identity on normalized maps.
      norm: normalization layer, a type in ``NORMALIZATION`` or a partial of one.
      zero_init: starts every R_t at zero, so that the untrained network is ``cascades`` steps of gradient
        descent on ||A x - y||^2 / 2.
      remat: recomputes each cascade in the backward pass, which stores one image per cascade only.
      shared: uses one step size and one U-Net in all cascades.
    """

    cascades: int
    channels: int
    pools: int
    learn_coil_maps: bool = False
    norm: Callable[..., nn.Module] = InstanceNorm
    zero_init: bool = True
    remat: bool = False
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
            joint_deviation=False,
            parent=None,
            name="regulariser",  # Initial values depend on it.
        )
        step = regularized(gradient_step(), regularizer, "parallel")
        inputs = cascade_inputs(operators, measurements, train, valid, normalized=True)
        state = start_image(inputs, initial)
        return unroll(step, state, inputs, self.cascades, shared=self.shared, remat=self.remat)
