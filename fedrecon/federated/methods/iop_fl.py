"""IOP-FL: personal models that follow local ones slowly; unseen sites mix all of them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.fedbn import fedbn
from fedrecon.federated.recipe import federated
from fedrecon.federated.trees import merge
from fedrecon.types import Task


def averaged_model(mixing: float = 0.1) -> Method:
    """Personal models ``p_i <- mixing p_i + (1 - mixing) w_i``, w_i after local training.

    p_i is w_i after a client's first round, and never leaves. Statistics of integers are those of w_i.
    Mixing 0 keeps the last local model.

    Args:
      mixing: alpha, in [0, 1).

    Raises:
      ValueError: ``mixing`` is out of range.
    """
    if not 0 <= mixing < 1:
        raise ArgumentError("mixing", "a number in [0, 1)", repr(mixing))

    def init(variables):
        return {"model": jax.tree.map(jnp.asarray, variables), "begun": jnp.bool_(False)}

    def finish(result, state, context):
        kept = jnp.where(state["begun"], mixing, 0)

        def one(own, new):
            if not jnp.issubdtype(new.dtype, jnp.inexact):
                return new
            mixed = kept * own + (1 - kept) * new
            return jnp.where(kept > 0, mixed, new).astype(new.dtype)

        model = jax.tree.map(one, state["model"], result.variables)
        return result, Message(), {"model": model, "begun": state["begun"] | True}

    def personalize(variables, state, batch):
        return merge(state["model"], variables)

    return Method(init=init, finish=finish, personalize=personalize)


def iop_fl(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    mixing: float = 0.1,
    private_normalization: bool = False,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """IOP-FL (Jiang et al. 2023, IEEE TMI 42:2106) at the sites that train: FedAvg, and `averaged_model`.

    What the local model learns is averaged as ever; clients evaluate with p_i. Sites that did not train mix
    the personal models and the global one, see `fedrecon.tasks.routed_adaptation`, for which each p_i has to
    be published once.

    Deviations: p_i is the local model after a client's first round, of which the paper says nothing.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      mixing: alpha, in [0, 1).
      private_normalization: on top of FedBN in place of FedAvg: normalization leaves stay at their clients.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: ``mixing`` is out of range.
    """
    recipe = fedbn if private_normalization else federated
    return recipe(task, optimizer, method=combine(averaged_model(mixing), method), **options)
