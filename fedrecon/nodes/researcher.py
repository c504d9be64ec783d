"""The researcher's side: jobs to nodes, and the mean of what they answer."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.errors import ArgumentError
from fedrecon.nodes.node import Job, Node, Reply
from fedrecon.nodes.plans import Plan
from fedrecon.types import Variables


class Round(NamedTuple):
    """A round of an experiment: the new model, and what every node has answered."""

    params: Variables
    replies: tuple[Reply, ...]


def averaged(replies: Iterable[Reply]) -> Variables:
    """FedAvg of all leaves: the mean of the models that were trained, weighted by numbers of examples.

    Raises:
      ValueError: nobody has trained.
    """
    trained = [reply for reply in replies if reply.status == "trained"]
    if not trained:
        raise ArgumentError("replies", "a node that has trained", "none")
    whole = sum(reply.examples for reply in trained)

    def mean(*leaves: jax.Array) -> jax.Array:
        total = sum(reply.examples / whole * x for reply, x in zip(trained, leaves, strict=True))
        return jnp.asarray(total).astype(leaves[0].dtype)

    return jax.tree.map(mean, *(reply.params for reply in trained))


def run_round(
    nodes: Sequence[Node],
    plan: Plan,
    tags: Iterable[str],
    params: Variables,
    *,
    round: int = 0,
    seed: int = 0,
) -> Round:
    """Asks every node to train, and averages; nodes that do not train are left out.

    A round of `fedrecon.federated.fedavg` of the same clients, up to rounding, where no policy interferes.

    Args:
      nodes: in the order of the clients of a simulation.
      plan: what is trained.
      tags: of the data.
      params: to start from.
      round: its number.
      seed: of the experiment.

    Raises:
      ValueError: nobody has trained; names what the first answered.
    """
    wanted = frozenset(tags)
    replies = tuple(
        node.train(Job(plan, wanted, params, round, seed, place, len(nodes)))
        for place, node in enumerate(nodes)
    )
    if all(reply.status != "trained" for reply in replies):
        found = "; ".join(f"{reply.status}: {reply.reason}" for reply in replies[:1])
        raise ArgumentError("nodes", "one that trains", found or "none")
    return Round(averaged(replies), replies)
