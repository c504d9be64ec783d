"""Units of k-space trajectories, and the check of the one unit this library computes in: cycles/pixel.

A trajectory is (..., samples, ndim), its columns in the order of the image axes: (ky, kx) or (kz, ky, kx).
An image of N pixels along an axis over a field of view of L meters has pixels of L / N, so one k-space
position reads ``k`` cycles/pixel, ``2 pi k`` radians/pixel, ``k N`` per field of view (the index of the
discrete Fourier transform, counted from DC) and ``k N / L`` per meter.
"""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import ArgumentError, as_inexact, is_complex, positive_integer, positive_number

# The gyromagnetic ratio of the proton over 2 pi, in Hz/T (CODATA 2018).
PROTON_GAMMA = 42.577478518e6

# Beyond the first, a coordinate is no rounding, gradient delay or rotated corner; the second allows for pi.
_LARGEST = 0.6
_LARGEST_RADIANS = 1.05 * math.pi


def from_radians(trajectory: jax.Array) -> jax.Array:
    """Radians/pixel, in [-pi, pi), to cycles/pixel: ``k / (2 pi)``; any shape, any axis order."""
    return as_inexact(trajectory) / (2 * math.pi)


def to_radians(trajectory: jax.Array) -> jax.Array:
    """Cycles/pixel to radians/pixel: ``2 pi k``; any shape, any axis order."""
    return as_inexact(trajectory) * (2 * math.pi)


def from_per_fov(trajectory: jax.Array, image_shape: tuple[int, ...]) -> jax.Array:
    """Cycles per field of view, in [-N/2, N/2), to cycles/pixel: ``k / N`` along each axis.

    Args:
      trajectory: (..., ndim), columns in the order of ``image_shape``.
      image_shape: (ny, nx) or (nz, ny, nx), the matrix that covers the field of view.

    Returns:
      Array of the same shape.

    Raises:
      ValueError, TypeError: if ``image_shape`` is no shape, or its length is not that of the last axis.
    """
    return _scaled(trajectory, image_shape, "from_per_fov", lambda shape: 1 / shape)


def to_per_fov(trajectory: jax.Array, image_shape: tuple[int, ...]) -> jax.Array:
    """Cycles/pixel to cycles per field of view: ``k N``; arguments as :func:`from_per_fov`."""
    return _scaled(trajectory, image_shape, "to_per_fov", lambda shape: shape)


def from_per_meter(
    trajectory: jax.Array, image_shape: tuple[int, ...], field_of_view: float | tuple[float, ...]
) -> jax.Array:
    """Cycles per meter to cycles/pixel: ``k L / N`` along each axis.

    Args:
      trajectory: (..., ndim), columns in the order of ``image_shape``.
      image_shape: (ny, nx) or (nz, ny, nx), the matrix that covers the field of view.
      field_of_view: its extent L in meters, one number or one per axis.

    Returns:
      Array of the same shape.

    Raises:
      ValueError, TypeError: if an argument is out of range or lengths disagree.
    """
    fov = _lengths(field_of_view, len(tuple(image_shape)), "from_per_meter: field_of_view")
    return _scaled(trajectory, image_shape, "from_per_meter", lambda shape: fov / shape)


def to_per_meter(
    trajectory: jax.Array, image_shape: tuple[int, ...], field_of_view: float | tuple[float, ...]
) -> jax.Array:
    """Cycles/pixel to cycles per meter: ``k N / L``; arguments as :func:`from_per_meter`."""
    fov = _lengths(field_of_view, len(tuple(image_shape)), "to_per_meter: field_of_view")
    return _scaled(trajectory, image_shape, "to_per_meter", lambda shape: shape / fov)


