"""Checks of the parameters of geometries, and what of them is static."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from operators.algebra import (
    ArgumentError,
    as_inexact,
    finite_number,
    is_complex,
    positive_integer,
    positive_number,
)


class StaticFloat(float):
    """A float that is part of a pytree's structure: a node without leaves."""


jax.tree_util.register_pytree_node(StaticFloat, lambda x: ((), float(x)), lambda x, _: StaticFloat(x))


def view_angles(angles: ArrayLike, name: str, helical: bool = False) -> jax.Array:
    """``angles`` as floats (views,).

    Raises ValueError naming ``name`` for another shape, and for concrete angles that are not finite or look
    like degrees: beyond 4 pi and, on a helix, more than pi / 2 apart. TypeError for complex ones.
    """
    angles = as_inexact(angles)
    if is_complex(angles.dtype):
        raise TypeError(f"{name}: expected a real dtype, found {angles.dtype}")
    # Half precision would misplace rays by whole elements.
    angles = angles.astype(jnp.promote_types(angles.dtype, jnp.float32))
    if angles.ndim != 1 or not angles.size:
        raise ArgumentError(name, "shape (views,)", angles.shape)
    if isinstance(angles, jax.core.Tracer):
        return angles
    values = np.asarray(angles)
    if not np.isfinite(values).all():
        raise ArgumentError(name, "finite values", values[~np.isfinite(values)][0])
    largest = float(np.abs(values).max())
    # A helix may take many turns: its degrees show by their steps, in whatever order the views are.
    step = float(np.median(np.diff(np.sort(values)))) if helical and values.size > 1 else math.inf
    if largest > 4 * math.pi and step > math.pi / 2:
        steps = f" and steps of {step:.6g}" if helical and values.size > 1 else ""
        raise ArgumentError(
            name, "radians", f"one of magnitude {largest:.6g}{steps}; convert degrees with jnp.deg2rad"
        )
    return angles


def real_leaf(
    value: Any, dtype: DTypeLike, name: str, shape: tuple[int, ...] = (), positive: bool = False
) -> jax.Array:
    """``value`` as a real array of ``shape`` and ``dtype``; checks its values where they are concrete.

    Raises TypeError or ValueError naming ``name``.
    """
    if not isinstance(value, jax.Array):
        value = np.asarray(value)
    if value.dtype == bool or not jnp.issubdtype(value.dtype, jnp.number) or is_complex(value.dtype):
        raise TypeError(f"{name}: expected a real dtype, found {value.dtype}")
    if value.shape != shape:
        expected = "a scalar" if shape == () else f"of shape {shape}"
        raise ArgumentError(name, f"{expected}", f"shape {value.shape}")
    if not isinstance(value, jax.core.Tracer):
        concrete = np.asarray(value)
        if not np.isfinite(concrete).all():
            raise ArgumentError(name, "finite values", concrete[~np.isfinite(concrete)][0])
        if positive and (concrete <= 0).any():
            raise ArgumentError(name, "a positive number", concrete.min())
    return jnp.asarray(value, dtype)


def number_or_leaf(value: Any, dtype: DTypeLike, name: str) -> StaticFloat | jax.Array:
    """A plain number as a finite static float, an array as a scalar leaf."""
    if isinstance(value, jax.Array | np.ndarray):
        return real_leaf(value, dtype, name)
    return StaticFloat(finite_number(value, name))


def detector_pair(shape: Any, spacing: Any, owner: str) -> tuple[tuple[int, int], tuple[float, float]]:
    """Checked (rows, columns) and (row_spacing, column_spacing)."""
    found = tuple(shape) if np.ndim(shape) else (shape,)
    if len(found) != 2:
        raise ArgumentError(f"{owner}: detector_shape", "(rows, columns)", shape)
    steps = tuple(spacing) if np.ndim(spacing) else (spacing,)
    if len(steps) != 2:
        raise ArgumentError(f"{owner}: detector_spacing", "(row_spacing, column_spacing)", spacing)
    rows, columns = (positive_integer(n, f"{owner}: detector_shape") for n in found)
    row_spacing, spacing = (positive_number(step, f"{owner}: detector_spacing") for step in steps)
    return (rows, columns), (row_spacing, spacing)
