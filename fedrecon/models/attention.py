"""Attention: of features (CBAM) and between tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models.convolutions import Conv


class CBAM(nn.Module):
    """Convolutional block attention: weights of channels, then of pixels (Woo et al. 2018).

    Channels are weighted by ``sigmoid(M(mean) + M(max))`` of their mean and maximum over pixels, M being a
    perceptron with one hidden layer; then pixels by the sigmoid of a convolution of the mean and the maximum
    over channels.

    Attributes:
      reduction: the hidden layer has this factor fewer channels, one at least.
      window: width of the convolution, odd.
    """

    reduction: int = 16
    window: int = 7

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Weights x (examples, [nz,] ny, nx, channels), of any number of pixels."""
        spatial = tuple(range(1, x.ndim - 1))
        hidden = nn.Dense(max(1, x.shape[-1] // self.reduction), name="squeeze")
        output = nn.Dense(x.shape[-1], name="excite")
        pooled = (x.mean(spatial, keepdims=True), x.max(spatial, keepdims=True))
        x = x * nn.sigmoid(sum(output(nn.relu(hidden(moment))) for moment in pooled))
        moments = jnp.concatenate([x.mean(-1, keepdims=True), x.max(-1, keepdims=True)], -1)
        return x * nn.sigmoid(Conv(1, self.window, use_bias=False, name="pixels")(moments))


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017); dense layers "qkv" and "output".

    Attributes:
      heads: number of heads; must divide the number of channels.
    """

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        """Mixes tokens x (..., tokens, channels).

        Args:
          x: float.
          bias: added to the logits, broadcast to (..., heads, tokens, tokens); minus infinity parts tokens.

        Raises:
          ValueError: ``heads`` does not divide the channels.
        """
        channels = x.shape[-1]
        if channels % self.heads:
            raise ArgumentError("heads", f"a divisor of the {channels} channels", self.heads)
        qkv = nn.Dense(3 * channels, name="qkv")(x)
        query, key, value = jnp.moveaxis(qkv.reshape(*x.shape[:-1], 3, self.heads, -1), -3, 0)
        logits = jnp.einsum("...ihc,...jhc->...hij", query, key) / jnp.sqrt(query.shape[-1])
        weights = nn.softmax(logits if bias is None else logits + bias)
        mixed = jnp.einsum("...hij,...jhc->...ihc", weights, value)
        return nn.Dense(channels, name="output")(mixed.reshape(x.shape))


class Perceptron(nn.Module):
    """Two dense layers with a GELU between them: the other half of a transformer block.

    Attributes:
      hidden: channels in between.
      dropout: share of the numbers set to zero after both layers.
    """

    hidden: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x (..., channels) to the same shape."""
        y = nn.gelu(nn.Dense(self.hidden, name="hidden")(x), approximate=False)
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        y = nn.Dense(x.shape[-1], name="output")(y)
        return nn.Dropout(self.dropout)(y, deterministic=not train)
