"""Fine-tuning after training."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, RoundState
from fedrecon.federated.engine import init_state, make_round
from fedrecon.federated.local import partial_training
from fedrecon.federated.methods.local_only import local_only
from fedrecon.federated.trees import merge, partition
from fedrecon.types import PyTree, Task


def fine_tune(
    algorithm: FederatedAlgorithm,
    state: RoundState,
    task: Task,
    optimizer: optax.GradientTransformation,
    data: Any,
    key: jax.Array,
    *,
    batch_size: int,
    epochs: int,
    head: PyTree | None = None,
    schedule: Callable | None = None,
    mesh: Mesh | None = None,
    parallel: str | int = "scan",
) -> tuple[FederatedAlgorithm, RoundState]:
    """Every client trains the released model on its own data: the baseline of personalized methods.

    Client i starts from the shared leaves of ``algorithm.release(state)`` and its own private ones, without
    ``algorithm.personalize``. Nothing is sent. With 0 epochs everybody keeps that model, bit for bit; so does
    a client without examples, or one whose training would not leave it finite.

    Args:
      algorithm: what trained ``state``.
      state: after training; it stays usable.
      task: what is learned.
      optimizer: each client's optimizer, started afresh.
      data: client data as for the round.
      key: the key of the run; another one than in training.
      batch_size: examples per step.
      epochs: passes of each client over its data.
      head: `Variables` of bools, or a prefix: only True leaves are tuned; see `leaves_under`. None tunes all.
      schedule: of the steps, as that of an algorithm; it sees round 0.
      mesh: the mesh of `make_round`, on which ``state`` is.
      parallel: as in `make_round`.

    Returns:
      (algorithm, state) for `make_evaluate`, `make_cross_evaluate` and `client_variables`; the state's
      history tells which clients were tuned.

    Raises:
      ValueError: if ``epochs`` is negative, ``head`` no prefix of the variables, or for arguments that
        `init_state` or `make_round` refuse.
    """
    if not isinstance(epochs, int) or epochs < 0:
        raise ArgumentError("epochs", "an integer of at least 0", repr(epochs))
    clients = state.history.participations.shape[0]
    released = algorithm.release(state)
    shared, _ = partition(released, algorithm.share_mask)
    shared = jax.tree.map(lambda x: jnp.tile(x[None], (clients,) + (1,) * x.ndim), shared)
    private = jax.tree.map(jnp.copy, state.private)

    alone = local_only(task, optimizer, keep_optimizer=False)
    if head is not None:
        alone = alone._replace(client=partial_training(task.loss, optimizer, head))
    alone = alone._replace(schedule=schedule)
    own = init_state(alone, released, data, mesh)
    if own.history.participations.shape[0] != clients:
        raise ArgumentError("data", f"{clients} clients as in the state", own.history.participations.shape[0])
    models = jax.tree.map(
        lambda x, like: jax.device_put(x, like.sharding), merge(shared, private), own.private
    )
    own = own._replace(private=models)
    if epochs:
        round = make_round(alone, batch_size=batch_size, epochs=epochs, mesh=mesh, parallel=parallel)
        own, _ = round(own, data, key)
    return alone, own
