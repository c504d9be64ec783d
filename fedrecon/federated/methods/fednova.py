"""Normalized averaging."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.fedprox import proximal
from fedrecon.federated.recipe import federated
from fedrecon.types import Task


def normalized_averaging(learning_rate: float, *, momentum: float = 0.0, strength: float = 0.0) -> Method:
    """FedNova's averaging (Wang et al. 2020): clients that take more steps weigh no more.

    Client i sends its change divided by c_i, the sum of the weights with which its gradients entered it: the
    number of steps for plain gradient descent, with momentum r ``sum_k (1 - r^k) / (1 - r)``, with a proximal
    term of strength m the recursion ``c <- c (1 - eta m) + 1``. The server moves by ``tau_eff sum_i p_i
    change_i / c_i`` with ``tau_eff = sum_i p_i c_i`` (with a proximal term, of the numbers of steps). Besides
    the model one scalar is sent. Rates that a schedule changes within a round enter as their mean, which is
    exact for plain gradient descent.

    Args:
      learning_rate: eta of the clients' gradient descent.
      momentum: r in [0, 1), of the clients' heavy-ball momentum.
      strength: m, of the proximal term that the clients' objectives have.

    Raises:
      ValueError: for arguments out of range, or momentum together with a proximal term.
    """
    if not 0 <= momentum < 1:
        raise ArgumentError("momentum", "a number in [0, 1)", repr(momentum))
    if not strength >= 0:
        raise ArgumentError("strength", "a number of at least 0", repr(strength))
    if momentum and strength:
        raise ArgumentError(
            "strength", "0 with momentum, since their normalizer is not known", repr(strength)
        )
    if not learning_rate * strength < 1:
        raise ArgumentError("strength", "less than 1 / learning_rate", repr(strength))

    def finish(result, memory, context):
        rate = 1.0 if context.rate is None else context.rate
        taken = result.metrics["steps"][0]
        normalizer = rate * gradient_weight(taken, rate * learning_rate, momentum, strength)
        params = jax.tree.map(
            lambda d: (d / jnp.maximum(normalizer, 1e-12)).astype(d.dtype), result.delta.params
        )
        effective = context.steps if strength else normalizer
        message = Message(scalars={"effective_steps": effective})
        return result._replace(delta=result.delta._replace(params=params)), message, memory

    def update(gradient, state, params=None, *, message, **extra):
        factor = message.scalars["effective_steps"]
        return jax.tree.map(lambda g: (factor * g).astype(g.dtype), gradient), state

    transform = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    return Method(finish=finish, transform=transform)


def fednova(
    task: Task,
    learning_rate: float,
    *,
    momentum: float = 0.0,
    strength: float = 0.0,
    server_momentum: float = 0.0,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """FedNova (Wang et al. 2020): gradient descent at clients, `normalized_averaging` at the server.

    Args:
      task: what is learned.
      learning_rate: eta of the clients' gradient descent.
      momentum: r in [0, 1), of the clients' heavy-ball momentum, which starts afresh each round.
      strength: m, of the proximal term of `fedprox`.
      server_momentum: of the server's steps.
      method: further methods.
      **options: as in `federated`, except ``server_optimizer`` and ``keep_optimizer``.

    Raises:
      ValueError: for arguments out of range, or momentum together with a proximal term.
    """
    own = normalized_averaging(learning_rate, momentum=momentum, strength=strength)
    return federated(
        task,
        optax.sgd(learning_rate, momentum=momentum or None),
        method=combine(own, proximal(strength) if strength else None, method),
        server_optimizer=optax.sgd(1.0, momentum=server_momentum or None),
        keep_optimizer=False,
        **options,
    )


def gradient_weight(steps: jax.Array, learning_rate: float, momentum: float, strength: float) -> jax.Array:
    """c, such that the change of ``steps`` steps along one constant gradient g is ``-learning_rate c g``."""
    if momentum:
        return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
    if strength:
        # A schedule's rate may be 0.
        shrink = jnp.maximum(learning_rate * strength, 1e-12)
        return -jnp.expm1(steps * jnp.log1p(-shrink)) / shrink
    return steps
