"""Model-contrastive learning."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.types import Batch, PyTree, Task, Variables


class Pool(NamedTuple):
    """A client's last models, newest first.

    Attributes:
      models: `Variables`, leaves (pool, ...).
      filled: int32 (), how many of them there are.
    """

    models: Variables
    filled: jax.Array


def model_contrast(
    represent: Callable[[PyTree, PyTree, Batch], jax.Array],
    *,
    strength: float = 1.0,
    temperature: float = 0.5,
    pool: int = 1,
    start_with_initial: bool = False,
    against: str = "trained",
) -> Method:
    """MOON's penalty (Li, He and Song 2021): near the global model's representations, away from former ones.

    Adds ``strength * contrast`` to the loss of each step, see `contrastive_loss`; z comes from the model in
    training, z_g from the received one and z_p from the client's models after its last rounds, which never
    leave, or from those that it received in them. Strength 0 changes no bit.

    Args:
      represent: ``represent(params, stats, batch) -> (examples, features)``, the output of the projection
        head.
      strength: mu, at least 0.
      temperature: T, positive.
      pool: how many former models are kept.
      start_with_initial: the pool begins with the initial model, not empty.
      against: "trained" or "received", which of the models of a round are kept.

    Raises:
      ValueError: for arguments out of range.
    """
    if against not in ("trained", "received"):
        raise ArgumentError("against", "trained or received", repr(against))
    if not strength >= 0:
        raise ArgumentError("strength", "a number of at least 0", repr(strength))
    if not temperature > 0:
        raise ArgumentError("temperature", "a positive number", repr(temperature))
    if not isinstance(pool, int) or pool < 1:
        raise ArgumentError("pool", "an integer of at least 1", repr(pool))
    if strength == 0:
        return Method()

    def init(variables):
        models = jax.tree.map(lambda x: jnp.tile(x[None], (pool,) + (1,) * jnp.ndim(x)), variables)
        return Pool(models, jnp.int32(start_with_initial))

    def penalty(params, stats, batch, former_models, context, key):
        del key

        def frozen(variables):
            return represent(*jax.lax.stop_gradient(context.complete(variables)), batch)

        mine = represent(params, stats, batch)
        target = jax.lax.stop_gradient(frozen(context.received))
        former = jax.vmap(frozen)(former_models.models)
        present = jnp.arange(pool) < former_models.filled
        each = contrastive_loss(mine, target, former, present, temperature)
        valid = batch["valid"]
        return strength * jnp.where(valid, each, 0).sum() / jnp.maximum(valid.sum(), 1), ()

    def finish(result, former_models, context):
        last = result.variables if against == "trained" else context.received
        models = jax.tree.map(
            lambda old, new: jnp.concatenate([new[None], old[:-1]]), former_models.models, last
        )
        kept = Pool(models, jnp.minimum(former_models.filled + 1, pool))
        return result, Message(), kept

    return Method(init=init, penalty=penalty, finish=finish)


def moon(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    represent: Callable[[PyTree, PyTree, Batch], jax.Array],
    strength: float = 1.0,
    temperature: float = 0.5,
    pool: int = 1,
    start_with_initial: bool = False,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """MOON (Li, He and Song 2021): FedAvg with the penalty `model_contrast`.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      represent, strength, temperature, pool, start_with_initial: as in `model_contrast`.
      method: further methods.
      **options: as in `federated`, except ``keep_optimizer``.

    Raises:
      ValueError: for arguments out of range.
    """
    own = model_contrast(
        represent,
        strength=strength,
        temperature=temperature,
        pool=pool,
        start_with_initial=start_with_initial,
    )
    return federated(task, optimizer, method=combine(own, method), keep_optimizer=False, **options)


def contrastive_loss(
    mine: jax.Array, target: jax.Array, former: jax.Array, present: jax.Array, temperature: float
) -> jax.Array:
    """-log(e^(cos(z, z_g)/T) / (e^(cos(z, z_g)/T) + sum_p e^(cos(z, z_p)/T))) of every example.

    Args:
      mine, target: (examples, features), z and z_g.
      former: (pool, examples, features), z_p; no gradient passes through it.
      present: bool (pool,), which of them count; with none the loss is 0.
      temperature: T.

    Returns:
      (examples,).
    """

    def similarity(a, b):
        norms = jnp.sqrt((a**2).sum(-1) * (b**2).sum(-1) + 1e-12)
        return (a * b).sum(-1) / norms / temperature

    near = similarity(mine, target)
    far = jnp.where(present[:, None], similarity(mine, jax.lax.stop_gradient(former)), -jnp.inf)
    return jax.nn.logsumexp(jnp.concatenate([near[None], far]), axis=0) - near
