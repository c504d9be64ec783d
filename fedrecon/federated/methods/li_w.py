"""Li W. et al.: clients share some entries of their updates, by the sparse vector technique."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.channels import chain
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.recipe import federated
from fedrecon.federated.sampling import equal
from fedrecon.types import Task

SCALES, AVERAGES = ("vector", "per_coordinate"), ("contributors", "all")


def upload_epsilon(entries: int, epsilon: float, release_epsilon: float, scale: str = "vector") -> float:
    """Epsilon of one upload of up to ``entries`` entries; those of the uploads of a client add.

    Pure local differential privacy of a client's whole data: ``epsilon`` of the threshold, ``(2
    entries)^(2/3) epsilon`` of the comparisons, ``release_epsilon`` of the values. The last is paid for every
    entry where the noise is scaled for a single one.

    Args:
      entries: q.
      epsilon: of the threshold.
      release_epsilon: of the released values.
      scale: one of `SCALES`.
    """
    released = release_epsilon * (entries if scale == "per_coordinate" else 1)
    return epsilon + (2 * entries) ** (2 / 3) * epsilon + released


def sparse_vector(
    *,
    fraction: float = 0.1,
    epsilon: float = 0.1,
    release_epsilon: float = 0.1,
    bound: float = 1e-5,
    threshold: float = 1e-6,
    scale: str = "vector",
    average: str = "contributors",
) -> Method:
    """Selective sharing (Li W. et al. 2019) by sparse vectors (Lyu, Su and Li 2017), with its whole cost.

    A client divides its change by its steps and clips the entries to ±``bound`` (gamma). In random order, the
    entry j is accepted if ``|d_j| + Lap(4 q gamma / e2) >= threshold + Lap(2 gamma / e1)``, until q of them
    are, with one draw for the threshold and no entry looked at twice. Accepted entries are sent with ``Lap(2
    q gamma / e3)`` added, clipped again, and the others are exactly zero. `upload_epsilon` is what an upload
    costs: with 10^5 entries and e1 = 0.1 it is about 342, not 0.1. Only ``steps``, ``uploaded`` and
    ``epsilon`` of a round are reported of a client. The noise is that of a simulation, from JAX keys.

    Args:
      fraction: f in (0, 1]; q is f of all entries, rounded up.
      epsilon, release_epsilon: e1 and e3, positive; e2 is (2 q)^(2/3) e1.
      bound: gamma, positive; or 0 for the median of the client's own entries, which no guarantee covers:
        epsilon is then reported as infinite.
      threshold: of entries after division by the steps.
      scale: "vector"; or "per_coordinate", the legacy of public filters, with noise for a single entry, whose
        epsilon is counted for every entry.
      average: "contributors": each entry is a mean over those who sent it; "all": over all clients.

    Raises:
      ValueError: arguments out of range; from the round, if the model has running statistics, which would be
        sent without noise.
    """
    if not 0 < fraction <= 1:
        raise ArgumentError("fraction", "a number in (0, 1]", repr(fraction))
    for name, value in (("epsilon", epsilon), ("release_epsilon", release_epsilon)):
        if not value > 0:
            raise ArgumentError(name, "a positive number", repr(value))
    if not bound >= 0:
        raise ArgumentError("bound", "a number of at least 0", repr(bound))
    for name, choice, known in (("scale", scale, SCALES), ("average", average, AVERAGES)):
        if choice not in known:
            raise ArgumentError(name, f"one of {', '.join(known)}", repr(choice))

    def finish(result, memory, context):
        if jax.tree.leaves(result.delta.stats):
            raise ArgumentError("variables.stats", "none, since they would be sent without noise", "some")
        flat, restore = ravel_pytree(result.delta.params)
        steps, q = jnp.maximum(context.steps, 1), math.ceil(fraction * flat.size)
        keys = jax.random.split(jax.random.fold_in(context.key, 11), 4)
        entries = flat / steps
        gamma = jnp.float32(bound) if bound else jnp.median(jnp.abs(entries))
        entries = jnp.clip(entries, -gamma, gamma)
        compared = (2 * q) ** (2 / 3) * epsilon
        noisy = threshold + jax.random.laplace(keys[0]) * 2 * gamma / epsilon
        queries = jnp.abs(entries) + jax.random.laplace(keys[1], flat.shape) * 4 * q * gamma / compared
        order = jax.random.permutation(keys[2], flat.size)
        above = queries[order] >= noisy
        accepted = jnp.zeros(flat.shape, bool).at[order].set(above & (jnp.cumsum(above) <= q))
        width = 2 * gamma / release_epsilon * (q if scale == "vector" else 1)
        released = jnp.clip(entries + width * jax.random.laplace(keys[3], flat.shape), -gamma, gamma)
        sent = jnp.where(accepted, released * steps, 0)
        cost = upload_epsilon(q, epsilon, release_epsilon, scale) if bound else math.inf
        metrics = {
            "steps": result.metrics["steps"],
            "uploaded": (accepted.sum().astype(jnp.float32), jnp.float32(1)),
            "epsilon": (jnp.float32(cost), jnp.float32(1)),
        }
        delta = result.delta._replace(params=restore(sent))
        message = Message(summed=restore(accepted.astype(flat.dtype)))
        return result._replace(delta=delta, metrics=metrics), message, memory

    def divide(gradient, state, params=None, *, message, participants, **extra):
        if average == "all":
            return gradient, state
        return jax.tree.map(
            lambda g, n: g * participants / jnp.maximum(n, 1), gradient, message.summed
        ), state

    transform = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), divide)
    return Method(finish=finish, transform=transform)


def li_w(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    fraction: float = 0.1,
    epsilon: float = 0.1,
    release_epsilon: float = 0.1,
    bound: float = 1e-5,
    threshold: float = 1e-6,
    scale: str = "vector",
    average: str = "contributors",
    sampler: Callable | None = None,
    server_optimizer: optax.GradientTransformation | None = None,
    method: Method | None = None,
    keep_optimizer: bool = False,
) -> FederatedAlgorithm:
    """Federated averaging of what `sparse_vector` lets through, every client with the same weight.

    Bytes are those of the q entries and their places, whoever accepted fewer.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      fraction, epsilon, release_epsilon, bound, threshold, scale, average: as in `sparse_vector`.
      sampler, server_optimizer, method, keep_optimizer: as in `federated`.

    Raises:
      ValueError: arguments out of range.
    """
    options: dict[str, Any] = {"epsilon": epsilon, "release_epsilon": release_epsilon, "threshold": threshold}
    own = sparse_vector(fraction=fraction, bound=bound, scale=scale, average=average, **options)

    def payload_bytes(upload):
        size = sum(x.size for x in jax.tree.leaves(upload.delta))
        place = math.ceil(math.log2(max(size, 2)))
        return math.ceil(math.ceil(fraction * size) * (4 + place / 8)) + 8

    return federated(
        task,
        optimizer,
        method=combine(method, own),
        sampler=sampler,
        server_optimizer=server_optimizer,
        weighting=equal,
        channel=chain()._replace(payload_bytes=payload_bytes),
        keep_optimizer=keep_optimizer,
    )
