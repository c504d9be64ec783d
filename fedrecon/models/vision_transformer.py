"""Vision transformer that classifies images, and the autoencoder that trains it without labels."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models.attention import Perceptron, SelfAttention
from fedrecon.models.convolutions import Conv
from fedrecon.models.unet import pad_to_multiple


class _Block(nn.Module):
    """Attention and a perceptron, each of normalized tokens and added to them."""

    heads: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = SelfAttention(self.heads, name="attention")(nn.LayerNorm(name="norm0")(x))
        x = x + nn.Dropout(self.dropout)(y, deterministic=not train)
        y = nn.LayerNorm(name="norm1")(x)
        return x + Perceptron(self.hidden, self.dropout, name="perceptron")(y, train)


class VisionTransformer(nn.Module):
    """Vision transformer (Dosovitskiy et al. 2021), normalized before each block's halves.

    The defaults are small, for images of some thousand pixels; ViT-B/16 has ``patch=16``, ``channels=768``,
    ``depth=12``, ``heads=12``. The table of positions belongs to the size of the image.

    Attributes:
      classes: number of logits.
      patch: pixels of a token along each axis; images are padded with zeros to a multiple of it.
      channels: of a token.
      depth: blocks.
      heads: of the attention; must divide ``channels``.
      expansion: the perceptrons have this factor more channels inside.
      dropout: share of the numbers set to zero in training, after positions are added and in every block.
      remat: computes each block again in the backward pass, which keeps no more than its input.
    """

    classes: int = 2
    patch: int = 8
    channels: int = 64
    depth: int = 4
    heads: int = 4
    expansion: int = 4
    dropout: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images (examples, [nz,] ny, nx, channels) to logits (examples, classes).

        Args:
          x: float.
          train: whether dropout is drawn.

        Raises:
          ValueError: ``heads`` does not divide ``channels``.
        """
        x = _embedded(self, x, self.patch, self.channels)
        x = _with_class_token(self, x)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        sizes = (self.heads, self.expansion * self.channels, self.dropout)
        x = _blocks(x, self.depth, sizes, train, self.remat)
        return nn.Dense(self.classes, name="head")(nn.LayerNorm(name="last_norm")(x)[:, 0])


class MaskedAutoencoder(nn.Module):
    """Masked autoencoder (He et al. 2022): an encoder, a `VisionTransformer`, sees some tokens alone.

    Its parameters have the names and shapes of a `VisionTransformer` of the same sizes; those of the decoder
    begin with "decoder".

    Attributes:
      patch, channels, depth, heads, expansion, remat: as in `VisionTransformer`.
      visible: part of the tokens that the encoder sees, one at least.
      decoder_channels, decoder_depth, decoder_heads: of the decoder, which is thrown away.
    """

    patch: int = 8
    channels: int = 64
    depth: int = 4
    heads: int = 4
    expansion: int = 4
    remat: bool = False
    visible: float = 0.25
    decoder_channels: int = 64
    decoder_depth: int = 1
    decoder_heads: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, order: jax.Array, train: bool = False) -> jax.Array:
        """Maps images (examples, ny, nx, channels) to images of the same shape.

        Args:
          x: float.
          order: int32 (examples, tokens), an order of the tokens, rows of patches first; the encoder sees
            the first ones.
          train: without an effect.

        Raises:
          ValueError: ``heads`` does not divide ``channels``, or x is no image.
        """
        if x.ndim != 4:
            raise ArgumentError("x", "images (examples, ny, nx, channels)", x.shape)
        *_, features = x.shape
        padded, crops = pad_to_multiple(x, self.patch)
        ny, nx = (size // self.patch for size in padded.shape[1:3])
        tokens = _embedded(self, x, self.patch, self.channels)
        positions = self.param("positions", nn.initializers.normal(0.02), (1 + ny * nx, self.channels))
        tokens = tokens + positions[1:]
        seen = order[:, : max(1, round(self.visible * ny * nx))]
        tokens = jnp.take_along_axis(tokens, seen[..., None], 1)
        first = self.param("class_token", nn.initializers.zeros, (1, 1, self.channels)) + positions[0]
        x = jnp.concatenate(
            [jnp.broadcast_to(first, (len(x), 1, self.channels)).astype(tokens.dtype), tokens], 1
        )
        x = _blocks(x, self.depth, (self.heads, self.expansion * self.channels, 0.0), train, self.remat)
        x = nn.LayerNorm(name="last_norm")(x)
        x = nn.Dense(self.decoder_channels, name="decoder_embedding")(x)
        hidden = self.param("decoder_token", nn.initializers.normal(0.02), (self.decoder_channels,))
        places = jnp.broadcast_to(hidden, (len(x), ny * nx, self.decoder_channels)).astype(x.dtype)
        rows = jnp.arange(len(x))[:, None]
        places = places.at[rows, seen].set(x[:, 1:])
        table = (ny * nx, self.decoder_channels)
        places = places + self.param("decoder_positions", nn.initializers.normal(0.02), table)
        sizes = (self.decoder_heads, self.expansion * self.decoder_channels, 0.0)
        places = _blocks(places, self.decoder_depth, sizes, train, self.remat, "decoder_block")
        places = nn.LayerNorm(name="decoder_norm")(places)
        pixels = nn.Dense(self.patch**2 * features, name="decoder_head")(places)
        pixels = pixels.reshape(-1, ny, nx, self.patch, self.patch, features).swapaxes(2, 3)
        return pixels.reshape(-1, ny * self.patch, nx * self.patch, features)[:, *crops]


def _embedded(module: nn.Module, x: jax.Array, patch: int, channels: int) -> jax.Array:
    """Images as tokens (examples, tokens, channels), in a compact method of the module."""
    x, _ = pad_to_multiple(x, patch)
    x = Conv(channels, patch, patch, "VALID", name="embedding", parent=module)(x)
    return x.reshape(x.shape[0], -1, channels)


def _with_class_token(module: nn.Module, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    token = module.param("class_token", nn.initializers.zeros, (1, 1, channels))
    x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, channels)).astype(x.dtype), x], 1)
    return x + module.param("positions", nn.initializers.normal(0.02), x.shape[1:])


def _blocks(
    x: jax.Array,
    depth: int,
    sizes: tuple[int, int, float],
    train: bool,
    remat: bool,
    name: str = "block",
) -> jax.Array:
    """Blocks of (heads, hidden channels, dropout), in a compact method of a module."""
    kind = nn.remat(_Block, static_argnums=(2,)) if remat else _Block
    for i in range(depth):
        x = kind(*sizes, name=f"{name}{i}")(x, train)
    return x
