"""CT measurements of any supported file format, in one form."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import operators
from fedrecon.data.formats.ct_files import Sinogram, read_htc, read_lodopab, read_tomography
from fedrecon.data.formats.dicom_ct import read_dicom_ct_pd
from fedrecon.data.formats.hdf5 import DataError, open_hdf5
from fedrecon.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class CTMeasurement:
    """Line integrals, their geometry and the grid of the images to reconstruct.

    Attributes:
      format: of the file, in words.
      values: float32 line integrals: ``(slices, views, detectors)`` of one planar geometry for all slices, or
        ``(views, rows, columns)`` of a cone beam.
      geometry: as `operators.Radon` takes it.
      image_shape: ``(ny, nx)`` of a slice, or ``(nz, ny, nx)`` of the volume of a cone beam.
      pixel_size: width of the pixels (of the voxels of a cone beam), in ``unit``.
      slice_distance: in ``unit``, the height of the voxels of a cone beam; of slices without a common place
        ``pixel_size``.
      unit: of all lengths, ``"mm"`` or ``"pixel"``.
      height: z of the middle slice in the scanner's coordinates, in ``unit``.
    """

    format: str
    values: np.ndarray
    geometry: Any
    image_shape: tuple[int, ...]
    pixel_size: float
    slice_distance: float
    unit: str
    height: float = 0.0

    @property
    def slices(self) -> int:
        """Number of slices of the reconstruction."""
        return self.image_shape[0] if len(self.image_shape) == 3 else len(self.values)


def is_ct(path: str | os.PathLike) -> bool:
    """Whether a file is one that `read_ct_measurement` is made for: a folder, DICOM, or HDF5 of sinograms."""
    return _format(path) is not None


def read_ct_measurement(
    path: str | os.PathLike,
    *,
    group: str | None = None,
    image_shape: Sequence[int] | None = None,
    pixel_size: float | None = None,
    element_size: float | None = None,
) -> CTMeasurement:
    """Reads a tomography, Helsinki challenge or LoDoPaB HDF5 file, or a folder of DICOM-CT-PD views.

    What the arguments leave open is as the file has it, else such that the circle that all views see fills
    the image with pixels of the width of a detector element at the rotation axis; voxels of a cone beam are
    as high as such an element.

    Args:
      path: the file or folder.
      group: name of the arc of a file of the Helsinki challenge that has several.
      image_shape: (ny, nx).
      pixel_size: in the unit of the result.
      element_size: width in mm of what a tomography file takes as its unit of length; None: lengths stay in
        these elements.

    Raises:
      DataError: the file is of another kind or damaged.
      ArgumentError: an argument does not fit the file.
      ImportError: DICOM without the package pydicom.
    """
    format = _format(path)
    if format is None:
        expected = "'sinogram' and 'angles_deg', groups of these, 'data' (LoDoPaB), or DICOM-CT-PD"
        raise DataError(path, None, expected, "another kind of file")
    if image_shape is not None and (len(image_shape) != 2 or min(image_shape) < 1):
        raise ArgumentError("image_shape", "two positive numbers (ny, nx)", tuple(image_shape))
    if pixel_size is not None and not 0 < pixel_size < math.inf:
        raise ArgumentError("pixel_size", "a positive number", pixel_size)
    if element_size is not None and format != "tomography":
        raise ArgumentError("element_size", f"none with the {format} file {path}", element_size)
    if element_size is not None and not 0 < element_size < math.inf:
        raise ArgumentError("element_size", "a positive number", element_size)
    if group is not None and format != "Helsinki challenge":
        raise ArgumentError("group", f"none with the {format} file {path}", repr(group))
    if format == "DICOM-CT-PD":
        return _cone(path, image_shape, pixel_size)
    scan = _sinogram(path, format, group)
    if element_size is not None:
        scan = dataclasses.replace(
            scan,
            unit="mm",
            detector_spacing=scan.detector_spacing * element_size,
            axis_offset=scan.axis_offset * element_size,
        )
    values = scan.values.reshape(-1, *scan.values.shape[-2:])
    shape = None if scan.image is None else scan.image.shape[-2:]
    shape = shape if image_shape is None else tuple(image_shape)
    # A pixel size that goes with an image holds for the image's shape alone.
    stated = scan.pixel_size if image_shape is None else None
    shape, pixel = _grid(scan.geometry, shape, pixel_size or stated)
    # Rows of one detector lie beside each other; the images of a data set have nothing to do with each other.
    distance = scan.detector_spacing if format == "tomography" else pixel
    return CTMeasurement(format, values, scan.geometry, shape, pixel, distance, scan.unit)


def _format(path: str | os.PathLike) -> str | None:
    path = Path(path)
    if path.is_dir() or path.suffix.lower() in (".dcm", ".ima"):
        return "DICOM-CT-PD"
    if not path.is_file() or not h5py.is_hdf5(path):
        return None
    with open_hdf5(path) as file:
        if {"sinogram", "angles_deg"} <= set(file):
            return "tomography"
        if any(isinstance(entry, h5py.Group) and "sinogram" in entry for entry in file.values()):
            return "Helsinki challenge"
        if (
            isinstance(file.get("data"), h5py.Dataset)
            and file["data"].ndim == 3
            and file["data"].dtype.kind == "f"
        ):
            return "LoDoPaB"
    return None


def _sinogram(path: str | os.PathLike, format: str, group: str | None) -> Sinogram:
    if format == "tomography":
        return read_tomography(path)
    if format == "LoDoPaB":
        return read_lodopab(path)
    arcs = read_htc(path)
    if group is None and len(arcs) == 1:
        return next(iter(arcs.values()))
    if group not in arcs:
        raise ArgumentError("group", f"one of {', '.join(arcs)}", repr(group))
    return arcs[group]


def _cone(
    path: str | os.PathLike, image_shape: Sequence[int] | None, pixel_size: float | None
) -> CTMeasurement:
    scan = read_dicom_ct_pd(path)
    rows, columns = scan.values.shape[1:]
    row, column = scan.central_element
    tags = {
        "DetectorFocalCenterAngularPosition": scan.angles,
        "DetectorFocalCenterAxialPosition": scan.axial_positions,
        "DetectorFocalCenterRadialDistance": scan.source_distance,
        "ConstantRadialDistance": scan.source_detector_distance,
        "DetectorCentralElement": (column + 1, row + 1),
        "NumberofDetectorColumns": columns,
        "NumberofDetectorRows": rows,
        "DetectorElementTransverseSpacing": scan.spacing[1],
        "DetectorElementAxialSpacing": scan.spacing[0],
        "DetectorShape": scan.detector_shape,
        "SourceAngularPositionShift": scan.shifts[:, 0],
        "SourceAxialPositionShift": scan.shifts[:, 1],
        "SourceRadialDistanceShift": scan.shifts[:, 2],
    }
    try:
        geometry = operators.ct.from_dicom_ct_pd(tags)
    except ValueError as error:
        raise DataError(path, None, "a circle or helix with a focal spot at rest", error) from error
    low, high = scan.axial_positions.min(), scan.axial_positions.max()
    middle = float(low + high) / 2
    geometry = dataclasses.replace(geometry, axial_offset=geometry.axial_offset - middle)
    shape, pixel = _grid(geometry, image_shape and tuple(image_shape), pixel_size)
    # A circle sees what its rows span at the axis, a helix what its source passes by.
    shrink = float(geometry.source_distance / (geometry.source_distance + geometry.detector_distance))
    extent = float(high - low) or rows * scan.spacing[0] * shrink
    # Voxels are as high as rows there: elements need not be as high as wide.
    height = scan.spacing[0] * shrink
    shape = (max(round(extent / height), 1), *shape)
    # The format's rows descend in z, those of the geometry ascend.
    values = np.ascontiguousarray(scan.values[:, ::-1])
    return CTMeasurement("DICOM-CT-PD", values, geometry, shape, pixel, height, "mm", middle)


def _grid(geometry: Any, shape: Any, pixel_size: float | None) -> tuple[tuple[int, int], float]:
    """(ny, nx) and the width of pixels: what is None follows from the circle that all views see."""
    columns, spacing = geometry.shape[-1], float(np.ravel(geometry.detector_spacing)[-1])
    axis = float(geometry.axis_offset)
    ends = np.abs(np.array([-0.5, 0.5]) * columns * spacing + float(geometry.detector_offset) - axis)
    element, radius = spacing, ends.min()
    if not isinstance(geometry, operators.ParallelBeam):
        source = float(geometry.source_distance)
        distance = source + float(geometry.detector_distance)
        curved = getattr(geometry, "curved", False)
        fan = ends.min() / distance if curved else math.atan(ends.min() / distance)
        element, radius = spacing * source / distance, source * math.sin(fan)
    if shape is None:
        pixel_size = pixel_size or element
        shape = (max(int(2 * radius / pixel_size), 1),) * 2
    return shape, float(pixel_size or 2 * radius / max(shape))
