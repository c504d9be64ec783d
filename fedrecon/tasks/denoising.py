"""Denoisers: trained on references alone, for reconstruction with any operator."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fedrecon.models import PlugAndPlay
from fedrecon.tasks.network import check_batch, mean, network, total
from fedrecon.tasks.reconstruction import reconstruction_task
from fedrecon.tasks.reconstruction_losses import Measure
from fedrecon.types import Batch, Metrics, PyTree, Task

# Noise levels of training, of images whose root mean square is about 1/2.
LEVELS = (0.01, 3.0)


def denoising_task(
    model: PlugAndPlay,
    measure: Measure,
    example: Mapping,
    *,
    levels: tuple[float, float] = LEVELS,
    chunk: int = 8,
) -> Task:
    """Trains the denoiser of `PlugAndPlay` by denoising score matching; evaluates its reconstructions.

    The loss of an example with reference x is the mean over pixels and parts of ``|D(x + s n, s) - x|^2
    (s^2 + d^2) / (s d)^2``, at a level s whose logarithm is uniform, n white noise, d the deviation of
    `NoiseUNet`: 1 or so at all levels where nothing is learned. ``(D(v, s) - v) / s^2`` is then the slope of
    the logarithmic density of noisy images. Measurements are used in evaluation only. Where operators are of
    complex images, references get a phase: constant for complex ones, of a random quadratic polynomial of the
    place for magnitudes.

    Args:
      model: what is trained and evaluated.
      measure, example, chunk: as in `reconstruction_task`.
      levels: smallest and largest s.

    Returns:
      A task with the metrics and predictions of `reconstruction_task`.

    Raises:
      ValueError: a key is missing in ``example``.

    Source: Vincent, Neural Comput. 23:1661, 2011; weights of Karras et al., NeurIPS 2022.
    """
    check_batch(example, ("target",))
    evaluated = reconstruction_task(model, measure, example, chunk=chunk)
    shapes = {name: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for name, x in example.items()}
    dtype = jax.eval_shape(measure, shapes)[0].in_dtype
    noisy = {
        "noisy": jax.ShapeDtypeStruct((1, *example["target"].shape[1:]), dtype),
        "level": jax.ShapeDtypeStruct((1,), jnp.zeros((), dtype).real.dtype),
    }
    net = network(model.prior(), lambda batch: (batch["noisy"], batch["level"]), noisy)

    def loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        at, noise, phase, rest = jax.random.split(key, 4)
        low, high = map(math.log, levels)
        level = jnp.exp(jax.random.uniform(at, (len(batch["valid"]),), noisy["level"].dtype, low, high))
        clean = with_phases(phase, batch["target"], dtype)
        s = level[:, None, None]
        given = {**batch, "noisy": clean + s * white(noise, clean), "level": level}
        found, stats = net.train(params, stats, given, rest)
        weight = (s**2 + model.deviation**2) / jnp.square(s * model.deviation)
        parts = 2 if jnp.iscomplexobj(clean) else 1
        each = (weight * jnp.square(jnp.abs(found - clean))).mean((1, 2)) / parts
        return mean(each, batch["valid"]), (stats, {"loss": total(each, batch["valid"])})

    return evaluated._replace(loss=loss)


def white(key: jax.Array, like: jax.Array) -> jax.Array:
    """Noise of unit variance, of complex arrays in each part."""
    size = 2**0.5 if jnp.iscomplexobj(like) else 1.0
    return (size * jax.random.normal(key, like.shape, like.dtype)).astype(like.dtype)


def with_phases(key: jax.Array, images: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Images (examples, ny, nx) of a dtype, complex ones with a random phase each, see `denoising_task`."""
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.abs(images).astype(dtype) if jnp.iscomplexobj(images) else images.astype(dtype)
    constant, other = jax.random.split(key)
    phase = jax.random.uniform(constant, (len(images), 1, 1), maxval=2 * jnp.pi)
    if not jnp.iscomplexobj(images):
        y, x = jnp.meshgrid(*(jnp.linspace(-1, 1, n) for n in images.shape[1:]), indexing="ij")
        terms = jnp.stack([y, x, y * x, y**2, x**2])
        phase += jnp.tensordot(jax.random.normal(other, (len(images), 5)), terms, 1)
    return (images * jnp.exp(1j * phase)).astype(dtype)
