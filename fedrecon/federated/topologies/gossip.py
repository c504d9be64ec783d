"""Peer-to-peer training: every client keeps a model of its own and mixes it with its neighbors'."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, RoundInfo, RoundState
from fedrecon.federated.clients import client_sharding, default_mesh
from fedrecon.federated.engine import check_clients, make_round, round_keys
from fedrecon.federated.keys import random_order
from fedrecon.federated.topologies.serverless import check_serverless, one_client
from fedrecon.federated.trees import FROZEN, along, merge, nbytes, partition
from fedrecon.federated.turn import choose_batching


def peer_to_peer(algorithm: FederatedAlgorithm) -> FederatedAlgorithm:
    """The algorithm with every leaf that is trained kept at its client, as `make_gossip_round` has it.

    ``init_state(peer_to_peer(algorithm), ...)`` gives every client a model of its own, `make_evaluate` and
    `client_variables` take it from there, and `average_variables` is the mean model.
    """
    kept = jax.tree.map(lambda kind: FROZEN if isinstance(kind, str) else False, algorithm.share_mask)
    return algorithm._replace(share_mask=kept)


def metropolis_weights(adjacency: Any) -> np.ndarray:
    """Mixing matrix of an undirected graph, float64 (clients, clients), symmetric and doubly stochastic.

    ``W_ij = 1 / (1 + max(d_i, d_j))`` for neighbors, d being degrees, and the rest on the diagonal
    (Xiao and Boyd, Syst. Control Lett. 53:65, 2004).

    Args:
      adjacency: bool (clients, clients), symmetric; the diagonal is ignored.

    Raises:
      ValueError: if it is not square and symmetric.
    """
    edges = np.array(adjacency, bool)
    if edges.ndim != 2 or edges.shape[0] != edges.shape[1] or (edges != edges.T).any():
        raise ArgumentError("adjacency", "a symmetric square matrix", f"shape {edges.shape}")
    np.fill_diagonal(edges, False)
    degree = edges.sum(1)
    weights = np.where(edges, 1 / (1 + np.maximum(degree[:, None], degree)), 0)
    np.fill_diagonal(weights, 1 - weights.sum(1))
    return weights


def mixing_matrix(mixing: str | Any, clients: int) -> np.ndarray:
    """The fixed matrix that ``mixing`` of `make_gossip_round` stands for, float64 (clients, clients).

    Args:
      mixing: "ring" (each client and its two neighbors, in equal parts), "complete" (the mean of all), or a
        matrix.
      clients: their number.

    Raises:
      ValueError: for another name, or a matrix of another shape or that is not doubly stochastic: entries of
        at least 0, rows and columns with sums of 1 to 1e-5.
    """
    if isinstance(mixing, str):
        if mixing == "ring":
            step = np.eye(clients, k=1, dtype=bool) | np.eye(clients, k=1 - clients, dtype=bool)
            return metropolis_weights(step | step.T)
        if mixing == "complete":
            return np.full((clients, clients), 1 / clients)
        raise ArgumentError("mixing", '"ring", "complete", "matching" or a matrix', repr(mixing))
    matrix = np.asarray(mixing, np.float64)
    if matrix.shape != (clients, clients):
        raise ArgumentError("mixing", f"a matrix of shape {(clients, clients)}", matrix.shape)
    sums = np.concatenate([matrix.sum(0), matrix.sum(1)])
    if not (matrix >= 0).all() or not np.allclose(sums, 1, rtol=0, atol=1e-5):
        raise ArgumentError(
            "mixing",
            "entries of at least 0 with rows and columns that add to 1",
            f"a least entry of {matrix.min()} and sums from {sums.min()} to {sums.max()}",
        )
    return matrix


def consensus_distance(algorithm: FederatedAlgorithm, state: RoundState) -> jax.Array:
    """Root mean square of the distances of clients' shared parameters from their mean, float32 ()."""
    shared, _ = partition(state.private, algorithm.share_mask)
    squared = jax.tree.map(lambda x: ((x - x.mean(0)) ** 2).sum() / x.shape[0], shared.params)
    return jnp.sqrt(sum(jax.tree.leaves(squared), jnp.float32(0)))


