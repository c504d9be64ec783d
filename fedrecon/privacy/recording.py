"""Rounds that are recorded as they are computed: what arrives at the reducer goes to the host, too."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from fedrecon import federated as fl
from fedrecon.federated.reducers import Reduction
from fedrecon.privacy import chain

# ``record(round, {client: its upload}, the shared leaves that clients received)``, of arrays of numpy.
Record = Callable[[int, dict[int, Any], Any], None]


def recorded(record: Record, inner: fl.Reducer | None = None) -> fl.Reducer:
    """A reducer that shows each round to ``record`` and changes no number of it.

    Args:
      record: is called once a round, in the order of rounds, with the encoded uploads of those included
        (under a secure sum the masked ones).
      inner: what reduces; the plain sum by default.
    """
    lock = threading.Lock()

    def tell(before, number, rows, included, uploads, model):
        uploads, model = jax.tree.map(np.asarray, (uploads, model))
        with lock:
            sent = {
                int(client): jax.tree.map(lambda x, row=row: x[row], uploads)
                for row, client in enumerate(np.asarray(rows))
                if included[row]
            }
            record(int(number), sent, model)
        return np.int32(before + 1)

    def init(upload):
        return jnp.int32(0), () if inner is None else inner.init(upload)

    def reduce(uploads, included, state, context):
        before, own = state
        # The state goes through the call, which keeps calls of several rounds in their order.
        shape = jax.ShapeDtypeStruct((), jnp.int32)
        told = io_callback(tell, shape, before, context.round, context.rows, included, uploads, context.model)
        if inner is None:
            return Reduction(context.total, (told, own))
        found = inner.reduce(uploads, included, own, context)
        return found._replace(state=(told, found.state))

    if inner is None:
        return fl.Reducer(init, reduce, linear=True, sums=True)
    return inner._replace(init=init, reduce=reduce)


def new_file(path: str) -> tuple[Path, str]:
    """A name for a record that is free, and the head of the record before, which is verified."""
    file, before, number = Path(path), "", 1
    while file.exists():
        before = chain.Chain(file).head
        number += 1
        file = Path(path).with_suffix(f".{number}{Path(path).suffix}")
    file.parent.mkdir(parents=True, exist_ok=True)
    return file, before
