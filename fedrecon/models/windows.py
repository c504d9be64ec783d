"""Attention within windows of an image, and the segmentation network made of it."""

import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.models.attention import Perceptron, SelfAttention
from fedrecon.models.convolutions import Conv, Upsample
from fedrecon.models.unet import pad_to_multiple

_EPSILON = 1e-5


def _interleaved(x: Any, sizes: Sequence[int], parts: Sequence[int]) -> Any:
    """(*batch, *(a * b for a, b of sizes and parts), channels) -> (*batch, *sizes, *parts, channels)."""
    axes, batch = len(sizes), x.shape[: x.ndim - 1 - len(sizes)]
    pairs = (part for pair in zip(sizes, parts, strict=True) for part in pair)
    x, first = x.reshape(*batch, *pairs, x.shape[-1]), len(batch)
    order = (*range(first), *range(first, first + 2 * axes, 2), *range(first + 1, first + 2 * axes, 2))
    return x.transpose(*order, first + 2 * axes)


def _joined(x: jax.Array, axes: int) -> jax.Array:
    """The inverse of ``_interleaved``: (*batch, *sizes, *parts, channels), each of ``axes`` axes."""
    first = x.ndim - 1 - 2 * axes
    sizes, parts = x.shape[first : first + axes], x.shape[first + axes : -1]
    pairs = [axis for k in range(first, first + axes) for axis in (k, k + axes)]
    x = x.transpose(*range(first), *pairs, x.ndim - 1)
    return x.reshape(*x.shape[:first], *(a * b for a, b in zip(sizes, parts, strict=True)), x.shape[-1])


