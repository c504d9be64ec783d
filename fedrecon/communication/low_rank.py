"""PowerSGD: changes of matrices as products of thin factors, which add over clients."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.communication.codec import Encoded, dense_bytes, layout_of, summed_bytes
from fedrecon.communication.wire import HEADER_BYTES
from fedrecon.errors import ArgumentError
from fedrecon.federated import Channel


def power_sgd(
    rank: int = 2, *, smallest_ratio: float = 2.0, alternate: bool = False, seed: int = 0
) -> Channel:
    """Clients send two thin factors of the change of every matrix (after Vogels et al. 2019).

    PowerSGD is arXiv:1905.13727. A leaf of two axes or more is a matrix M (all other axes, last axis), with
    the kept rest of earlier rounds added. For orthonormal U (rows, rank) and V (columns, rank), which the
    server broadcasts, clients send P = M V and Q = M^T U; the server applies U Q^T + (1 - U U^T) P V^T, which
    is M on both spaces, and replaces U and V by bases of the sums of P and Q: a step of the power method. The
    original sends Q after an exchange of P; here both use the bases of the round before, so that a round is
    one message. With ``alternate`` a message has one factor, P in even rounds and Q in odd
    ones: half of the bytes, half a step of the power method. What is encoded is a sum: secure sums apply;
    they carry the longer factor in every round.

    Guarantees: what was sent and what is kept add up to all changes; a constant change is sent by its best
    approximation of that rank after some rounds, wholly if its rank is no larger.

    Args:
      rank: columns of a factor.
      smallest_ratio: matrices whose factors are not so many times smaller travel as they are, as do vectors.
      alternate: one factor in each round, in turn.
      seed: of the first bases.

    Raises:
      ArgumentError: for arguments out of range.
    """
    if not (isinstance(rank, int) and rank >= 1):
        raise ArgumentError("rank", "a positive integer", repr(rank))
    if not smallest_ratio >= 1:
        raise ArgumentError("smallest_ratio", "a number of at least 1", repr(smallest_ratio))
    if alternate:
        return _alternating(rank, smallest_ratio, seed)

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


def _alternating(rank: int, smallest_ratio: float, seed: int) -> Channel:
    """P in even rounds, Q in odd ones; factors and bases are padded to the longer side."""

    def init(upload):
        rest, bases = {}, {}
        for number, leaf in enumerate(jax.tree.leaves(upload.delta.params)):
            shape = matrix_shape(leaf.shape, rank, smallest_ratio)
            if shape is None:
                continue
            key = jax.random.fold_in(jax.random.key(seed), number)
            first = _orthonormal(jax.random.normal(key, (shape[1], rank)))
            bases[f"{number:04}"] = _padded(first, max(shape))
            rest[f"{number:04}"] = jnp.zeros(shape, jnp.float32)
        return rest, {"bases": bases, "turn": jnp.int32(0)}

    def encode(upload, rest, context):
        even = context.broadcast["turn"] % 2 == 0
        factors, dense, kept = {}, {}, {}
        length = jnp.uint32(HEADER_BYTES + dense_bytes(upload._replace(delta=upload.delta.stats)))
        for number, leaf in enumerate(jax.tree.leaves(upload.delta.params)):
            name = f"{number:04}"
            if name not in rest:
                dense[name] = leaf
                length += jnp.uint32(dense_bytes(leaf))
                continue
            rows, columns = rest[name].shape
            matrix = leaf.reshape(rows, columns).astype(jnp.float32) + rest[name]
            basis = context.broadcast["bases"][name]
            sides = matrix @ basis[:columns], matrix.T @ basis[:rows]
            factors[name] = jnp.where(even, *(_padded(side, max(rows, columns)) for side in sides))
            kept[name] = matrix - _half_product(factors[name], basis, even, (rows, columns))
            length += jnp.where(even, rows, columns).astype(jnp.uint32) * 4 * rank
        encoded = Encoded({"factors": factors, "dense": dense}, layout_of(upload.delta.params))
        return upload._replace(delta=upload.delta._replace(params=encoded)), kept, {"bytes": length}

    def decode(total, state, context):
        encoded, bases, even = total.delta.params, state["bases"], state["turn"] % 2 == 0
        structure, shapes, dtypes = encoded.layout
        leaves, new = [], {}
        for number, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True)):
            name = f"{number:04}"
            if name not in bases:
                leaves.append(encoded.values["dense"][name])
                continue
            factor, sides = encoded.values["factors"][name], (math.prod(shape[:-1]), shape[-1])
            product = _half_product(factor, bases[name], even, sides)
            leaves.append(product.reshape(shape).astype(dtype))
            new[name] = jnp.where(even, *(_padded(_orthonormal(factor[:n]), max(sides)) for n in sides))
        params = jax.tree.unflatten(structure, leaves)
        state = {"bases": new, "turn": state["turn"] + 1}
        return total._replace(delta=total.delta._replace(params=params)), state, {}

    return Channel(
        init,
        encode,
        decode,
        broadcast=lambda state: state,
        payload_bytes=summed_bytes,
        linear=False,
        measured_bytes=lambda info: info["bytes"],
    )


def sent_factors(encoded: Encoded, turn: int) -> dict[str, np.ndarray]:
    """What travels of an alternating message: the factors of the turn without padding, and dense leaves."""
    shapes = encoded.layout[1]
    found = {f"dense/{name}": np.asarray(leaf) for name, leaf in encoded.values["dense"].items()}
    for name, factor in encoded.values["factors"].items():
        shape = shapes[int(name)]
        found[f"factor/{name}"] = np.asarray(factor)[: shape[-1] if turn % 2 else math.prod(shape[:-1])]
    return found


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


def _half_product(factor: jax.Array, basis: jax.Array, even: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """P V^T in even rounds, U Q^T in odd ones, from padded factors and bases."""
    rows, columns = shape
    return jnp.where(even, factor[:rows] @ basis[:columns].T, basis[:rows] @ factor[:columns].T)


def _padded(matrix: jax.Array, rows: int) -> jax.Array:
    return jnp.pad(matrix, ((0, rows - matrix.shape[0]), (0, 0)))


def _orthonormal(matrix: jax.Array) -> jax.Array:
    # Sums of small changes: their squares must not vanish.
    largest = jnp.abs(matrix).max()
    return jnp.linalg.qr(matrix / jnp.where(largest > 0, largest, 1))[0]
