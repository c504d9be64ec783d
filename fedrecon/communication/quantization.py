"""Fewer bits for each value: bfloat16, stochastic levels between bounds, QSGD, and rotations before them."""

import math

import jax
import jax.numpy as jnp

from fedrecon.communication import rice
from fedrecon.communication.codec import Codec, of_vectors
from fedrecon.communication.wire import Section, bits_for
from fedrecon.errors import ArgumentError

BUCKET = 512


def dense() -> Codec:
    """All values in single precision: the codec that changes nothing."""
    return of_vectors(
        "dense",
        lambda size: (Section("values", size, 32, "float"),),
        lambda vector, keys: {"values": vector},
        lambda payload, size, common: payload["values"],
    )


def bfloat16() -> Codec:
    """Values rounded to bfloat16, whose range is that of single precision."""
    return of_vectors(
        "bfloat16",
        lambda size: (Section("values", size, 16, "bfloat"),),
        lambda vector, keys: {"values": vector.astype(jnp.bfloat16)},
        lambda payload, size, common: payload["values"].astype(jnp.float32),
    )


def stochastic(bits: int = 8, bucket: int = BUCKET) -> Codec:
    """2^bits even levels between the least and the largest value of each bucket, rounded at random.

    Guarantees: the expectation over keys is the value; errors are at most (largest - least) / (2^bits - 1);
    values on levels, and buckets of one value, are exact.

    Args:
      bits: of a value, 1 to 16.
      bucket: values with bounds of their own, which take 8 bytes.

    Raises:
      ArgumentError: for arguments out of range.
    """
    _check("bits", bits, 1, 16)
    _check("bucket", bucket, 1, 2**31)
    top = 2**bits - 1

    def sections(size):
        return (
            Section("levels", size, bits),
            Section("least", _buckets(size, bucket), 32, "float"),
            Section("largest", _buckets(size, bucket), 32, "float"),
        )

    def compress(vector, keys):
        rows = _rows(vector, bucket, "edge")
        least, largest = rows.min(1), rows.max(1)
        width = jnp.where(largest > least, largest - least, 1)
        place = (rows - least[:, None]) / width[:, None] * top
        levels = jnp.clip(_round(place, keys.own, 4e-7 * top), 0, top)
        return {
            "levels": levels.reshape(-1)[: vector.size].astype(jnp.uint32),
            "least": least,
            "largest": largest,
        }

    def decompress(payload, size, common):
        rows = _rows(payload["levels"].astype(jnp.float32), bucket, "constant")
        step = (payload["largest"] - payload["least"]) / top
        values = payload["least"][:, None] + rows * step[:, None]
        # The highest level is the largest value itself, not the sum of rounded steps.
        values = jnp.where(rows == top, payload["largest"][:, None], values)
        return jnp.where(step[:, None] > 0, values, payload["least"][:, None]).reshape(-1)[:size]

    return of_vectors(f"stochastic-{bits}-{bucket}", sections, compress, decompress)


def qsgd(levels: int = 7, bucket: int = BUCKET, *, coding: str = "fixed") -> Codec:
    """Multiples of norm / levels of each bucket, rounded at random without bias (Alistarh et al. 2017).

    Guarantees: the expectation over keys is the value; the variance of a bucket of B values is at most min(B
      / levels^2, sqrt(B) / levels) times its squared norm (arXiv:1610.02132, Lemma 3.1); signs are kept; zero
      is exact.

    Args:
      levels: of magnitudes, without zero; a value takes ceil(log2(2 levels + 1)) bits.
      bucket: values with a norm of their own, which takes 4 bytes.
      coding: ``"fixed"`` widths, or ``"rice"``, where levels that are mostly zero take less (a bit and a half
        of the 4 of 7 levels, of normal values) and the length of a message depends on them.

    Raises:
      ArgumentError: for arguments out of range.
    """
    _check("levels", levels, 1, 2**15 - 1)
    _check("bucket", bucket, 1, 2**31)
    coded = check_coding(coding)

    def sections(size):
        return (
            Section("levels", size, bits_for(2 * levels), "rice" if coded else "unsigned"),
            Section("norms", _buckets(size, bucket), 32, "float"),
        )

    def compress(vector, keys):
        rows = _rows(vector, bucket, "constant")
        norms = _norms(rows)
        safe = jnp.where(norms > 0, norms, 1)[:, None]
        steps = jnp.clip(_round(jnp.abs(rows) / safe * levels, keys.own), 0, levels)
        signed = (jnp.sign(rows) * steps).astype(jnp.int32)
        unsigned = rice.zigzag(signed) if coded else (signed + levels).astype(jnp.uint32)
        return {"levels": unsigned.reshape(-1)[: vector.size], "norms": norms}

    def decompress(payload, size, common):
        if coded:
            signed = rice.unzigzag(payload["levels"]).astype(jnp.float32)
        else:
            signed = payload["levels"].astype(jnp.float32) - levels
        rows = _rows(signed, bucket, "constant")
        return (payload["norms"][:, None] * rows / levels).reshape(-1)[:size]

    return of_vectors(f"qsgd-{levels}-{bucket}{'-rice' * coded}", sections, compress, decompress)


