"""Plain convolutional networks that classify images: layers one after the other."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.models.convolutions import Conv
from fedrecon.models.normalization import GroupNorm
from fedrecon.models.residual_networks import centered_padding, check_normalizable


class VGG(nn.Module):
    """VGG with normalization (Simonyan and Zisserman 2015), as torchvision lays it out.

    The defaults are VGG-11, of 133 million parameters at 1000 classes, nearly all of them in ``hidden``.

    Attributes:
      classes: number of logits.
      stages: features of the convolutions of each stage; sizes halve after every stage.
      pooled: pixels along each axis that the perceptron sees, means of windows that may overlap.
      hidden: features of the layers of the perceptron.
      dropout: part of these features that a training step leaves out.
      norm: normalization layer, a type in ``NORMALIZATION`` or a partial of one.
    """

    classes: int = 2
    stages: Sequence[Sequence[int]] = ((64,), (128,), (256, 256), (512, 512), (512, 512))
    pooled: int = 7
    hidden: Sequence[int] = (4096, 4096)
    dropout: float = 0.5
    norm: Callable[..., nn.Module] = GroupNorm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """Maps images (examples, [nz,] ny, nx, channels) to logits (examples, classes); see ``ResNet``.

        Raises:
          ValueError: images smaller than 2 pixels at a halving; instance normalization of one pixel.
        """
        axes, layer = x.ndim - 2, 0
        for stage, widths in enumerate(self.stages):
            for features in widths:
                x = Conv(features, 3, 1, centered_padding(x, 3), name=f"conv{layer}")(x)
                check_normalizable(x, self.norm)
                x = nn.relu(self.norm(name=f"norm{layer}")(x, train, valid))
                layer += 1
            if min(x.shape[1:-1]) < 2:
                raise ArgumentError("image", f"2 pixels or more after stage {stage}", x.shape[1:-1])
            x = nn.max_pool(x, (2,) * axes, (2,) * axes)
        x = jnp.moveaxis(pool_to(x, self.pooled), -1, 1).reshape(len(x), -1)
        for i, features in enumerate(self.hidden):
            x = nn.relu(nn.Dense(features, name=f"hidden{i}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, name="head")(x)


def pool_to(x: jax.Array, size: int) -> jax.Array:
    """Means of ``size`` windows along each spatial axis of any length n: (examples, size, ..., channels).

    Window i has the pixels from floor(i n / size) to ceil((i + 1) n / size), as in torch's adaptive pooling.
    """
    for axis in range(1, x.ndim - 1):
        length, i = x.shape[axis], np.arange(size)
        first, last = i * length // size, -(-(i + 1) * length // size)
        place = np.arange(length)
        inside = (place >= first[:, None]) & (place < last[:, None])
        means = jnp.asarray(inside / (last - first)[:, None], x.dtype)
        x = jnp.moveaxis(jnp.tensordot(means, x, (1, axis)), 0, axis)
    return x
