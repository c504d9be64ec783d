"""Federated dynamic regularisation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.algorithms.fedavg import fedavg
from fedrecon.federated.local import local_sgd
from fedrecon.federated.sampling import equal
from fedrecon.types import PyTree, Task


class FedDynState(NamedTuple):
    """h: the mean over all clients of their g_i."""

    drift: PyTree


def feddyn(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    strength: float = 0.01,
    **options,
) -> FederatedAlgorithm:
    """FedDyn (Acar et al. 2021): clients' objectives are bent so that their optima agree with the server's.

    Client i approximately minimises ``F_i(y) - <g_i, y> + strength / 2 ||y - w||^2`` and then sets
    ``g_i <- g_i - strength (y - w)``; the server keeps ``h = (1/N) sum_i g_i`` and moves to
    ``mean y - h / strength``. Models are averaged with equal weights. Only the model travels.

    Args:
      task: what is learned.
      optimizer: each client's optimiser; a clip by the global norm of 10 is usual.
      strength: alpha, positive.
      **options: as in `fedavg`, but ``weighting``, ``server_optimizer`` and ``keep_optimizer``.

    Raises:
      ValueError: if ``strength`` is not positive.
    """
    if not strength > 0:
        raise ValueError(f"strength: expected a positive number, found {strength!r}")

    def correct(gradient, params, around):
        return jax.tree.map(
            lambda g, own, p, w: (g - own + strength * (p - w)).astype(g.dtype),
            gradient,
            around.state,
            params,
            around.received.params,
        )

    def finish(result, steps, around):
        own = jax.tree.map(lambda g, d: (g - strength * d).astype(g.dtype), around.state, result.delta.params)
        return result._replace(client_state=result.client_state._replace(method=own))

    client = local_sgd(
        task.loss,
        optimizer,
        init=lambda variables: jax.tree.map(jnp.zeros_like, variables.params),
        correct=correct,
        finish=finish,
    )
    algorithm = fedavg(
        task,
        optimizer,
        weighting=equal,
        server_optimizer=_server(strength),
        keep_optimizer=False,
        **options,
    )
    return algorithm._replace(client=client)


def _server(strength: float) -> optax.GradientTransformationExtraArgs:
    def init(params):
        return FedDynState(jax.tree.map(jnp.zeros_like, params))

    def update(gradient, state, params=None, *, participants, clients, **extra):
        # The gradient is minus the mean change over participants.
        drift = jax.tree.map(
            lambda h, g: (h + strength * (participants / clients) * g).astype(h.dtype), state.drift, gradient
        )
        updates = jax.tree.map(lambda g, h: (-g - h / strength).astype(g.dtype), gradient, drift)
        return updates, FedDynState(drift)

    return optax.GradientTransformationExtraArgs(init, update)
