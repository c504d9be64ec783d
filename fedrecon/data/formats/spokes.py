"""Straight readouts through the center of k-space: what they show, and the delay of their gradients."""

import numpy as np

from operators.mri import estimate_gradient_delays, gradient_delay

# Parts of a step by which spokes may bend, or miss DC, and of the energy that is nothing.
_STRAIGHT, _BENT, _EMPTY = 1e-3, 0.05, 1e-3
# Delays in samples that change nothing.
_SMALLEST_DELAY = 0.02


def has_empty_frame(kspace: np.ndarray, trajectory: np.ndarray, size: int) -> bool:
    """Whether an object seen by straight spokes is all within a quarter of the image around its middle.

    So it is where readouts are oversampled twice and their receiver's filter is narrower than the image.

    Args:
      kspace: (slices, coils, spokes, samples).
      trajectory: (spokes, samples, 2) in cycles per pixel.
      size: pixels of the image along both axes.
    """
    samples = trajectory.shape[1]
    steps = np.diff(trajectory.astype(np.float64), axis=1)
    step = np.linalg.norm(steps[0, 0]) if samples > 1 else 0.0
    if step == 0 or np.abs(steps - steps[:, :1]).max() > _STRAIGHT * step:
        return False
    if np.abs(np.linalg.norm(steps[:, 0], axis=-1) - step).max() > _STRAIGHT * step:
        return False
    # The projections of the object onto the spokes; their pixels are 1 / (step * samples) of the image's.
    lines = np.abs(np.fft.fftshift(np.fft.ifft(kspace, axis=-1), -1)) ** 2
    power = lines.sum((0, 1, 2), dtype=np.float64)
    places = np.abs(np.arange(samples) - samples // 2) / (step * samples)
    return bool(places.max() >= size / 2 - 1 and power[places > size / 4].sum() < _EMPTY * power.sum())


def corrected_spokes(
    kspace: np.ndarray, trajectory: np.ndarray
) -> tuple[np.ndarray, tuple[float, float]] | None:
    """Measures the delays of the gradients from spokes and corrects their trajectory.

    Args:
      kspace: (..., spokes, samples) complex.
      trajectory: (spokes, samples, 2) in cycles per pixel, columns (ky, kx).

    Returns:
      The trajectory, float32, and the delays in samples along (ky, kx); None where readouts are no spokes
      at equal distances through DC, all have one direction, or delays are below 0.02 samples.
    """
    spokes = trajectory.astype(np.float64)
    samples = spokes.shape[1]
    if samples < 4:
        return None
    direction = (spokes[:, -1] - spokes[:, 0]) / (samples - 1)
    length = np.linalg.norm(direction, axis=-1)
    straight = (np.arange(samples) - samples // 2)[:, None] * direction[:, None]
    if not length.all() or np.abs(spokes - straight).max() > _BENT * length.max():
        return None
    cosines = np.abs(direction @ direction.T) / np.outer(length, length)
    if cosines.min() > np.sqrt(0.5):
        return None
    delays = np.asarray(estimate_gradient_delays(kspace, spokes))
    if np.abs(delays).max() < _SMALLEST_DELAY:
        return None
    corrected = np.asarray(gradient_delay(spokes, delays), np.float32)
    return corrected, (float(delays[0]), float(delays[1]))
