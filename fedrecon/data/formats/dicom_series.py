"""Slices of a DICOM series: in which order, how far apart and where in the patient they lie."""

import dataclasses
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from fedrecon.data.formats.dicom_elements import read_headers
from fedrecon.data.formats.dicom_frames import Frame, frames_of
from fedrecon.data.formats.hdf5 import DataError
from fedrecon.errors import ArgumentError

# What may tell images of one series at one place apart.
_SELECTORS = (
    "SeriesInstanceUID",
    "StackID",
    "FrameType",
    "ImageType",
    "ComplexImageComponent",
    "EchoNumbers",
    "EchoTime",
    "EffectiveEchoTime",
    "InversionTime",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "NominalPercentageOfCardiacPhase",
    "TriggerTime",
    "AcquisitionNumber",
    "FrameAcquisitionNumber",
    "ConvolutionKernel",
    "ContrastBolusAgent",
)
# Degrees below which the direction of the slices is that of their normal apart from rounding.
_UPRIGHT = 0.05


@dataclasses.dataclass(frozen=True)
class DicomSlices:
    """Slices of one series, in the order of their positions along the normal of the slices.

    Attributes:
      values: float32 ``(slices, ny, nx)`` after rescaling: Hounsfield units of CT, else what the scanner
        stores.
      spacing: ``(z, y, x)`` in mm; z is the distance of neighboring slices along their normal, and the slice
        thickness where there is one slice.
      positions: float64 ``(slices, 3)``, center of the first pixel in the patient's coordinates, mm, as
        stored.
      orientation: float64 ``(2, 3)``, unit vectors along a row (x) and along a column (y).
      manufacturer: as the file states it, else empty.
      modality: as the file states it, else empty.
    """

    values: np.ndarray
    spacing: tuple[float, float, float]
    positions: np.ndarray
    orientation: np.ndarray
    manufacturer: str = ""
    modality: str = ""

    @property
    def hounsfield(self) -> np.ndarray:
        """The values, as one calls them in CT."""
        return self.values

    @property
    def affine(self) -> np.ndarray:
        """float64 (4, 4): the index (column, row, slice, 1) to the patient's coordinates (x, y, z, 1) in mm.

        x increases to the left, y to the back, z to the head, as in DICOM. NIfTI has x and y reversed:
        ``np.diag([-1, -1, 1, 1]) @ affine``. The third column is the step from slice to slice. It is not
        along the normal after a scan with a tilted gantry, see `tilt`.
        """
        result = np.eye(4)
        result[:3, 0] = self.orientation[0] * self.spacing[2]
        result[:3, 1] = self.orientation[1] * self.spacing[1]
        result[:3, 2] = _step(self.positions, self.orientation, self.spacing[0])
        result[:3, 3] = self.positions[0]
        return result

    @property
    def tilt(self) -> float:
        """Angle in degrees between the normal of the slices and the line on which their corners lie."""
        step = _step(self.positions, self.orientation, self.spacing[0])
        across = step @ np.cross(*self.orientation)
        beside = np.linalg.norm(step - across * np.cross(*self.orientation))
        return math.degrees(math.atan2(beside, abs(across)))


