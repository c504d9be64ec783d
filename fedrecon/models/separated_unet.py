"""A U-Net with a decoder of its own for every structure."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models.convolutions import Conv, Upsample
from fedrecon.models.normalization import InstanceNorm
from fedrecon.models.unet import Block, Encoder, activate, enlarged, pad_to_multiple

# The finest scales of which a decoder has an output in training: 1, 1/2 and 1/4.
_SCALES = 3


class Decoder(nn.Module):
    """Expanding half of a U-Net, which finds one structure.

    Attributes:
      channels: features of the finest level.
      norm: normalization layer.
      output_bias: initial bias of the last layers.
    """

    channels: int
    norm: Callable[..., nn.Module]
    output_bias: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, skips: Sequence[jax.Array], train: bool, valid: jax.Array | None
    ) -> list[jax.Array]:
        """Logits (examples, ny, nx, 1) of three scales, fewer with fewer halvings, finest first.

        Coarse ones are enlarged to the finest by repetition.
        """
        outputs = []
        axes = x.ndim - 2
        for level in reversed(range(len(skips))):
            features = self.channels << level
            x = Upsample(features, (2,) * axes, name=f"up{level}")(x)
            x = activate(self.norm(name=f"up_norm{level}")(x, train, valid))
            x = jnp.concatenate([skips[level], x], -1)
            x = Block(features, self.norm, False, name=f"up_block{level}")(x, train, valid)
            if level < _SCALES:
                bias = nn.initializers.constant(self.output_bias)
                logits = Conv(1, 1, bias_init=bias, name=f"head{level}" if level else "head")(x)
                outputs.append(enlarged(logits, (1 << level,) * axes))
        return outputs[::-1]


class SeparatedUNet(nn.Module):
    """A U-Net whose structures share the encoder and have decoders of their own (label separation).

    The likeliest structure wins where several claim a pixel, and the background where none is likelier than
    not: logits are 0 of the background and those of the decoders, each against the background alone.

    Attributes:
      channels, pools, norm: of the encoder, as in ``UNet``; ``pools`` is a number, at least 1.
      out_channels: 1 for one structure, otherwise classes with the background.
      output_bias: initial bias of the last layers.
    """

    channels: int
    pools: int
    out_channels: int = 1
    norm: Callable[..., nn.Module] = InstanceNorm
    output_bias: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Maps images (examples, [nz,] ny, nx, channels) to logits (examples, [nz,] ny, nx, out_channels).

        With ``train`` a tuple of them, of up to three scales, finest first.
        """
        if not (isinstance(self.pools, int) and self.pools >= 1):
            raise ArgumentError("pools", "a number of at least 1", repr(self.pools))
        x, crops = pad_to_multiple(x, 1 << self.pools)
        *skips, x = Encoder(self.channels, self.pools, self.norm, name="encoder")(x, train, valid)
        found = []
        for number in range(max(self.out_channels - 1, 1)):
            decoder = Decoder(self.channels, self.norm, self.output_bias, name=f"decoder{number}")
            found.append(decoder(x, skips, train, valid))
        scales = [jnp.concatenate(logits, -1)[:, *crops] for logits in zip(*found, strict=True)]
        if self.out_channels > 1:
            scales = [jnp.concatenate([jnp.zeros_like(z[..., :1]), z], -1) for z in scales]
        return tuple(scales) if train else scales[0]
