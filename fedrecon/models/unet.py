"""U-Net, its encoder, and the classifier that shares the encoder."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models.convolutions import Conv, Upsample
from fedrecon.models.normalization import InstanceNorm


def activate(x: jax.Array) -> jax.Array:
    """Leaky ReLU of the slope 0.2."""
    return nn.leaky_relu(x, 0.2)


# The number of poolings by 2 along all axes, or of each of them the factors, 1 or 2, along the axes.
Pools = int | Sequence[Sequence[int]]


def pooling_factors(pools: Pools, axes: int) -> tuple[tuple[int, ...], ...]:
    """Of each pooling the factors along the axes.

    Raises:
      ValueError: factors that are not 1 or 2, or of another number of axes.
    """
    if isinstance(pools, int):
        return ((2,) * axes,) * pools
    factors = tuple(tuple(level) for level in pools)
    if any(len(level) != axes or not {1, 2} >= set(level) for level in factors):
        raise ArgumentError("pools", f"a number, or {axes} factors of 1 or 2 for each", pools)
    return factors


def _average_pool(x: jax.Array, factors: Sequence[int]) -> jax.Array:
    n, *sizes, channels = x.shape
    parts = (part for size, f in zip(sizes, factors, strict=True) for part in (size // f, f))
    return x.reshape(n, *parts, channels).mean(tuple(range(2, 2 * x.ndim - 3, 2)))


def pad_to_multiple(x: jax.Array, multiple: int | Sequence[int]) -> tuple[jax.Array, tuple[slice, ...]]:
    """Pads with zeros, evenly on both sides, and returns the slices that undo it."""
    axes = x.ndim - 2
    multiples = (multiple,) * axes if isinstance(multiple, int) else multiple
    pads, crops = [], []
    for size, whole in zip(x.shape[1:-1], multiples, strict=True):
        low, extra = (-size % whole) // 2, -size % whole
        pads.append((low, extra - low))
        crops.append(slice(low, low + size))
    return jnp.pad(x, ((0, 0), *pads, (0, 0))), tuple(crops)


def enlarged(x: jax.Array, factors: Sequence[int]) -> jax.Array:
    """Every pixel as often as the factors say along each axis."""
    for axis, factor in enumerate(factors, 1):
        x = jnp.repeat(x, factor, axis)
    return x


def _of_level(level: int, channels: int, most: int, windows: Sequence[Sequence[int]]) -> tuple[int, Any]:
    """(features, width of the convolutions) of a level."""
    features = channels << level
    return min(features, most) if most else features, tuple(windows[level]) if windows else 3


class Block(nn.Module):
    """(convolution, normalization, leaky ReLU) twice; residual: plus x before the last of them."""

    features: int
    norm: Callable[..., nn.Module]
    residual: bool
    window: int | Sequence[int] = 3

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, valid: jax.Array | None) -> jax.Array:
        y = x
        for i in (1, 2):
            y = activate(y) if i == 2 else y
            y = Conv(self.features, self.window, use_bias=False, name=f"conv{i}")(y)
            y = self.norm(name=f"norm{i}")(y, train, valid)
        if self.residual:
            if x.shape != y.shape:
                x = Conv(self.features, 1, use_bias=False, name="shortcut")(x)
                x = self.norm(name="shortcut_norm")(x, train, valid)
            y = x + y
        return activate(y)


class Encoder(nn.Module):
    """Contracting half of the U-Net: ``pools + 1`` blocks with average pooling in between.

    Attributes:
      channels: features of the first block; they double at every pooling.
      pools: number of poolings by 2, of which image sizes must be multiples; or of each pooling its factors,
        1 or 2, along the axes.
      norm: normalization layer, a type in ``NORMALIZATION`` or a partial of one.
      residual: blocks add what they are given, through a convolution of width 1 where features change.
      windows: of each block, finest first, the widths of its convolutions along the axes; 3 by default.
      most: features that no block exceeds; 0 for no bound.
    """

    channels: int
    pools: Pools
    norm: Callable[..., nn.Module] = InstanceNorm
    residual: bool = False
    windows: Sequence[Sequence[int]] = ()
    most: int = 0

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, valid: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Returns the outputs of all blocks of x (examples, [nz,] ny, nx, channels), finest first."""
        factors = pooling_factors(self.pools, x.ndim - 2)
        if self.windows and len(self.windows) != len(factors) + 1:
            raise ArgumentError("windows", f"widths of {len(factors) + 1} blocks", self.windows)
        levels = []
        for level in range(len(factors) + 1):
            x = _average_pool(x, factors[level - 1]) if level else x
            features, window = _of_level(level, self.channels, self.most, self.windows)
            block = Block(features, self.norm, self.residual, window, name=f"block{level}")
            x = block(x, train, valid)
            levels.append(x)
        return tuple(levels)


