"""Wu et al., dermatology: momentum contrast with features of other clients as negatives, and as positives."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.alignment import Contrast, info_nce
from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.messages import Message
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.momentum_contrast import (
    Remote,
    Value,
    beside,
    contrasted,
    drawn,
    momentum_contrast,
    relayed,
)
from fedrecon.federated.recipe import federated
from fedrecon.types import Task


def wu_dermatology(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    contrast: Contrast,
    clients: int,
    queue: int = 256,
    momentum: float = 0.99,
    temperature: float = 0.1,
    remote: int = 256,
    positives: int = 0,
    strength: float = 1.0,
    warm_up: int = 10,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """Wu et al. (skin disease): features of other clients in `momentum_contrast`.

    After its steps client i sends its bank Q_i of normalized keys, and the server sends those of all clients
    in the next round. A query q has the other view as its positive; its negatives are the bank and ``remote``
    random features of others, drawn for every step. With ``positives`` the nearest of these, Lambda(q), are
    positives, too, and no negatives any more; after ``warm_up`` rounds::

        L = L_view + strength / |Lambda| sum_(k in Lambda) InfoNCE(q, k)

    Deviations: sizes and constants are filled in from a reading of the abstract. The server sends everybody
    the banks of all clients, of which each leaves out its own; what a client that stayed away sent last is
    sent again. Rounds are counted by the client, of those that it took part in. A bank that is not full yet
    is sent with zeros.

    Args:
      task: whose loss this one replaces.
      optimizer: each client's optimizer.
      contrast: views and network.
      clients: their number.
      queue: |Q_i|, keys that a client keeps and sends.
      momentum: m, in [0, 1].
      temperature: T, positive.
      remote: K, at least 0.
      positives: n_p, at least 0; 4 in the variant with remote positives.
      strength: omega, at least 0.
      warm_up: rounds of a client before its first remote positive.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: arguments out of range.
    """
    for name, number in (("remote", remote), ("positives", positives), ("warm_up", warm_up)):
        if not (isinstance(number, int) and number >= 0):
            raise ArgumentError(name, "an integer of at least 0", repr(number))
    if not strength >= 0:
        raise ArgumentError("strength", "a number of at least 0", repr(strength))

    def fetch(sent, context):
        return others_of(sent["features"], context.batches.client)

    def report(result, slow, context):
        return Message(gathered={"features": slow.bank.features})

    server = relayed({"features": jnp.zeros((queue, contrast.features))}, clients)
    own = momentum_contrast(contrast, queue=queue, rate=momentum, fetch=fetch, report=report, server=server)
    value = remote_contrast(remote, positives, strength, warm_up, temperature)
    task = contrasted(task, contrast, value)
    return federated(task, optimizer, method=combine(own, method), **options)


def others_of(features: jax.Array, own: jax.Array) -> Remote:
    """The features (clients, count, features) of all clients but one; tags 0, of zeros -1."""
    there = (jnp.abs(features).sum(-1) > 0) & (jnp.arange(len(features)) != own)[:, None]
    return Remote(
        features.reshape(-1, features.shape[-1]), jnp.where(there.reshape(-1), 0, -1).astype(jnp.int32)
    )


def remote_contrast(remote: int, positives: int, strength: float, warm_up: int, temperature: float) -> Value:
    """The loss of a query, arguments as of `wu_dermatology`."""

    def value(queries, valid, given):
        chosen = drawn(given.key, given.remote, remote)
        keys, tags = beside(given, chosen)
        view = jnp.eye(len(queries), len(keys), dtype=bool)
        negative = jnp.broadcast_to(tags >= 0, view.shape)
        count = min(positives, len(chosen.tags))
        if not count:
            return info_nce(queries, keys, view, negative, temperature)
        there = jnp.arange(len(keys)) >= len(keys) - len(chosen.tags)
        near = jnp.where(there & (tags >= 0), jax.lax.stop_gradient(queries) @ keys.T, -jnp.inf)
        found, place = jax.lax.top_k(near, count)
        ready = (found > -jnp.inf) & (given.rounds >= warm_up)
        nearest = (jax.nn.one_hot(place, len(keys), dtype=bool) & ready[..., None]).any(1)
        negative &= ~nearest
        first = info_nce(queries, keys, view, negative, temperature)
        return first + strength * info_nce(queries, keys, nearest, negative, temperature)

    return value
