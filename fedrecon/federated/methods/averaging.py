"""The exponential moving average of the server's model over rounds, as what is handed out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm, RoundState
from fedrecon.federated.trees import merge, partition
from fedrecon.types import PyTree, Variables


class Averaging(NamedTuple):
    """State of the server's optimizer with an average.

    Attributes:
      inner: state of the optimizer itself.
      mean: the average of the shared parameters; before the first round the initial ones.
      rounds: int32 (), in it.
    """

    inner: PyTree
    mean: PyTree
    rounds: jax.Array


def averaged(algorithm: FederatedAlgorithm, decay: float) -> FederatedAlgorithm:
    """The algorithm, of which the moving average of the server's models is evaluated and handed out.

    After t rounds the shared parameters are ``sum_s a^(t - s) w_s / sum_s a^(t - s)`` of the models w_s after
    rounds s = 1 ... t, without the initial one. Training goes on from the newest model and is the same bit
    for bit. The average is made of what the server has anyway: it needs no further exchange, and under
    differential privacy no further budget (post-processing). Statistics of batch normalization are the newest
    ones. A round that is not applied is not in the average.

    Args:
      algorithm: of a server with one model.
      decay: a in [0, 1); with 0 the algorithm is returned as it is.

    Raises:
      ArgumentError: ``decay`` is out of range, or the algorithm hands out a model of its own.
    """
    if not 0 <= decay < 1:
        raise ArgumentError("average", "a number in [0, 1)", decay)
    if not decay:
        return algorithm
    if algorithm.release is not FederatedAlgorithm._field_defaults["release"]:
        raise ArgumentError("average", "0 with a method that hands out a model of its own", decay)
    optimizer = optax.with_extra_args_support(algorithm.server_optimizer)

    def init(params: PyTree) -> Averaging:
        return Averaging(optimizer.init(params), jax.tree.map(jnp.copy, params), jnp.int32(0))

    def update(gradient: PyTree, state: Averaging, params: PyTree = None, **extra: Any) -> Any:
        updates, inner = optimizer.update(gradient, state.inner, params, **extra)
        count = state.rounds + 1
        part = (1 - decay) / (1 - decay ** count.astype(jnp.float32))
        new = optax.apply_updates(params, updates)
        mean = jax.tree.map(lambda m, w: (m + part * (w - m)).astype(m.dtype), state.mean, new)
        return updates, Averaging(inner, mean, count)

    def release(state: RoundState) -> Variables:
        shared, private = partition(state.variables, algorithm.share_mask)
        return merge(shared._replace(params=state.server.mean), private)

    server: Any = optax.GradientTransformationExtraArgs(init, update)
    return algorithm._replace(server_optimizer=server, release=release)
