"""Federated dynamic regularization."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.sampling import equal
from fedrecon.types import PyTree, Task


class FedDynState(NamedTuple):
    """h: the mean over all clients of their g_i."""

    drift: PyTree


def dynamic_regularization(strength: float) -> Method:
    """FedDyn's objectives (Acar et al. 2021), bent so that the clients' optima agree with the server's.

    Client i approximately minimizes ``F_i(y) - <g_i, y> + strength / 2 ||y - w||^2`` and then sets
    ``g_i <- g_i - strength (y - w)``; the server keeps ``h = (1/N) sum_i g_i`` and moves to
    ``mean y - h / strength``. Only the model travels. Models are to be averaged with equal weights.

    Args:
      strength: alpha, positive.

    Raises:
      ValueError: if ``strength`` is not positive.
    """
    if not strength > 0:
        raise ArgumentError("strength", "a positive number", repr(strength))

    def zeros(variables):
        return jax.tree.map(jnp.zeros_like, variables.params)

    def correct(gradient, params, own, context):
        return jax.tree.map(
            lambda g, own, p, w: (g - own + strength * (p - w)).astype(g.dtype),
            gradient,
            own,
            params,
            context.received.params,
        )

    def finish(result, own, context):
        own = jax.tree.map(lambda g, d: (g - strength * d).astype(g.dtype), own, result.delta.params)
        return result, Message(), own

    def init(params):
        return FedDynState(jax.tree.map(jnp.zeros_like, params))

    def update(gradient, state, params=None, *, participants, clients, **extra):
        # The gradient is minus the mean change over participants.
        drift = jax.tree.map(
            lambda h, g: (h + strength * (participants / clients) * g).astype(h.dtype), state.drift, gradient
        )
        gradient = jax.tree.map(lambda g, h: (g + h / strength).astype(g.dtype), gradient, drift)
        return gradient, FedDynState(drift)

    return Method(
        init=zeros,
        correct=correct,
        finish=finish,
        transform=optax.GradientTransformationExtraArgs(init, update),
    )


def feddyn(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    strength: float = 0.01,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """FedDyn (Acar et al. 2021): `dynamic_regularization`, models averaged with equal weights.

    Args:
      task: what is learned.
      optimizer: each client's optimizer; a clip by the global norm of 10 is usual.
      strength: alpha, positive.
      method: further methods.
      **options: as in `federated`, except ``weighting``, ``server_optimizer`` and ``keep_optimizer``.

    Raises:
      ValueError: if ``strength`` is not positive.
    """
    return federated(
        task,
        optimizer,
        method=combine(dynamic_regularization(strength), method),
        weighting=equal,
        server_optimizer=None,
        keep_optimizer=False,
        **options,
    )
