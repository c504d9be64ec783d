"""Projections of CT in the DICOM-CT-PD format.

Needs the package ``pydicom``, which the extra ``fedrecon[dicom]`` installs.
"""

import dataclasses
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.data.formats.dicom_elements import numbers, read_headers, rescaled, stored_pixels
from fedrecon.data.formats.hdf5 import DataError


@dataclasses.dataclass(frozen=True)
class DicomProjections:
    """Measured projections and their geometry, as the DICOM-CT-PD header states it.

    The focal center of view v lies at ``(-d sin a, d cos a)`` in the plane across the rotation axis, a being
    ``angles[v]`` and d ``source_distance[v]``: the view's angle in the conventions of `operators` is
    ``a + pi``. Lengths are in mm, angles in radians.

    Attributes:
      values: float32 ``(views, rows, columns)`` line integrals, corrected by the scanner.
      angles: float64 ``(views,)`` of the focal center.
      axial_positions: float64 ``(views,)`` of the focal center along the rotation axis.
      source_distance: float64 ``(views,)`` of the focal center from the rotation axis.
      source_detector_distance: float64 ``(views,)`` from the focal center to the detector.
      shifts: float64 ``(views, 3)``, by which the focal spot differs from its center (flying focal spot):
        angle, axial position, distance from the axis.
      detector_shape: ``"CYLINDRICAL"``, ``"SPHERICAL"`` or ``"FLAT"``.
      spacing: (row, column) distance of neighboring elements on the detector.
      central_element: (row, column), the element, counted from 0 with a fraction, that the ray through the
        rotation axis meets.
      photons: float64 ``(views, columns)`` number of photons of a ray without object; None when not stated.
    """

    values: np.ndarray
    angles: np.ndarray
    axial_positions: np.ndarray
    source_distance: np.ndarray
    source_detector_distance: np.ndarray
    shifts: np.ndarray
    detector_shape: str
    spacing: tuple[float, float]
    central_element: tuple[float, float]
    photons: np.ndarray | None = None


def read_dicom_ct_pd(path: str | os.PathLike) -> DicomProjections:
    """Reads projections in the DICOM-CT-PD format, one file per view, in the order of ``InstanceNumber``.

    Args:
      path: a file, or a folder all of whose files (except hidden ones and ``DICOMDIR``) are views.

    Raises:
      DataError: there is no file, one is damaged or not DICOM, an element is missing or not a number, or the
        views differ in shape or detector.
      ImportError: pydicom is not installed.

    Source: Chen et al., "Development and validation of an open data format for CT projection data", Med.
    Phys. 42:6964, 2015.
    """
    files = read_headers(path)
    for name, header in files:
        if not any(tag in header for tag, _, _ in _TAGS.values()):
            raise DataError(
                name, None, "a view of projections in the DICOM-CT-PD format", _other_kind(header)
            )
    files.sort(key=lambda item: numbers(item[0], item[1], "InstanceNumber", 1)[0])
    name, header = files[0]
    rows, columns = (int(_private(name, header, tag, 1)[0]) for tag in ("rows", "columns"))
    views = []
    for file, view in files:
        image = rescaled(file, view, stored_pixels(file, view))
        # The format stores the elements of one detector column in one row of the picture.
        if image.shape != (columns, rows):
            raise DataError(file, "PixelData", f"shape {(columns, rows)} (columns, rows)", image.shape)
        views.append(image.T)

    def per_view(*names, default=None):
        return np.stack(
            [np.concatenate([_private(f, view, n, 1, default) for n in names]) for f, view in files]
        )

    def agreed(key, count):
        first = _private(name, header, key, count)
        for file, view in files[1:]:
            value = _private(file, view, key, count)
            if not np.array_equal(value, first):
                raise DataError(file, _label(key), f"{first.tolist()} as {name}", value.tolist())
        return first

    central = agreed("central_element", 2)
    shape = header.get(_TAGS["shape"][0])
    shape = "" if shape is None else shape.value
    shape = (shape.decode(errors="replace") if isinstance(shape, bytes) else str(shape)).strip(" \0")
    if shape not in ("CYLINDRICAL", "SPHERICAL", "FLAT"):
        raise DataError(name, _label("shape"), "CYLINDRICAL, SPHERICAL or FLAT", repr(shape))
    photons = None
    if _TAGS["photons"][0] in header:
        photons = np.stack([_private(file, view, "photons", columns) for file, view in files])
    return DicomProjections(
        values=np.stack(views),
        angles=per_view("angle")[:, 0],
        axial_positions=per_view("axial")[:, 0],
        source_distance=per_view("radial")[:, 0],
        source_detector_distance=per_view("constant_radial")[:, 0],
        shifts=per_view("shift_angle", "shift_axial", "shift_radial", default=0.0),
        detector_shape=shape,
        spacing=(float(agreed("row_spacing", 1)[0]), float(agreed("column_spacing", 1)[0])),
        central_element=(float(central[1]) - 1, float(central[0]) - 1),
        photons=photons,
    )


def _other_kind(header: Any) -> str:
    kind = getattr(header.get("SOPClassUID"), "name", None) or "DICOM of no stated kind"
    if "PixelData" not in header:
        return str(kind)
    return f"{kind}: pictures already, which fedrecon.data.read_dicom_slices reads"


# Tags of the format, the type of their values, and their names in its dictionary.
_TAGS = {
    "column_spacing": (0x70291002, "f", "DetectorElementTransverseSpacing"),
    "row_spacing": (0x70291006, "f", "DetectorElementAxialSpacing"),
    "shape": (0x7029100B, "s", "DetectorShape"),
    "rows": (0x70291010, "H", "NumberofDetectorRows"),
    "columns": (0x70291011, "H", "NumberofDetectorColumns"),
    "angle": (0x70311001, "f", "DetectorFocalCenterAngularPosition"),
    "axial": (0x70311002, "f", "DetectorFocalCenterAxialPosition"),
    "radial": (0x70311003, "f", "DetectorFocalCenterRadialDistance"),
    "constant_radial": (0x70311031, "f", "ConstantRadialDistance"),
    "central_element": (0x70311033, "f", "DetectorCentralElement"),
    "shift_angle": (0x7033100B, "f", "SourceAngularPositionShift"),
    "shift_axial": (0x7033100C, "f", "SourceAxialPositionShift"),
    "shift_radial": (0x7033100D, "f", "SourceRadialDistanceShift"),
    "photons": (0x70331065, "f", "PhotonStatistics"),
}


def _private(name: Path, header: Any, key: str, count: int, default: float | None = None) -> np.ndarray:
    """A private element as float64 ``(count,)``, whether or not the file states its type."""
    tag, kind, _ = _TAGS[key]
    if tag not in header:
        if default is not None:
            return np.full(count, default)
        raise DataError(
            name, _label(key), "a number" if count == 1 else f"{count} numbers", "no such element"
        )
    value = header[tag].value
    try:
        if isinstance(value, bytes):
            value = struct.unpack(f"<{len(value) // struct.calcsize(kind)}{kind}", value)
        values = np.atleast_1d(np.asarray(value, float))
    except (struct.error, ValueError, TypeError) as error:
        raise DataError(name, _label(key), f"{count} numbers", repr(value)[:80]) from error
    if values.shape != (count,) or not all(map(math.isfinite, values)):
        raise DataError(name, _label(key), f"{count} numbers", repr(value)[:80])
    return values


def _label(key: str) -> str:
    tag, _, name = _TAGS[key]
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {name}"