def rotated(codec: Codec, block: int = BUCKET) -> Codec:
    """The codec behind a random rotation that all clients of a round share (after Suresh et al. 2017).

    Values of all leaves, in blocks, get random signs and go through an orthonormal Hadamard transform; the
    server turns back what it reads. A block's range is then about that of normal values of its norm: of few
    large values among many small ones, even levels between bounds err far less (arXiv:1611.00429). The last
    block is padded with zeros, whose rotated values travel; the seed of the signs takes 8 bytes.

    Args:
      codec: of the rotated values.
      block: values that are rotated together, a power of two; less of fewer values.

    Raises:
      ArgumentError: for a block that is none.
    """
    _check("block", block, 1, 2**20)
    if block & (block - 1):
        raise ArgumentError("block", "a power of two", block)

    def shape_of(size):
        width = min(block, 1 << max(size - 1, 0).bit_length())
        return _buckets(size, width), width

    def sections(size):
        rows, width = shape_of(size)
        return (Section("seed", 2, 32), *codec.sections(((rows * width,),)))

    def signs(width, common):
        return jax.random.rademacher(common, (width,), jnp.float32)

    def compress(vector, keys):
        rows, width = shape_of(vector.size)
        turned = _hadamard(_rows(vector, width, "constant") * signs(width, keys.common))
        seed = jax.random.key_data(keys.common).reshape(-1)[-2:].astype(jnp.uint32)
        return {"seed": seed, **codec.compress([turned.reshape(rows * width)], keys)}

    def decompress(payload, size, common):
        rows, width = shape_of(size)
        turned = codec.decompress(payload, ((rows * width,),), common)[0].reshape(rows, width)
        return (_hadamard(turned) * signs(width, common)).reshape(-1)[:size]

    return of_vectors(f"rotated-{block}-{codec.name}", sections, compress, decompress)


def check_coding(coding: str) -> bool:
    """Whether levels or places have Rice codes.

    Raises:
      ArgumentError: another word.
    """
    if coding not in ("fixed", "rice"):
        raise ArgumentError("coding", "fixed or rice", repr(coding))
    return coding == "rice"


def _hadamard(rows: jax.Array) -> jax.Array:
    """Orthonormal Hadamard transforms of rows (n, width), width a power of two; each is its own inverse."""
    count, width = rows.shape
    step = 1
    while step < width:
        pairs = rows.reshape(count, width // (2 * step), 2, step)
        rows = jnp.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2)
        step *= 2
    return rows.reshape(count, width) / math.sqrt(width)


def _norms(rows: jax.Array) -> jax.Array:
    # Squares of small changes vanish in single precision; those of their quotients do not.
    largest = jnp.abs(rows).max(1)
    scaled = rows / jnp.where(largest > 0, largest, 1)[:, None]
    return largest * jnp.sqrt(jnp.square(scaled).sum(1))


def _round(values: jax.Array, key: jax.Array, tolerance: float = 0.0) -> jax.Array:
    """Integers above or below each value, with its expectation; those closer than the tolerance for sure."""
    below = jnp.floor(values)
    part = values - below
    part = jnp.where(part < tolerance, 0, jnp.where(part > 1 - tolerance, 1, part))
    return below + (jax.random.uniform(key, values.shape) < part)


def _rows(vector: jax.Array, bucket: int, mode: str) -> jax.Array:
    """(buckets, bucket): the vector, padded with zeros or with its last value."""
    padding = _buckets(vector.size, bucket) * bucket - vector.size
    if not padding:
        return vector.reshape(-1, bucket)
    return jnp.pad(vector, (0, padding), mode=mode).reshape(-1, bucket)


def _buckets(size: int, bucket: int) -> int:
    return math.ceil(size / bucket)


def _check(name: str, value: int, least: int, most: int) -> None:
    if not (isinstance(value, int) and least <= value <= most):
        raise ArgumentError(name, f"an integer from {least} to {most}", repr(value))
