"""U-Net on the back projection of the data."""

from collections.abc import Callable

import flax.linen as nn
import jax

from fedrecon.models.normalization import InstanceNorm
from fedrecon.models.regularizers import UNetRegularizer
from fedrecon.models.unrolled import cascade_inputs, start_image
from operators import LinearOperator


class BackProjectionUNet(nn.Module):
    """``x = A^H y - R(A^H y)``: what a U-Net takes for artifacts is subtracted; data are seen once.

    Of filtered Radon operators A^H y is the filtered back projection, and the network FBPConvNet (Jin et al.,
    IEEE Trans. Image Process. 26:4509, 2017); of Cartesian MRI it is the zero-filled image, combined over
    coils, and the network fastMRI's U-Net baseline with a residual.

    Attributes:
      channels, pools, norm, zero_init: of the U-Net, as in `VarNet`.
    """

    channels: int
    pools: int
    norm: Callable[..., nn.Module] = InstanceNorm
    zero_init: bool = True

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
        network = UNetRegularizer(self.channels, self.pools, self.norm, self.zero_init, name="regularizer")
        return image - network(image, train, valid)