def make_gossip_round(
    algorithm: FederatedAlgorithm,
    mixing: str | Any = "ring",
    *,
    batch_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    mesh: Mesh | None = None,
    parallel: str | int = "scan",
    donate: bool = True,
) -> Callable[[RoundState, Any, jax.Array], tuple[RoundState, RoundInfo]]:
    """Compiles ``round(state, data, key) -> (state, info)``: local training, then x_i <- sum_j W_ij x_j.

    Decentralized averaging (Lian et al., NeurIPS 2017) without a server: the state's own model stays as it
    was initially, and the algorithm's server optimizer and weighting have no part in it. Leaves that the
    algorithm's share mask makes private are not mixed. The mean of all models changes by local training only,
    and without it distances from the mean shrink each round at least by the second largest singular value of
    W.

    The sampler says which clients train; all mix, also clients without examples and those whose training did
    not leave their model finite, which bring the model they had before; ``applied`` is False if nobody's
    training counted. Each client sends its model to every
    other j with W_ji > 0, which is what ``bytes_up`` and ``bytes_down`` count.

    Args:
      algorithm: the algorithm; the state is that of ``peer_to_peer(algorithm)`` from `init_state`.
      mixing: a doubly stochastic W (clients, clients); or "ring" or "complete", see `mixing_matrix`; or
        "matching": random disjoint pairs average in each round (Boyd et al., IEEE Trans. Inf. Theory 52:2508,
        2006); with an odd number of clients one is left alone.
      batch_size, epochs, steps, mesh, parallel, donate: as in `make_round`.

    Raises:
      ValueError: for contradicting arguments; from the round, for an algorithm that does not work without a
        server (a reducer, a channel, messages), a matrix that is not as described, a state that has no model
        for each client, or data of another number of clients than the state.
    """
    mesh = default_mesh(mesh)
    work: dict[str, Any] = {"batch_size": batch_size, "epochs": epochs, "steps": steps}
    batching = choose_batching(algorithm.client.batching, **work)
    train = make_round(peer_to_peer(algorithm), mesh=mesh, parallel=parallel, donate=False, **work)

    @functools.partial(jax.jit, donate_argnums=(0,) if donate else ())
    def round(state, data, key):
        clients = check_clients(state, data)
        if jax.tree.structure(state.private) != jax.tree.structure(state.variables):
            raise ArgumentError(
                "state",
                "a model for each client, from init_state(peer_to_peer(algorithm), ...)",
                "shared leaves",
            )
        check_serverless(algorithm, batching, state, one_client(state.client), data)
        matrix = (
            _matching(round_keys(key, state.round).server, clients)
            if isinstance(mixing, str) and mixing == "matching"
            else None
        )
        if matrix is None:
            matrix = jnp.asarray(mixing_matrix(mixing, clients), jnp.float32)
        state, info = train(state, data, key)
        shared, private = partition(state.private, algorithm.share_mask)
        model = nbytes(one_client(shared))
        if model * (clients - 1) >= 2**32:
            raise ArgumentError(
                "mixing", "less than 2**32 bytes from each client", f"{clients - 1} x {model}"
            )
        mixed = jax.tree.map(functools.partial(_mix, matrix), shared)
        models = jax.lax.with_sharding_constraint(merge(mixed, private), client_sharding(mesh, clients))
        edges = (matrix > 0) & ~jnp.eye(clients, dtype=bool)
        info = info._replace(
            bytes_up=edges.sum(0, dtype=jnp.uint32) * jnp.uint32(model),
            bytes_down=edges.sum(1, dtype=jnp.uint32) * jnp.uint32(model),
        )
        return state._replace(private=models), info

    return round


def _mix(matrix: jax.Array, x: jax.Array) -> jax.Array:
    mixed = jnp.tensordot(matrix, x.astype(jnp.promote_types(x.dtype, jnp.float32)), 1, precision="highest")
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        mixed = jnp.round(mixed)
    # A client that nothing reaches keeps its bits.
    alone = jnp.diag(matrix) == 1
    return jnp.where(along(alone, x), x, mixed.astype(x.dtype))


def _matching(key: jax.Array, clients: int) -> jax.Array:
    order = random_order(key, jnp.arange(clients))
    paired = clients // 2 * 2
    partners = order[:paired].reshape(-1, 2)[:, ::-1].reshape(-1)
    partner = jnp.arange(clients).at[order[:paired]].set(partners)
    identity = jnp.eye(clients, dtype=jnp.float32)
    return (identity + identity[partner]) / 2
