"""Fewer bits for each value: bfloat16, stochastic levels between bounds, QSGD."""

import math

import jax
import jax.numpy as jnp

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


def qsgd(levels: int = 7, bucket: int = BUCKET) -> Codec:
    """Multiples of norm / levels of each bucket, rounded at random without bias (Alistarh et al. 2017).

    Guarantees: the expectation over keys is the value; the variance of a bucket of B values is at most min(B
      / levels^2, sqrt(B) / levels) times its squared norm (arXiv:1610.02132, Lemma 3.1); signs are kept; zero
      is exact.

    Args:
      levels: of magnitudes, without zero; a value takes ceil(log2(2 levels + 1)) bits.
      bucket: values with a norm of their own, which takes 4 bytes.

    Raises:
      ArgumentError: for arguments out of range.
    """
    _check("levels", levels, 1, 2**15 - 1)
    _check("bucket", bucket, 1, 2**31)

    def sections(size):
        return (
            Section("levels", size, bits_for(2 * levels)),
            Section("norms", _buckets(size, bucket), 32, "float"),
        )

    def compress(vector, keys):
        rows = _rows(vector, bucket, "constant")
        norms = _norms(rows)
        safe = jnp.where(norms > 0, norms, 1)[:, None]
        steps = jnp.clip(_round(jnp.abs(rows) / safe * levels, keys.own), 0, levels)
        signed = (jnp.sign(rows) * steps).astype(jnp.int32) + levels
        return {"levels": signed.reshape(-1)[: vector.size].astype(jnp.uint32), "norms": norms}

    def decompress(payload, size, common):
        signed = payload["levels"].astype(jnp.float32) - levels
        rows = _rows(signed, bucket, "constant")
        return (payload["norms"][:, None] * rows / levels).reshape(-1)[:size]

    return of_vectors(f"qsgd-{levels}-{bucket}", sections, compress, decompress)


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
