"""Models of clients with the amplitudes of all at low frequencies, each client's own (PRR-FL)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedrecon.alignment import shared_amplitudes
from fedrecon.federated.messages import Context, Reducer, Reduction, Upload
from fedrecon.federated.trees import along, partition
from fedrecon.types import Variables

# The part of the frequencies that is shared after the last round.
_LAST = 0.95


def amplitude_answers(shared: Variables, rounds: int, start: float, own: Callable) -> Reducer:
    """PFA, progressive Fourier aggregation: each client is answered its kernels with shared amplitudes.

    Kernels of two and four axes go through `shared_amplitudes` with ``L_r = start + (r / rounds) (0.95 -
    start)``; of other leaves the answer is the plain mean.

    Args:
      shared: `Variables` of bools, which leaves clients send.
      rounds: R, after which L stays.
      start: L_0.
      own: ``own(message.summed)``, the models among what further methods send.
    """

    def reduce(uploads: Upload, included: jax.Array, state: Any, context: Context) -> Reduction:
        part = start + jnp.minimum(context.round / rounds, 1.0) * (_LAST - start)

        def one(x: jax.Array) -> jax.Array:
            if x.ndim in (3, 5):
                return shared_amplitudes(x, part, included)
            mean = jnp.where(along(included, x), x, 0).sum(0) / jnp.maximum(included.sum(), 1)
            return jnp.broadcast_to(mean.astype(x.dtype), x.shape)

        total = jax.tree.map(lambda x: jnp.where(along(included, x), x, 0).sum(0).astype(x.dtype), uploads)
        answers = jax.tree.map(one, own(uploads.message.summed))
        return Reduction(total, state, answers=answers)

    return Reducer(lambda upload: (), reduce, answer=lambda variables: partition(variables, shared)[0])
