"""FedDG-GA: clients weigh more where the shared model loses most against their own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.local import mean_loss
from fedrecon.federated.messages import Context, Message, Reducer, Reduction, Upload
from fedrecon.federated.method import LocalContext, Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.reducers.bounding import client_numbers
from fedrecon.federated.reducers.robust import unweighted
from fedrecon.federated.sampling import equal
from fedrecon.federated.trees import along
from fedrecon.types import PyTree, Task, Variables


class Adjusted(NamedTuple):
    """What the server remembers, (clients,) each: n a_i, of mean 1, and who was in the last round."""

    weight: jax.Array
    joined: jax.Array


def adjusted(weight: jax.Array, gap: jax.Array, known: jax.Array, step: jax.Array) -> jax.Array:
    """Weights (rows,) of the same sum: ``max(a_i + step (G_i - mu) / max_j |G_j - mu|, 0)``, normalized.

    Where gaps are alike, and where they are not ``known``, weights stay as they are.
    """
    away = gap - jnp.where(known, gap, 0).sum() / jnp.maximum(known.sum(), 1)
    away = jnp.where(known, away, 0)
    most = jnp.abs(away).max()
    moved = jnp.maximum(weight + step * away / jnp.where(most > 0, most, 1), 0)
    before, after = (jnp.where(known, x, 0).sum() for x in (weight, moved))
    return jnp.where(known, moved * (before / jnp.where(after > 0, after, 1)), weight)


def by_gaps(clients: int, rounds: int, step_size: float, own: Callable[[PyTree], PyTree]) -> Reducer:
    """The mean with the weights of `feddg_ga`; ``own`` picks this method's scalars of a message."""

    def init(upload: Upload) -> Adjusted:
        return Adjusted(jnp.ones(clients), jnp.zeros(clients, bool))

    def reduce(uploads: Upload, included: jax.Array, state: Any, context: Context) -> Reduction:
        place = jnp.where(included, client_numbers(context, len(included)), clients)
        before, joined = (x.at[place].get(mode="fill", fill_value=0) for x in state)
        sent = unweighted(uploads, included)
        # d^r of the round that the gaps are of, the one before.
        step = step_size * jnp.clip(1 - (context.round - 1) / rounds, 0, 1)
        found = adjusted(before, own(sent.message.scalars)["gap"], joined & included, clients * step)
        # Who was left at 0 counts where nobody else is there.
        used = jnp.where(found.sum() > 0, found, included.astype(found.dtype))

        def total(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: (along(used, x) * x).sum(0).astype(x.dtype), tree)

        summed = jax.tree.map(lambda x: x.sum(0), sent.message.summed)
        message = Message(summed, total(sent.message.scalars))
        new = Adjusted(
            state.weight.at[place].set(found, mode="drop"),
            jnp.zeros(clients, bool).at[place].set(True, mode="drop"),
        )
        info = {"weight": new.weight / clients}
        return Reduction(Upload(total(sent.delta), message, used.sum()), new, info=info)

    return Reducer(init, reduce)


def told_gaps() -> Method:
    """The client's half: it keeps the loss of what it sent, and tells how much worse came back."""

    def judged(context: LocalContext, variables: Variables) -> jax.Array:
        batch = context.batches.validation
        if batch is None:
            return mean_loss(context, variables).astype(jnp.float32)
        return context.loss(*context.complete(variables), batch, context.key)[0].astype(jnp.float32)

    def finish(result, loss, context):
        gap = judged(context, context.received) - loss
        return result, Message(scalars={"gap": gap}), judged(context, result.variables)

    return Method(
        init=lambda variables: jnp.float32(0), finish=finish, discloses="losses of its validation examples"
    )


def feddg_ga(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    clients: int,
    rounds: int,
    step_size: float = 0.2,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """FedDG-GA (Zhang, Xu, Yao et al. 2023, CVPR): FedAvg whose weights even out generalization gaps.

    With the gap ``G_i = E_i(w) - E_i(w_i)`` of a round, E_i being the loss at client i, w what came of it and
    w_i what the client had sent, weights are, from ``a_i = 1 / n`` on, for the round after it::

        a_i <- max(a_i + d_r (G_i - mu) / max_j |G_j - mu|, 0),  a_i <- a_i / sum_j a_j

    with the mean gap mu and ``d_r = (1 - r / R) step_size`` of R rounds, r from 0. A client sends the gap of
    the last round with its next update, so that no further exchange is needed: four bytes. Without a step it
    is FedAvg with equal weights, bit for bit.

    Deviations: the authors' code subtracts no mu, which only their paper has, divides the step by n, and
    judges by accuracies, too. E_i is the loss of training mode, of the whole validation split or, without
    one, of the training examples, batch by batch. Clients that were not in the last round keep their weight;
    the others share theirs anew. Weights of a round are those among its clients. After R rounds weights stay.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      clients: n.
      rounds: R.
      step_size: d, at least 0.
      method: further methods.
      **options: as in `federated`, except ``weighting`` and ``reduce``.

    Raises:
      ValueError: arguments out of range.
    """
    if not step_size >= 0:
        raise ArgumentError("step_size", "a number of at least 0", repr(step_size))
    if not rounds >= 1:
        raise ArgumentError("rounds", "an integer of at least 1", repr(rounds))
    own = (lambda scalars: scalars) if method is None else (lambda scalars: scalars[0])
    reducer = by_gaps(clients, rounds, step_size, own)
    both = combine(told_gaps(), method)
    return federated(task, optimizer, method=both, weighting=equal, reduce=reducer, **options)
