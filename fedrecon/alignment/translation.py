"""Images of one site in the manner of another's: a CycleGAN of small networks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.alignment.adversarial import Player, moved, new_perceptron, new_player, perceptron
from fedrecon.types import PyTree

_APPLY = perceptron(0.2)
_HIDDEN, _PATCH = 32, 8
# Weights of the cycle, of the identity, and of what is in the middle of an image.
CYCLE, IDENTITY, MIDDLE = 10.0, 5.0, 1.0


class Game(NamedTuple):
    """The players: translators there and back, and discriminators of the two domains."""

    there: Player
    back: Player
    target: Player
    source: Player


def new_translator(key: jax.Array, channels: int) -> PyTree:
    """Parameters of a translator, which is the identity at first."""
    params = new_perceptron(key, (2 * channels + 2, _HIDDEN, _HIDDEN, channels))
    return [*params[:-1], jax.tree.map(jnp.zeros_like, params[-1])]


def translated(params: PyTree, images: jax.Array) -> jax.Array:
    """``x + T(x, low-pass x, place)`` at each pixel, which changes intensities by what is around and where.

    Args:
      params: of `new_translator`.
      images: (examples, ny, nx, channels).
    """
    count, ny, nx, channels = images.shape
    small = jax.image.resize(images, (count, -(-ny // 4), -(-nx // 4), channels), "linear", antialias=True)
    smooth = jax.image.resize(small, images.shape, "linear")
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, ny), jnp.linspace(-1, 1, nx), indexing="ij")
    place = jnp.broadcast_to(jnp.stack([y, x], -1), (count, ny, nx, 2))
    seen = jnp.concatenate([images, smooth, place], -1)
    return images + _APPLY(params, seen)


def judged_width(shape: tuple[int, ...]) -> int:
    """Numbers of a patch that `judged` sees, of images (ny, nx, channels)."""
    edge = min(_PATCH, *shape[:2])
    return edge * edge * shape[2]


def judged(params: PyTree, images: jax.Array) -> jax.Array:
    """Scores of patches of 8 x 8 pixels, of which an incomplete last row or column is left out.

    Args:
      params: of `new_perceptron`, from `judged_width` to one number.
      images: (examples, ny, nx, channels).

    Returns:
      (examples * patches, 1), the patches of an image one after another.
    """
    count, ny, nx, channels = images.shape
    edge = min(_PATCH, ny, nx)
    rows, columns = ny // edge, nx // edge
    patches = images[:, : rows * edge, : columns * edge].reshape(count, rows, edge, columns, edge, channels)
    return _APPLY(params, patches.transpose(0, 1, 3, 2, 4, 5).reshape(count * rows * columns, -1))


def translator_loss(params: tuple, judges: tuple, x: jax.Array, t: jax.Array) -> jax.Array:
    """Loss of both translators, with the discriminators frozen.

    ``(D_T(F(x)) - 1)^2 + (D_X(G(t)) - 1)^2 + 10 (|G(F(x)) - x| + |F(G(t)) - t|) + 5 (|F(t) - t| + |G(x) - x|)
    + |x - F(x)|``, means over pixels, the last over the central half of rows and columns.

    Args:
      params: of F and of G.
      judges: parameters of D_T and of D_X.
      x, t: images of the source and of the target, (examples, ny, nx, channels).
    """
    there, back = params
    target, source = jax.lax.stop_gradient(judges)
    made, returned = translated(there, x), translated(back, t)
    ny, nx = x.shape[1:3]
    middle = (slice(None), slice(ny // 4, ny - ny // 4), slice(nx // 4, nx - nx // 4))

    def away(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.abs(a - b).mean()

    fooled = ((judged(target, made) - 1) ** 2).mean() + ((judged(source, returned) - 1) ** 2).mean()
    cycle = away(translated(back, made), x) + away(translated(there, returned), t)
    identity = away(translated(there, t), t) + away(translated(back, x), x)
    return fooled + CYCLE * cycle + IDENTITY * identity + MIDDLE * away(made[middle], x[middle])


def discriminator_loss(params: PyTree, real: jax.Array, made: jax.Array) -> jax.Array:
    """``(D(real) - 1)^2 + D(made)^2`` (Mao et al. 2017), with the images frozen."""
    made = jax.lax.stop_gradient(made)
    return ((judged(params, real) - 1) ** 2).mean() + (judged(params, made) ** 2).mean()


def train_translator(
    images: jax.Array,
    valid: jax.Array,
    target: jax.Array,
    key: jax.Array,
    *,
    steps: int,
    batch: int = 16,
    rate: float = 1e-3,
) -> PyTree:
    """Parameters of a translator from a client's images to those of the target (Zhu et al. 2017).

    Args:
      images: (examples, ny, nx, channels).
      valid: bool (examples,), at least one.
      target: (count, ny, nx, channels), at least one.
      key: of everything that is drawn.
      steps: of all players; 0 leaves the identity.
      batch: images of a step, drawn with replacement.
      rate: of Adam with the moments 0.5 and 0.999.
    """
    optimizer, channels = optax.adam(rate, 0.5, 0.999), images.shape[-1]
    keys = jax.random.split(key, 5)
    widths = (judged_width(images.shape[1:]), 64, 1)
    players = [new_player(new_translator(k, channels), optimizer) for k in keys[:2]]
    players += [new_player(new_perceptron(k, widths), optimizer) for k in keys[2:4]]
    # Both translators have one loss.
    both = new_player((players[0].params, players[1].params), optimizer)

    def step(state: tuple, key: jax.Array) -> tuple[tuple, None]:
        both, target_judge, source_judge = state
        k = jax.random.split(key)
        x = images[jax.random.categorical(k[0], jnp.where(valid, 0.0, -jnp.inf), shape=(batch,))]
        t = target[jax.random.randint(k[1], (batch,), 0, len(target))]
        made, returned = translated(both.params[0], x), translated(both.params[1], t)
        target_judge, _ = moved(target_judge, optimizer, lambda p: discriminator_loss(p, t, made))
        source_judge, _ = moved(source_judge, optimizer, lambda p: discriminator_loss(p, x, returned))
        judges = (target_judge.params, source_judge.params)
        both, _ = moved(both, optimizer, lambda p: translator_loss(p, judges, x, t))
        return (both, target_judge, source_judge), None

    state = (both, players[2], players[3])
    return jax.lax.scan(step, state, jax.random.split(keys[4], steps))[0][0].params[0]
