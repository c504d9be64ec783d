"""Raw data of Siemens scanners (twix ``.dat`` files, VB to XA) in the form of other measurements.

Needs the package ``twixtools``, which the extra ``fedrecon[twix]`` installs.
"""

import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.data.formats.hdf5 import DataError
from fedrecon.data.formats.ismrmrd import EncodingSpace, ISMRMRDHeader
from fedrecon.data.formats.ismrmrd_files import RawMeasurement, cartesian_measurement
from fedrecon.data.formats.lines import (
    CALIBRATION,
    COUNTERS,
    IMAGING,
    NOISE,
    REFERENCE,
    Line,
    sort_lines,
)
from fedrecon.errors import ArgumentError

# What a file begins with: the length of its header and the number of its parts, or the number of scans.
_BEGIN = struct.Struct("<II12s")
_NAMES = {"contrast": "Eco", "phase": "Phs", "repetition": "Rep", "set": "Set"}
_LEFT_OUT = ("ACQEND", "SYNCDATA", "RTFEEDBACK", "HPFEEDBACK", "REFPHASESTABSCAN", "PHASESTABSCAN")
_MULTIBAND = ("SLICE_ACCEL_REFSCAN", "SLICE_ACCEL_PHASCOR")
# Timestamps of acquisitions count these milliseconds; echo trains are faster than any repetition time.
_TICK, _ECHO_SPACING = 2.5, 1.5
_TRAPEZOID = 2


