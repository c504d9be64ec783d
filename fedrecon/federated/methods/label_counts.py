"""How often labels occur, at a client or at all of them, and methods that weigh examples by it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedrecon.errors import ArgumentError
from fedrecon.federated.clients import place
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method
from fedrecon.federated.phases import Beforehand, make_exchange
from fedrecon.types import PyTree, Task, Variables

PRIORS = ("local", "global")


def count_labels(label: jax.Array, valid: jax.Array, outputs: int) -> jax.Array:
    """Numbers of labels among valid examples, float32 (2, outputs).

    Args:
      label: (examples,) classes, or (examples, outputs) findings, 1, 0, or anything else where not known.
      valid: bool (examples,).
      outputs: classes, or findings.

    Returns:
      rows: how many examples are of each class, or have each finding; how many have a label at all.
    """
    if label.ndim == 1:
        label = jax.nn.one_hot(label, outputs)
        known = jnp.broadcast_to((label.sum(1) > 0)[:, None], label.shape)
    else:
        known = (label == 0) | (label == 1)
    known &= valid[:, None]
    return jnp.stack([((label == 1) & known).sum(0), known.sum(0)]).astype(jnp.float32)


def exchange_counts(
    task: Task,
    variables: Variables,
    clients: Any,
    key: jax.Array,
    mesh: Mesh | None = None,
    *,
    prior: str = "local",
) -> Beforehand:
    """The exchange before the rounds: clients send `count_labels`, the server tells all their sum.

    With the prior "global" 8 bytes a class or finding each way, once; with "local" nothing.

    Args:
      task, variables: whose predictions (examples, outputs) tell the number of outputs.
      clients: training data with "label".
      key: not used.
      mesh: of the rounds.
      prior: one of `PRIORS`.

    Raises:
      ValueError: another prior.
    """
    if prior not in PRIORS:
        raise ArgumentError("prior", " or ".join(PRIORS), repr(prior))
    if prior == "local":
        nothing = jnp.zeros(len(clients.valid), jnp.uint32)
        return Beforehand(variables, None, nothing, nothing)

    def compute(payload, row, client, key):
        del payload, client, key
        batch = {**row.examples, "valid": row.valid}
        outputs = jax.eval_shape(task.predict, *variables, batch).shape[-1]
        return Message(summed=count_labels(batch["label"], row.valid, outputs))

    found = make_exchange(compute, mesh=mesh)((), place(clients, mesh), key)
    counts = found.message.summed
    return Beforehand(variables, counts, found.bytes_up, jnp.uint32(4 * counts.size) * (found.bytes_up > 0))


def weighted_labels(
    task: Task, prior: str, counts: jax.Array | None, weigh: Callable[[jax.Array, jax.Array], jax.Array]
) -> Method:
    """Batches with a "weight" of every label, which losses of the package's classifications multiply by.

    Args:
      task: as in `exchange_counts`.
      prior: "global" goes by ``counts``, "local" by those of each client's own training examples.
      counts: of all clients, of `count_labels`; None of a task that is nobody's.
      weigh: ``weigh(label, counts) -> weight``, of the shape of the labels.

    Raises:
      ValueError: another prior.
    """
    if prior not in PRIORS:
        raise ArgumentError("prior", " or ".join(PRIORS), repr(prior))

    def begin(state: PyTree, context: Any) -> jax.Array:
        batch = {**context.batches.examples, "valid": context.batches.present}
        outputs = jax.eval_shape(task.predict, *context.complete(context.received), batch).shape[-1]
        if prior == "global" and counts is not None:
            return jnp.asarray(counts)
        return count_labels(batch["label"], batch["valid"], outputs)

    def prepare(batch, memory, context, key):
        return {**batch, "weight": weigh(batch["label"], memory)}

    return Method(begin=begin, prepare=prepare)
