"""Residual networks that classify images."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax

from fedrecon.errors import ArgumentError
from fedrecon.models.attention import CBAM
from fedrecon.models.convolutions import Conv
from fedrecon.models.normalization import GroupNorm, InstanceNorm


def centered_padding(x: jax.Array, window: int) -> tuple[tuple[int, int], ...]:
    """The padding of an odd window around every pixel, which strides do not shift, unlike "SAME"."""
    return ((window // 2, window // 2),) * (x.ndim - 2)


def convolve(x: jax.Array, features: int, window: int, stride: int, name: str) -> jax.Array:
    """A convolution without bias, centered, as a submodule of the calling module."""
    padding = centered_padding(x, window)
    return Conv(features, window, stride, padding, use_bias=False, name=name)(x)


def stem(x: jax.Array, channels: int, norm: Callable, small: bool) -> jax.Array:
    """The first layers, normalized by ``norm(x)``: a quarter of the size, or with ``small`` all of it."""
    if small:
        return nn.relu(norm(convolve(x, channels, 3, 1, "stem")))
    x = nn.relu(norm(convolve(x, channels, 7, 2, "stem")))
    axes = x.ndim - 2
    return nn.max_pool(x, (3,) * axes, (2,) * axes, centered_padding(x, 3))


def check_normalizable(x: jax.Array, norm: Callable, name: str = "image") -> None:
    """Raises ValueError where instance normalization would see single pixels, and erase them."""
    kind = getattr(norm, "func", norm)
    if kind is InstanceNorm and max(x.shape[1:-1]) == 1:
        raise ArgumentError(
            "norm",
            "group or batch normalization, or larger images",
            "instance normalization of one pixel, which erases it",
        )


class _Residual(nn.Module):
    """A block and its shortcut; ``widths`` are (window, features) of its convolutions."""

    widths: tuple[tuple[int, int], ...]
    stride: int
    norm: Callable[..., nn.Module]
    attention: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, valid: jax.Array | None) -> jax.Array:
        # The stride belongs to the first convolution that sees neighbors.
        strided = next(i for i, (window, _) in enumerate(self.widths) if window > 1)
        y = x
        for i, (window, features) in enumerate(self.widths):
            stride = self.stride if i == strided else 1
            y = convolve(nn.relu(y) if i else y, features, window, stride, f"conv{i}")
            check_normalizable(y, self.norm)
            y = self.norm(name=f"norm{i}")(y, train, valid)
        if self.attention:
            y = CBAM(name="attention")(y)
        if x.shape != y.shape:
            x = convolve(x, y.shape[-1], 1, self.stride, "shortcut")
            x = self.norm(name="shortcut_norm")(x, train, valid)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Residual network (He et al. 2016), as torchvision lays it out: strides in the convolutions of width 3.

    The four stages of (2, 2, 2, 2) basic blocks are ResNet-18, of (3, 4, 6, 3) ResNet-34, and with
    ``bottleneck`` ResNet-50. Group normalization is the default, since sites with different statistics share
    no batch moments (Hsieh et al. 2020).

    Attributes:
      classes: number of logits.
      depths: blocks of each stage; channels double and sizes halve from stage to stage.
      channels: features of the stem and, before the expansion, of the first stage.
      bottleneck: blocks of three convolutions, 1, 3 and 1 wide, the last with four times the features.
      small_images: a stem of one convolution of width 3 instead of one of 7 and a pooling that shrink by 4.
      attention: `CBAM` in every block, before the sum.
      norm: normalization layer, a type in ``NORMALIZATION`` or a partial of one.
    """

    classes: int = 2
    depths: Sequence[int] = (2, 2, 2, 2)
    channels: int = 64
    bottleneck: bool = False
    small_images: bool = False
    attention: bool = False
    norm: Callable[..., nn.Module] = GroupNorm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, valid: jax.Array | None = None) -> jax.Array:
        """Maps images (examples, [nz,] ny, nx, channels) to logits (examples, classes).

        Args:
          x: float, of any size.
          train: whether batch normalization uses and updates batch statistics.
          valid: (examples,) bool, False at padding; None for all valid.

        Raises:
          ValueError: instance normalization, of images so small that one pixel is left of them.
        """
        first = self.norm(name="stem_norm")
        x = stem(x, self.channels, lambda y: first(y, train, valid), self.small_images)
        for stage, depth in enumerate(self.depths):
            features = self.channels << stage
            widths = ((1, features), (3, features), (1, 4 * features))
            widths = widths if self.bottleneck else ((3, features), (3, features))
            for block in range(depth):
                stride = 2 if stage and not block else 1
                layer = _Residual(
                    widths, stride, self.norm, self.attention, name=f"stage{stage}_block{block}"
                )
                x = layer(x, train, valid)
        return nn.Dense(self.classes, name="head")(x.mean(tuple(range(1, x.ndim - 1))))
