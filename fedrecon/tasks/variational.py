"""Images as latent vectors, without labels: the evidence lower bound of a variational autoencoder."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models import VariationalAutoencoder
from fedrecon.tasks.network import check_batch, map_chunks, mean, network, total
from fedrecon.types import Batch, Metrics, PyTree, Task

_CHUNK = 32


def variational_autoencoding_task(
    example: Mapping, *, latent: int = 8, channels: int = 8, weight: float = 1.0
) -> Task:
    """Trains a `VariationalAutoencoder` (Kingma and Welling 2014, arXiv:1312.6114); labels are not looked at.

    The loss of an image is minus the evidence lower bound, with a Gaussian of variance 1/2 around x-hat and
    without its constant::

        |x - x-hat|^2 + beta KL(N(mu, sigma^2) || N(0, 1)),   z = mu + sigma eps

    summed over pixels and latent numbers. As a task of a program: ``--task=fedrecon.tasks:NAME`` with the
    name of this function.

    Args:
      example: a batch of arrays or ``jax.ShapeDtypeStruct``: "image" (examples, ny, nx, channels) float.
      latent: numbers of z, at least 1.
      channels: of the network, at least 1.
      weight: beta, at least 0.

    Returns:
      A task; ``metrics`` are "reconstruction_error" and "kl_loss" of the mean image, and the "loss" that they
      make, all with the same eps in every call; ``predict`` returns the images decoded from mu.

    Raises:
      ValueError: a key is missing in ``example``, images have other axes, or an argument is out of range.
    """
    check_batch(example, ("image",))
    image = example["image"]
    if len(image.shape) != 4:
        raise ArgumentError("image", "arrays (examples, ny, nx, channels)", image.shape)
    for name, value, least in (("latent", latent, 1), ("channels", channels, 1), ("weight", weight, 0)):
        if not value >= least:
            raise ArgumentError(name, f"at least {least}", repr(value))
    shapes = {"image": image, "noise": jax.ShapeDtypeStruct((1, latent), jnp.float32)}
    model = VariationalAutoencoder(latent=latent, channels=channels)
    net = network(model, lambda batch: (batch["image"], batch["noise"]), shapes)

    def noise(batch: Batch, key: jax.Array) -> jax.Array:
        return jax.random.normal(key, (len(batch["image"]), latent))

    def parts(output: Any, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(squared error, divergence) of every image."""
        found, mu, log_variance = output
        divergence = 0.5 * (jnp.square(mu) + jnp.exp(log_variance) - 1 - log_variance).sum(1)
        return jnp.square(image - found).sum((1, 2, 3)), divergence

    def train(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        given = {**batch, "noise": noise(batch, key)}
        output, stats = net.train(params, stats, given, key)
        error, divergence = parts(output, batch["image"])
        losses = error + weight * divergence
        return mean(losses, batch["valid"]), (stats, {"loss": total(losses, batch["valid"])})

    def metrics(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        seen = {"image": batch["image"], "valid": batch["valid"], "noise": noise(batch, jax.random.key(0))}

        def one(part: Batch) -> tuple[jax.Array, jax.Array]:
            return parts(net.evaluate(params, stats, part), part["image"])

        error, divergence = map_chunks(one, seen, _CHUNK)
        values = {"reconstruction_error": error, "kl_loss": divergence, "loss": error + weight * divergence}
        return {name: total(value, batch["valid"]) for name, value in values.items()}

    def predict(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        still = {"image": batch["image"], "noise": jnp.zeros((len(batch["image"]), latent))}
        return net.evaluate(params, stats, still)[0]

    return Task(net.init, train, metrics, predict, net.normalization)
