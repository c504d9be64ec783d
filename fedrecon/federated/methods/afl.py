"""Agnostic federated learning."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.local import mean_loss
from fedrecon.federated.messages import Exchange, Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.sampling import equal
from fedrecon.types import PyTree, Task


class AverageState(NamedTuple):
    """Number of server steps, and the mean of the models they led to."""

    count: jax.Array  # type: ignore[assignment]  # hides a method of tuples that nobody calls
    average: PyTree


def worst_mixture(clients: int, *, mixture_learning_rate: float = 0.1) -> Method:
    """AFL's mixture of clients (Mohri, Sivek and Suresh 2019), which follows those with the highest loss.

    The server keeps a mixture lambda on the simplex. Clients' changes are summed with these weights, and
    ``lambda <- projection(lambda + mixture_learning_rate F)``, F_i being client i's loss at the model it
    received. Every client is to take part in every round, with equal weights, and learns the mixture; its
    loss travels as one entry of a vector of zeros, so that sums suffice.

    Args:
      clients: number of clients.
      mixture_learning_rate: of lambda.

    Raises:
      ValueError: if a number is not positive.
    """
    if not isinstance(clients, int) or clients < 1:
        raise ArgumentError("clients", "an integer of at least 1", repr(clients))
    if not mixture_learning_rate > 0:
        raise ArgumentError("mixture_learning_rate", "a positive number", repr(mixture_learning_rate))

    def finish(result, memory, context):
        number = context.batches.client
        weight = clients * context.broadcast[number]
        # Changes of integer statistics become fractions here.
        delta = jax.tree.map(lambda d: weight * d, result.delta)
        loss = mean_loss(context, context.received)
        losses = jnp.where(jnp.arange(clients) == number, loss.astype(jnp.float32), 0)
        return result._replace(delta=delta), Message(summed={"losses": losses}), memory

    def receive(mixture, message, context):
        return project_simplex(mixture + mixture_learning_rate * message.summed["losses"])

    exchange = Exchange(
        lambda variables: jnp.full(clients, 1 / clients, jnp.float32), lambda mixture: mixture, receive
    )
    return Method(finish=finish, server=exchange, discloses="the loss of all examples")


def afl(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    clients: int,
    mixture_learning_rate: float = 0.1,
    average: bool = True,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """AFL (Mohri, Sivek and Suresh 2019): the best model for the worst mixture of the clients.

    With one full-batch step per round and plain gradient descent `worst_mixture` is the paper's algorithm;
    with more steps, FedAvg weighted by lambda.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      clients: number of clients.
      mixture_learning_rate: of lambda.
      average: evaluates the running mean of the server's models, as the paper's guarantee demands.
      method: further methods.
      **options: as in `federated`, except ``weighting``, ``sampler``, ``server_optimizer``,
        ``keep_optimizer`` and ``release``.

    Raises:
      ValueError: if a number is not positive.
    """
    own = worst_mixture(clients, mixture_learning_rate=mixture_learning_rate)
    return federated(
        task,
        optimizer,
        method=combine(own, method),
        weighting=equal,
        server_optimizer=_averaged_sgd() if average else None,
        release=_release_average if average else None,
        sampler=None,
        keep_optimizer=False,
        **options,
    )


def _release_average(state):
    # A further method may transform updates before, in a chain.
    server = state.server if isinstance(state.server, AverageState) else state.server[-1]
    return state.variables._replace(params=server.average)


def project_simplex(v: jax.Array) -> jax.Array:
    """The nearest point of the probability simplex to v (n,), by sorting (Duchi et al. 2008)."""
    u = jnp.sort(v)[::-1]
    excess = (jnp.cumsum(u) - 1) / jnp.arange(1, len(v) + 1)
    last = jnp.sum(u > excess) - 1
    return jnp.maximum(v - excess[last], 0)


def _averaged_sgd() -> optax.GradientTransformation:
    def init(params):
        return AverageState(jnp.int32(0), jax.tree.map(jnp.copy, params))

    def update(gradient, state, params):
        updates = jax.tree.map(jnp.negative, gradient)
        count = state.count + 1
        average = jax.tree.map(
            lambda a, p, u: (a + (p + u - a) / count).astype(a.dtype), state.average, params, updates
        )
        return updates, AverageState(count, average)

    return optax.GradientTransformation(init, update)
