"""Densely connected networks that classify images."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models.normalization import GroupNorm
from fedrecon.models.residual_networks import check_normalizable, convolve, stem


class DenseNet(nn.Module):
    """DenseNet-BC (Huang et al. 2017): every layer sees the outputs of all before it in its block.

    The defaults are DenseNet-121.

    Attributes:
      classes: number of logits.
      depths: layers of each block; sizes halve between blocks.
      channels: features of the stem.
      growth: features that each layer adds; 4 times as many in between.
      compression: share of the features kept between blocks.
      small_images: a stem of one convolution of width 3 instead of one of 7 and a pooling that shrink by 4.
      norm: normalization layer, a type in ``NORMALIZATION`` or a partial of one.
    """

    classes: int = 2
    depths: Sequence[int] = (6, 12, 24, 16)
    channels: int = 64
    growth: int = 32
    compression: float = 0.5
    small_images: bool = False
    norm: Callable[..., nn.Module] = GroupNorm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """Maps images (examples, [nz,] ny, nx, channels) to logits (examples, classes); see ``ResNet``.

        Raises:
          ValueError: images smaller than 2 pixels at a halving; instance normalization of one pixel.
        """

        def normalized(y: jax.Array, name: str) -> jax.Array:
            check_normalizable(y, self.norm)
            return self.norm(name=name)(y, train, valid)

        x = stem(x, self.channels, lambda y: normalized(y, "stem_norm"), self.small_images)
        axes = x.ndim - 2
        for block, depth in enumerate(self.depths):
            for layer in range(depth):
                name = f"block{block}_layer{layer}"
                y = nn.relu(normalized(x, f"{name}_norm0"))
                y = convolve(y, 4 * self.growth, 1, 1, f"{name}_conv0")
                y = nn.relu(normalized(y, f"{name}_norm1"))
                y = convolve(y, self.growth, 3, 1, f"{name}_conv1")
                x = jnp.concatenate([x, y], -1)
            if block + 1 < len(self.depths):
                if min(x.shape[1:-1]) < 2:
                    raise ArgumentError("image", f"2 pixels or more after block {block}", x.shape[1:-1])
                y = nn.relu(normalized(x, f"transition{block}_norm"))
                y = convolve(y, int(x.shape[-1] * self.compression), 1, 1, f"transition{block}_conv")
                x = nn.avg_pool(y, (2,) * axes, (2,) * axes)
        x = nn.relu(normalized(x, "last_norm"))
        return nn.Dense(self.classes, name="head")(x.mean(tuple(range(1, x.ndim - 1))))
