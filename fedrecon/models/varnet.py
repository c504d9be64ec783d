"""Unrolled variational network over any linear operator."""

from collections.abc import Callable

import flax.linen as nn
import jax

from fedrecon.models.normalisation import InstanceNorm
from fedrecon.models.unrolled import Regulariser, unroll
from operators import LinearOperator


class _Cascade(nn.Module):
    """One step x - eta (A^H A x - A^H y) - R(x), in the form that ``nn.scan`` takes."""

    channels: int
    pools: int
    norm: Callable[..., nn.Module]
    zero_init: bool
    train: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, operators: LinearOperator, back_projection: jax.Array, valid: jax.Array | None
    ) -> tuple[jax.Array, None]:
        step = self.param("step", nn.initializers.ones, ())
        gradient = jax.vmap(lambda A, x: A.gram(x))(operators, x) - back_projection
        regulariser = Regulariser(
            self.channels, self.pools, self.norm, self.zero_init, joint_deviation=False, name="regulariser"
        )
        return (x - step * gradient - regulariser(x, self.train, valid)).astype(x.dtype), None


class VarNet(nn.Module):
    """Variational network: gradient descent on the data term, interleaved with learned corrections.

    ``x <- x - eta_t (A^H A x - A^H y) - R_t(x)`` for t = 1 ... cascades, with one step size and one U-Net
    per cascade (Hammernik et al. 2018; Sriram et al. 2020, here in image space). All cascades run in one
    ``lax.scan`` with stacked parameters. Step sizes start at 1, for operators of norm about 1 or less
    (SENSE with orthonormal Fourier transform and maps of sum |S|^2 = 1, filtered Radon transforms); scale
    others first.

    Attributes:
      cascades: number of unrolled iterations.
      channels: features of the finest level of each U-Net.
      pools: poolings of each U-Net.
      learn_coil_maps: refines the coil maps of ``SENSE`` operators by a small U-Net per coil
        (``channels // 2`` features) before the cascades; starts as the identity on normalised maps.
      norm: normalisation layer, a type in ``NORMALISATION`` or a partial of one.
      zero_init: starts every R_t at zero, so that the untrained network is ``cascades`` steps of gradient
        descent on ||A x - y||^2 / 2.
      remat: recomputes each cascade in the backward pass, which stores one image per cascade only.
    """

    cascades: int
    channels: int
    pools: int
    learn_coil_maps: bool = False
    norm: Callable[..., nn.Module] = InstanceNorm
    zero_init: bool = True
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
        }
        return unroll(self, _Cascade, options, operators, measurements, initial, valid, train)
