"""Count sketches of changes, which add like the changes (FetchSGD)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrecon.communication.codec import Encoded, joined, layout_of, summed_bytes, times_weight
from fedrecon.communication.sparsification import kept
from fedrecon.errors import ArgumentError
from fedrecon.federated import Channel


class SketchState(NamedTuple):
    """What the server keeps: sketches (rows, columns) of the momentum and of what was not yet applied."""

    momentum: jax.Array
    error: jax.Array


def sketch(vector: jax.Array, rows: int, columns: int, seed: int) -> jax.Array:
    """Count sketch (rows, columns) of a vector (size,): each value with a sign in one cell of each row.

    Cells and signs are threefry bits of the seed, the same for everybody. The sketch is linear.
    """

    def row(number):
        cells, signs = _hashes(number, vector.size, columns, seed)
        return jnp.zeros(columns, jnp.float32).at[cells].add(signs * vector)

    return jax.lax.map(row, jnp.arange(rows))


def estimates(table: jax.Array, size: int, seed: int) -> jax.Array:
    """(size,): of each value, the median over rows of its cells times its signs."""
    rows, columns = table.shape

    def row(number):
        cells, signs = _hashes(number, size, columns, seed)
        return signs * table[number, cells]

    return jnp.median(jax.lax.map(row, jnp.arange(rows)), axis=0)


def count_sketch(
    rows: int = 5, columns: int = 10_000, *, fraction: float = 0.01, momentum: float = 0.9, seed: int = 0
) -> Channel:
    """Clients send sketches; the server finds the largest values of their sum (Rothchild et al. 2020).

    FetchSGD (arXiv:2007.07682): u <- momentum u + S, e <- e + u, the change is top-k of the estimates of e,
    and the cells of e and u in which its values lie become zero, as in the authors' code (subtracting their
    sketch, as in the paper, diverges). Clients keep nothing. S is the sketch of the weighted mean change, so
    that a server optimizer may follow. What is encoded is a sum: secure sums apply.

    Args:
      rows: hashes; an odd number makes the median one of the estimates.
      columns: cells of a row; a message has rows * columns values.
      fraction: k over the number of parameters.
      momentum: of the server, in [0, 1).
      seed: of the hashes, public, the same for all.

    Raises:
      ArgumentError: for arguments out of range.
    """
    for name, value in (("rows", rows), ("columns", columns)):
        if not (isinstance(value, int) and value >= 1):
            raise ArgumentError(name, "a positive integer", repr(value))
    if not 0 < fraction <= 1:
        raise ArgumentError("fraction", "a number in (0, 1]", repr(fraction))
    if not 0 <= momentum < 1:
        raise ArgumentError("momentum", "a number in [0, 1)", repr(momentum))

    def init(upload):
        del upload
        empty = jnp.zeros((rows, columns), jnp.float32)
        return (), SketchState(empty, empty)

    def encode(upload, state, context):
        params = upload.delta.params
        table = sketch(joined(jax.tree.leaves(params)), rows, columns, seed)
        return (
            upload._replace(delta=upload.delta._replace(params=Encoded(table, layout_of(params)))),
            state,
            {},
        )

    def decode(total, state, context):
        encoded = total.delta.params
        if len(jax.tree.leaves(total.weight)) != 1:
            raise ArgumentError("weighting", "one weight of a client with count sketches", "several")
        weight = jax.tree.leaves(total.weight)[0]
        mean = encoded.values / jnp.where(weight > 0, weight, 1)
        u = momentum * state.momentum + mean
        e = state.error + u
        found = estimates(e, encoded.size, seed)
        places = jax.lax.top_k(jnp.abs(found), kept(fraction, encoded.size))[1]
        change = jnp.zeros(encoded.size, jnp.float32).at[places].set(found[places])
        hit = _cells_of(places, encoded.size, rows, columns, seed)
        state = SketchState(jnp.where(hit, 0, u), jnp.where(hit, 0, e))
        return times_weight(total, total.delta._replace(params=encoded.restore(change))), state, {}

    return Channel(init, encode, decode, payload_bytes=summed_bytes, linear=False)


def _cells_of(places: jax.Array, size: int, rows: int, columns: int, seed: int) -> jax.Array:
    """bool (rows, columns): the cells of the values at these places."""

    def row(number):
        cells, _ = _hashes(number, size, columns, seed)
        return jnp.zeros(columns, bool).at[cells[places]].set(True)

    return jax.lax.map(row, jnp.arange(rows))


def _hashes(number: jax.Array, size: int, columns: int, seed: int) -> tuple[jax.Array, jax.Array]:
    """int32 cells and float32 signs (size,) of one row."""
    bits = jax.random.bits(jax.random.fold_in(jax.random.key(seed), number), (size,), jnp.uint32)
    return ((bits >> 1) % columns).astype(jnp.int32), 1.0 - 2.0 * (bits & 1).astype(jnp.float32)
