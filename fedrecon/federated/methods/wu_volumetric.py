"""Wu et al., volumes: contrast of slices by their part of the volume, with features of other clients."""

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
    contrasted,
    drawn,
    momentum_contrast,
    relayed,
)
from fedrecon.federated.recipe import federated
from fedrecon.types import Task


def wu_volumetric(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    contrast: Contrast,
    clients: int,
    partitions: int = 4,
    queue: int = 256,
    momentum: float = 0.99,
    temperature: float = 0.1,
    drawn_features: int = 256,
    exclude_own_partition: bool = True,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """Wu et al. (cardiac MRI): slices of the same part of a volume attract each other, at all clients.

    A slice z of D has the partition floor(S z / D), by ``batch["slice"]`` and ``batch["slices"]``. After its
    steps client i sends its bank Q_i of keys with their partitions, and the server sends those of all clients
    in the next round. For every step Q', K features, are drawn from the client's bank and those of the
    others. The loss of a query q is L_loc + L_rem, InfoNCE with the negatives of Q' of other partitions, and
    the positives of its own one: in L_loc the keys of the step and the client's bank, in L_rem those of Q'.

    Deviations: sizes and constants are filled in. The server sends everybody the banks of all clients, of
    which each takes its own from its memory. The sum over all of Q' of the written formula, with positives
    among the negatives, is an option; a positive that is in it counts once.

    Args:
      task: whose loss this one replaces.
      optimizer: each client's optimizer.
      contrast: views and network.
      clients: their number.
      partitions: S, 1 to 127; with 1 there are no negatives, and the loss is 0.
      queue: |Q_i|, keys that a client keeps and sends.
      momentum: m, in [0, 1].
      temperature: T, positive.
      drawn_features: K, 1 or more.
      exclude_own_partition: whether negatives are of other partitions alone.
      method: further methods.
      **options: as in `federated`.

    Raises:
      ValueError: arguments out of range.
    """
    if not (isinstance(partitions, int) and 1 <= partitions <= 127):
        raise ArgumentError("partitions", "an integer from 1 to 127", repr(partitions))
    if not (isinstance(drawn_features, int) and drawn_features >= 1):
        raise ArgumentError("drawn_features", "a positive integer", repr(drawn_features))

    def tag(batch):
        return partition_of(batch["slice"], batch["slices"], partitions)

    def fetch(sent, context):
        other = (jnp.arange(clients) != context.batches.client)[:, None]
        tags = jnp.where(other, sent["partitions"].astype(jnp.int32), -1)
        return Remote(sent["features"].reshape(-1, contrast.features), tags.reshape(-1))

    def report(result, slow, context):
        bank = slow.bank
        return Message(gathered={"features": bank.features, "partitions": bank.tags.astype(jnp.int8)})

    empty = {
        "features": jnp.zeros((queue, contrast.features)),
        "partitions": jnp.full(queue, -1, jnp.int8),
    }
    own = momentum_contrast(
        contrast,
        queue=queue,
        rate=momentum,
        fetch=fetch,
        report=report,
        server=relayed(empty, clients),
        tag=tag,
    )
    task = contrasted(task, contrast, structural_matching(drawn_features, exclude_own_partition, temperature))
    return federated(task, optimizer, method=combine(own, method), **options)


def partition_of(number: jax.Array, count: jax.Array, partitions: int) -> jax.Array:
    """floor(S z / D), int32: of slice z of D; slices of a volume are as equally many in each as can be."""
    return (partitions * number // jnp.maximum(count, 1)).astype(jnp.int32)


def structural_matching(count: int, exclude: bool, temperature: float) -> Value:
    """L_loc + L_rem of a query, arguments as of `wu_volumetric`."""

    def value(queries, valid, given):
        pool = Remote(
            jnp.concatenate([given.bank.features, given.remote.features]),
            jnp.concatenate([given.bank.tags, given.remote.tags]),
        )
        shared = drawn(given.key, pool, count)
        keys = jnp.concatenate([given.keys, given.bank.features, shared.features])
        tags = jnp.concatenate([jnp.where(valid, given.tags, -1), given.bank.tags, shared.tags])
        same = given.tags[:, None] == tags
        remote = jnp.arange(len(keys)) >= len(keys) - len(shared.tags)
        negative = remote & (tags >= 0) & ~(same & exclude)
        near, far = (
            info_nce(queries, keys, same & which, negative, temperature) for which in (~remote, remote)
        )
        return near + far

    return value
