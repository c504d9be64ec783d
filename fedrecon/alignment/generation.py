"""Images from a generator that a Wasserstein critic trains, and which of them may be sent."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrecon.alignment.adversarial import (
    Player,
    critic_loss,
    gradient_penalty,
    moved,
    new_perceptron,
    new_player,
    perceptron,
)
from fedrecon.types import PyTree

_APPLY = perceptron(0.2)
LATENTS, _HIDDEN, _PENALTY, _CRITIC_STEPS, _FEATURES = 128, 256, 10.0, 5, 64


class Generator(NamedTuple):
    """A generator of images and its critic.

    Attributes:
      generator, critic: parameters.
      shape: (ny, nx, channels).
    """

    generator: PyTree
    critic: PyTree
    shape: tuple[int, ...]

    def drawn(self, key: jax.Array, count: int) -> jax.Array:
        """Images (count, ny, nx, channels)."""
        return _APPLY(self.generator, jax.random.normal(key, (count, LATENTS))).reshape(count, *self.shape)

    def scores(self, images: jax.Array) -> jax.Array:
        """What the critic says of images, (count,)."""
        return _scored(self.critic, images)


def _scored(critic: PyTree, images: jax.Array) -> jax.Array:
    return _APPLY(critic, images.reshape(len(images), -1))[:, 0]


def train_generator(
    images: jax.Array,
    key: jax.Array,
    *,
    steps: int,
    batch: int = 32,
    rate: float = 1e-4,
    noise: float = 0.0,
    clip: float = 1.0,
) -> Generator:
    """A WGAN-GP of perceptrons (Gulrajani et al. 2017), five steps of the critic for one of the generator.

    The critic's loss of an example is ``D(G(z)) - D(x) + 10 (|grad D| - 1)^2``. With noise its gradients are
    clipped, each to the norm ``clip``, summed, and get normal noise of ``noise * clip`` before they are
    divided by the batch (DP-SGD); the generator sees the critic alone. No budget is accounted here.

    Args:
      images: (examples, ny, nx, channels).
      key: of everything that is drawn.
      steps: of the generator.
      batch: examples of a step, drawn with replacement.
      rate: of Adam with the moments 0.5 and 0.9.
      noise: multiplier; 0 neither clips nor noises.
      clip: bound of one example's gradient.
    """
    shape, size = images.shape[1:], int(np.prod(images.shape[1:]))
    optimizer = optax.adam(rate, 0.5, 0.9)
    keys = jax.random.split(key, 3)
    generator = new_player(new_perceptron(keys[0], (LATENTS, _HIDDEN, size)), optimizer)
    critic = new_player(new_perceptron(keys[1], (size, _HIDDEN, 64, 1)), optimizer)

    def made(params: PyTree, key: jax.Array) -> jax.Array:
        return _APPLY(params, jax.random.normal(key, (batch, LATENTS))).reshape(batch, *shape)

    def each(params: PyTree, real: jax.Array, fake: jax.Array, mix: jax.Array) -> jax.Array:
        def judge(x: jax.Array) -> jax.Array:
            return _scored(params, x)

        return critic_loss(judge, real, fake) + _PENALTY * gradient_penalty(judge, real, fake, mix)

    def criticized(player: Player, key: jax.Array, generator: PyTree) -> Player:
        k = jax.random.split(key, 4)
        real = images[jax.random.randint(k[0], (batch,), 0, len(images))]
        fake, mix = made(generator, k[1]), jax.random.uniform(k[2], (batch,))
        if not noise:
            return moved(player, optimizer, lambda params: each(params, real, fake, mix).mean())[0]
        gradient = private_gradient(each, player.params, (real, fake, mix), k[3], clip, noise)
        updates, state = optimizer.update(gradient, player.optimizer, player.params)
        return Player(optax.apply_updates(player.params, updates), state)

    def step(players: tuple, key: jax.Array) -> tuple[tuple, None]:
        generator, critic = players
        k = jax.random.split(key, _CRITIC_STEPS + 1)
        critic = jax.lax.fori_loop(
            0, _CRITIC_STEPS, lambda i, player: criticized(player, k[i], generator.params), critic
        )
        generator, _ = moved(
            generator, optimizer, lambda params: -_scored(critic.params, made(params, k[-1])).mean()
        )
        return (generator, critic), None

    (generator, critic), _ = jax.lax.scan(step, (generator, critic), jax.random.split(keys[2], steps))
    return Generator(generator.params, critic.params, shape)


def private_gradient(
    losses: Callable, params: PyTree, examples: tuple, key: jax.Array, clip: float, noise: float
) -> PyTree:
    """``(sum_j clip(g_j, C) + z C N(0, I)) / examples``, of losses (examples,) of single examples."""

    def one(*example: jax.Array) -> PyTree:
        gradient = jax.grad(lambda p: losses(p, *(x[None] for x in example)).sum())(params)
        length = optax.tree.norm(gradient)
        return jax.tree.map(lambda g: g * jnp.minimum(1, clip / jnp.maximum(length, 1e-12)), gradient)

    total = jax.tree.map(lambda g: g.sum(0), jax.vmap(one)(*examples))
    drawn = optax.tree.random_like(key, total, jax.random.normal)
    return jax.tree.map(lambda g, n: (g + noise * clip * n) / len(examples[0]), total, drawn)


def selected(
    generator: Generator, real: np.ndarray, key: jax.Array, count: int
) -> tuple[np.ndarray, dict[str, np.ndarray | float]]:
    """Up to ``count`` of ten times as many samples: distinct from every real image, plausible, spread.

    Distances are those of the leading 64 principal components of the real images. Kept are samples that are
    as far from the nearest real image as nineteen of twenty real ones are from theirs, and whose score is
    among the central 80 %; of these, greedily, the one farthest from those chosen, from the first.

    Args:
      generator: of `train_generator`.
      real: (examples, ny, nx, channels), at least two.
      key: of the samples.
      count: S.

    Returns:
      Images (at most count, ny, nx, channels) and {"nearest": (images,), "threshold": float}.
    """
    samples = np.asarray(generator.drawn(key, 10 * count))
    scores = np.asarray(generator.scores(jnp.asarray(samples)))
    flat = np.asarray(real, np.float64).reshape(len(real), -1)
    mean = flat.mean(0)
    axes = np.linalg.svd(flat - mean, full_matrices=False)[2][:_FEATURES]
    own = (flat - mean) @ axes.T
    other = (samples.reshape(len(samples), -1) - mean) @ axes.T
    between = _distances(own, own) + np.diag(np.full(len(own), np.inf))
    threshold = float(np.quantile(between.min(1), 0.05))
    nearest = _distances(other, own).min(1)
    low, high = np.quantile(scores, (0.1, 0.9))
    kept = np.flatnonzero((nearest >= threshold) & (scores >= low) & (scores <= high))
    chosen = _spread(other[kept], count)
    return samples[kept][chosen], {"nearest": nearest[kept][chosen], "threshold": threshold}


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squared, 0))


def _spread(points: np.ndarray, count: int) -> list[int]:
    """Greedy k-center, from the first point."""
    if not len(points):
        return []
    chosen, away = [0], _distances(points, points[:1])[:, 0]
    while len(chosen) < min(count, len(points)):
        chosen.append(int(np.argmax(away)))
        away = np.minimum(away, _distances(points, points[chosen[-1:]])[:, 0])
    return chosen
