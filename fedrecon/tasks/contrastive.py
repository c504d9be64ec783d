"""Pre-training without labels: two views of an image are told from those of other images."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedrecon.alignment import Contrast, info_nce
from fedrecon.errors import ArgumentError
from fedrecon.tasks.network import check_batch, map_chunks, mean, network, random_flips, total
from fedrecon.types import Batch, Metrics, PyTree, Task, Variables

_CHUNK = 32


def contrastive_task(
    model: nn.Module,
    example: Mapping,
    *,
    features: int = 64,
    temperature: float = 0.2,
    crop: float = 0.6,
    jitter: float = 0.4,
    noise: float = 0.1,
    flip: bool = True,
) -> tuple[Task, Contrast]:
    """Trains a classifier's layers, and a projection, by contrast of views (SimCLR, arXiv:2002.05709).

    The projection is the network's last layer, a ReLU and a linear layer. Images are standardized one by one;
    a view is a part of the image, enlarged to its size by linear interpolation, mirrored left to right with
    probability 1/2, times a gain, plus a number, plus white noise. All of it is drawn from typed keys within
    the step. Labels are not looked at, and need not be there.

    The loss of the task itself is InfoNCE of both views of each image, within the batch, against all views of
    its other images. Methods with banks replace it (`fedrecon.federated.methods.momentum_contrast`).

    Args:
      model: whose last layer returns (examples, width), such as a ``Classifier`` with ``classes=width``.
      example: a batch of arrays or ``jax.ShapeDtypeStruct``: "image" (examples, [nz,] ny, nx, channels)
        float.
      features: of the projection.
      temperature: T, positive.
      crop: least part of each edge that a view shows, in (0, 1].
      jitter: gains are from 1 - jitter to 1 + jitter, numbers added from -jitter to jitter.
      noise: greatest standard deviation of the noise, that of the image being 1; drawn for each view.
      flip: whether views are mirrored.

    Returns:
      The task, with parameters "network" and "projection": ``metrics`` report the loss with the same views in
      every call, among 32 images at a time, and ``predict`` returns the projection (examples, features); and
      the same as a `Contrast`.

    Raises:
      ValueError: a key is missing in ``example``, or an argument is out of range.
    """
    check_batch(example, ("image",))
    for name, value, good in (
        ("features", features, isinstance(features, int) and features >= 1),
        ("temperature", temperature, temperature > 0),
        ("crop", crop, 0 < crop <= 1),
        ("jitter", jitter, 0 <= jitter < 1),
        ("noise", noise, noise >= 0),
    ):
        if not good:
            raise ArgumentError(name, "a number in its range", repr(value))
    shape = jax.ShapeDtypeStruct(example["image"].shape, example["image"].dtype)
    net = network(model, lambda batch: (batch["image"],), {"image": shape})

    def init(key: jax.Array) -> Variables:
        variables = net.init(key)
        width = jax.eval_shape(net.evaluate, *variables, {"image": shape}).shape[-1]
        kernel = nn.initializers.lecun_normal()(jax.random.fold_in(key, 1), (width, features))
        projection = {"kernel": kernel, "bias": jnp.zeros(features)}
        return Variables({"network": variables.params, "projection": projection}, variables.stats)

    def project(params: PyTree, hidden: jax.Array) -> jax.Array:
        return jax.nn.relu(hidden) @ params["kernel"] + params["bias"]

    def train(params: PyTree, stats: PyTree, batch: Batch, key: jax.Array) -> tuple[jax.Array, PyTree]:
        hidden, stats = net.train(params["network"], stats, batch, key)
        return project(params["projection"], hidden), stats

    def evaluate(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        standard = {**batch, "image": _standardized(batch["image"])}
        return project(params["projection"], net.evaluate(params["network"], stats, standard))

    def views(batch: Batch, key: jax.Array) -> tuple[Batch, Batch]:
        images = _standardized(batch["image"])

        def one(key: jax.Array) -> Batch:
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(len(images)))
            drawn = jax.vmap(lambda image, key: _view(image, key, crop, jitter, noise))(images, keys)
            if flip:
                (drawn,) = random_flips(jax.random.fold_in(key, len(images)), drawn, axis=drawn.ndim - 2)
            return {**batch, "image": drawn}

        first, second = jax.random.split(key)
        return one(first), one(second)

    def losses(features: tuple[jax.Array, jax.Array], valid: jax.Array) -> jax.Array:
        both, there = jnp.concatenate(features), jnp.concatenate([valid, valid])
        count = len(valid)
        positive = jnp.roll(jnp.eye(2 * count, dtype=bool), count, 1)
        negative = ~positive & ~jnp.eye(2 * count, dtype=bool) & there
        return info_nce(both, both, positive, negative, temperature).reshape(2, count).mean(0)

    def loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        keys = jax.random.split(key, 3)
        first, second = views(batch, keys[0])
        one, stats = train(params, stats, first, keys[1])
        other, stats = train(params, stats, second, keys[2])
        return mean(losses((one, other), batch["valid"]), batch["valid"]), (stats, {})

    def metrics(params: PyTree, stats: PyTree, batch: Batch) -> Metrics:
        def one(part: Batch) -> jax.Array:
            seen = tuple(
                project(params["projection"], net.evaluate(params["network"], stats, view))
                for view in views(part, jax.random.key(0))
            )
            return losses((seen[0], seen[1]), part["valid"])

        seen = {name: batch[name] for name in ("image", "valid")}
        return {"loss": total(map_chunks(one, seen, _CHUNK), batch["valid"])}

    def predict(params: PyTree, stats: PyTree, batch: Batch) -> jax.Array:
        return evaluate(params, stats, batch)

    own = net.normalization
    fixed = {"kernel": False, "bias": False}
    normalization = Variables({"network": own.params, "projection": fixed}, own.stats)
    task = Task(init, loss, metrics, predict, normalization)
    return task, Contrast(views, train, evaluate, features)


def _standardized(image: jax.Array) -> jax.Array:
    axes = tuple(range(1, image.ndim - 1))
    x = image - image.mean(axes, keepdims=True)
    deviation = jnp.sqrt(jnp.square(x).mean(axes, keepdims=True))
    return x / jnp.where(deviation > 0, deviation, 1)


def _view(image: jax.Array, key: jax.Array, crop: float, jitter: float, noise: float) -> jax.Array:
    """A part of one image ([nz,] ny, nx, channels), with another gain, offset and noise."""
    keys = jax.random.split(key, 6)
    axes = tuple(range(image.ndim - 1))
    side = jax.random.uniform(keys[0], (), minval=crop, maxval=1.0)
    start = jax.random.uniform(keys[1], (len(axes),)) * (1 - side) * jnp.asarray(image.shape[:-1])
    # The pixel at ``start`` becomes the first one.
    part = jax.image.scale_and_translate(
        image, image.shape, axes, jnp.full(len(axes), 1 / side), -start / side, "linear", antialias=False
    )
    gain = jax.random.uniform(keys[2], (), minval=1 - jitter, maxval=1 + jitter)
    offset = jax.random.uniform(keys[3], (), minval=-jitter, maxval=jitter)
    deviation = jax.random.uniform(keys[4], (), maxval=noise) if noise else 0.0
    return gain * part + offset + deviation * jax.random.normal(keys[5], image.shape)
