"""Reconstruction of measured CT slices and volumes by a method of a given name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import operators
from fedrecon.data import CTMeasurement
from fedrecon.errors import ArgumentError
from operators import ct


class CTMethod(NamedTuple):
    """A reconstruction of line integrals.

    Attributes:
      run: function of (operator, line integrals, weight, iterations) to the image; None for the analytic one.
      weight: default weight, None when the method has none.
      iterations: default number, None when the method has none.
    """

    run: Callable[[Any, jax.Array, Any, Any], jax.Array] | None
    weight: float | None = None
    iterations: int | None = None


def _total_variation(A: Any, y: jax.Array, weight: Any, iterations: Any) -> jax.Array:
    # The weight is for operators of norm one and images of order one.
    square = operators.operator_norm(A, jax.random.key(0)) ** 2
    size = jnp.max(jnp.abs(A.H(y))) / square
    return ct.tv(A, y, weight * square * size, iterations=iterations)[0]


CT_METHODS = {
    "fbp": CTMethod(None),
    "sirt": CTMethod(lambda A, y, _, n: ct.sirt(A, y, nonnegative=True, iterations=n)[0], None, 100),
    "cgls": CTMethod(lambda A, y, _, n: ct.cgls(A, y, iterations=n)[0], None, 15),
    "total-variation": CTMethod(_total_variation, 1e-3, 300),
}


def reconstruct_ct(
    measurement: CTMeasurement,
    method: str = "fbp",
    weight: float | None = None,
    iterations: int | None = None,
    advance: Callable[[int], Any] = lambda _: None,
) -> np.ndarray:
    """Attenuation in 1/unit of the measurement, float32 (slices, ny, nx).

    Args:
      measurement: see `read_ct_measurement`.
      method: a key of `CT_METHODS`: filtered back-projection (Feldkamp's for cone beams), `sirt` without
        negative values, `cgls`, or total variation without negative values.
      weight: of the total variation, for images of order one and a projector of norm one; None: the method's.
      iterations: None: the method's.
      advance: called with 1 after every slice, or volume of a cone beam.

    Raises:
      ArgumentError: the method is unknown or has no such setting.
      ValueError: the geometry does not allow the method.
    """
    if method not in CT_METHODS:
        raise ArgumentError("method", f"one of {', '.join(CT_METHODS)} for CT", repr(method))
    chosen = CT_METHODS[method]
    for name, value, default in (
        ("weight", weight, chosen.weight),
        ("iterations", iterations, chosen.iterations),
    ):
        if value is not None and default is None:
            raise ArgumentError(name, f"none with method {method}", value)
    if weight is not None and not 0 <= weight < np.inf:
        raise ArgumentError("weight", "a non-negative number", weight)
    if iterations is not None and iterations < 1:
        raise ArgumentError("iterations", "a positive number", iterations)
    geometry, shape = measurement.geometry, measurement.image_shape
    volume = len(shape) == 3
    pixel: Any = measurement.pixel_size
    if volume:
        pixel = (measurement.slice_distance, pixel, pixel)
    if chosen.run is None:
        inverse: Any = operators.fdk if volume else operators.fbp

        def solve(y: jax.Array) -> jax.Array:
            return inverse(y, geometry, shape, pixel)

    else:
        run, A = chosen.run, operators.Radon(geometry, shape, pixel)
        weight = chosen.weight if weight is None else weight
        steps = iterations or chosen.iterations
        solve = jax.jit(lambda y: run(A, y, weight, steps))
    images = []
    for y in [measurement.values] if volume else measurement.values:
        images.append(np.asarray(solve(jnp.asarray(y))))
        advance(1)
    return images[0] if volume else np.stack(images)
