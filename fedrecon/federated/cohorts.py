"""The sampled clients of a round, gathered before they compute, so that absent clients cost nothing.

Each device gathers among its own clients: what clients keep and their data never move between devices.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from fedrecon.federated.algorithm import RoundInfo
from fedrecon.federated.clients import AXIS
from fedrecon.types import PyTree


def largest_cohort(sampler: Callable, clients: int, mesh: Mesh) -> int | None:
    """Rows of a device that hold every cohort; None if gathering would save nothing.

    Args:
      sampler: of the algorithm; its attribute ``count``, if there is one, bounds the sampled clients.
      clients: number of all clients.
      mesh: of the round.
    """
    count = getattr(sampler, "count", None)
    if count is None or clients % mesh.size:
        return None
    # In the worst case all sampled clients are those of one device.
    return count if count < clients // mesh.size else None


def numbers_of(sampled: jax.Array, size: int, mesh: Mesh) -> tuple[jax.Array, jax.Array]:
    """The sampled clients' numbers, int32 (devices * size,), each device's ascending, and which are real.

    Places without a client have the number of all clients.
    """
    clients = sampled.shape[0]
    own = sampled.reshape(mesh.size, -1)

    def one(flags, first):
        places = jnp.flatnonzero(flags, size=size, fill_value=clients)
        return jnp.where(places < flags.shape[0], places + first, clients).astype(jnp.int32)

    numbers = jax.vmap(one)(own, jnp.arange(mesh.size) * own.shape[1]).reshape(-1)
    return numbers, numbers < clients


def gather(tree: PyTree, numbers: jax.Array, clients: int, mesh: Mesh) -> PyTree:
    """Rows of leaves (clients, ...), or more, as (devices * size, ...); empty places repeat a client."""
    rows, states = tree

    def pick(tree):
        if mesh.size == 1:
            return _rows(tree, numbers)
        tree = jax.tree.map(lambda x: x[:clients], tree)
        return jax.shard_map(
            functools.partial(_local_rows, clients // mesh.size),
            mesh=mesh,
            in_specs=(P(AXIS), P(AXIS)),
            out_specs=P(AXIS),
        )(tree, numbers)

    return type(rows)(*pick(rows.own), *rows.shared), pick(states)


def scatter(new: PyTree, old: PyTree, numbers: jax.Array, mesh: Mesh) -> PyTree:
    """``old`` (clients, ...) with the rows ``new`` at their numbers."""
    if mesh.size == 1:
        return jax.tree.map(lambda x, rows: x.at[numbers].set(rows, mode="drop"), old, new)
    own = jax.tree.leaves(old)[0].shape[0] // mesh.size if jax.tree.leaves(old) else 0
    return jax.shard_map(
        functools.partial(_local_scatter, own),
        mesh=mesh,
        in_specs=(P(AXIS), P(AXIS), P(AXIS)),
        out_specs=P(AXIS),
    )(new, old, numbers)


def spread(x: jax.Array, numbers: jax.Array, clients: int) -> jax.Array:
    """(rows, ...) as (clients, ...), zero for clients that are not among ``numbers``."""
    return jnp.zeros((clients, *x.shape[1:]), x.dtype).at[numbers].set(x, mode="drop")


def spread_info(
    kept: jax.Array, info: RoundInfo, numbers: jax.Array, clients: int
) -> tuple[jax.Array, RoundInfo]:
    """Reports of a cohort's rows as reports of all clients, zero for those outside."""

    def everywhere(tree):
        return jax.tree.map(lambda x: spread(x, numbers, clients), tree)

    return everywhere(kept), info._replace(
        **{name: everywhere(getattr(info, name)) for name in PER_CLIENT_INFO}
    )


# Fields of `RoundInfo` with an axis of clients.
PER_CLIENT_INFO = (
    "client_metrics",
    "participated",
    "excluded",
    "bytes_up",
    "bytes_down",
    "delta_norm",
    "validation",
    "weight",
)


def _rows(tree, numbers):
    return jax.tree.map(lambda x: x.at[numbers].get(mode="clip"), tree)


def _local_rows(own, tree, numbers):
    return _rows(tree, numbers - jax.lax.axis_index(AXIS) * own)


def _local_scatter(own, new, old, numbers):
    places = numbers - jax.lax.axis_index(AXIS) * own
    # Places without a client are beyond those of every device, and dropped.
    return jax.tree.map(lambda x, rows: x.at[places].set(rows, mode="drop"), old, new)
