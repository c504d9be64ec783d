"""Rice codes of unsigned integers that are mostly small, and the number of bytes that they take.

A value u is u >> k in unary, zeros that a one ends, and then its k lowest bits. Codes of all values are two
streams, of the unary parts and of the lowest bits, behind a byte that holds k, the one of the shortest codes;
where none is shorter than fixed widths, the byte is 255 and values have these. Of gaps between places k = 0
is a bit for every place there could be.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError

_FIXED = 255


def rice_bytes(values: jax.Array, bits: int) -> jax.Array:
    """uint32 (): bytes of `encoded`, for use in compiled code.

    Args:
      values: unsigned integers below 2^bits, any shape.
      bits: the width of those that are not coded, 1 to 32.
    """
    if not values.size:
        return jnp.uint32(1)
    values, lengths = values.astype(jnp.uint32), [jnp.uint32(bits * values.size)]
    for k in range(bits):
        unary = values >> k
        length = unary.sum(dtype=jnp.uint32) + jnp.uint32((1 + k) * values.size)
        # Sums beyond 2^32 begin again at 0; those of codes that are of any use are far below.
        lengths.append(jnp.where(unary.astype(jnp.float32).sum() < 2.0**31, length, jnp.uint32(2**32 - 1)))
    return 1 + (jnp.stack(lengths).min() + 7) // 8


def encoded(values: np.ndarray, bits: int) -> bytes:
    """The codes of values below 2^bits."""
    values = values.astype(np.uint32)
    if not values.size:
        return bytes([0])
    least, parameter = _shortest(values, bits)
    if parameter == _FIXED:
        return bytes([_FIXED]) + np.packbits(_lowest(values, bits), bitorder="little").tobytes()
    unary = np.zeros(least - parameter * values.size, np.uint8)
    unary[np.cumsum((values >> parameter).astype(np.int64) + 1) - 1] = 1
    both = np.concatenate([unary, _lowest(values, parameter)])
    return bytes([parameter]) + np.packbits(both, bitorder="little").tobytes()


def decoded(body: bytes, count: int, bits: int) -> tuple[np.ndarray, int]:
    """(uint32 (count,) values, number of bytes that their codes took).

    Raises:
      ArgumentError: there are no such codes.
    """
    parameter = body[0] if body else bits
    if not body or (parameter != _FIXED and parameter >= bits):
        raise ArgumentError(
            "message", f"a parameter of Rice codes below {bits}", parameter if body else "nothing"
        )
    if not count:
        return np.zeros(0, np.uint32), 1
    stream = np.unpackbits(np.frombuffer(body, np.uint8, offset=1), bitorder="little")
    width, start = (bits, 0) if parameter == _FIXED else (parameter, None)
    high = np.zeros(count, np.uint32)
    if start is None:
        ends = np.flatnonzero(stream)[:count]
        if len(ends) < count:
            raise ArgumentError("message", f"Rice codes of {count} values", len(ends))
        high = (np.diff(ends, prepend=-1) - 1).astype(np.uint32) << np.uint32(parameter)
        start = int(ends[-1]) + 1
    length = start + width * count
    if length > stream.size:
        raise ArgumentError("message", f"{length} bits of codes", stream.size)
    low = stream[start:length].reshape(count, width).astype(np.uint32)
    values = high + (low << np.arange(width, dtype=np.uint32)).sum(1, dtype=np.uint32)
    return values, 1 + -(-length // 8)


def zigzag(signed: jax.Array) -> jax.Array:
    """Unsigned integers of signed ones, small where these are: 0, -1, 1, -2, ... become 0, 1, 2, 3, ..."""
    return jnp.where(signed < 0, -2 * signed - 1, 2 * signed).astype(jnp.uint32)


def unzigzag(values: jax.Array) -> jax.Array:
    """Inverse of `zigzag`, int32."""
    half = (values >> 1).astype(jnp.int32)
    return jnp.where(values & 1, -half - 1, half)


def _shortest(values: np.ndarray, bits: int) -> tuple[int, int]:
    """(bits of the shortest codes, their parameter) of values (n,)."""
    lengths = [int((values >> k).sum(dtype=np.int64)) + (1 + k) * values.size for k in range(bits)]
    lengths.append(bits * values.size)
    best = min(range(bits + 1), key=lengths.__getitem__)
    return lengths[best], _FIXED if best == bits else best


def _lowest(values: np.ndarray, width: int) -> np.ndarray:
    """uint8 (count * width,) lowest bits of each value, the least first."""
    return ((values[:, None] >> np.arange(width, dtype=np.uint32)) & 1).astype(np.uint8).reshape(-1)
