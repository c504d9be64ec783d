"""Pre-training without labels: hidden patches of images are predicted from the others."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.models import MaskedAutoencoder
from fedrecon.tasks.network import check_batch, map_chunks, mean, network, total
from fedrecon.types import Batch, Metrics, PyTree, Task

_CHUNK = 8


def masked_autoencoding_task(
    model: nn.Module, example: Mapping, *, patch: int = 8, hidden: float = 0.6
) -> Task:
    """Trains a network to fill in hidden patches of images; labels are not looked at.

    Images are standardized one by one. A `MaskedAutoencoder` encodes the visible patches alone (He et al.
    2022, arXiv:2111.06377); any other network of images to images, such as a ``UNet``, is given the image
    with zeros in the hidden ones (SimMIM, Xie et al. 2022, arXiv:2111.09886). The loss is the mean squared
    error over hidden pixels, so that 1 is what the mean of each image has.

    Args:
      model: a `MaskedAutoencoder`, or a network that returns as many channels as it gets.
      example: a batch of arrays or ``jax.ShapeDtypeStruct``: "image" (examples, ny, nx, channels) float.
      patch: edge of the patches in pixels; of a `MaskedAutoencoder` its own.
      hidden: part of the patches that is hidden, in (0, 1); of a `MaskedAutoencoder` what it does not see.

    Returns:
      A task; ``metrics`` report the loss with the same patches hidden in every call, and ``predict`` returns
      the images filled in, standardized.

    Raises:
      ValueError: a key is missing in ``example``, or an argument is out of range.
    """
    check_batch(example, ("image",))
    own = isinstance(model, MaskedAutoencoder)
    patch, hidden = (model.patch, 1 - model.visible) if own else (patch, hidden)
    if not 0 < hidden < 1:
        raise ArgumentError("hidden", "a number between 0 and 1", repr(hidden))
    if not (isinstance(patch, int) and patch >= 1):
        raise ArgumentError("patch", "a positive integer", repr(patch))
    image = example["image"]
    if len(image.shape) != 4:
        raise ArgumentError("image", "arrays (examples, ny, nx, channels)", image.shape)
    grid = tuple(-(-size // patch) for size in image.shape[1:3])
    count = grid[0] * grid[1]
    visible = max(1, round((1 - hidden) * count))
    shapes = {
        "image": jax.ShapeDtypeStruct(image.shape, image.dtype),
        "order": jax.ShapeDtypeStruct((image.shape[0], count), jnp.int32),
    }
    net = network(model, lambda batch: tuple(batch[name] for name in (*shapes,)[: 2 if own else 1]), shapes)

    def prepared(batch: Batch, key: jax.Array) -> tuple[Batch, jax.Array, jax.Array]:
        """(what the network gets, the standardized images, which pixels are hidden)."""
        x = batch["image"]
        axes = (1, 2)
        x = x - x.mean(axes, keepdims=True)
        deviation = jnp.sqrt(jnp.square(x).mean(axes, keepdims=True))
        x = x / jnp.where(deviation > 0, deviation, 1)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(len(x)))
        draws = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys)
        order = jnp.argsort(draws, 1).astype(jnp.int32)
        ranks = jnp.argsort(order, 1)
        away = (ranks >= visible).reshape(-1, *grid)
        away = jnp.repeat(jnp.repeat(away, patch, 1), patch, 2)
        # As networks pad, evenly on both sides.
        low = [(-size % patch) // 2 for size in x.shape[1:3]]
        away = away[:, low[0] : low[0] + x.shape[1], low[1] : low[1] + x.shape[2], None]
        given = {**batch, "image": x if own else jnp.where(away, 0, x), "order": order}
        return given, x, jnp.broadcast_to(away, x.shape)

    def errors(output: jax.Array, x: jax.Array, away: jax.Array) -> jax.Array:
        if output.shape != x.shape:
            raise ArgumentError("model", f"an output of the shape {x.shape}", output.shape)
        squared = jnp.where(away, jnp.square(output - x), 0)
        return squared.sum((1, 2, 3)) / away.sum((1, 2, 3))

    def train(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        given, x, away = prepared(batch, key)
        output, stats = net.train(params, stats, given, key)
        losses = errors(output, x, away)
        return mean(losses, batch["valid"]), (stats, {"loss": total(losses, batch["valid"])})

    def metrics(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        def one(part: Batch) -> jax.Array:
            given, x, away = prepared(part, jax.random.key(0))
            return errors(net.evaluate(params, stats, given), x, away)

        seen = {name: batch[name] for name in ("image", "valid")}
        return {"loss": total(map_chunks(one, seen, _CHUNK), batch["valid"])}

    def predict(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        given, x, away = prepared(batch, jax.random.key(0))
        return jnp.where(away, net.evaluate(params, stats, given), x)

    return Task(net.init, train, metrics, predict, net.normalization)