def read_dicom_slices(path: str | os.PathLike, select: Mapping[str, Any] | None = None) -> DicomSlices:
    """Reads the slices of one series of CT, MR or another modality with gray pictures.

    Plain files, enhanced multi-frame files (also converted ones), mosaics of Siemens and the VFRAME pictures
    of United Imaging are read, compressed or not. Each picture is rescaled by what is stated for it; where
    nothing is stated, which only CT does not allow, values are those stored.

    The distance of slices is that of the first and the last along the normal, over the number of steps:
    positions that are rounded to a tenth of a millimeter do not change it. With a tilted gantry slices are
    displaced against each other in their planes: values stay as they are, `DicomSlices.affine` is sheared,
    and a warning says so.

    Args:
      path: a file, or a folder all of whose files (except hidden ones and ``DICOMDIR``) are of the series.
      select: values of elements by their keyword in the standard, such as ``{"FrameType": "FIELD_MAP"}`` or
        ``{"AcquisitionNumber": 2}``, of the pictures to keep. One of several values of an element is enough.

    Raises:
      ArgumentError: ``select`` names an element or value that no picture has.
      DataError: there is no file, one is damaged or not DICOM, an element is missing or not a number,
        slices differ in series, shape, spacing or orientation, several are at one place (several phases,
        echoes or kinds of images: the message names what tells them apart), or their positions are not
        evenly spaced (a slice is missing).
      ImportError: pydicom is not installed.
    """
    frames = [frame for file, header in read_headers(path) for frame in frames_of(file, header)]
    frames = _selected(frames, select or {})
    first = frames[0]
    for frame in frames:
        if frame.get("SeriesInstanceUID") != first.get("SeriesInstanceUID"):
            raise DataError(frame.name, "SeriesInstanceUID", f"that of {first.name}", "another series")
        if frame.pixels.shape != first.pixels.shape:
            expected = f"shape {first.pixels.shape} as {first.name}"
            raise DataError(frame.name, "PixelData", expected, frame.pixels.shape)
    orientation = _orientation(frames)
    spacing = _agreed(frames, "PixelSpacing", 2)
    if spacing.min() <= 0:
        raise DataError(first.name, "PixelSpacing", "positive numbers", spacing.tolist())
    positions = np.stack([frame.numbers("ImagePositionPatient", 3) for frame in frames])
    order = np.argsort(positions @ np.cross(*orientation), kind="stable")
    frames, positions = [frames[i] for i in order], positions[order]
    result = DicomSlices(
        values=np.stack([frame.values() for frame in frames]),
        spacing=(_distance(frames, positions, orientation), float(spacing[0]), float(spacing[1])),
        positions=positions,
        orientation=orientation,
        manufacturer=str(first.get("Manufacturer") or ""),
        modality=str(first.get("Modality") or ""),
    )
    # Corners that are rounded lie beside the normal, too.
    beside = math.sin(math.radians(result.tilt)) * float(np.linalg.norm(positions[-1] - positions[0]))
    if result.tilt > _UPRIGHT and beside > 2 * _last_digit(frames):
        text = f"{path}: slices are displaced in their planes (gantry tilt of {result.tilt:.2f} degrees)"
        warnings.warn(f"{text}: use `affine`, which is sheared, not `spacing` alone", stacklevel=2)
    return result


def _selected(frames: list[Frame], select: Mapping[str, Any]) -> list[Frame]:
    for key, wanted in select.items():
        kept = [frame for frame in frames if _equal(frame.get(key), wanted)]
        if not kept:
            found = _listed(frame.get(key) for frame in frames)
            raise ArgumentError("select", f"a value of {key}: {found}", repr(wanted))
        frames = kept
    return frames


def _equal(value: Any, wanted: Any) -> bool:
    if _text(value) == _text(wanted):
        return True
    if not isinstance(value, str) and isinstance(value, Iterable):
        return any(_equal(part, wanted) for part in value)
    try:
        return float(value) == float(wanted)
    except (TypeError, ValueError):
        return False


def _text(value: Any) -> str:
    several = not isinstance(value, str) and isinstance(value, Iterable)
    return "\\".join(map(str, value)) if several else str(value)


def _listed(values: Iterable[Any]) -> str:
    texts = list(dict.fromkeys("absent" if value is None else _text(value) for value in values))
    return ", ".join(texts[:6]) + (f" and {len(texts) - 6} others" if len(texts) > 6 else "")


def _orientation(frames: Sequence[Frame]) -> np.ndarray:
    result = _agreed(frames, "ImageOrientationPatient", 6).reshape(2, 3)
    if np.abs(result @ result.T - np.eye(2)).max() > 1e-3:
        expected = "two unit vectors at a right angle"
        raise DataError(frames[0].name, "ImageOrientationPatient", expected, result.ravel().tolist())
    return result


def _agreed(frames: Sequence[Frame], key: str, count: int) -> np.ndarray:
    first = frames[0].numbers(key, count)
    for frame in frames[1:]:
        value = frame.numbers(key, count)
        if not np.allclose(value, first, atol=1e-4):
            raise DataError(frame.name, key, f"{first.tolist()} as {frames[0].name}", value.tolist())
    return first


