"""Descriptions of the contents of data files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from fedrecon.data.formats.bart import DIMENSIONS, read_cfl
from fedrecon.data.formats.dicom_elements import element, read_headers, stored_pixels
from fedrecon.data.formats.epi_files import is_epi
from fedrecon.data.formats.fastmri import read_fastmri
from fedrecon.data.formats.hdf5 import DataError, open_hdf5, read_attributes
from fedrecon.data.formats.ismrmrd_files import read_ismrmrd_lines
from fedrecon.data.formats.lines import COUNTERS, Line
from fedrecon.data.formats.measurement import file_format, read_measurement
from fedrecon.data.formats.sampled import sampled
from fedrecon.data.formats.twix import read_twix_lines

_DICOM_PREFIX = 128


def describe_file(path: str | os.PathLike) -> list[str]:
    """Lines of text on a file: a measurement of a format of `read_measurement`, DICOM, or other HDF5.

    All of what is described has been read: of measurements with several images all lines and the first image.

    Raises:
      DataError: the file cannot be read, or is not what its format demands.
      ImportError: the file needs an extra that is not installed.
    """
    if _is_dicom(path):
        return _dicom(path)
    format = file_format(path)
    if format is None:
        return _contents(path)
    if format == "fastMRI":
        return _volume(path)
    if format == "BART":
        return _array(path)
    if format == "EPI":
        return _echo_planar(path)
    if format == "radial":
        return [*_image(path), *_contents(path)]
    if format == "ISMRMRD":
        with open_hdf5(path) as file:
            groups = [
                n for n, entry in file.items() if hasattr(entry, "keys") and {"xml", "data"} <= set(entry)
            ]
        described = []
        for group in groups:
            lines = read_ismrmrd_lines(path, group)[1]
            described += _acquisitions(lines) + _image(path, group=group, select=_first(lines))
        return described
    _, lines, _ = read_twix_lines(path)
    select = {name: value for name, value in _first(lines).items() if name != "encoding"}
    return _acquisitions(lines) + _image(path, select=select)


def _is_dicom(path: str | os.PathLike) -> bool:
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        return file.read(_DICOM_PREFIX + 4)[_DICOM_PREFIX:] == b"DICM"


def _dicom(path: str | os.PathLike) -> list[str]:
    [(name, header)] = read_headers(path)
    pixels = stored_pixels(name, header)
    pixels = pixels.reshape(-1, *pixels.shape[-2:])
    size = " x ".join(map(str, pixels.shape))
    return [f"DICOM {element(header, 'Modality') or 'of no modality'}: {size} pixels, largest {pixels.max()}"]


def _contents(path: str | os.PathLike) -> list[str]:
    """Data sets and attributes of an HDF5 file."""
    lines = []

    def visit(name: str, entry: h5py.Dataset | h5py.Group) -> None:
        if isinstance(entry, h5py.Dataset):
            lines.append(f"{name}: {entry.shape} {entry.dtype}")

    with open_hdf5(path) as file:
        file.visititems(visit)
        return lines + [f"{key}: {value}" for key, value in read_attributes(file).items()]


def _array(path: str | os.PathLike) -> list[str]:
    array = read_cfl(path)
    if not np.isfinite(array).all():
        raise DataError(path, None, "finite values", "NaN or infinite")
    sizes = [f"{name} {n}" for name, n in zip(DIMENSIONS, array.shape, strict=False) if n > 1]
    return [f"BART array: {', '.join(sizes) or 'one value'}, largest {np.abs(array).max():.4g}"]


def _echo_planar(path: str | os.PathLike) -> list[str]:
    with open_hdf5(path) as file:
        groups = {
            name: bool(entry.attrs.get("calibration", False)) for name, entry in file.items() if is_epi(entry)
        }
    lines = []
    for name, calibration in groups.items():
        lines += [f"{name}: no phase encoding"] if calibration else _image(path, group=name)
    return lines


def _image(
    path: str | os.PathLike, select: Mapping[str, int] | None = None, group: str | None = None
) -> list[str]:
    measurement = read_measurement(path, select=select, group=group)
    slices, coils = measurement.kspace.shape[:2]
    chosen = [group or "", *(f"{name} {value}" for name, value in (select or {}).items() if value)]
    size = " x ".join(map(str, measurement.image_shape))
    text = " ".join([measurement.format, *filter(None, chosen)]) + f": {slices} slices, {coils} coils, {size}"
    if measurement.mask is not None:
        text += f", {measurement.mask.mean():.1%} measured"
    if measurement.pixel_size is not None:
        text += f", voxels of {' x '.join(f'{n:.3g}' for n in measurement.pixel_size)} mm"
    return [text, *measurement.notes]


def _first(lines: Sequence[Line]) -> dict[str, int]:
    """Counters of the first line of an image; empty without one."""
    return next((dict(line.counters) for line in lines if "imaging" in line.roles), {})


def _acquisitions(lines: Sequence[Line]) -> list[str]:
    """How many lines there are for what, and the counters that take several values."""
    roles = sorted({role for line in lines for role in line.roles})
    counts = [f"{sum(role in line.roles for line in lines)} of {role}" for role in roles]
    described = [f"{len(lines)} acquisitions: {', '.join(counts)}"]
    for name in COUNTERS:
        values = sorted({line.counters[name] for line in lines if "imaging" in line.roles})
        if len(values) > 1:
            described.append(f"{name}: {', '.join(map(str, values))}")
    return described


def _volume(path: str | os.PathLike) -> list[str]:
    volume = read_fastmri(path, single_coil=None)
    slices, coils, ny, nx = volume.kspace.shape
    lines = [
        f"k-space: {slices} slices, {coils} coils, {ny} x {nx}, largest {np.abs(volume.kspace).max():.4g}"
    ]
    if volume.mask is None:
        lines.append(f"mask: none, {sampled(volume.kspace).mean():.1%} of the samples are measured")
    else:
        kind = "columns" if volume.mask.ndim == 1 else "samples"
        measured = int(volume.mask.sum())
        rate = f"acceleration {volume.mask.size / measured:.3g}" if measured else "nothing is measured"
        lines.append(f"mask: {measured} of {volume.mask.size} {kind}, {rate}")
    if volume.reconstruction_rss is not None:
        reference = volume.reconstruction_rss
        shape = " x ".join(map(str, reference.shape))
        lines.append(f"reference: {shape}, {reference.min():.4g} to {reference.max():.4g}")
    if volume.segmentation is not None:
        marked = int(volume.segmentation.any(axis=(1, 2)).sum())
        lines.append(f"segmentation: {marked} of {slices} slices marked")
    if volume.header is not None:
        for name, space in (("encoded", volume.header.encoded), ("reconstructed", volume.header.recon)):
            extent = "unknown" if space.field_of_view is None else f"{space.field_of_view} mm"
            lines.append(f"{name} matrix (x, y, z): {space.matrix}, field of view {extent}")
    return lines + [f"{key}: {value}" for key, value in volume.attributes.items()]
