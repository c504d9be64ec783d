"""Vision transformer that classifies images."""

import flax.linen as nn
import jax
import jax.numpy as jnp

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
    """

    classes: int = 2
    patch: int = 8
    channels: int = 64
    depth: int = 4
    heads: int = 4
    expansion: int = 4
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images (examples, [nz,] ny, nx, channels) to logits (examples, classes).

        Args:
          x: float.
          train: whether dropout is drawn.

        Raises:
          ValueError: ``heads`` does not divide ``channels``.
        """
        x, _ = pad_to_multiple(x, self.patch)
        x = Conv(self.channels, self.patch, self.patch, "VALID", name="embedding")(x)
        x = x.reshape(x.shape[0], -1, self.channels)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.channels))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.channels)).astype(x.dtype), x], 1)
        x = x + self.param("positions", nn.initializers.normal(0.02), x.shape[1:])
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        for i in range(self.depth):
            block = _Block(self.heads, self.expansion * self.channels, self.dropout, name=f"block{i}")
            x = block(x, train)
        return nn.Dense(self.classes, name="head")(nn.LayerNorm(name="last_norm")(x)[:, 0])
