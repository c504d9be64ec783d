"""FedCE: clients weigh by what they contribute in gradient space and in data space."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Exchange, Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.reducers.contributions import COMBINATIONS, by_contribution
from fedrecon.federated.sampling import equal
from fedrecon.types import Batch, PyTree, Task, Variables

# The coefficient from which on there is no federation without a client.
_ALONE = 0.99


def without(total: Variables, own: Variables, coefficient: jax.Array) -> Variables:
    """The minus model ``(total - c own) / (1 - c)``; leaves of integers stay those of ``total``."""

    def one(t, x):
        if not jnp.issubdtype(t.dtype, jnp.inexact):
            return t
        return ((t - coefficient * x) / jnp.maximum(1 - coefficient, 1 - _ALONE)).astype(t.dtype)

    return jax.tree.map(one, total, own)


def minus_model(score: Callable[[PyTree, PyTree, Batch], jax.Array]) -> Method:
    """The client's half of `fedce`: it keeps its last upload and scores the federation without itself."""

    def init(variables):
        kept = {"model": jax.tree.map(jnp.asarray, variables), "round": jnp.int32(-2)}
        return kept | {"scores": jnp.float32(0), "count": jnp.float32(0)}

    def finish(result, state, context):
        batches, round = context.batches, context.broadcast
        batch = batches.judged
        # A model of a round that was missed holds nothing of this client.
        c = jnp.where(state["round"] + 1 == round, batches.answer, 0)
        found = score(*context.complete(without(context.received, state["model"], c)), batch)
        first, skipped = state["count"] == 0, c > _ALONE
        scores = state["scores"] + jnp.where(first | skipped, 0, found)
        count = state["count"] + jnp.where(skipped & ~first, 0, 1)
        sent = jax.tree.map(lambda w, d: (w + d).astype(w.dtype), context.received, result.delta)
        state = {"model": sent, "round": round, "scores": scores, "count": count}
        return result, Message(scalars={"error": 1 - scores / count}), state

    rounds = Exchange(lambda variables: jnp.int32(0), lambda n: n, lambda n, message, context: n + 1)
    return Method(init=init, finish=finish, server=rounds, discloses="scores of its validation examples")


def fedce(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    clients: int,
    score: Callable[[PyTree, PyTree, Batch], jax.Array],
    combination: str = "plus",
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """FedCE (Jiang et al. 2023, CVPR): averaging by estimated contributions.

    In gradient space ``a_i = 1 - mean_s cos(delta_i, g - c_i delta_i)`` with the consensus g = sum_j c_j
    delta_j; in data space ``e_i = 1 - mean_s m_i`` with the score m_i, before training, of the minus model
    ``(w - c_i w_i) / (1 - c_i)``, the mean of what the others sent; m_i is 0 in a client's first round. Both
    become shares of at least 1e-3, ``c = a + e`` (or their product) anew, and the server moves by sum_i c_i
    delta_i. Clients also learn c_i and the number of the round, and send e_i: four bytes each.

    Deviations: c is normalized once more after its floor, so that it adds to 1. A client that missed the last
    round scores the model as it is, since nothing of it is in there, and only those of a round weigh in it.
    Clients without a validation split score their training examples. Shares of zeros are equal.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      clients: their number.
      score: ``score(params, stats, batch) -> float32 ()`` in [0, 1], such as a Dice.
      combination: "plus" or "times".
      method: further methods.
      **options: as in `federated`, except ``weighting``, ``channel``, ``reduce`` and ``server_optimizer``.

    Raises:
      ValueError: another combination.
    """
    if combination not in COMBINATIONS:
        raise ArgumentError("combination", f"one of {', '.join(COMBINATIONS)}", repr(combination))
    own = (lambda scalars: scalars) if method is None else (lambda scalars: scalars[0])
    return federated(
        task,
        optimizer,
        method=combine(minus_model(score), method),
        weighting=equal,
        channel=None,
        server_optimizer=None,
        reduce=by_contribution(clients, combination, own),
        **options,
    )
