"""What ellipses and ellipsoids share: both are sums of unit balls, stretched, rotated about z and moved.

Phantoms have the fields of :class:`operators.phantoms.Ellipses` or :class:`operators.phantoms.Ellipsoids`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import ArgumentError, complex_dtype, positive_integer, safe_sqrt
from operators.ct import Geometry
from operators.fourier import jinc

# (sin q - q cos q) / q^3 as a series in q^2, for q below 1.
_SERIES = (1 / 3, -1 / 30, 1 / 840, -1 / 45360, 1 / 3991680, -1 / 518918400, 1 / 93405312000)


def line_integrals(phantom: Any, points: jax.Array, directions: jax.Array) -> jax.Array:
    """Exact integrals of a phantom along lines ``points + s * directions``, s from minus to plus infinity.

    Differentiable in phantom and lines; where a line touches an ellipse its derivative is taken as zero.

    Args:
      phantom: ellipses, or ellipsoids.
      points: (..., 2) or (..., 3), as (x, y) or (x, y, z).
      directions: of the same shape, of any length but zero.

    Returns:
      (...) value times length.

    Raises:
      ValueError: if the lines have not the phantom's dimensions.
    """
    points, directions = jnp.asarray(points), jnp.asarray(directions)
    ndim = phantom.center.shape[-1]
    for name, array in (("points", points), ("directions", directions)):
        if not array.ndim or array.shape[-1] != ndim:
            raise ArgumentError(f"line_integrals: {name}", f"shape (..., {ndim})", array.shape)
    shape = jnp.broadcast_shapes(points.shape, directions.shape)[:-1]
    dtype = jnp.result_type(points, directions, phantom.value)
    lengths = jnp.sqrt(jnp.sum(directions * directions, axis=-1))

    def add(total, part):
        # In the frame where the ellipse is the unit ball, the chord at distance h has length 2 sqrt(1 - h^2).
        p, d = _unit_frame(points - part.center, part), _unit_frame(directions, part)
        norm = jnp.sum(d * d, axis=-1)
        moment = _cross_squared(p, d)
        chord = safe_sqrt(jnp.maximum(1 - moment / norm, 0)) / jnp.sqrt(norm)
        return total + 2 * part.value * lengths * chord, None

    return jax.lax.scan(add, jnp.zeros(shape, dtype), phantom)[0]


def project_parts(phantom: Any, geometry: Geometry, bins: int = 1) -> jax.Array:
    """:func:`operators.phantoms.project_phantom` of ellipses or ellipsoids."""
    bins = positive_integer(bins, "project_phantom: bins")
    ndim = phantom.center.shape[-1]
    if ndim != geometry.ndim:
        raise ArgumentError("project_phantom: geometry", f"the phantom's {ndim} dimensions", geometry.ndim)
    nodes, weights = np.polynomial.legendre.leggauss(bins)
    grids = np.meshgrid(*[nodes / 2] * (ndim - 1), indexing="ij")
    shifts = np.stack([grid.ravel() for grid in grids], axis=-1)
    shares = np.prod(np.meshgrid(*[weights / 2] * (ndim - 1), indexing="ij"), axis=0).ravel()
    counts = geometry.shape[1:]

    def add(total, node):
        shift, share = node
        indices = [jnp.arange(n, dtype=geometry.dtype) + shift[axis] for axis, n in enumerate(counts)]
        return total + share * line_integrals(phantom, *geometry.rays(*indices)), None

    dtype = jnp.result_type(geometry.dtype, phantom.value)
    data = jnp.asarray(shifts, geometry.dtype), jnp.asarray(shares, dtype)
    return jax.lax.scan(add, jnp.zeros(geometry.shape, dtype), data)[0]


def parts_kspace(phantom: Any, frequencies: jax.Array) -> jax.Array:
    """The ``kspace`` of ellipses or ellipsoids, see :class:`operators.phantoms.Phantom`."""
    frequencies = jnp.asarray(frequencies)
    ndim = phantom.center.shape[-1]
    if not frequencies.ndim or frequencies.shape[-1] != ndim:
        raise ArgumentError("kspace: frequencies", f"shape (..., {ndim})", frequencies.shape)
    dtype = jnp.result_type(frequencies, phantom.value)
    ball = _disc_spectrum if ndim == 2 else _ball_spectrum

    def add(total, part):
        own = jnp.stack(_own_axes(frequencies, part), axis=-1) * part.axes
        spectrum = part.value * jnp.prod(part.axes) * ball(2 * math.pi * safe_sqrt(jnp.sum(own * own, -1)))
        phase = 2 * math.pi * jnp.sum(frequencies * part.center, -1)
        return total + spectrum * jax.lax.complex(jnp.cos(phase), -jnp.sin(phase)), None

    zero = jnp.zeros(frequencies.shape[:-1], complex_dtype(dtype))
    return jax.lax.scan(add, zero, phantom)[0]


def _disc_spectrum(q: jax.Array) -> jax.Array:
    return 2 * math.pi * jinc(q)


def _ball_spectrum(q: jax.Array) -> jax.Array:
    # The closed form cancels for small q.
    large = jnp.where(q < 1, 1, q)
    series = jnp.polyval(jnp.asarray(_SERIES[::-1], q.dtype), jnp.where(q < 1, q, 0) ** 2)
    return 4 * math.pi * jnp.where(q < 1, series, (jnp.sin(large) - large * jnp.cos(large)) / large**3)


def _unit_frame(vectors: jax.Array, part: Any) -> jax.Array:
    own = zip(_own_axes(vectors, part), part.axes, strict=True)
    return jnp.stack([component / axis for component, axis in own], axis=-1)


def _own_axes(vectors: jax.Array, part: Any) -> list[jax.Array]:
    cos, sin = jnp.cos(part.angle), jnp.sin(part.angle)
    x, y, *z = jnp.moveaxis(vectors, -1, 0)
    return [cos * x + sin * y, cos * y - sin * x, *z]


def _cross_squared(a: jax.Array, b: jax.Array) -> jax.Array:
    if a.shape[-1] == 2:
        return (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]) ** 2
    return jnp.sum(jnp.cross(a, b) ** 2, axis=-1)
