"""Weights of views and of rays: uneven angles, limited arcs, and rays that were measured twice."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# A gap this many times the mean, and the one that so large a part of all gaps has at most, is not measured.
_GAP, _MOST = 4.0, 0.9


class Coverage(NamedTuple):
    """How angles cover a period.

    Attributes:
      weights: (views,), the angle that each view stands for.
      complete: whether no gap is left.
      start, arc: where the measured arc begins, after the largest gap, and its length.
    """

    weights: jax.Array
    complete: jax.Array
    start: jax.Array
    arc: jax.Array


def angular_coverage(angles: jax.Array, period: float) -> Coverage:
    """The trapezoidal rule on a circle: each view stands for half of the gaps to its two neighbors.

    Angles are taken modulo the period, in any order. A gap of more than four times ``period / views``, and of
    four times what nine tenths of the gaps have at most (random angles have many large ones), is taken as not
    measured, and the views next to it stand there for half of the mean of the other gaps, so that weights are
    even on a limited arc of even angles.

    Args:
      angles: (views,) in radians; in float64 numpy wherever they are concrete.
      period: pi for parallel beams, whose opposite views are the same, or 2 pi.
    """
    xp, angles = _library(angles)
    views = angles.shape[0]
    folded = xp.mod(angles, period)
    order = xp.argsort(folded)
    folded = folded[order]
    after = xp.append(folded[1:], folded[:1] + period) - folded
    common = xp.sort(after)[int(_MOST * (views - 1))]
    missing = after > _GAP * xp.maximum(common, period / views)
    usual = xp.sum(xp.where(missing, 0, after)) / xp.maximum(xp.sum(~missing), 1)
    gaps = xp.where(missing, usual, after)
    weights = (gaps + xp.roll(gaps, 1)) / 2
    largest = xp.argmax(after)
    return Coverage(
        weights=weights[xp.argsort(order)],
        complete=~missing[largest],
        start=folded[(largest + 1) % views] - usual / 2,
        arc=period - after[largest] + usual,
    )


def helical_coverage(angles: jax.Array) -> Coverage:
    """The trapezoidal rule on a line, for a helix, whose first and last view stand for a whole gap."""
    xp, angles = _library(angles)
    order = xp.argsort(angles)
    gaps = xp.diff(angles[order]) if angles.shape[0] > 1 else xp.full(1, 2 * math.pi, angles.dtype)
    weights = (xp.append(gaps[:1], gaps) + xp.append(gaps, gaps[-1:]))[: angles.shape[0]] / 2
    turn = xp.asarray(2 * math.pi, angles.dtype)
    return Coverage(weights[xp.argsort(order)], xp.asarray(True), xp.zeros_like(turn), turn)


def _library(angles):
    """numpy and float64 angles where they are concrete, or jax.numpy and the angles."""
    if isinstance(angles, jax.core.Tracer):
        return jnp, angles
    return np, np.asarray(angles, np.float64)


def parker_weights(
    angles: jax.Array, fan_angles: jax.Array, start: jax.Array | float, arc: jax.Array | float
) -> jax.Array:
    """Smooth weights of the rays of a short scan; those of a ray and of its conjugate sum to one.

    The conjugate of the ray of fan angle g in the view at t has fan angle -g in the view at t + pi - 2 g.
    The fan angle of Parker's formula is the virtual one, ``(arc - pi) / 2``, so that arcs longer than half a
    turn plus the fan use all of their views; on shorter ones rays without a conjugate have weight one.

    Args:
      angles: (views,) in radians, inside the arc modulo 2 pi.
      fan_angles: (columns,), from the ray through the rotation axis, positive towards (cos t, sin t).
      start, arc: first angle and length of the arc, at most 2 pi.

    Returns:
      (views, columns) in [0, 1].

    Source: Parker, Med. Phys. 9:254, 1982; Silver, Med. Phys. 27:773, 2000.
    """
    t = jnp.mod(angles - start, 2 * math.pi)[:, None]
    virtual = (arc - math.pi) / 2
    rising, falling = virtual + fan_angles, virtual - fan_angles

    def slope(part, width):
        return jnp.sin(math.pi / 4 * part / jnp.where(width > 0, width, 1)) ** 2

    early, late = slope(t, rising), slope(arc - t, falling)
    return jnp.where(t < 2 * rising, early, jnp.where(arc - t < 2 * falling, late, 1))


def fan_weights(coverage: Coverage, angles: jax.Array, fan_angles: jax.Array) -> jax.Array:
    """Shares of rays, (views, columns): half on a full turn, otherwise :func:`parker_weights`."""
    short = parker_weights(angles, fan_angles, coverage.start, coverage.arc)
    return jnp.where(coverage.complete, 0.5, short)
