"""Non-Cartesian measurements as the Cartesian k-space of their images."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import operators
from fedrecon.data.formats import Measurement, correct_delays
from operators import NUFFT, fft2c

# Conjugate gradients end where the residual is this part of the right-hand side, or after so many steps.
_TOLERANCE, _ITERATIONS = 1e-3, 20
# Farthest that a point of k-space may be from a sample, in samples of the grid: half the diagonal of a cell.
_REACH = 0.75


class Gridded(NamedTuple):
    """A measurement on the grid of its images.

    Attributes:
      kspace: complex64 ``(slices, coils, ny, nx)``, the centered orthonormal transform of the coil images.
      sampled: part of the points of this grid, out to the farthest sample from the center, that lie as close
        to a sample as a grid is dense; 1 where the field of view is fully sampled.
      kind: what was gridded, in words.
    """

    kspace: np.ndarray
    sampled: float
    kind: str


def gridded(measurement: Measurement) -> Gridded:
    """The Cartesian k-space of the coil images that explain the samples of a trajectory best.

    Delays of gradients are corrected where spokes show them. Each coil image minimizes the squared residual
    of its samples, weighted by the k-space that they stand for, by at most 20 steps of conjugate gradients.
    Images are cropped to ``crop_shape``, which removes the oversampling of readouts.

    Args:
      measurement: with a trajectory in cycles per pixel.

    Raises:
      ArgumentError: the trajectory is in another unit, or not finite.
    """
    kind = _kind(measurement)
    measurement = correct_delays(measurement)
    shape, shown = measurement.image_shape, measurement.crop_shape
    trajectory = np.asarray(measurement.trajectory, np.float32)
    own = trajectory if trajectory.ndim == 3 else trajectory[None]
    starts = [n // 2 - kept // 2 for n, kept in zip(shape, shown, strict=True)]
    (top, left), (ny, nx) = starts, shown
    images = []
    for index, y in enumerate(measurement.kspace):
        if index < len(own):
            fourier = NUFFT(jnp.asarray(own[index]), shape)
            density = operators.density_compensation(own[index], shape)
            gram = fourier.toeplitz(density)
        found = np.asarray(_solve(gram, fourier.H(density * jnp.asarray(y))))
        images.append(found[:, top : top + ny, left : left + nx])
    parts = [_sampled(k, shown) for k in own]
    return Gridded(np.asarray(fft2c(np.stack(images)), np.complex64), float(np.mean(parts)), kind)


@jax.jit
def _solve(gram: operators.LinearOperator, b: jax.Array) -> jax.Array:
    """The coil images (coils, ny, nx) whose gram is ``b``, one after the other to save memory."""

    def one(b: jax.Array) -> jax.Array:
        return operators.cg(gram, b, tolerance=_TOLERANCE, iterations=_ITERATIONS)[0]

    return jax.lax.map(one, b)


def _sampled(k: np.ndarray, shape: tuple[int, int]) -> float:
    """The part of a grid's points, no farther out than the samples, that have a sample near."""
    places = k * np.asarray(shape)
    near = np.zeros(shape, bool)
    for step in np.ndindex(3, 3):
        points = np.round(places).astype(int) + np.asarray(step) - 1
        close = np.linalg.norm(points - places, axis=-1) <= _REACH
        at = points[close] + np.asarray(shape) // 2
        at = at[((at >= 0) & (at < shape)).all(-1)]
        near[at[:, 0], at[:, 1]] = True
    rows, columns = ((np.arange(n) - n // 2) / n for n in shape)
    inside = np.hypot(rows[:, None], columns) <= np.linalg.norm(k, axis=-1).max()
    return float(near[inside].mean())


def _kind(measurement: Measurement) -> str:
    """Straight readouts through the center are spokes."""
    k, readout = np.asarray(measurement.trajectory), measurement.readout
    assert readout is not None, "trajectories consist of readouts"
    lines = k.reshape(-1, k.shape[-2] // readout, readout, 2)[0]
    middle, steps = lines[:, readout // 2], np.diff(lines, axis=1)
    straight = np.abs(steps - steps[:, :1]).max(initial=0) < 0.05 * np.abs(steps).max(initial=1e-9)
    through = np.linalg.norm(middle, axis=-1).max() < np.linalg.norm(steps, axis=-1).max(initial=0)
    return f"{len(lines)} {'spokes' if straight and through else 'readouts'}"
