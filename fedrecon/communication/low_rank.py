"""PowerSGD: changes of matrices as products of thin factors, which add over clients."""

import math

import jax
import jax.numpy as jnp

from fedrecon.communication.codec import Encoded, layout_of, summed_bytes
from fedrecon.errors import ArgumentError
from fedrecon.federated import Channel


def power_sgd(rank: int = 2, *, smallest_ratio: float = 2.0, seed: int = 0) -> Channel:
    """Clients send two thin factors of the change of every matrix (after Vogels et al. 2019).

    PowerSGD is arXiv:1905.13727. A leaf of two axes or more is a matrix M (all other axes, last axis), with
    the kept rest of earlier rounds added. For orthonormal U (rows, rank) and V (columns, rank), which the
    server broadcasts, clients send P = M V and Q = M^T U; the server applies U Q^T + (1 - U U^T) P V^T, which
    is M on both spaces, and replaces U and V by bases of the sums of P and Q: a step of the power method. The
    original sends Q after an exchange of P; here both use the bases of the round before, so that a round is
    one message. What is encoded is a
    sum: secure sums apply.

    Guarantees: what was sent and what is kept add up to all changes; a constant change is sent by its best
    approximation of that rank after some rounds, wholly if its rank is no larger.

    Args:
      rank: columns of a factor.
      smallest_ratio: matrices whose factors are not so many times smaller travel as they are, as do vectors.
      seed: of the first bases.

    Raises:
      ArgumentError: for arguments out of range.
    """
    if not (isinstance(rank, int) and rank >= 1):
        raise ArgumentError("rank", "a positive integer", repr(rank))
    if not smallest_ratio >= 1:
        raise ArgumentError("smallest_ratio", "a number of at least 1", repr(smallest_ratio))

    def init(upload):
        rest, bases = {}, {}
        for number, leaf in enumerate(jax.tree.leaves(upload.delta.params)):
            shape = matrix_shape(leaf.shape, rank, smallest_ratio)
            if shape is None:
                continue
            keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
            bases[f"{number:04}"] = {
                side: _orthonormal(jax.random.normal(key, (length, rank)))
                for side, key, length in zip(("left", "right"), keys, shape, strict=True)
            }
            rest[f"{number:04}"] = jnp.zeros(shape, jnp.float32)
        return rest, bases

    def encode(upload, rest, context):
        factors, dense, kept = {}, {}, {}
        for number, leaf in enumerate(jax.tree.leaves(upload.delta.params)):
            name = f"{number:04}"
            if name not in rest:
                dense[name] = leaf
                continue
            matrix = leaf.reshape(rest[name].shape).astype(jnp.float32) + rest[name]
            basis = context.broadcast[name]
            factors[name] = {"P": matrix @ basis["right"], "Q": matrix.T @ basis["left"]}
            kept[name] = matrix - _product(factors[name], basis)
        encoded = Encoded({"factors": factors, "dense": dense}, layout_of(upload.delta.params))
        return upload._replace(delta=upload.delta._replace(params=encoded)), kept, {}

    def decode(total, bases, context):
        encoded = total.delta.params
        structure, shapes, dtypes = encoded.layout
        leaves, new = [], {}
        for number, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True)):
            name = f"{number:04}"
            if name not in bases:
                leaves.append(encoded.values["dense"][name])
                continue
            factors = encoded.values["factors"][name]
            leaves.append(_product(factors, bases[name]).reshape(shape).astype(dtype))
            new[name] = {"left": _orthonormal(factors["P"]), "right": _orthonormal(factors["Q"])}
        params = jax.tree.unflatten(structure, leaves)
        return total._replace(delta=total.delta._replace(params=params)), new, {}

    return Channel(
        init, encode, decode, broadcast=lambda bases: bases, payload_bytes=summed_bytes, linear=False
    )


def matrix_shape(shape: tuple[int, ...], rank: int, smallest_ratio: float) -> tuple[int, int] | None:
    """(rows, columns) of a leaf as a matrix, or None where it travels as it is."""
    if len(shape) < 2:
        return None
    rows, columns = math.prod(shape[:-1]), shape[-1]
    if min(rows, columns) < rank or rows * columns < smallest_ratio * rank * (rows + columns):
        return None
    return rows, columns


def _product(factors: dict[str, jax.Array], basis: dict[str, jax.Array]) -> jax.Array:
    left, right = basis["left"], basis["right"]
    beyond = factors["P"] - left @ (left.T @ factors["P"])
    return left @ factors["Q"].T + beyond @ right.T


def _orthonormal(matrix: jax.Array) -> jax.Array:
    # Sums of small changes: their squares must not vanish.
    largest = jnp.abs(matrix).max()
    return jnp.linalg.qr(matrix / jnp.where(largest > 0, largest, 1))[0]