class UNet(nn.Module):
    """U-Net for images and volumes of any size (Ronneberger et al. 2015), laid out as fastMRI's baseline.

    They are padded with zeros to a multiple of the product of all poolings and the output is cropped back.

    Attributes:
      channels: features of the finest level.
      pools: number of poolings, or the factors of each, see ``Encoder``.
      out_channels: channels of the output.
      norm: normalization layer, a type in ``NORMALIZATION`` or a partial of one.
      zero_init: starts the kernel of the last layer at zero, so that an untrained network returns
        ``output_bias``.
      output_bias: initial bias of the last layer; minus a few for logits of a rare class (Lin et al. 2017).
      residual: of the encoder and decoder, see ``Encoder`` (He et al. 2016; Isensee et al. 2024).
      deep_supervision: in training every level of the decoder but the coarsest has an output (Lee et al.
        2015; that one has the weight 0 in nnU-Net), enlarged to the pixels of the image by repetition.
      windows, most: of the encoder and decoder, see ``Encoder``.
    """

    channels: int
    pools: Pools
    out_channels: int = 1
    norm: Callable[..., nn.Module] = InstanceNorm
    zero_init: bool = False
    output_bias: float = 0.0
    residual: bool = False
    deep_supervision: bool = False
    windows: Sequence[Sequence[int]] = ()
    most: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> Any:
        """Maps images to images, or volumes to volumes.

        Args:
          x: (examples, [nz,] ny, nx, channels) float.
          train: whether batch normalization uses and updates batch statistics.
          valid: (examples,) bool, False at padding; None for all valid.

        Returns:
          (examples, [nz,] ny, nx, out_channels), without a final activation; with ``deep_supervision`` and
          ``train`` a tuple of ``pools - 1`` of them, one at least, finest first.
        """
        factors = pooling_factors(self.pools, x.ndim - 2)
        # By what each level is coarser than the image.
        scales = [
            tuple(map(math.prod, zip(*factors[:level], strict=True))) for level in range(len(factors) + 1)
        ]
        scales[0] = (1,) * (x.ndim - 2)
        x, crops = pad_to_multiple(x, scales[-1])
        shape = (self.norm, self.residual, self.windows, self.most)
        *skips, x = Encoder(self.channels, factors, *shape, name="encoder")(x, train, valid)
        init = nn.initializers.zeros if self.zero_init else nn.initializers.lecun_normal()
        bias = nn.initializers.constant(self.output_bias)
        coarse = []
        for level in reversed(range(len(factors))):
            features, window = _of_level(level, self.channels, self.most, self.windows)
            x = Upsample(features, factors[level], name=f"up{level}")(x)
            x = activate(self.norm(name=f"up_norm{level}")(x, train, valid))
            x = jnp.concatenate([skips[level], x], -1)
            block = Block(features, self.norm, self.residual, window, name=f"up_block{level}")
            x = block(x, train, valid)
            if self.deep_supervision and 0 < level < len(factors) - 1:
                head = Conv(self.out_channels, 1, kernel_init=init, bias_init=bias, name=f"head{level}")
                coarse.append(enlarged(head(x), scales[level])[:, *crops])
        head = Conv(self.out_channels, 1, kernel_init=init, bias_init=bias, name="head")
        output = head(x)[:, *crops]
        return (output, *reversed(coarse)) if self.deep_supervision and train else output


class Classifier(nn.Module):
    """The encoder of the U-Net, global average and maximum pooling, and one linear layer.

    The parameters under "encoder" have the names and shapes of a ``UNet`` of the same ``channels``,
    ``pools``, ``norm`` and input channels, so that ``warm_start`` carries them over.

    Attributes:
      channels: features of the finest level.
      pools: number of poolings, by 2 along all axes.
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
