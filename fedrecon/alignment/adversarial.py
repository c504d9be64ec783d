"""Two players with optimizers of their own: discriminators of representations, and what leads them astray."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.types import PyTree

# ``discriminate(params, features) -> logits (examples, logits)``
Discriminate = Callable[[PyTree, jax.Array], jax.Array]


class Player(NamedTuple):
    """One side of an adversarial game.

    Attributes:
      params: its parameters.
      optimizer: the state of its optimizer.
    """

    params: PyTree
    optimizer: PyTree


class Domain(NamedTuple):
    """Representations of one domain, and what a discriminator is to say of them.

    Attributes:
      features: (examples, features).
      target: (logits,), 0 or 1 of every logit: (1,) or (0,) of one, (0, 1) or (1, 0) of two.
      valid: bool (examples,); False does not count. None counts all.
    """

    features: jax.Array
    target: Sequence[float]
    valid: jax.Array | None = None


def new_player(params: PyTree, optimizer: optax.GradientTransformation) -> Player:
    """A player before its first step."""
    return Player(params, optimizer.init(params))


def moved(
    player: Player, optimizer: optax.GradientTransformation, loss: Callable[[PyTree], jax.Array]
) -> tuple[Player, jax.Array]:
    """The player after a step of its optimizer on ``loss(params)``, and the loss before it.

    Nothing but the player's own parameters is differentiated: whatever else the loss reads is frozen.
    """
    value, gradient = jax.value_and_grad(loss)(player.params)
    updates, state = optimizer.update(gradient, player.optimizer, player.params)
    return Player(optax.apply_updates(player.params, updates), state), value


def new_perceptron(key: jax.Array, widths: Sequence[int]) -> PyTree:
    """Parameters of a perceptron, such as a discriminator of the widths (features, hidden, logits).

    Args:
      key: of the kernels, which are normal with the variance ``1 / inputs``; biases are 0.
      widths: of the input, of the hidden layers and of the output.

    Returns:
      A list of {"kernel": (inputs, outputs), "bias": (outputs,)}.

    Raises:
      ValueError: fewer than two widths, or one that is not positive.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ArgumentError("widths", "two positive numbers or more", tuple(widths))
    keys = jax.random.split(key, len(widths) - 1)
    return [
        {"kernel": jax.random.normal(k, (a, b)) / jnp.sqrt(a), "bias": jnp.zeros(b)}
        for k, a, b in zip(keys, widths[:-1], widths[1:], strict=True)
    ]


def perceptron(slope: float = 0.2) -> Discriminate:
    """``apply(params, x) -> (examples, outputs)`` of `new_perceptron`, with leaky ReLU inside."""

    def apply(params: PyTree, x: jax.Array) -> jax.Array:
        for layer in params[:-1]:
            x = jax.nn.leaky_relu(x @ layer["kernel"] + layer["bias"], slope)
        return x @ params[-1]["kernel"] + params[-1]["bias"]

    return apply


def domain_loss(discriminate: Discriminate, params: PyTree, domains: Sequence[Domain]) -> jax.Array:
    """Binary cross-entropy of what a discriminator says, summed over domains.

    Of a domain the mean over its valid examples and over logits, each through a sigmoid of its own. With one
    logit and the targets 1 and 0 it is ``-log D(z_i) - log(1 - D(z_j))`` of means.

    Args:
      discriminate: of the discriminator.
      params: of the discriminator.
      domains: at least one.

    Returns:
      Float (); a domain without a valid example adds 0.
    """
    total = jnp.zeros(())
    for features, target, valid in domains:
        logits = discriminate(params, features)
        each = optax.sigmoid_binary_cross_entropy(logits, jnp.broadcast_to(jnp.asarray(target), logits.shape))
        counted = jnp.ones(len(logits), bool) if valid is None else valid
        each = jnp.where(counted, each.mean(-1), 0)
        total += each.sum() / jnp.maximum(counted.sum(), 1)
    return total


def discriminated(
    player: Player,
    optimizer: optax.GradientTransformation,
    discriminate: Discriminate,
    domains: Sequence[Domain],
    weight: float = 1.0,
) -> Player:
    """A discriminator after one step on ``weight`` times `domain_loss`, with the representations frozen."""
    frozen = [domain._replace(features=jax.lax.stop_gradient(domain.features)) for domain in domains]
    return moved(player, optimizer, lambda params: weight * domain_loss(discriminate, params, frozen))[0]


def misled(discriminate: Discriminate, player: Player, domains: Sequence[Domain]) -> jax.Array:
    """`domain_loss` with the discriminator frozen: what representations are trained on, by other targets."""
    return domain_loss(discriminate, jax.lax.stop_gradient(player.params), domains)


def critic_loss(critic: Callable[[jax.Array], jax.Array], real: jax.Array, made: jax.Array) -> jax.Array:
    """Wasserstein loss of a critic, ``D(made) - D(real)`` of each pair (Arjovsky et al. 2017): (examples,).

    Args:
      critic: ``critic(examples) -> (examples,)``.
      real, made: (examples, ...).
    """
    return critic(made) - critic(real)


def gradient_penalty(
    critic: Callable[[jax.Array], jax.Array], real: jax.Array, made: jax.Array, mix: jax.Array
) -> jax.Array:
    """``(|grad_x D(x)| - 1)^2`` of each example at ``mix real + (1 - mix) made`` (Gulrajani et al. 2017).

    Args:
      critic: ``critic(examples) -> (examples,)``, which looks at examples one by one.
      real, made: (examples, ...).
      mix: (examples,), in [0, 1].

    Returns:
      (examples,); finite gradients also where the critic is constant.
    """
    along = mix.reshape(-1, *(1,) * (real.ndim - 1))
    slope = jax.grad(lambda x: critic(x).sum())(along * real + (1 - along) * made)
    squared = (slope**2).reshape(len(real), -1).sum(-1)
    # The root has no derivative at 0.
    length = jnp.sqrt(jnp.maximum(squared, 1e-12))
    return (length - 1) ** 2
