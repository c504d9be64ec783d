"""Pati: a federation that grows from a public model, and of whose consensus models the best is kept."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, RoundState
from fedrecon.federated.messages import Exchange, Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.sampling import joining_clients
from fedrecon.federated.trees import fill, select
from fedrecon.types import Batch, PyTree, Task, Variables

# The name of the choice by the mean over regions.
MEAN = "mean"


class Kept(NamedTuple):
    """The best consensus model by some score: which, its score, and the rounds that have made it."""

    model: Variables
    score: jax.Array
    round: jax.Array


def best_consensus(score: Callable[[PyTree, PyTree, Batch], jax.Array], regions: tuple[str, ...]) -> Method:
    """Clients score the model that they receive; the server keeps the best by the mean, and by each region.

    Its state is a dict of `Kept`: `MEAN`, and each of the ``regions``.
    """

    def finish(result, memory, context):
        found = score(*context.complete(context.received), context.batches.judged)
        told = dict(zip(regions, found, strict=True)) if regions else {MEAN: found}
        return result, Message(scalars=told), memory

    def init(variables):
        return {
            name: Kept(jax.tree.map(jnp.copy, variables), jnp.float32(-1), jnp.int32(0))
            for name in (MEAN, *regions)
        }

    def receive(state, message, context):
        told = message.scalars
        told = {**told, MEAN: sum(told.values()) / len(told)}

        def newer(name):
            kept = state[name]
            new = Kept(fill(context.model, kept.model), told[name], context.round)
            return select(told[name] > kept.score, new, kept)

        return {name: newer(name) for name in state}

    server = Exchange(init, lambda state: (), receive)
    return Method(finish=finish, server=server, discloses="scores of its validation examples")


def pati(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    clients: int,
    score: Callable[[PyTree, PyTree, Batch], jax.Array],
    regions: tuple[str, ...] = (),
    founders: int = 0,
    join_every: int = 1,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """Pati et al. (FeTS, glioblastoma): a public model, institutions that join, the best round is kept.

    Starts from a model of public data (``--initialize_from``). Institutions that are there train in every
    round, FedAvg with one pass and Adam, weights being sizes among those present. Each scores the consensus
    model that it receives on its validation split and sends the score along; the server keeps the model with
    the best mean, weighted like the models ("singlet"), which is what is released. With ``regions`` and a
    score of each it also keeps the best for every region ("triplet"), in the state of its exchange.

    The publication has 71 institutions, four sequences of MRI, and whole tumor, tumor core and enhancing
    tumor (`fedrecon.tasks.regions.region_dice`); the catalog's command has hearts at simulated scanners, one
    more of which joins every four rounds, and the mean Dice of the task.

    Deviations: a model is scored at the beginning of the round that trains it on, so that the one after the
    last round is never kept. Means are over the institutions of a round, so that they change with who is
    there. Institutions join in their order at a steady pace, not by three federations. An asynchronous
    topology would pair scores with later models. Clients without a validation split score training examples.

    Args:
      task: what is learned.
      optimizer: each client's optimizer (Adam at 5e-5).
      clients: their number.
      score: ``score(params, stats, batch) -> float32 ()`` in [0, 1], or (regions,) of them.
      regions: names of the scores, where there are several.
      founders: who is there from the first round on; 0 for all.
      join_every: rounds after which one more joins.
      method: further methods.
      **options: as in `federated`, except ``sampler`` and ``release``.

    Raises:
      ValueError: for numbers out of range.
    """
    if founders < 0 or join_every < 1:
        name, least = ("founders", 0) if founders < 0 else ("join_every", 1)
        raise ArgumentError(name, f"an integer of at least {least}", founders if least == 0 else join_every)
    joins = np.maximum(np.arange(clients) - (founders or clients) + 1, 0) * join_every
    own = best_consensus(score, regions)

    def release(state: RoundState) -> Variables:
        kept = state.exchange if method is None else state.exchange[0]
        return kept[MEAN].model

    return federated(
        task,
        optimizer,
        method=combine(own, method),
        sampler=joining_clients(joins),
        release=release,
        **options,
    )
