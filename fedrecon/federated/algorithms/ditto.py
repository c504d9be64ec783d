"""Personal models beside a global one."""

import jax
import jax.numpy as jnp
import optax

from fedrecon.federated.algorithm import ClientUpdate, FederatedAlgorithm
from fedrecon.federated.algorithms.fedavg import fedavg
from fedrecon.federated.local import LocalState, local_sgd
from fedrecon.federated.trees import all_finite, select
from fedrecon.types import Task, Variables


def ditto(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    strength: float = 0.1,
    personal_optimizer: optax.GradientTransformation | None = None,
    algorithm: FederatedAlgorithm | None = None,
    **options,
) -> FederatedAlgorithm:
    """Ditto (Li et al. 2021): every client also trains a personal model, held near the global one.

    On the batches of each round ``v_i <- v_i - eta (grad F_i(v_i) + strength (v_i - w))`` with w as received;
    v_i never leaves, and stays as it was where training would not leave it finite. The global model trains as
    if there were no personal ones. Clients evaluate with v_i. Strength 0 is training alone, a large one keeps
    v_i at w.

    Args:
      task: what is learned.
      optimizer: each client's optimiser.
      strength: lambda, at least 0.
      personal_optimizer: of the personal models, afresh each round; ``optimizer`` by default.
      algorithm: trains the global model; `fedavg` with ``optimizer`` and the options by default.
      **options: as in `fedavg`.

    Raises:
      ValueError: if ``strength`` is negative.
    """
    if not strength >= 0:
        raise ValueError(f"strength: expected a number of at least 0, found {strength!r}")
    algorithm = algorithm or fedavg(task, optimizer, **options)
    common = algorithm.client

    def correct(gradient, params, around):
        return jax.tree.map(
            lambda g, v, w: (g + strength * (v - w)).astype(g.dtype), gradient, params, around.broadcast
        )

    personal = local_sgd(task.loss, personal_optimizer or optimizer, correct=correct)

    def init(variables):
        return common.init(variables), jax.tree.map(jnp.asarray, variables)

    def update(variables, broadcast, client_state, batches, valid, key):
        state, own = client_state
        result = common.update(variables, broadcast, state, batches, valid, key)
        trained = personal.update(own, variables.params, LocalState(), batches, valid, key).variables
        # What does not leave is not checked by the round.
        trained = select(all_finite(trained), trained, own)
        return result._replace(client_state=(result.client_state, trained))

    def personalise(variables: Variables, client_state) -> Variables:
        return client_state[1]

    return algorithm._replace(client=ClientUpdate(init, update, common.batching), personalise=personalise)
