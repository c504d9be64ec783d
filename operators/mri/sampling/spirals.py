"""Spiral trajectories of MRI, designed within the limits of a gradient system."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operators.algebra import ArgumentError, positive_integer, positive_number
from operators.fourier import PROTON_GAMMA
from operators.mri.sampling.trajectories import stack_trajectory

# Leaves room for the finite steps of the design, so that the sampled waveform keeps the limits.
_MARGIN = 0.995
_STEPS_PER_TURN = 800
_LEAST_STEPS = 20000


def spiral_trajectory(
    interleaves: int,
    matrix: int,
    *,
    field_of_view: float,
    gradient_limit: float,
    slew_limit: float,
    dwell_time: float,
    density: tuple[float, float] = (1.0, 1.0),
    gamma: float = PROTON_GAMMA,
) -> jax.Array:
    """Spirals from DC to the edge of k-space in the shortest time that the gradient system allows.

    The interleaves are rotated copies of one spiral, ``2 pi / interleaves`` apart. The distance between
    neighboring turns of all of them is the Nyquist distance ``1 / field_of_view`` over the density, which
    runs linearly in |k| from its first value at DC to its second at the edge ``matrix / (2
    field_of_view)``: (1, 1) is the Archimedean spiral, (1.5, 0.5) oversamples the center and twofold
    undersamples the edge.

    The gradient starts at zero, and neither its length nor that of its slew rate ever exceeds the limits,
    so the waveform may be rotated at will; nor do neighboring samples lie further apart than
    ``1 / field_of_view``. The spiral ends before the first sample beyond the edge, at full gradient.

    Args:
      interleaves: number of interleaves.
      matrix: pixels along each axis of the field of view.
      field_of_view: its width in meters.
      gradient_limit: in T/m.
      slew_limit: in T/m/s.
      dwell_time: time between samples, in seconds.
      density: sampling density over that of Nyquist, at DC and at the edge.
      gamma: gyromagnetic ratio over 2 pi, in Hz/T; default that of the proton.

    Returns:
      (interleaves, samples, 2), columns (ky, kx), in cycles/pixel; the number of samples follows.

    Raises:
      ValueError, TypeError: if an argument is not positive, or ``matrix`` is 1.

    Source: Kim et al., Magn. Reson. Med. 50:214, 2003; Lustig et al., IEEE Trans. Med. Imaging 27:866, 2008.
    """
    interleaves = positive_integer(interleaves, "spiral_trajectory: interleaves")
    if positive_integer(matrix, "spiral_trajectory: matrix") < 2:
        raise ArgumentError("spiral_trajectory: matrix", "at least 2", matrix)
    fov = positive_number(field_of_view, "spiral_trajectory: field_of_view")
    gamma = positive_number(gamma, "spiral_trajectory: gamma")
    dwell = positive_number(dwell_time, "spiral_trajectory: dwell_time")
    speed = gamma * positive_number(gradient_limit, "spiral_trajectory: gradient_limit")
    acceleration = gamma * positive_number(slew_limit, "spiral_trajectory: slew_limit")
    if len(tuple(density)) != 2:
        raise ArgumentError("spiral_trajectory: density", "(center, edge)", density)
    center, edge = (positive_number(value, "spiral_trajectory: density") for value in density)

    # kx + i ky = r exp(i angle(r)), angle(r) = linear r + quadratic r^2, in cycles per meter.
    largest = matrix / (2 * fov)
    linear = 2 * math.pi * fov * center / interleaves
    quadratic = math.pi * fov * (edge - center) / (interleaves * largest)
    radius = _time_optimal_radius(
        linear, quadratic, largest, _MARGIN * min(speed, 1 / (fov * dwell)), _MARGIN * acceleration, dwell
    )
    k = radius * np.exp(1j * (linear * radius + quadratic * radius**2)) * (fov / matrix)
    k = k * np.exp(2j * math.pi * np.arange(interleaves) / interleaves)[:, None]
    return jnp.asarray(np.stack([k.imag, k.real], axis=-1), float)


def stack_of_spirals(partitions: int, interleaves: int, matrix: int, **design: Any) -> jax.Array:
    """:func:`spiral_trajectory` in every partition: (partitions * interleaves, samples, 3).

    Args:
      partitions: number of partitions nz; see :func:`operators.mri.stack_trajectory`.
      interleaves, matrix, **design: of :func:`spiral_trajectory`.

    Raises:
      ValueError, TypeError: if an argument is out of range.
    """
    return stack_trajectory(spiral_trajectory(interleaves, matrix, **design), partitions)


def _time_optimal_radius(
    linear: float, quadratic: float, largest: float, speed: float, acceleration: float, dwell: float
) -> np.ndarray:
    """Radii r(j dwell) < largest of the fastest run along ``r exp(i (linear r + quadratic r^2))``.

    With w the square of dr/dt, the velocity has the length ``|a| sqrt(w)`` and the acceleration
    ``|a d2r/dt2 + b w|``, where d2r/dt2 is half of dw/dr. One sweep outwards speeds up as much as the limits
    allow, one sweep inwards sees that the next limit can be met by slowing down.
    """
    turns = max(linear, linear + 2 * quadratic * largest) * largest / (2 * math.pi)
    r = np.linspace(0, largest, max(_LEAST_STEPS, math.ceil(_STEPS_PER_TURN * turns)) + 1)
    step = r[1]
    rate = linear + 2 * quadratic * r
    a = 1 + 1j * r * rate
    b = -r * rate**2 + 1j * (2 * rate + 2 * quadratic * r)
    length2, along, across = np.abs(a) ** 2, (a.conj() * b).real, (a.conj() * b).imag
    bound = np.minimum(
        speed**2 / length2, acceleration * np.sqrt(length2) / np.maximum(np.abs(across), 1e-300)
    )
    length2, along, across, w = (values.tolist() for values in (length2, along, across, bound))

    def change(i, sign):
        room = math.sqrt(max(length2[i] * acceleration**2 - (across[i] * w[i]) ** 2, 0))
        return 2 * step * (sign * room - along[i] * w[i]) / length2[i]

    w[0] = 0.0
    for i in range(len(w) - 1):
        w[i + 1] = min(w[i + 1], max(w[i] + change(i, 1), 0))
    for i in range(len(w) - 1, 0, -1):
        w[i - 1] = min(w[i - 1], w[i] - change(i, -1))

    root = np.sqrt(np.array(w))
    time = np.concatenate([[0.0], np.cumsum(2 * step / (root[1:] + root[:-1]))])
    samples = dwell * np.arange(math.ceil(time[-1] / dwell))
    cell = np.clip(np.searchsorted(time, samples, side="right") - 1, 0, len(w) - 2)
    since = samples - time[cell]
    return r[cell] + since * (root[cell] + since * (root[cell + 1] ** 2 - root[cell] ** 2) / (4 * step))
