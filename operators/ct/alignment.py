"""Where the rotation axis of a parallel-beam scan meets the detector."""

import math

import numpy as np
from jax.typing import ArrayLike

from operators.algebra import ArgumentError

# In elements: how finely the minimum is sampled before a parabola is laid through it.
_STEPS = (1.0, 0.125)


def find_rotation_center(
    sinogram: ArrayLike, angles: ArrayLike, *, start: float | None = None, reach: float | None = None
) -> float:
    """Index of the detector element at the rotation axis, counted from 0, with a fraction.

    Views of half a turn and their mirror images make up a full turn if they are mirrored at the axis; its
    Fourier transform is then almost empty where the frequency along angles exceeds the object's radius times
    that along the detector. The center is where the least is found there. Rows of one detector share it.
    ``axis_offset = (center - (detectors - 1) / 2) * detector_spacing`` of `ParallelBeam` takes it.

    Runs on the host: arguments must be concrete.

    Args:
      sinogram: real line integrals (..., views, detectors); leading axes are summed over.
      angles: (views,) in radians, in even steps, over half a turn or more, of which the first half is used.
      start: where to search; None: where the centers of mass of the views say, which is exact for an object
        that every view sees whole, and no background.
      reach: how far to search on either side, in elements; None: a sixteenth of the detector, at least 4.

    Raises:
      ArgumentError: views, angles or the region of the search do not fit, or the sinogram is not finite.

    Source: Vo, Drakopoulos, Atwood and Reinhard, Opt. Express 22:19078, 2014.
    """
    values, angles = np.asarray(sinogram, float), np.asarray(angles, float)
    if angles.ndim != 1 or values.ndim < 2 or values.shape[-2] != len(angles):
        found = f"shapes {values.shape} and {angles.shape}"
        raise ArgumentError("find_rotation_center: sinogram", "(..., views, detectors) and (views,)", found)
    if not np.isfinite(values).all():
        raise ArgumentError("find_rotation_center: sinogram", "finite values", "NaN or infinite")
    views = _half_turn(angles)
    values = values.reshape(-1, *values.shape[-2:])[:, :views]
    count = values.shape[-1]
    reach = max(count / 16, 4.0) if reach is None else float(reach)
    start = _center_of_mass(values, angles[:views]) if start is None else float(start)
    half = math.floor(min(start, count - 1 - start) - reach)
    if not reach > 0 or half < 4:
        expected = f"four elements on either side of {start:.5g} +- {reach:.5g}"
        raise ArgumentError("find_rotation_center: start", expected, f"a detector of {count} elements")
    low, high = start - reach, start + reach
    for step in _STEPS:
        centers = np.arange(low, high + step / 2, step)
        outside = [_outside(values, center, half) for center in centers]
        best = int(np.argmin(outside))
        low, high = centers[best] - step, centers[best] + step
    if not 0 < best < len(centers) - 1:
        return float(centers[best])
    before, least, after = outside[best - 1 : best + 2]
    bend = before - 2 * least + after
    return float(centers[best] + (step * (before - after) / (2 * bend) if bend > 0 else 0))


def _half_turn(angles: np.ndarray) -> int:
    """The number of views that make up half a turn."""
    steps = np.diff(angles)
    step = float(steps.mean()) if len(steps) else 0.0
    if len(angles) < 8 or step == 0 or np.abs(steps - step).max() > 0.01 * abs(step):
        expected = "eight or more angles in even steps"
        raise ArgumentError("find_rotation_center: angles", expected, f"{len(angles)} angles")
    views = round(math.pi / abs(step))
    if views > len(angles) or abs(views * abs(step) - math.pi) > 0.5 * abs(step):
        found = f"{np.ptp(angles) + abs(step):.5g} radians"
        raise ArgumentError("find_rotation_center: angles", "half a turn", found)
    return views


def _center_of_mass(values: np.ndarray, angles: np.ndarray) -> float:
    """That of a view moves as center + x cos + y sin, whatever the object."""
    total = values.sum((0, 2))
    moment = values.sum(0) @ np.arange(values.shape[-1])
    waves = np.stack([np.ones_like(angles), np.cos(angles), np.sin(angles)], 1)
    solution = np.linalg.lstsq(waves * total[:, None], moment, rcond=None)[0]
    return float(np.clip(solution[0], 0, values.shape[-1] - 1))


def _outside(values: np.ndarray, center: float, half: int) -> float:
    """Mean magnitude of the full turn outside of the double wedge."""
    whole = math.floor(center + 0.5)
    rows = values[..., max(whole - half, 0) : whole + half + 1]
    elements = rows.shape[-1]
    frequency = np.fft.rfftfreq(elements)
    # Interpolation would smooth noise where the center is between elements, and so be drawn there.
    shift = np.exp(-4j * math.pi * frequency * (center - whole))
    halves = [np.fft.rfft(rows), np.fft.rfft(rows[..., ::-1]) * shift]
    spectrum = np.abs(np.fft.fft(np.concatenate(halves, -2), axis=-2))
    turns = spectrum.shape[-2]
    along = np.abs(np.fft.fftfreq(turns, 1 / turns))[:, None]
    return float(spectrum[..., along > 2 * math.pi * half * frequency + 1].mean())
