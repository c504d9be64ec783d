"""What a federation remembers of data that it has no longer: its model then, and which weights mattered."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedrecon.federated.clients import ClientRow
from fedrecon.federated.messages import Exchange, Message
from fedrecon.federated.phases import make_exchange
from fedrecon.types import PyTree, Task, Variables


class Memory(NamedTuple):
    """What is remembered of the blocks of a stream before this one; empty before the first.

    Attributes:
      model: `Variables` after the last of them; None before the first.
      importance: like the parameters, the sum over the blocks of their Fisher diagonals; None as long as
        nobody asked for it.
    """

    model: Variables | None = None
    importance: PyTree = None


def recall(memory: PyTree) -> Exchange:
    """Sends the same arrays to all clients of each round, where they are ``context.broadcast``."""

    def init(variables: Variables) -> PyTree:
        del variables
        return jax.tree.map(jnp.copy, memory)

    return Exchange(init, lambda state: state, lambda state, message, context: state)


def fisher_diagonal(
    task: Task,
    model: Variables,
    data: Any,
    key: jax.Array,
    *,
    mesh: Mesh | None = None,
    parallel: str | int = "scan",
) -> PyTree:
    """The empirical Fisher diagonal over the examples of all clients: the mean of squared gradients.

    Clients send sums over their examples, so that all examples count alike and sums are all that leaves a
    client. Gradients are those of single examples as in training; statistics of batches are those of one.

    Args:
      task: whose loss is meant.
      model: where.
      data: of the clients, as for the rounds.
      key: of what a loss draws.
      mesh, parallel: as in `make_round`.

    Returns:
      float, like the parameters.
    """
    exchange = make_exchange(_squares(task), mesh=mesh, parallel=parallel)
    found = exchange(model, data, key).message.summed
    return jax.tree.map(lambda x: x / jnp.maximum(found["count"], 1), found["squares"])


def _squares(task: Task) -> Callable[[PyTree, ClientRow, jax.Array, jax.Array], Message]:
    def compute(model: Variables, row: ClientRow, client: jax.Array, key: jax.Array) -> Message:
        del client

        def one(total: PyTree, number: jax.Array) -> tuple[PyTree, None]:
            batch = {name: x[number][None] for name, x in row.examples.items()}
            batch["valid"] = row.valid[number][None]
            drawn = jax.random.fold_in(key, number)
            gradient = jax.grad(lambda params: task.loss(params, model.stats, batch, drawn)[0])(model.params)
            return jax.tree.map(
                lambda t, g: t + jnp.where(batch["valid"][0], g * g, 0), total, gradient
            ), None

        # Of the row, so that the sum varies over the devices as it does.
        zeros = jax.tree.map(lambda x: jnp.zeros_like(x) + 0 * row.valid[0], model.params)
        squares, _ = jax.lax.scan(one, zeros, jnp.arange(row.valid.shape[0]))
        return Message(summed={"squares": squares, "count": row.valid.sum().astype(jnp.float32)})

    return compute


def remembered(memory: Memory, model: Variables, importance: PyTree = None) -> Memory:
    """The memory after another block: its model, and its importance added to that of those before."""
    if importance is not None and memory.importance is not None:
        importance = jax.tree.map(jnp.add, memory.importance, importance)
    return Memory(jax.tree.map(jnp.copy, model), importance)
