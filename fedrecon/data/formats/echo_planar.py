"""Echo-planar lines: both directions on one uniform grid, their delay measured."""

from collections.abc import Mapping

import numpy as np

from fedrecon.data.formats.hdf5 import DataError
from fedrecon.data.formats.ismrmrd import ISMRMRDHeader
from fedrecon.data.formats.lines import Line, Scan
from operators.mri import (
    ReadoutShift,
    echo_planar_focus,
    echo_planar_matrix,
    echo_planar_shift,
    trapezoid_positions,
)

_RAMP = ("rampUpTime", "flatTopTime", "rampDownTime", "acqDelayTime", "dwellTime")
# Turning every second line has to make an image sharper by this factor.
_SHARPER = 1.05


def correct_lines(scan: Scan, header: ISMRMRDHeader, train: bool = False) -> tuple[Scan, tuple[str, ...]]:
    """Lines of the image and its calibration along rising k, and notes on what was done.

    Where the header's ``trajectoryDescription`` times a trapezoid (``rampUpTime``, ``flatTopTime``,
    ``rampDownTime``, ``acqDelayTime`` and ``dwellTime`` in microseconds), samples of the ramps are put on the
    uniform grid of the encoded readout. Where readouts of both directions were measured without phase
    encoding, delay and phase between them, one pair for each slice, are taken from there. Without any of
    these, reversed lines are simply turned when they are placed.

    Args:
      scan: its lines.
      header: of its encoding.
      train: the readouts are echoes of one excitation. Where none is marked as reversed, every second one is
        turned if the image is sharper so, with the delay and phase of the sharpest image.

    Raises:
      DataError: the timing does not fit the readouts.
    """
    ramps = _ramps(header.timing)
    both = len({line.reversed for line in scan.imaging}) > 1
    reference = {}
    source = "from the lines without phase encoding"
    if train and not both and (found := _unmarked(scan, header)):
        scan, shift = found
        reference[scan.imaging[0].slice] = shift
        source = "of the sharpest image; no line is marked as reversed"
    elif both:
        for counter in sorted({line.slice for line in scan.reference}):
            lines = [line for line in scan.reference if line.slice == counter]
            if len({line.reversed for line in lines}) > 1:
                reference[counter] = _shift(scan, header, lines)
    if not ramps and not reference:
        return scan, (("EPI: reversed lines turned, without reference for their delay",) if both else ())
    shared = next(iter(reference.values()), ReadoutShift(0.0, 0.0))

    def corrected(line: Line) -> Line:
        samples = header.encoded.matrix[0]
        matrix = echo_planar_matrix(
            _positions(scan, header, line),
            -1 if line.reversed else 1,
            samples,
            reference.get(line.slice, shared),
        )
        data = (line.data @ matrix.T).astype(np.complex64)
        return line._replace(data=data, reversed=False, center=samples // 2)

    notes = ["EPI: samples of the ramps put on a uniform grid"] if ramps else []
    if reference:
        delays = ", ".join(f"{shift.delay:.3f}" for shift in reference.values())
        notes.append(f"EPI: odd/even delay of {delays} samples {source}")
    imaging, calibration = ([corrected(line) for line in some] for some in (scan.imaging, scan.calibration))
    return scan._replace(imaging=imaging, calibration=calibration), tuple(notes)


def _unmarked(scan: Scan, header: ISMRMRDHeader) -> tuple[Scan, ReadoutShift] | None:
    """The scan with every second line marked as reversed and its shift, if its image is sharper so."""
    marked = [line._replace(reversed=bool(i % 2)) for i, line in enumerate(scan.imaging)]
    first = [line for line in marked if line.slice == marked[0].slice]
    first = sorted((line for line in first if line.step[1] == first[0].step[1]), key=lambda line: line.step)
    sharpest = []
    for lines in (first, [line._replace(reversed=False) for line in first]):
        polarity = np.where([line.reversed for line in lines], -1, 1)
        positions = np.stack([_positions(scan, header, line) for line in lines])
        sharpest.append(echo_planar_focus(np.stack([line.data for line in lines]), positions, polarity))
    (shift, turned), (_, plain) = sharpest
    return (scan._replace(imaging=marked), shift) if turned * _SHARPER < plain else None


def _shift(scan: Scan, header: ISMRMRDHeader, lines: list[Line]) -> ReadoutShift:
    polarity = np.where([line.reversed for line in lines], -1, 1)
    positions = np.stack([_positions(scan, header, line) for line in lines])
    return echo_planar_shift(np.stack([line.data for line in lines]), positions, polarity)


def _positions(scan: Scan, header: ISMRMRDHeader, line: Line) -> np.ndarray:
    """Nominal positions of a readout in cycles per pixel of the encoded grid."""
    samples, readout = line.data.shape[1], header.encoded.matrix[0]
    ramps = _ramps(header.timing)
    if ramps:
        up, top, down, delay, dwell = ramps
        times = delay + dwell * (np.arange(samples) + 0.5)
        if times[-1] > up + top + down or delay < 0:
            found = f"{samples} samples of {dwell} us after {delay} us"
            expected = f"a readout within its gradient of {up + top + down} us"
            raise DataError(scan.path, f"{scan.key}[{line.number}]", expected, found)
        ends = trapezoid_positions(delay + dwell * np.array([0, samples]), up, top, down)
        k = trapezoid_positions(times, up, top, down) / np.ptp(ends)
        return k if not line.reversed else -k
    if samples != readout:
        expected = f"readouts of the {readout} samples of the encoded matrix"
        raise DataError(scan.path, f"{scan.key}[{line.number}]", expected, f"{samples} samples")
    k = (np.arange(samples) - samples // 2) / readout
    return k[::-1] if line.reversed else k


def _ramps(timing: Mapping[str, float]) -> tuple[float, ...] | None:
    """Durations in microseconds, or None where there is no ramp or the header does not time it."""
    if not set(_RAMP) <= timing.keys() or timing["rampUpTime"] + timing["rampDownTime"] <= 0:
        return None
    return tuple(timing[name] for name in _RAMP)
