"""Sums of updates under homomorphic encryption, inside the compiled round.

The round hands the clients' updates to the host, where each is rounded to integers and encrypted with the
public key, the ciphertexts are added, and the sum alone is decrypted. In a simulation all parties are in one
process: it shows what is computed, what travels and what it costs, and protects nothing.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from fedrecon import federated as fl
from fedrecon.encryption import Backend, Encoding, Encrypted, Keys
from fedrecon.errors import ArgumentError
from fedrecon.federated.reducers import Reduction

_LOG = logging.getLogger("fedrecon.privacy")
# ``record(round, clients, their vectors, the sum, what was decrypted)``
Record = Callable[[int, Sequence[int], Sequence[Encrypted], Encrypted, np.ndarray], None]


def encrypted_sum(
    make: Callable[[], Backend], encoding: Encoding, record: Record | None = None
) -> fl.Reducer:
    """A reducer that adds ciphertexts: only the sum of updates and the sum of weights are decrypted.

    Weights are integers: the numbers of examples where these are no larger than ``encoding.largest_weight``,
    otherwise rounded parts of the largest. Entries beyond ``encoding.bound`` are clipped, and their number is
    reported.

    Args:
      make: makes the scheme, once and when it is needed.
      encoding: of the integers; ``terms`` is the number of clients.
      record: is told of every sum, for a record of rounds.

    Raises:
      ValueError: from the reducer, if a method sends messages besides the model, or groups of leaves have
        weights of their own.
    """
    parties = _Parties(make, encoding, record)

    def init(upload):
        if jax.tree.leaves(upload.message):
            raise ArgumentError(
                "method", "none that sends anything but the model, with encrypted sums", "one"
            )
        if len(jax.tree.leaves(upload.weight)) != 1:
            raise ArgumentError(
                "weighting", "one weight of a client, with encrypted sums", "groups of leaves"
            )
        return ()

    def reduce(uploads, included, state, context):
        # What is missing (a library) is missed when the round is traced, not within it.
        parties.make()
        leaves, structure = jax.tree.flatten(uploads.delta)
        weight = jnp.where(included, uploads.weight, 0)
        rows = jnp.concatenate([x.reshape(len(x), -1).astype(jnp.float32) for x in leaves], 1)
        rows = jnp.where(included[:, None], rows / jnp.where(weight > 0, weight, 1)[:, None], 0)
        shapes = (jax.ShapeDtypeStruct(rows.shape[1:], jnp.float32), jax.ShapeDtypeStruct((), jnp.float32))
        total, whole = io_callback(parties.sum, shapes, rows, weight, context.round)
        places = np.cumsum([x[0].size for x in leaves])[:-1]
        parts = [p.reshape(x.shape[1:]) for p, x in zip(jnp.split(total, places), leaves, strict=True)]
        upload = fl.Upload(jax.tree.unflatten(structure, parts), uploads.message, whole)
        return Reduction(upload, state, None, {"clipped_entries": (jnp.abs(rows) > encoding.bound).sum()})

    return fl.Reducer(init, reduce, linear=True)


def counted(nbytes: Callable[[int], int]) -> fl.Channel:
    """A channel that changes nothing and counts an upload as ciphertexts of its entries and its weight."""

    def payload_bytes(upload):
        return nbytes(sum(x.size for x in jax.tree.leaves(upload.delta)) + 1)

    return fl.chain()._replace(payload_bytes=payload_bytes)


def integer_weights(weights: np.ndarray, largest: int) -> list[int]:
    """Weights as integers of at most ``largest``; 0 stays 0, and what is above is at least 1."""
    if (weights == np.rint(weights)).all() and weights.max() <= largest:
        return [int(weight) for weight in weights]
    parts = np.rint(weights / weights.max() * largest)
    return [int(max(part, 1)) if weight > 0 else 0 for part, weight in zip(parts, weights, strict=True)]


class _Parties:
    """The clients' and the server's ends of a scheme, and the holders of the key; made at the first sum."""

    def __init__(self, make: Callable[[], Backend], encoding: Encoding, record: Record | None) -> None:
        self._make, self._encoding, self._record = make, encoding, record
        self._lock = threading.Lock()
        self._made: tuple[Backend, Keys] | None = None

    def make(self) -> tuple[Backend, Keys]:
        """The scheme and its keys, drawn at the first call."""
        with self._lock:
            if self._made is None:
                backend = self._make()
                self._made = backend, backend.keygen()
                _LOG.info("%s: %s", backend.name, backend.statement)
            return self._made

    def sum(self, rows: Any, weights: Any, round: Any) -> tuple[np.ndarray, np.float32]:
        """(sum of weighted rows, sum of weights) by way of ciphertexts."""
        rows, weights = np.asarray(rows, np.float64), np.asarray(weights, np.float64)
        chosen = np.flatnonzero(weights > 0)
        if not len(chosen):
            return np.zeros(rows.shape[1], np.float32), np.float32(0)
        backend, keys = self.make()
        with self._lock:
            start = time.perf_counter()
            if (beyond := int((np.abs(rows[chosen]) > self._encoding.bound).sum())) > 0:
                _LOG.warning(
                    "round %d: %d entries of updates beyond %g were clipped to it; a larger bound keeps them",
                    *(int(round), beyond, self._encoding.bound),
                )
            integers = integer_weights(weights[chosen], self._encoding.largest_weight)
            vectors = [
                backend.encrypt(keys.public, np.append(self._encoding.encode(rows[client], weight), weight))
                for client, weight in zip(chosen, integers, strict=True)
            ]
            encrypted = time.perf_counter()
            total = backend.add(keys.public, vectors)
            found = backend.decrypt(keys, total)
            _LOG.info(
                "round %d, %s: %d clients x %d bytes, encrypted in %.2f s, added and decrypted in %.2f s",
                *(int(round), backend.name, len(vectors), sum(map(len, vectors[0].blocks))),
                *(encrypted - start, time.perf_counter() - encrypted),
            )
            if self._record is not None:
                self._record(int(round), chosen.tolist(), vectors, total, found)
        return self._encoding.decode(found[:-1]).astype(np.float32), np.float32(found[-1])
