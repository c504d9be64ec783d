"""Echo-planar readouts: the delay between lines of opposite polarity, and their samples on a uniform grid."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from operators.algebra import ArgumentError, positive_integer, positive_number
from operators.mri.sampling.gradient_delays import gradient_delay

# Singular values below this fraction of the largest are noise, not image.
_CUTOFF = 1e-2
_STEPS = 41


class ReadoutShift(NamedTuple):
    """How lines of opposite polarity differ.

    Attributes:
      delay: of the gradient behind the receiver, in samples (dwell times).
      phase: by which falling lines (polarity -1) are ahead of rising ones, in radians.
    """

    delay: float
    phase: float


NO_SHIFT = ReadoutShift(0.0, 0.0)


def echo_planar_shift(
    lines: ArrayLike, positions: ArrayLike, polarity: ArrayLike, *, search_range: float = 4.0
) -> ReadoutShift:
    """Delay and phase between rising and falling lines, from a scan without phase encoding.

    Without phase encoding neighbors differ by off-resonance, which has one sign from every line to the next,
    and by what depends on polarity, which alternates: the product of a step from a rising to a falling line
    and the conjugate of a step back keeps the second alone. The delay is the one that makes this product
    agree best over the image line; it is looked for on grids that are refined to 0.001 samples. Computed on
    the host in double precision, without a gradient. With steps of one kind only (two lines), off-resonance
    gradients along the readout are taken for a delay.

    Args:
      lines: (lines, coils, samples) complex, in the order of measurement.
      positions: nominal (lines, samples) along the readout in cycles/pixel.
      polarity: (lines,) of 1 and -1, the sign of the readout gradient; neighbors of opposite sign are used.
      search_range: largest magnitude of the delay in samples.

    Returns:
      The shift, as `echo_planar_matrix` takes it.

    Raises:
      ValueError: shapes do not fit, or no neighbors are of opposite polarity.

    Source: after Bruder et al., Magn. Reson. Med. 23:311, 1992, and Reeder et al., 41:87, 1999.
    """
    where = "echo_planar_shift"
    lines, positions, polarity = _checked(lines, positions, polarity, where)
    first = np.flatnonzero(polarity[1:] != polarity[:-1])
    if not first.size:
        raise ArgumentError(f"{where}: polarity", "neighbors of opposite sign", polarity.tolist())
    rising = polarity[first] > 0
    search_range = positive_number(search_range, f"{where}: search_range")

    def products(delay):
        images = _images(lines, positions, polarity, delay)
        steps = images[first].conj() * images[first + 1]
        there, back = (steps[kind].sum((0, 1)) for kind in (rising, ~rising))
        if rising.all() or not rising.any():
            return there**2 + back.conj() ** 2
        return there * back.conj()

    delay = _search(lambda delay: abs(products(delay).sum()), search_range)
    return ReadoutShift(float(delay), float(np.angle(products(delay).sum()) / 2))


def echo_planar_focus(
    lines: ArrayLike, positions: ArrayLike, polarity: ArrayLike, *, search_range: float = 4.0
) -> tuple[ReadoutShift, float]:
    """Delay and phase from the image itself: those of the sharpest image, whose ghost is weakest.

    For scans without a reference. The measure is the sum of magnitudes of the image over the root of the sum
    of their squares, which ghosts enlarge.

    Args:
      lines: (phase encodings, coils, samples) complex, all of them, in the order of k-space.
      positions: nominal (lines, samples) along the readout in cycles/pixel.
      polarity: (lines,) of 1 and -1.
      search_range: largest magnitude of the delay in samples.

    Returns:
      The shift, and the measure at it.

    Raises:
      ValueError: shapes do not fit.
    """
    lines, positions, polarity = _checked(lines, positions, polarity, "echo_planar_focus")
    search_range = positive_number(search_range, "echo_planar_focus: search_range")
    odd = (polarity < 0)[:, None, None]

    def sharpness(delay, phase=None):
        images = _images(lines, positions, polarity, delay)
        parts = [_along_lines(np.where(kind, images, 0)) for kind in (~odd, odd)]
        phases = np.linspace(-np.pi / 2, np.pi / 2, 24, endpoint=False) if phase is None else [phase]
        sums = []
        for angle in phases:
            magnitude = np.sqrt((np.abs(parts[0] + np.exp(-1j * angle) * parts[1]) ** 2).sum(1))
            sums.append(magnitude.sum() / np.linalg.norm(magnitude))
        return min(sums), phases[int(np.argmin(sums))]

    delay = _search(lambda delay: -sharpness(delay)[0], search_range, finest=0.01)
    phase = sharpness(delay)[1]
    fine = phase + np.linspace(-0.15, 0.15, 31)
    phase = fine[int(np.argmin([sharpness(delay, angle)[0] for angle in fine]))]
    return ReadoutShift(float(delay), float(phase)), float(sharpness(delay, phase)[0])


def echo_planar_matrix(
    positions: ArrayLike, polarity: int, samples: int, shift: ReadoutShift = NO_SHIFT
) -> np.ndarray:
    """The matrix that takes a readout, ramps and all, to uniform samples along rising k.

    It is the least-squares image line of ``samples`` pixels, transformed: the centered orthonormal k-space.

    Args:
      positions: nominal (readout,) in cycles/pixel, in the order of measurement.
      polarity: 1 or -1.
      samples: number of uniform samples.
      shift: of `echo_planar_shift`.

    Returns:
      (samples, readout) complex128.

    Raises:
      ValueError: the readout has fewer than two samples.
    """
    samples = positive_integer(samples, "echo_planar_matrix: samples")
    positions = np.asarray(positions, np.float64)
    if positions.ndim != 1 or len(positions) < 2:
        raise ArgumentError("echo_planar_matrix: positions", "at least two samples", positions.shape)
    uniform = (np.arange(samples) - samples // 2) / samples
    turn = np.exp(-1j * shift.phase) if polarity < 0 else 1.0
    return turn * (_encoding(uniform, samples) @ _image_matrix(positions, shift.delay, samples))


def trapezoid_positions(times: ArrayLike, ramp_up: float, flat_top: float, ramp_down: float) -> np.ndarray:
    """K-space along the readout under a trapezoidal gradient: its area until ``times`` over that of all.

    Args:
      times: since the gradient's begin, in the unit of the durations.
      ramp_up, flat_top, ramp_down: durations.

    Returns:
      Array of the shape of ``times``, from -0.5 at the begin to 0.5 at the end.

    Raises:
      ValueError: a duration is negative, or all are zero.
    """
    if min(ramp_up, flat_top, ramp_down) < 0 or ramp_up + flat_top + ramp_down <= 0:
        found = (ramp_up, flat_top, ramp_down)
        raise ArgumentError("trapezoid_positions", "durations that are not negative and not all zero", found)
    times = np.asarray(times, np.float64)
    up, left = np.clip(times, 0, ramp_up), np.clip(ramp_up + flat_top + ramp_down - times, 0, ramp_down)
    area = flat_top + (ramp_up + ramp_down) / 2
    rising = up**2 / (2 * ramp_up) if ramp_up else 0.0
    falling = (ramp_down**2 - left**2) / (2 * ramp_down) if ramp_down else 0.0
    return (rising + np.clip(times - ramp_up, 0, flat_top) + falling) / area - 0.5


def _checked(lines, positions, polarity, where):
    lines, positions = np.asarray(lines, np.complex128), np.asarray(positions, np.float64)
    polarity = np.asarray(polarity)
    shape = (lines.shape[0], lines.shape[-1]) if lines.ndim == 3 else None
    if shape is None or positions.shape != shape or polarity.shape != shape[:1]:
        found = f"{lines.shape}, {positions.shape} and {polarity.shape}"
        expected = "(lines, coils, samples), positions (lines, samples) and polarity (lines,)"
        raise ArgumentError(f"{where}: lines", expected, found)
    if not set(polarity.tolist()) <= {-1, 1}:
        raise ArgumentError(f"{where}: polarity", "1 and -1", polarity.tolist())
    return lines, positions, polarity


def _images(lines, positions, polarity, delay):
    """Image lines (lines, coils, pixels) of the delayed readouts, as many pixels as they resolve."""
    images = None
    for kind in (1, -1):
        here = np.flatnonzero(polarity == kind)
        if not here.size:
            continue
        # The nominal readouts of one polarity are alike.
        pixels = _resolved(positions[here[0]])
        if images is None:
            images = np.zeros((*lines.shape[:2], pixels), np.complex128)
        matrix = _image_matrix(positions[here[0]], delay, images.shape[-1])
        images[here] = lines[here] @ matrix.T
    return images


def _resolved(positions):
    """Pixels that a readout of all positions can tell apart."""
    return int(np.clip(round(1 / np.abs(np.diff(positions)).max()), 1, len(positions)))


def _image_matrix(positions, delay, pixels):
    delayed = np.asarray(gradient_delay(positions[:, None], np.array([delay])), np.float64)[:, 0]
    return np.linalg.pinv(_encoding(delayed, pixels), rcond=_CUTOFF)


def _encoding(positions, pixels):
    return np.exp(-2j * np.pi * np.outer(positions, np.arange(pixels) - pixels // 2)) / np.sqrt(pixels)


def _along_lines(images):
    return np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(images, 0), axis=0, norm="ortho"), 0)


def _search(score, reach, finest=0.001):
    """Where the score is largest in +- reach, on grids around the best point of the one before."""
    best, step = 0.0, 2 * reach / (_STEPS - 1)
    grid = np.linspace(-reach, reach, _STEPS)
    while True:
        best = grid[int(np.argmax([score(value) for value in grid]))]
        if step <= finest:
            return float(np.clip(best, -reach, reach))
        grid, step = best + np.linspace(-step, step, 11), step / 5