def gradient_waveform(
    trajectory: jax.Array,
    pixel_size: float | tuple[float, ...],
    dwell_time: float,
    gamma: float = PROTON_GAMMA,
) -> jax.Array:
    """Gradients that move k-space from each sample to the next, constant in between.

    The slew rate in T/m/s is ``jnp.diff(gradients, axis=-2) / dwell_time``.

    Args:
      trajectory: (..., samples, ndim) in cycles/pixel.
      pixel_size: in meters, one number or one per axis.
      dwell_time: time between samples, in seconds.
      gamma: gyromagnetic ratio over 2 pi, in Hz/T.

    Returns:
      (..., samples - 1, ndim) in T/m.

    Raises:
      ValueError, TypeError: if an argument is out of range.
    """
    trajectory = as_inexact(trajectory)
    if trajectory.ndim < 2:
        raise ArgumentError("gradient_waveform: trajectory", "(..., samples, ndim)", trajectory.shape)
    size = _lengths(pixel_size, trajectory.shape[-1], "gradient_waveform: pixel_size")
    time = positive_number(dwell_time, "gradient_waveform: dwell_time")
    scale = 1 / (size * time * positive_number(gamma, "gradient_waveform: gamma"))
    return jnp.diff(trajectory, axis=-2) * jnp.asarray(scale, trajectory.dtype)


def check_trajectory(
    trajectory: jax.Array, ndim: int, *, periodic: bool = False, name: str = "trajectory"
) -> jax.Array:
    """``trajectory`` as a floating array, after checks that catch another unit or axis order.

    The Fourier transform of pixels has period 1 in cycles/pixel, so no value is illegal as such; the bounds
    tell the unit. The largest magnitude m of all coordinates decides: up to 0.6 is cycles/pixel (half a
    cycle, and room for the corners of rotated blades or for delays); up to 1.05 pi it looks like
    radians/pixel; beyond that, like cycles per field of view or per meter. Values are checked where they are
    concrete; tracers pass.

    Args:
      trajectory: (..., samples, ndim), real.
      ndim: number of image axes.
      periodic: accept any finite value as cycles/pixel, to be taken modulo 1.
      name: what messages call the argument.

    Returns:
      The trajectory; integers become the default float.

    Raises:
      ValueError: if the shape is not (..., samples, ndim), a value is not finite, or the values look like
        another unit.
      TypeError: if the trajectory is complex.
    """
    trajectory = as_inexact(trajectory)
    if is_complex(trajectory.dtype):
        raise TypeError(f"{name}: expected a real dtype with columns (ky, kx), found {trajectory.dtype}")
    shape = trajectory.shape
    if trajectory.ndim < 2 or shape[-1] != ndim:
        hint = "; move its first axis last" if trajectory.ndim >= 2 and shape[0] == ndim else ""
        raise ArgumentError(name, f"shape (..., samples, {ndim})", f"{shape}{hint}")
    if isinstance(trajectory, jax.core.Tracer) or not trajectory.size:
        return trajectory
    # Without an array of magnitudes, which in volumes is large; both are NaN where one value is.
    values = np.asarray(trajectory)
    largest = max(float(values.max()), -float(values.min()))
    if not math.isfinite(largest):
        raise ArgumentError(name, "finite values", "NaN or infinity")
    if largest > _LARGEST and not periodic:
        if largest <= _LARGEST_RADIANS:
            found = "which looks like radians/pixel: convert with operators.fourier.from_radians"
        else:
            found = (
                "which looks like cycles per field of view or per meter: convert with "
                "operators.fourier.from_per_fov or operators.fourier.from_per_meter"
            )
        raise ArgumentError(
            name,
            "cycles/pixel, within [-1/2, 1/2) up to small excesses",
            f"a coordinate of magnitude {largest:.6g}, {found}, or pass periodic=True if values beyond the "
            "period are meant",
        )
    return trajectory


def _scaled(trajectory, image_shape, where, scale):
    trajectory = as_inexact(trajectory)
    shape = tuple(positive_integer(n, f"{where}: image_shape") for n in image_shape)
    if not trajectory.ndim or trajectory.shape[-1] != len(shape):
        raise ArgumentError(
            f"{where}: trajectory",
            f"shape (..., {len(shape)}) to go with image_shape {shape}",
            trajectory.shape,
        )
    return trajectory * jnp.asarray(scale(np.array(shape, float)), trajectory.dtype)


def _lengths(value: Any, ndim: int, name: str) -> np.ndarray:
    if isinstance(value, numbers.Real):
        value = (value,) * ndim
    value = tuple(value)
    if len(value) != ndim:
        raise ArgumentError(name, f"a number or {ndim} numbers", value)
    return np.array([positive_number(length, name) for length in value])
