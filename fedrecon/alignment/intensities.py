"""Moments and percentiles of intensities at several sites, from what each tells of its own."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Shares of the percentiles that nnU-Net's fingerprint has.
SHARES = (0.005, 0.5, 0.995)


class Intensities(NamedTuple):
    """Of some pixels: how many there are, float32 (), and of each channel, float32 (channels,), the rest.

    Attributes:
      count: their number.
      mean, deviation: their mean and standard deviation, of n and not n - 1.
      percentiles: (3, channels), for each of `SHARES` the least value that this share of pixels does not
        exceed.
      least, most: the extremes.
    """

    count: jax.Array  # type: ignore[assignment]  # hides a method of tuples that nobody calls
    mean: jax.Array
    deviation: jax.Array
    percentiles: jax.Array
    least: jax.Array
    most: jax.Array


def site_intensities(values: jax.Array, inside: jax.Array) -> Intensities:
    """Of the pixels (pixels, channels) that are ``inside`` (pixels,); zeros where none is."""
    values, inside = values.astype(jnp.float32), inside[:, None]
    count = inside.sum(dtype=jnp.float32)
    some = jnp.maximum(count, 1)
    mean = jnp.where(inside, values, 0).sum(0) / some
    deviation = jnp.sqrt((jnp.where(inside, values - mean, 0) ** 2).sum(0) / some)
    ordered = jnp.sort(jnp.where(inside, values, jnp.inf), 0)
    place = jnp.ceil(jnp.asarray(SHARES) * count - 1e-3).astype(jnp.int32) - 1
    last = jnp.maximum(count.astype(jnp.int32) - 1, 0)
    found = ordered[jnp.clip(jnp.stack([*place, jnp.int32(0), last]), 0, last)]
    found = jnp.where(count > 0, found, 0)
    return Intensities(count, mean, deviation, found[:3], found[3], found[4])


def pooled_intensities(parts: Intensities) -> Intensities:
    """What sites tell, leaves (sites, ...), as if of one: the moments exactly, percentiles as weighted means.

    ``Var = sum_k n_k (s_k^2 + (mu_k - mu)^2) / sum_k n_k`` (Chan, Golub and LeVeque 1983); percentiles are
    those of the pixels of all sites only where sites are alike, see `pooled_percentiles`.
    """
    part = parts.count / jnp.maximum(parts.count.sum(), 1)
    mean = part @ parts.mean
    variance = part @ (parts.deviation**2 + (parts.mean - mean) ** 2)
    some = (parts.count > 0)[:, None]
    least = jnp.where(some, parts.least, jnp.inf).min(0)
    most = jnp.where(some, parts.most, -jnp.inf).max(0)
    percentiles = jnp.tensordot(part, parts.percentiles, 1)
    return Intensities(parts.count.sum(), mean, jnp.sqrt(variance), percentiles, least, most)


def not_above(values: jax.Array, inside: jax.Array, thresholds: jax.Array) -> jax.Array:
    """int32 (thresholds, channels): how many pixels inside do not exceed each of (thresholds, channels)."""
    return (inside[:, None, None] & (values[:, None] <= thresholds)).sum(0, dtype=jnp.int32)


def pooled_percentiles(
    counted: Callable[[np.ndarray], np.ndarray], count: int, channels: int, shares: tuple[float, ...] = SHARES
) -> np.ndarray:
    """Percentiles of the pixels of all sites, exactly, from sums of counts: no pixel leaves a site.

    The order of float32 is that of 32-bit integers, which are halved 32 times; subnormal numbers count as 0.

    Args:
      counted: ``counted(thresholds) -> counts`` of float32 (shares, channels), the sum of `not_above`.
      count: of all pixels, 1 or more.
      channels: their number.
      shares: between 0 and 1.

    Returns:
      float32 (shares, channels), each the least value that a share of the pixels does not exceed.
    """
    wanted = np.maximum(np.ceil(np.asarray(shares) * count - 1e-9), 1)[:, None]
    low = np.full((len(shares), channels), _whole(-np.inf), np.int64)
    high = np.full_like(low, _whole(np.inf))
    while (low < high).any():
        middle = (low + high) // 2
        enough = np.asarray(counted(_real(middle))) >= wanted
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    found = _real(low)
    # Where devices take subnormal numbers for 0, all of them are as good as 0.
    return np.where(np.abs(found) < np.finfo(np.float32).tiny, np.float32(0), found)


def _whole(value: float) -> int:
    """Where a number is in the order of all float32."""
    bits = int(np.float32(value).view(np.int32))
    return bits if bits >= 0 else bits ^ 0x7FFFFFFF


def _real(place: np.ndarray) -> np.ndarray:
    bits = np.where(place >= 0, place, place ^ 0x7FFFFFFF).astype(np.int32)
    return bits.view(np.float32)