def _tiles(x: Any, window: int, axes: int) -> Any:
    """(..., [nz,] ny, nx, channels) -> (..., windows, pixels of a window, channels)."""
    batch, sizes = x.shape[: x.ndim - 1 - axes], x.shape[-1 - axes : -1]
    x = _interleaved(x, [size // window for size in sizes], (window,) * axes)
    return x.reshape(*batch, -1, window**axes, x.shape[-1])


def _untiled(x: jax.Array, window: int, sizes: Sequence[int]) -> jax.Array:
    """The inverse of ``_tiles``."""
    axes, batch = len(sizes), x.shape[:-3]
    x = x.reshape(*batch, *(size // window for size in sizes), *(window,) * axes, x.shape[-1])
    return _joined(x, axes)


def _regions(size: int, window: int, shift: int) -> np.ndarray:
    """Along one axis, after padding to windows and rolling by -shift: what may attend to each other."""
    padded = size + -size % window
    # Padding is a region of its own, and so is what has come around the edge.
    place = np.roll(np.arange(padded), -shift)
    return np.where(place >= size, 2, np.where((np.arange(padded) >= padded - shift), 1, 0))


def _relative_places(window: int, axes: int) -> np.ndarray:
    """(tokens, tokens): which entry of the table of biases belongs to each pair of tokens."""
    places = np.indices((window,) * axes).reshape(axes, -1)
    apart = places[:, :, None] - places[:, None, :] + window - 1
    return np.ravel_multi_index(tuple(apart), (2 * window - 1,) * axes)


class WindowBlock(nn.Module):
    """Swin block (Liu et al. 2021): attention in windows, biased by relative position, and a perceptron.

    Attributes:
      heads: of the attention; must divide the channels.
      window: pixels of a window along each axis.
      shifted: moves the windows by half their size, cyclically, with what is not adjacent kept apart. Where
        one window covers an axis, it is not moved along it.
      expansion: the perceptron has this factor more channels inside.
    """

    heads: int
    window: int = 4
    shifted: bool = False
    expansion: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x (examples, [nz,] ny, nx, channels) to the same shape.

        Raises:
          ValueError: x is neither images nor volumes.
        """
        _check(x)
        w, sizes = self.window, x.shape[1:-1]
        axes, padded = tuple(range(1, x.ndim - 1)), [size + -size % w for size in sizes]
        shifts = [w // 2 if self.shifted and size > w else 0 for size in padded]
        y = nn.LayerNorm(_EPSILON, name="norm0")(x)
        y = jnp.pad(y, ((0, 0), *((0, p - n) for p, n in zip(padded, sizes, strict=True)), (0, 0)))
        y = _tiles(jnp.roll(y, [-s for s in shifts], axes), w, len(axes))
        y = SelfAttention(self.heads, name="attention")(y, self._bias(sizes, shifts))
        y = jnp.roll(_untiled(y, w, padded), shifts, axes)[:, *(slice(n) for n in sizes)]
        x = x + y
        y = nn.LayerNorm(_EPSILON, name="norm1")(x)
        return x + Perceptron(self.expansion * x.shape[-1], name="perceptron")(y, train)

    def _bias(self, sizes: Sequence[int], shifts: list[int]) -> jax.Array:
        """(windows, heads, tokens, tokens): the biases, and minus infinity between regions."""
        axes = len(sizes)
        entries = (2 * self.window - 1) ** axes
        table = self.param("position_bias", nn.initializers.truncated_normal(0.02), (entries, self.heads))
        bias = jnp.moveaxis(table[_relative_places(self.window, axes)], -1, 0)
        region = np.zeros((1,) * axes, int)
        for axis, (size, shift) in enumerate(zip(sizes, shifts, strict=True)):
            along = _regions(size, self.window, shift)
            region = 3 * region + along.reshape(-1, *(1,) * (axes - 1 - axis))
        tiled = _tiles(region[..., None], self.window, axes)[..., 0]
        return jnp.where(tiled[:, None, :, None] == tiled[:, None, None, :], bias, -jnp.inf)


def _check(x: jax.Array) -> None:
    if x.ndim not in (4, 5):
        raise ArgumentError("x", "images or volumes (examples, [nz,] ny, nx, channels)", x.shape)


class SwinUNet(nn.Module):
    """U-shaped network of Swin blocks that segments images or volumes (Cao et al. 2021).

    Attributes:
      channels: of the tokens at the finest level; they double at every halving.
      pools: halvings.
      out_channels: channels of the output.
      patch: pixels of a token along each axis; images are padded with zeros to a multiple of
        ``patch * 2**pools``.
      heads: of the attention at the finest level; they double, too.
      window: tokens of a window along each axis.
      output_bias: initial bias of the last layer; minus a few for logits of a rare class.
    """

    channels: int
    pools: int
    out_channels: int = 1
    patch: int = 2
    heads: int = 2
    window: int = 4
    output_bias: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images (examples, [nz,] ny, nx, channels) to (examples, [nz,] ny, nx, out_channels).

        Raises:
          ValueError: x is neither images nor volumes, or ``heads`` does not divide ``channels``.
        """
        _check(x)
        axes = x.ndim - 2
        x, crops = pad_to_multiple(x, self.patch << self.pools)
        x = Conv(self.channels, self.patch, self.patch, "VALID", name="embedding")(x)
        x = nn.LayerNorm(_EPSILON, name="embedding_norm")(x)
        skips = []
        for level in range(self.pools + 1):
            if level:
                skips.append(x)
                x = nn.LayerNorm(_EPSILON, name=f"merge_norm{level}")(_neighbors(x))
                x = nn.Dense(self.channels << level, use_bias=False, name=f"merge{level}")(x)
            x = self._blocks(x, level, f"down{level}", train)
        for level in reversed(range(self.pools)):
            x = Upsample(self.channels << level, name=f"expand{level}")(x)
            x = nn.Dense(self.channels << level, name=f"join{level}")(jnp.concatenate([skips[level], x], -1))
            x = self._blocks(x, level, f"up{level}", train)
        x = nn.Dense(self.patch**axes * self.channels, use_bias=False, name="expand_patch")(x)
        x = _joined(x.reshape(*x.shape[:-1], *(self.patch,) * axes, self.channels), axes)
        x = nn.LayerNorm(_EPSILON, name="last_norm")(x)
        bias = nn.initializers.constant(self.output_bias)
        head = Conv(
            self.out_channels, 1, kernel_init=nn.initializers.lecun_normal(), bias_init=bias, name="head"
        )
        return head(x)[:, *crops]

    def _blocks(self, x: jax.Array, level: int, name: str, train: bool) -> jax.Array:
        for i, shifted in enumerate((False, True)):
            x = WindowBlock(self.heads << level, self.window, shifted, name=f"{name}_block{i}")(x, train)
        return x


def _neighbors(x: jax.Array) -> jax.Array:
    """Four (eight) neighbors as channels, in the order of Swin: (0, 0), (1, 0), (0, 1), (1, 1) of (y, x)."""
    corners = itertools.product((0, 1), repeat=x.ndim - 2)
    return jnp.concatenate([x[:, *(slice(i, None, 2) for i in reversed(c))] for c in corners], -1)
