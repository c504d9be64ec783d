"""A convolutional variational autoencoder of images."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.models.convolutions import Conv


class VariationalAutoencoder(nn.Module):
    """A variational autoencoder (Kingma and Welling 2014) of images of one size.

    Attributes:
      latent: numbers of the latent vector z.
      channels: features of the first layer; each of the two layers halves sizes and doubles features.
    """

    latent: int = 8
    channels: int = 8

    @nn.compact
    def __call__(self, image: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Maps images (examples, ny, nx, channels) and noise (examples, latent) to (images, mu, log sigma^2).

        The images are decoded from z = mu + sigma noise; mu and log sigma^2 are (examples, latent).
        """
        count, ny, nx, colors = image.shape
        x = image
        for level in (1, 2):
            x = nn.relu(Conv(self.channels * level, 3, 2, name=f"encoder{level}")(x))
        shape = x.shape[1:]
        x = x.reshape(count, -1)
        mean = nn.Dense(self.latent, name="mean")(x)
        log_variance = nn.Dense(self.latent, name="log_variance")(x)
        z = mean + jnp.exp(0.5 * log_variance) * noise
        x = nn.relu(nn.Dense(shape[0] * shape[1] * shape[2], name="decoder0")(z)).reshape(count, *shape)
        x = nn.relu(Conv(self.channels, 3, 2, transpose=True, name="decoder1")(x))
        x = Conv(colors, 3, 2, transpose=True, name="decoder2")(x)
        # Halved sizes are rounded up.
        return x[:, :ny, :nx], mean, log_variance
