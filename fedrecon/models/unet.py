"""U-Net, its encoder, and the classifier that shares the encoder."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.models.convolutions import Conv, Upsample
from fedrecon.models.normalization import InstanceNorm


def _activate(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, 0.2)


def _average_pool(x: jax.Array) -> jax.Array:
    n, *sizes, channels = x.shape
    halves = (part for size in sizes for part in (size // 2, 2))
    return x.reshape(n, *halves, channels).mean(tuple(range(2, 2 * x.ndim - 3, 2)))


def pad_to_multiple(x: jax.Array, multiple: int) -> tuple[jax.Array, tuple[slice, ...]]:
    """Pads with zeros, evenly on both sides, and returns the slices that undo it."""
    pads, crops = [], []
    for size in x.shape[1:-1]:
        low, extra = (-size % multiple) // 2, -size % multiple
        pads.append((low, extra - low))
        crops.append(slice(low, low + size))
    return jnp.pad(x, ((0, 0), *pads, (0, 0))), tuple(crops)


def _enlarged(x: jax.Array, factor: int) -> jax.Array:
    """Every pixel ``factor`` times along each axis."""
    for axis in range(1, x.ndim - 1):
        x = jnp.repeat(x, factor, axis)
    return x


class _Block(nn.Module):
    """(convolution of width 3, normalization, leaky ReLU) twice; residual: plus x before the last of them."""

    features: int
    norm: Callable[..., nn.Module]
    residual: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, valid: jax.Array | None) -> jax.Array:
        y = x
        for i in (1, 2):
            y = Conv(self.features, use_bias=False, name=f"conv{i}")(_activate(y) if i == 2 else y)
            y = self.norm(name=f"norm{i}")(y, train, valid)
        if self.residual:
            if x.shape != y.shape:
                x = Conv(self.features, 1, use_bias=False, name="shortcut")(x)
                x = self.norm(name="shortcut_norm")(x, train, valid)
            y = x + y
        return _activate(y)


class Encoder(nn.Module):
    """Contracting half of the U-Net: ``pools + 1`` blocks with average pooling by 2 in between.

    Attributes:
      channels: features of the first block; they double at every pooling.
      pools: number of poolings; image sizes must be multiples of ``2**pools``.
      norm: normalization layer, a type in ``NORMALIZATION`` or a partial of one.
      residual: blocks add what they are given, through a convolution of width 1 where features change.
    """

    channels: int
    pools: int
    norm: Callable[..., nn.Module] = InstanceNorm
    residual: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, valid: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Returns the outputs of all blocks of x (examples, [nz,] ny, nx, channels), finest first."""
        levels = []
        for level in range(self.pools + 1):
            x = _average_pool(x) if level else x
            block = _Block(self.channels << level, self.norm, self.residual, name=f"block{level}")
            x = block(x, train, valid)
            levels.append(x)
        return tuple(levels)


class UNet(nn.Module):
    """U-Net for images and volumes of any size (Ronneberger et al. 2015), laid out as fastMRI's baseline.

    They are padded with zeros to a multiple of ``2**pools`` and the output is cropped back.

    Attributes:
      channels: features of the finest level.
      pools: number of poolings.
      out_channels: channels of the output.
      norm: normalization layer, a type in ``NORMALIZATION`` or a partial of one.
      zero_init: starts the kernel of the last layer at zero, so that an untrained network returns
        ``output_bias``.
      output_bias: initial bias of the last layer; minus a few for logits of a rare class (Lin et al. 2017).
      residual: of the encoder and decoder, see ``Encoder`` (He et al. 2016; Isensee et al. 2024).
      deep_supervision: in training every level of the decoder has an output (Lee et al. 2015), enlarged to
        the pixels of the image by repetition.
    """

    channels: int
    pools: int
    out_channels: int = 1
    norm: Callable[..., nn.Module] = InstanceNorm
    zero_init: bool = False
    output_bias: float = 0.0
    residual: bool = False
    deep_supervision: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> Any:
        """Maps images to images, or volumes to volumes.

        Args:
          x: (examples, [nz,] ny, nx, channels) float.
          train: whether batch normalization uses and updates batch statistics.
          valid: (examples,) bool, False at padding; None for all valid.

        Returns:
          (examples, [nz,] ny, nx, out_channels), without a final activation; with ``deep_supervision`` and
          ``train`` a tuple of ``pools`` of them, one at least, finest first.
        """
        x, crops = pad_to_multiple(x, 1 << self.pools)
        encoder = Encoder(self.channels, self.pools, self.norm, self.residual, name="encoder")
        *skips, x = encoder(x, train, valid)
        init = nn.initializers.zeros if self.zero_init else nn.initializers.lecun_normal()
        bias = nn.initializers.constant(self.output_bias)
        coarse = []
        for level in reversed(range(self.pools)):
            features = self.channels << level
            x = Upsample(features, name=f"up{level}")(x)
            x = _activate(self.norm(name=f"up_norm{level}")(x, train, valid))
            x = jnp.concatenate([skips[level], x], -1)
            x = _Block(features, self.norm, self.residual, name=f"up_block{level}")(x, train, valid)
            if self.deep_supervision and level:
                head = Conv(self.out_channels, 1, kernel_init=init, bias_init=bias, name=f"head{level}")
                coarse.append(_enlarged(head(x), 1 << level)[:, *crops])
        head = Conv(self.out_channels, 1, kernel_init=init, bias_init=bias, name="head")
        output = head(x)[:, *crops]
        return (output, *reversed(coarse)) if self.deep_supervision and train else output


class Classifier(nn.Module):
    """The encoder of the U-Net, global average and maximum pooling, and one linear layer.

    The parameters under "encoder" have the names and shapes of a ``UNet`` of the same ``channels``,
    ``pools``, ``norm`` and input channels, so that ``warm_start`` carries them over.

    Attributes:
      channels: features of the finest level.
      pools: number of poolings.
      classes: number of logits.
      norm: normalization layer, a type in ``NORMALIZATION`` or a partial of one.
      residual: of the encoder.
    """

    channels: int
    pools: int
    classes: int = 2
    norm: Callable[..., nn.Module] = InstanceNorm
    residual: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """Maps images (examples, [nz,] ny, nx, channels) to logits (examples, classes); see ``UNet``."""
        x, _ = pad_to_multiple(x, 1 << self.pools)
        encoder = Encoder(self.channels, self.pools, self.norm, self.residual, name="encoder")
        x = encoder(x, train, valid)[-1]
        spatial = tuple(range(1, x.ndim - 1))
        return nn.Dense(self.classes, name="head")(jnp.concatenate([x.mean(spatial), x.max(spatial)], -1))
