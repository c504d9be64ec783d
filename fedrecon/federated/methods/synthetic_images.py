"""Synthetic images: made from a network without any data (inversion), and learned from (distillation)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedrecon.federated.methods.agreement import divergence, log_of
from fedrecon.types import Batch, PyTree, Task, Variables

# ``features(params, stats, batch) -> {layer: (examples, ..., channels)}``
Features = Callable[[PyTree, PyTree, Batch], dict[str, jax.Array]]
Moments = dict[str, tuple[jax.Array, jax.Array]]
# Of the running moments that a step of distillation leaves as it was.
_KEPT = 0.9


def logits_of(task: Task, variables: Variables, images: jax.Array) -> jax.Array:
    """Logits of a classification of images (examples, ...), up to a constant of each: (examples, classes)."""
    batch = {"image": images, "valid": jnp.ones(len(images), bool)}
    found = jnp.log(jnp.maximum(task.predict(*variables, batch), 1e-12))
    return found - found.mean(-1, keepdims=True)


def smooth_noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Smooth noise (images, ny, nx, channels): a value in 4 pixels, mean 0 and variance 1 of an image."""
    rows, columns = (max(size // 4, 1) for size in shape[1:3])
    small = jax.random.normal(key, (shape[0], rows, columns, shape[3]))
    found = jax.image.resize(small, shape, "cubic")
    axes = (1, 2, 3)
    deviation = jnp.maximum(found.std(axes, keepdims=True), 1e-6)
    return (found - found.mean(axes, keepdims=True)) / deviation


def total_variation(images: jax.Array) -> jax.Array:
    """Mean absolute difference of neighbors times their number in an image, a mean over images."""
    down, right = jnp.diff(images, axis=1), jnp.diff(images, axis=2)
    return (jnp.abs(down).sum() + jnp.abs(right).sum()) / len(images)


def feature_moments(features: Features, model: Variables, images: jax.Array) -> Moments:
    """Mean and variance of the channels of layers, over images and pixels: {layer: two of (channels,)}."""
    found = features(*model, {"image": images, "valid": jnp.ones(len(images), bool)})
    axes = {name: tuple(range(x.ndim - 1)) for name, x in found.items()}
    return {name: (x.mean(axes[name]), x.var(axes[name])) for name, x in found.items()}


def invert(
    task: Task,
    model: Variables,
    shape: tuple[int, ...],
    key: jax.Array,
    *,
    features: Features | None = None,
    moments: Moments | None = None,
    steps: int = 200,
    rate: float = 0.05,
    smoothness: float = 1e-4,
    energy: float = 1e-5,
    likeness: float = 0.05,
) -> jax.Array:
    """Images that the model classifies as the classes in turn, from smooth noise by Adam.

    Minimized is the cross-entropy, plus ``smoothness`` times the total variation and ``energy`` times the
    squared norm of an image, and ``likeness`` times the squared distance of the layers' moments from those
    that are known, summed over layers, channels, means and variances.

    Args:
      task: a classification of "image".
      model: of the task.
      shape: (images, ny, nx, channels).
      key: of the noise.
      features: what layers see.
      moments: of the layers, as of `feature_moments`; None leaves that term out.
      steps: of Adam.
      rate: of Adam.
      smoothness, energy, likeness: weights.

    Returns:
      float32 of that shape.
    """
    start = smooth_noise(key, shape)
    optimizer = optax.adam(rate)

    def loss(images):
        logits = logits_of(task, model, images)
        label = jnp.arange(shape[0]) % logits.shape[-1]
        fit = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        penalties = smoothness * total_variation(images) + energy * (images**2).sum() / shape[0]
        if features is not None and moments:
            own = feature_moments(features, model, images)
            apart = jax.tree.map(lambda a, b: ((a - b) ** 2).sum(), own, moments)
            penalties += likeness * sum(jax.tree.leaves(apart))
        # A sum over images, so that each takes its own steps.
        return fit.sum() + shape[0] * penalties

    def step(carry, _):
        images, state = carry
        updates, state = optimizer.update(jax.grad(loss)(images), state)
        return (optax.apply_updates(images, updates), state), None

    return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[0][0]


def distill(
    task: Task,
    model: Variables,
    images: jax.Array,
    consensus: jax.Array,
    key: jax.Array,
    *,
    temperature: float,
    steps: int,
    size: int,
    features: Features | None = None,
) -> tuple[Variables, Moments]:
    """The model after some steps of Adam at 1e-3 towards a consensus on images, mirrored at random.

    Args:
      task: a classification of "image".
      model: of the task.
      images: (images, ny, nx, channels).
      consensus: (images, classes), probabilities softened at ``temperature``.
      key: of the choice of images.
      temperature: T; the loss is T^2 KL(consensus || model).
      steps: how many.
      size: images of a step.
      features: what layers see; None for nothing.

    Returns:
      The model, and exponential means, over the steps, of its layers' `feature_moments` of the batches; {}
      without steps.
    """
    optimizer = optax.adam(1e-3)
    layers = features or (lambda params, stats, batch: {})

    def drawn(key):
        pick, mirror = jax.random.split(key)
        chosen = jax.random.choice(pick, len(images), (size,), replace=False)
        flip = jax.random.bernoulli(mirror, 0.5, (size, *(1,) * (images.ndim - 1)))
        x = images[chosen].astype(jnp.float32)
        return chosen, jnp.where(flip, jnp.flip(x, -2), x)

    def loss(params, chosen, x):
        own = jax.nn.log_softmax(logits_of(task, Variables(params, model.stats), x) / temperature)
        return temperature**2 * divergence(log_of(consensus[chosen]), own).mean()

    def step(carry, key):
        params, state, moments = carry
        chosen, x = drawn(key)
        seen = feature_moments(layers, Variables(params, model.stats), x)
        moments = jax.tree.map(lambda old, new: _KEPT * old + (1 - _KEPT) * new, moments, seen)
        updates, state = optimizer.update(jax.grad(loss)(params, chosen, x), state)
        return (optax.apply_updates(params, updates), state, moments), None

    if not steps:
        return model, {}
    shapes = jax.eval_shape(lambda: feature_moments(layers, model, drawn(key)[1]))
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    start = (model.params, optimizer.init(model.params), nothing)
    (params, _, moments), _ = jax.lax.scan(step, start, jax.random.split(key, steps))
    # What the zeros of the beginning still count.
    whole = 1 - _KEPT**steps
    return Variables(params, model.stats), jax.tree.map(lambda x: x / whole, moments)
