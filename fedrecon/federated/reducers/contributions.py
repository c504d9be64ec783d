"""The mean by coefficients that follow from what clients contribute in gradient space and in data space."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.federated.messages import Context, Reducer, Reduction, Upload
from fedrecon.federated.reducers.bounding import client_numbers
from fedrecon.federated.reducers.robust import lengths, unweighted
from fedrecon.federated.trees import along
from fedrecon.types import PyTree

# How the two contributions make one.
COMBINATIONS = ("plus", "times")
# The smallest share.
_FLOOR = 1e-3


class Contributions(NamedTuple):
    """What the server remembers; leaves (clients,): c_i, the sum of cosines s_i, and rounds of it."""

    coefficient: jax.Array
    cosines: jax.Array
    rounds: jax.Array


def _shares(values: jax.Array, included: jax.Array) -> jax.Array:
    """``max(x / sum x, 1e-3)`` over the included rows; equal shares where all are 0."""
    values = jnp.where(included, jnp.maximum(values, 0), 0)
    total = values.sum()
    part = jnp.where(total > 0, values / jnp.where(total > 0, total, 1), 1 / jnp.maximum(included.sum(), 1))
    return jnp.where(included, jnp.maximum(part, _FLOOR), 0)


def coefficients(
    cosine: jax.Array, error: jax.Array, included: jax.Array, combination: str = "plus"
) -> jax.Array:
    """c (rows,) of sum 1, of mean cosines s and errors e: shares of ``1 - s`` and e, added or multiplied."""
    a, e = _shares(1 - cosine, included), _shares(error, included)
    c = _shares(a + e if combination == "plus" else a * e, included)
    return c / jnp.maximum(c.sum(), _FLOOR)


def _only(scalars: PyTree) -> PyTree:
    return scalars


def by_contribution(clients: int, combination: str = "plus", own: Callable = _only) -> Reducer:
    """The mean with coefficients that follow from the round's updates and errors, as in FedCE.

    Of the clients of a round, with updates d_i and coefficients c_i of sum 1 from the rounds before:
    ``s_i = cos(d_i, sum_j c_j d_j - c_i d_i)`` of parameters, the new c are `coefficients` of the means of
    s_i over the client's rounds and of the errors that clients send, and the mean is ``sum_i c_i d_i``.
    Each client is answered its c_i, float32 (), which is 1 / clients before.

    Args:
      clients: their number.
      combination: one of `COMBINATIONS`.
      own: ``own(message.scalars) -> {"error": (rows,)}`` where further methods send some, too.
    """

    def init(upload: Upload) -> Contributions:
        return Contributions(
            jnp.full(clients, 1 / clients), jnp.zeros(clients), jnp.zeros(clients, jnp.int32)
        )

    def reduce(uploads: Upload, included: jax.Array, state: Any, context: Context) -> Reduction:
        place = jnp.where(included, client_numbers(context, len(included)), clients)
        known = Contributions(*(x.at[place].get(mode="fill", fill_value=0) for x in state))
        sent = unweighted(uploads, included)
        before = known.coefficient / jnp.maximum(known.coefficient.sum(), _FLOOR)

        def mean(c: jax.Array, tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: (along(c, x) * x).sum(0), tree)

        # s_i = cos(delta_i, g - c_i delta_i), of parameters alone.
        delta = sent.delta.params
        others = jax.tree.map(lambda g, x: g[None] - along(before, x) * x, mean(before, delta), delta)
        product = jax.tree.map(lambda x, y: (x * y).reshape(len(x), -1).sum(1), delta, others)
        sizes = lengths(delta) * lengths(others)
        cosine = sum(jax.tree.leaves(product), jnp.float32(0)) / jnp.where(sizes > 0, sizes, 1)
        cosines, rounds = known.cosines + jnp.clip(cosine, -1, 1), known.rounds + 1
        c = coefficients(cosines / rounds, own(sent.message.scalars)["error"], included, combination)
        message = sent.message
        message = message._replace(
            summed=jax.tree.map(lambda x: x.sum(0), message.summed), scalars=mean(c, message.scalars)
        )
        upload = Upload(mean(c, sent.delta), message, included.any().astype(jnp.float32))
        new = Contributions(c, cosines, rounds)
        kept = Contributions(*(x.at[place].set(y, mode="drop") for x, y in zip(state, new, strict=True)))
        info = {"coefficient": kept.coefficient}
        return Reduction(upload, kept, info=info, answers=c)

    return Reducer(init, reduce, answer=lambda variables: jnp.float32(1 / clients))