def _distance(frames: Sequence[Frame], positions: np.ndarray, orientation: np.ndarray) -> float:
    """Of neighboring slices along their normal; slices are sorted."""
    if len(frames) == 1:
        thickness = float(frames[0].numbers("SliceThickness", 1)[0])
        if thickness <= 0:
            raise DataError(frames[0].name, "SliceThickness", "a positive number", thickness)
        return thickness
    along = positions @ np.cross(*orientation)
    gaps = np.diff(along)
    step = float(np.median(gaps))
    if (gaps < 1e-3).any():
        index = int(np.argmin(gaps)) + 1
        together = [f for f, a in zip(frames, along, strict=True) if abs(a - along[index]) < 1e-3]
        _refuse_several(frames, together, step)
    off = _departures(positions, frames)
    if off.any():
        _refuse_series_side_by_side(frames, positions)
        # What lies across the widest departure from the common gap.
        later = int(np.argmax(np.abs(gaps - step))) + 1
        found = f"{gaps[later - 1]:.6g} mm"
        if abs(gaps[later - 1] - step) < 0.01 * step + 0.01:
            later = int(np.argmax(off))
            found = "one displaced in its plane against the others"
        expected = f"slices {step:.6g} mm apart"
        raise DataError(frames[later].name, "ImagePositionPatient", expected, found)
    return float((along[-1] - along[0]) / (len(frames) - 1))


def _departures(positions: np.ndarray, frames: Sequence[Frame]) -> np.ndarray:
    """True where a corner is not on the line of equal steps from the first to the last."""
    count = len(positions)
    step = (positions[-1] - positions[0]) / max(count - 1, 1)
    line = positions[0] + np.arange(count)[:, None] * step
    length = float(np.linalg.norm(step))
    # Without the middle of five slices the others are off by a quarter of a step.
    tolerance = min(max(_last_digit(frames), 0.01 * length + 0.01), 0.2 * length)
    return (np.abs(positions - line) > tolerance * (1 + 1e-6)).any(1)


def _last_digit(frames: Sequence[Frame]) -> float:
    """Value in mm of the last digit that positions are written with, at most 0.1."""
    digits = 1
    for frame in frames:
        for value in frame.get("ImagePositionPatient"):
            text = getattr(value, "original_string", None) or repr(float(value))
            exponent = Decimal(text.strip()).normalize().as_tuple().exponent
            digits = max(digits, -int(exponent))
    return 10.0**-digits


def _step(positions: np.ndarray, orientation: np.ndarray, distance: float) -> np.ndarray:
    if len(positions) == 1:
        return distance * np.cross(*orientation)
    return (positions[-1] - positions[0]) / (len(positions) - 1)


def _varying(frames: Sequence[Frame]) -> dict[str, list[Any]]:
    """Values of the elements that tell these frames apart."""
    found = {key: [frame.get(key) for frame in frames] for key in _SELECTORS}
    return {key: values for key, values in found.items() if len(set(map(_text, values))) > 1}


def _refuse_several(frames: Sequence[Frame], together: Sequence[Frame], step: float) -> None:
    differences = _varying(together)
    name = together[-1].name
    if not differences:
        expected = f"slices {step:.6g} mm apart"
        raise DataError(name, "ImagePositionPatient", expected, f"0 mm: {len(together)} at the same place")
    text = "; ".join(f"{key} is one of {_listed(values)}" for key, values in differences.items())
    key = next(iter(differences))
    hint = f"keep some with select={{{key!r}: ...}}"
    found = f"{len(together)}, which differ ({text}); {hint}"
    raise DataError(name, "ImagePositionPatient", "one picture at each place", found)


def _refuse_series_side_by_side(frames: Sequence[Frame], positions: np.ndarray) -> None:
    """Says so where an element divides the slices into evenly spaced stacks."""
    for key, values in _varying(frames).items():
        texts = np.array([_text(value) for value in values])
        groups = [np.flatnonzero(texts == text) for text in dict.fromkeys(texts)]
        if min(map(len, groups)) > 1 and not any(
            _departures(positions[group], [frames[int(i)] for i in group]).any() for group in groups
        ):
            found = f"{len(groups)} stacks, whose {key} is {_listed(values)}"
            hint = f"keep one with select={{{key!r}: ...}}"
            raise DataError(frames[0].name, "ImagePositionPatient", "one stack", f"{found}; {hint}")
