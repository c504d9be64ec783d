"""Attention within windows of an image, and the segmentation network made of it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.models.attention import Perceptron, SelfAttention
from fedrecon.models.convolutions import Conv, Upsample
from fedrecon.models.unet import pad_to_multiple

_EPSILON = 1e-5


def _tiles(x: jax.Array, window: int) -> jax.Array:
    """(..., ny, nx, channels) -> (..., windows, window**2, channels)."""
    *batch, ny, nx, channels = x.shape
    x = x.reshape(*batch, ny // window, window, nx // window, window, channels)
    return x.swapaxes(-4, -3).reshape(*batch, -1, window**2, channels)


def _untiled(x: jax.Array, ny: int, nx: int) -> jax.Array:
    """The inverse of ``_tiles``."""
    *batch, _, tokens, channels = x.shape
    window = int(tokens**0.5)
    x = x.reshape(*batch, ny // window, nx // window, window, window, channels)
    return x.swapaxes(-4, -3).reshape(*batch, ny, nx, channels)


def _regions(size: int, window: int, shift: int) -> np.ndarray:
    """Along one axis, after padding to windows and rolling by -shift: what may attend to each other."""
    padded = size + -size % window
    # Padding is a region of its own, and so is what has come around the edge.
    place = np.roll(np.arange(padded), -shift)
    return np.where(place >= size, 2, np.where((np.arange(padded) >= padded - shift), 1, 0))


def _relative_places(window: int) -> np.ndarray:
    """(tokens, tokens): which entry of the table of biases belongs to each pair of tokens."""
    y, x = np.divmod(np.arange(window**2), window)
    rows, columns = (p[:, None] - p[None, :] + window - 1 for p in (y, x))
    return rows * (2 * window - 1) + columns


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
        """Maps x (examples, ny, nx, channels) to the same shape.

        Raises:
          ValueError: x is no image.
        """
        if x.ndim != 4:
            raise ArgumentError("x", "images (examples, ny, nx, channels)", x.shape)
        w, sizes = self.window, x.shape[1:3]
        pads = [-size % w for size in sizes]
        padded = [size + pad for size, pad in zip(sizes, pads, strict=True)]
        shifts = [w // 2 if self.shifted and size > w else 0 for size in padded]
        y = nn.LayerNorm(_EPSILON, name="norm0")(x)
        y = jnp.pad(y, ((0, 0), (0, pads[0]), (0, pads[1]), (0, 0)))
        y = _tiles(jnp.roll(y, [-s for s in shifts], (1, 2)), w)
        y = SelfAttention(self.heads, name="attention")(y, self._bias(sizes, shifts))
        y = jnp.roll(_untiled(y, *padded), shifts, (1, 2))[:, : sizes[0], : sizes[1]]
        x = x + y
        y = nn.LayerNorm(_EPSILON, name="norm1")(x)
        return x + Perceptron(self.expansion * x.shape[-1], name="perceptron")(y, train)

    def _bias(self, sizes: tuple[int, ...], shifts: list[int]) -> jax.Array:
        """(windows, heads, tokens, tokens): the biases, and minus infinity between regions."""
        entries = (2 * self.window - 1) ** 2
        table = self.param("position_bias", nn.initializers.truncated_normal(0.02), (entries, self.heads))
        bias = jnp.moveaxis(table[_relative_places(self.window)], -1, 0)
        y, x = (_regions(size, self.window, s) for size, s in zip(sizes, shifts, strict=True))
        region = _tiles(3 * y[:, None, None] + x[:, None], self.window)[..., 0]
        return jnp.where(region[:, None, :, None] == region[:, None, None, :], bias, -jnp.inf)


class SwinUNet(nn.Module):
    """U-shaped network of Swin blocks that segments images (Cao et al. 2021).

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
        """Maps images (examples, ny, nx, channels) to (examples, ny, nx, out_channels).

        Raises:
          ValueError: x is no image, or ``heads`` does not divide ``channels``.
        """
        if x.ndim != 4:
            raise ArgumentError("x", "images (examples, ny, nx, channels)", x.shape)
        x, crops = pad_to_multiple(x, self.patch << self.pools)
        x = Conv(self.channels, self.patch, self.patch, "VALID", name="embedding")(x)
        x = nn.LayerNorm(_EPSILON, name="embedding_norm")(x)
        skips = []
        for level in range(self.pools + 1):
            if level:
                skips.append(x)
                x = nn.LayerNorm(_EPSILON, name=f"merge_norm{level}")(_quarters(x))
                x = nn.Dense(self.channels << level, use_bias=False, name=f"merge{level}")(x)
            x = self._blocks(x, level, f"down{level}", train)
        for level in reversed(range(self.pools)):
            x = Upsample(self.channels << level, name=f"expand{level}")(x)
            x = nn.Dense(self.channels << level, name=f"join{level}")(jnp.concatenate([skips[level], x], -1))
            x = self._blocks(x, level, f"up{level}", train)
        x = nn.Dense(self.patch**2 * self.channels, use_bias=False, name="expand_patch")(x)
        n, ny, nx, _ = x.shape
        x = x.reshape(n, ny, nx, self.patch, self.patch, self.channels).swapaxes(2, 3)
        x = x.reshape(n, ny * self.patch, nx * self.patch, self.channels)
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


def _quarters(x: jax.Array) -> jax.Array:
    """Four neighbors as channels, in the order of Swin: (0, 0), (1, 0), (0, 1), (1, 1) of (y, x)."""
    return jnp.concatenate([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
