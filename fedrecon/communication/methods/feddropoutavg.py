"""FedDropoutAvg: some clients, and of each of their models some parameters, are left out of the mean."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrecon.communication.sparsification import random_mask
from fedrecon.errors import ArgumentError
from fedrecon.federated import FederatedAlgorithm, all_clients, by_examples, equal, federated
from fedrecon.types import Task


def feddropoutavg(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    client_drop_rate: float = 0.2,
    federated_drop_rate: float = 0.3,
    by_size: bool = False,
    **options: Any,
) -> FederatedAlgorithm:
    """FedDropoutAvg (Gunesli et al. 2021, arXiv:2111.13230; tiles of colon tumors).

    With a_k = 1 (or the number of examples), and m_kj in {0, 1} of client k and parameter j::

        theta'_j = sum_k a_k m_kj theta_kj / sum_k a_k m_kj

    and theta_j as it was where nobody's parameter is left. A client takes part with probability 1 - cdr
    (drawn again where nobody would), and m_kj is 1 with probability 1 - fdr. Means are divided by the weights
    that are left, without which the parameters would shrink. Statistics are averaged whole. Rates of 0 and
    ``by_size`` are FedAvg, bit for bit.

    Deviations: a client draws its mask itself, from a key of 8 bytes that travels, so that a message has
    4 d (1 - fdr) bytes; exactly round(d (1 - fdr)) of its d parameters are in it, so that all messages are of
    one size.

    Args:
      task: what is learned.
      optimizer: each client's optimizer.
      client_drop_rate: cdr, in [0, 1).
      federated_drop_rate: fdr, in [0, 1).
      by_size: a_k is the number of the client's examples.
      **options: as in `federated`, except ``sampler``, ``weighting`` and ``channel``.

    Raises:
      ValueError: for a rate out of range.
    """
    for name in ("sampler", "weighting", "channel"):
        if name in options:
            raise TypeError(f"feddropoutavg() takes no argument {name!r}: it brings its own")
    for name, rate in (("client_drop_rate", client_drop_rate), ("federated_drop_rate", federated_drop_rate)):
        if not 0 <= rate < 1:
            raise ArgumentError(name, "a number in [0, 1)", repr(rate))

    def some(key, round, history):
        def draw(number):
            kept = 1 - client_drop_rate
            return jax.random.bernoulli(jax.random.fold_in(key, number), kept, history.participations.shape)

        def again(tried):
            return tried[0] + 1, draw(tried[0])

        return jax.lax.while_loop(lambda tried: ~tried[1].any(), again, (jnp.int32(1), draw(0)))[1]

    return federated(
        task,
        optimizer,
        sampler=some if client_drop_rate else all_clients(),
        weighting=by_examples if by_size else equal,
        channel=random_mask(1 - federated_drop_rate) if federated_drop_rate else None,
        **options,
    )