def is_twix(path: str | os.PathLike) -> bool:
    """Whether a file begins as Siemens raw data do."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        begin = file.read(_BEGIN.size)
        if len(begin) < _BEGIN.size:
            return False
        length, count, name = _BEGIN.unpack(begin)
        if length >= 10000:
            return name.startswith(b"Config\0")
        # Several scans: a table of them, with measurement and file number, offset and length.
        if not 1 <= count <= 64:
            return False
        file.seek(struct.unpack("<Q", begin[16:20] + file.read(4))[0])
        return file.read(_BEGIN.size)[8:].startswith(b"Config\0")


def read_twix(
    path: str | os.PathLike, *, select: Mapping[str, int] | None = None, remove_oversampling: bool = True
) -> RawMeasurement:
    """Reads the last scan of a file whole, and the noise of all of them; the others are adjustments.

    As for ISMRMRD files, see `read_ismrmrd`. Ramps of trapezoidal readouts are put on a uniform grid. Where
    no line is marked as reversed although readouts follow each other as fast as only echo trains do (as
    Pulseq sequences without labels measure), every second one is turned if the image is sharper so; the delay
    between both directions is then that of the sharpest image. The size of voxels is that of the protocol,
    and not known where the protocol does not have the readouts of the data.

    Args:
      path: the file.
      select: values of the counters ``contrast`` (Eco), ``phase`` (Phs), ``repetition`` (Rep), ``set`` (Set).
      remove_oversampling: see `read_ismrmrd`.

    Raises:
      DataError: damaged or without its end, not Cartesian, simultaneous slices, readouts on sinusoidal
        gradients, or what `read_ismrmrd` raises.
      ValueError: ``select`` names no counter.
      ImportError: the package ``twixtools`` is not installed.
    """
    select = dict(select or {})
    if not select.keys() <= _NAMES.keys():
        raise ArgumentError("select", f"some of the counters {tuple(_NAMES)}", sorted(select))
    headers, lines, train = read_twix_lines(path)
    scan = sort_lines(path, "data", lines, select)
    header = _Protocol(path, headers).header(scan.imaging, scan.calibration)
    return cartesian_measurement(scan, header, remove_oversampling, train=train)


def read_twix_lines(path: str | os.PathLike) -> tuple[Mapping[str, Any], list[Line], bool]:
    """Headers of the scanner, the readouts that are for something, and whether they are echo trains.

    See `read_twix` for errors.
    """
    try:
        import twixtools
    except ImportError as error:
        raise ImportError("Siemens raw data need an extra: pip install 'fedrecon[twix]'") from error
    if not Path(path).suffix:
        raise DataError(path, None, "Siemens raw data with a suffix in its name, as .dat", "none")
    try:
        scans = twixtools.read_twix(
            os.path.realpath(path), parse_pmu=False, parse_geometry=False, verbose=False, keep_acqend=True
        )
    # The package reports damage as ValueError, IndexError, UnicodeDecodeError, OSError, ...
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise DataError(path, None, "readable Siemens raw data", found) from error
    blocks = scans[-1]["mdb"]
    if not blocks or not blocks[-1].is_flag_set("ACQEND"):
        raise DataError(path, None, "a measurement with its end", f"{len(blocks)} readouts without it")
    lines = [line for i, block in enumerate(blocks) if (line := _line(path, i, block)) is not None]
    if not any(IMAGING in line.roles for line in lines):
        raise DataError(path, "data", "readouts of an image", f"{len(lines)} readouts of other kinds")
    coils = len(lines[0].data)
    for scan in scans[:-1]:
        others = [_line(path, i, b) for i, b in enumerate(scan["mdb"]) if b.is_flag_set("NOISEADJSCAN")]
        lines += [line for line in others if line is not None and len(line.data) == coils]
    return scans[-1]["hdr"], lines, _is_train(blocks)


def _line(path: str | os.PathLike, number: int, block: Any) -> Line | None:
    flags = set(block.get_active_flags())
    if flags.intersection(_LEFT_OUT):
        return None
    if flags.intersection(_MULTIBAND):
        raise DataError(path, f"data[{number}]", "slices one after the other", "simultaneous slices")
    header = block.mdh
    try:
        data = np.array(block.data, np.complex64)
    except Exception as error:
        raise DataError(path, f"data[{number}]", "a readable readout", f"{error}") from error
    first, last = int(header.CutOff.Pre), data.shape[1] - int(header.CutOff.Post)
    if first >= last:
        found = f"{data.shape[1]}, all cut off"
        raise DataError(path, f"data[{number}]", "samples that are not cut off", found)
    if "NOISEADJSCAN" in flags:
        roles = {NOISE}
    elif "PHASCOR" in flags:
        roles = {REFERENCE}
    else:
        roles = {CALIBRATION} if flags & {"PATREFSCAN", "PATREFANDIMASCAN"} else set()
        if not roles or "PATREFANDIMASCAN" in flags:
            roles.add(IMAGING)
    counter, place = header.Counter, header.SliceData.SlicePos
    values = {name: int(getattr(counter, theirs)) for name, theirs in _NAMES.items()}
    return Line(
        number=number,
        roles=frozenset(roles),
        counters={name: values.get(name, 0) for name in COUNTERS},
        step=(int(counter.Lin), int(counter.Par)),
        slice=int(counter.Sli),
        center=int(header.CenterCol) - first,
        data=data[:, first:last],
        reversed="REFLECT" in flags,
        trajectory=np.zeros((last - first, 0), np.float32),
        position=np.array([place.Sag, place.Cor, place.Tra], np.float64),
        normal=_normal(header.SliceData.Quaternion),
        centers=(int(header.CenterLin), int(header.CenterPar)),
    )


def _normal(quaternion: Sequence[float]) -> np.ndarray:
    """What a rotation (scalar first) makes of the third axis."""
    r, i, j, k = (float(value) for value in quaternion)
    return np.array([2 * (i * k + j * r), 2 * (j * k - i * r), 1 - 2 * (i**2 + j**2)])


def _is_train(blocks: Sequence[Any]) -> bool:
    """Whether readouts follow each other faster than excitations can."""
    times = [int(b.mdh.TimeStamp) for b in blocks if b.is_image_scan()]
    return len(times) > 8 and (times[-1] - times[0]) * _TICK < _ECHO_SPACING * (len(times) - 1)


class _Protocol:
    """What the operator prescribed, from the headers of the scanner."""

    def __init__(self, path: str | os.PathLike, headers: Mapping[str, Any]) -> None:
        self.path = path
        self.scanner = headers.get("Meas", {})
        self.yaps = headers.get("MeasYaps", {})

    def _number(self, *names: str, default: float = 0.0) -> float:
        """A number of the protocol by its names from the outside to the inside."""
        value: Any = self.yaps
        for name in names:
            if isinstance(value, list):
                value = value[0] if value else None
            value = value.get(name) if isinstance(value, Mapping) else None
        try:
            return float(int(value, 0) if isinstance(value, str) else value)
        except (TypeError, ValueError):
            return default

    def header(self, imaging: list[Line], calibration: list[Line]) -> ISMRMRDHeader:
        """Spaces of the lines as an ISMRMRD header has them."""
        if self._number("sKSpace", "ucTrajectory", default=1) != 1:
            expected = "a Cartesian trajectory (else convert it to ISMRMRD with its trajectory)"
            found = f"kind {self._number('sKSpace', 'ucTrajectory'):.0f}"
            raise DataError(self.path, "sKSpace.ucTrajectory", expected, found)
        lines = [*imaging, *calibration]
        timing = self._timing(imaging[0].data.shape[1])
        base = int(self._number("sKSpace", "lBaseResolution"))
        # Half of a partial echo's longer part would be missing at the other end.
        longest = max(max(2 * line.center, 2 * (line.data.shape[1] - line.center)) for line in lines)
        readout = 2 * base if base and base < longest <= 2 * base else longest
        if timing:
            readout = base
        stated = (self.scanner.get("iPEFTLength"), self.scanner.get("i3DFTLength"))
        axes = [_axis(lines, axis, stated[axis]) for axis in (0, 1)]
        views = [self._number("sSliceArray", "asSlice", name) for name in ("dReadoutFOV", "dPhaseFOV")]
        thick = self._number("sSliceArray", "asSlice", "dThickness")
        oversampled = [
            1 + self._number("sKSpace", name)
            for name in ("dPhaseOversamplingForDialog", "dSliceOversampling")
        ]
        matrix = (readout, axes[0][0], axes[1][0])
        known = base and readout % base == 0 and min(*views, thick) > 0
        prescribed = (
            min(base or readout, readout),
            max(round(matrix[1] / oversampled[0]), 1),
            max(round(matrix[2] / oversampled[1]), 1),
        )
        encoded_view = recon_view = None
        if known:
            recon_view = (views[0], views[1], thick)
            slab = thick * (oversampled[1] if matrix[2] > 1 else 1)
            encoded_view = (views[0] * readout / base, views[1] * oversampled[0], slab)
        modes = {2: "embedded", 4: "separate", 8: "separate"}
        return ISMRMRDHeader(
            encoded=EncodingSpace(matrix, encoded_view),
            recon=EncodingSpace(prescribed if known else matrix, recon_view),
            centers=(axes[0][1], axes[1][1]),
            calibration_mode=modes.get(int(self._number("sPat", "ucRefScanMode"))),
            timing=timing,
        )

    def _timing(self, samples: int) -> dict[str, float]:
        """Of readouts on ramps, in microseconds; empty for readouts on a flat top."""

        def first(name: str) -> float:
            value = self.scanner.get(name, 0)
            return float((value[0] if isinstance(value, list) and value else value) or 0)

        mode = first("alRegridMode")
        if mode <= 1:
            return {}
        if mode != _TRAPEZOID:
            raise DataError(self.path, "alRegridMode", "trapezoidal readouts (2)", f"{mode:.0f}")
        return {
            "rampUpTime": first("alRegridRampupTime"),
            "flatTopTime": first("alRegridFlattopTime"),
            "rampDownTime": first("alRegridRampdownTime"),
            "acqDelayTime": first("alRegridDelaySamplesTime"),
            "dwellTime": first("aflRegridADCDuration") / samples,
        }


def _axis(lines: Sequence[Line], axis: int, stated: Any) -> tuple[int, int | None]:
    """The length of a phase encoding and its counter at DC, None where the file does not tell."""
    steps = [line.step[axis] for line in lines]
    first, last = min(steps), max(steps)
    center = lines[0].centers[axis]
    if center == 0:
        return last + 1, None
    # Lines that partial Fourier leaves out belong to the matrix.
    length = 2 * max(center - first, last + 1 - center)
    if isinstance(stated, int | float) and length <= stated <= 2 * length:
        length = int(stated)
    return length, center
