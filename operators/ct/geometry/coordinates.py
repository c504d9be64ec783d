"""Axes of views, and conversions between world points, lengths on the detector and indices."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from operators.algebra import ArgumentError


def view_axes(angles: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The axes e = (cos t, sin t) and n = (-sin t, cos t) of every view: (views, 2) each."""
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.stack([cos, sin], axis=-1), jnp.stack([-sin, cos], axis=-1)


def positions(indices: ArrayLike, count: int, spacing: float, dtype: DTypeLike) -> jax.Array:
    """Detector indices (k,) as lengths from the middle of the detector: (k,)."""
    # Centered before it is rounded: half-integers are exact where their products are not.
    return (jnp.asarray(indices, dtype).reshape(-1) - (count - 1) / 2) * spacing


def detector_indices(
    z: jax.Array, s: jax.Array, shape: tuple[int, ...], spacing: tuple[float, float]
) -> jax.Array:
    """Lengths from the middle of the detector, along rows' and columns' axes, as indices: (..., 2)."""
    pairs = zip((z, s), shape, spacing, strict=True)
    return jnp.stack([length / step + (count - 1) / 2 for length, count, step in pairs], axis=-1)


def world_points(points: ArrayLike, ndim: int, dtype: DTypeLike) -> jax.Array:
    """``points`` as (..., ndim) of ``dtype``; raises ValueError otherwise."""
    points = jnp.asarray(points, dtype)
    if not points.ndim or points.shape[-1] != ndim:
        raise ArgumentError("points", f"shape (..., {ndim})", points.shape)
    return points


def project(points: ArrayLike, axes: jax.Array, ndim: int) -> jax.Array:
    """Inner products of points (..., ndim) and one axis per view (views, ndim): (views, ...)."""
    points = world_points(points, ndim, axes.dtype)
    # Sums of products, not a matrix product: these may lose precision on accelerators.
    axes = axes.reshape(axes.shape[0], *(1,) * (points.ndim - 1), ndim)
    return jnp.sum(points * axes, axis=-1)
