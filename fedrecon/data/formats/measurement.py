"""MRI measurements of any supported file format, in one form."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedrecon.data.formats.bart import DIMENSIONS, from_bart, read_cfl, trajectory_from_bart
from fedrecon.data.formats.epi_files import is_epi, read_epi
from fedrecon.data.formats.fastmri import read_fastmri
from fedrecon.data.formats.geometry import image_geometry
from fedrecon.data.formats.hdf5 import DataError, open_hdf5
from fedrecon.data.formats.ismrmrd_files import RawMeasurement, read_ismrmrd
from fedrecon.data.formats.radial import read_radial
from fedrecon.data.formats.sampled import sampled
from fedrecon.data.formats.spokes import corrected_spokes
from fedrecon.data.formats.twix import is_twix, read_twix
from fedrecon.errors import ArgumentError

TRAJECTORY_UNITS = ("cycles/pixel", "radians/pixel", "cycles/fov")
# What BART calls the counters of other formats.
_BART_COUNTERS = {"contrast": "TE", "phase": "TIME", "repetition": "TIME2"}


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A stack of slices to reconstruct.

    Attributes:
      format: of the file, in words.
      kspace: complex64 ``(slices, coils, ny, nx)``, zero where not measured; with a trajectory
        ``(slices, coils, samples)``.
      image_shape: ``(ny, nx)``.
      mask: bool ``(slices, ny, nx)``, True where measured; None with a trajectory.
      trajectory: float32 ``(samples, 2)`` in cycles per pixel, columns (ky, kx), or ``(slices, samples, 2)``
        where slices have their own; None for Cartesian sampling.
      calibration: like ``kspace``, from a separate scan; None when there is none.
      noise: complex64 ``(coils, samples)`` of noise alone; None when there is none.
      crop_shape: (height, width) of the middle of the image that is to be shown.
      pixel_size: in mm along (slices, rows, columns); None when the file does not know.
      affine: (4, 4) from the index (column, row, slice, 1) of the images cropped to ``crop_shape`` to mm in
        the patient, as in `RawMeasurement`; None when the file does not know.
      readout: samples of a readout, which follow each other in ``trajectory``; None for Cartesian sampling.
      notes: what was done to the data, in words.
    """

    format: str
    kspace: np.ndarray
    image_shape: tuple[int, int]
    mask: np.ndarray | None
    trajectory: np.ndarray | None
    calibration: np.ndarray | None
    noise: np.ndarray | None
    crop_shape: tuple[int, int]
    pixel_size: tuple[float, float, float] | None
    affine: np.ndarray | None = None
    readout: int | None = None
    notes: tuple[str, ...] = ()


def read_measurement(
    path: str | os.PathLike,
    *,
    trajectory: str | os.PathLike | None = None,
    image_shape: Sequence[int] | None = None,
    trajectory_unit: str | None = None,
    select: Mapping[str, int] | None = None,
    slices: Sequence[int] | None = None,
    group: str | None = None,
) -> Measurement:
    """Reads a fastMRI, ISMRMRD, Siemens twix, BART, radial or EPI HDF5 file; its content says which it is.

    Volumes with two phase encodings are transformed along the readout: its positions are the slices, the
    first phase encoding runs along rows, the second along columns. What was measured is what a stored mask or
    the headers of the acquisitions say, else what `sampled` finds. Outer lines that are zero in every coil
    and slice are padding, whatever a stored mask says.

    Args:
      path: the file; of a BART array, either of the pair or their common name.
      trajectory: BART array (3, samples, spokes) of the BART k-space (1, samples, spokes, coils), with a
        SLICE axis where slices have their own.
      image_shape: (ny, nx) of its field of view; None: the trajectory is taken to fill a square matrix.
      trajectory_unit: one of `TRAJECTORY_UNITS`, of a trajectory in an ISMRMRD file; None: cycles/pixel.
      select: counters of a file with several images: ``contrast``, ``phase`` (of the heart), ``repetition``,
        ``set`` and ``encoding`` of ISMRMRD and twix; the first three are TE, TIME and TIME2 of BART.
      slices: numbers of the slices to keep, from 0 in the order of the stack; None: all.
      group: of an HDF5 file with several measurements.

    Raises:
      DataError: the file is of another kind, damaged, has several images of which none is selected, or is
        three-dimensional with a trajectory.
      ValueError: an argument does not belong to this kind of file.
      ImportError: the file needs an extra that is not installed.
    """
    format = file_format(path)
    if format is None:
        expected = "'kspace' (fastMRI), 'kdata' and 'traj' (radial) or a group of 'xml' and 'data' (ISMRMRD)"
        with open_hdf5(path) as file:
            raise DataError(path, None, expected, f"the keys {sorted(file)}")
    for name, value, formats in (
        ("trajectory", trajectory, ("BART",)),
        ("trajectory_unit", trajectory_unit, ("ISMRMRD",)),
        ("select", select or None, ("ISMRMRD", "Siemens twix", "BART")),
        ("group", group, ("ISMRMRD", "EPI")),
    ):
        if value is not None and format not in formats:
            raise ArgumentError(name, f"none with the {format} file {path}", value)
    if image_shape is not None and trajectory is None:
        raise ArgumentError("image_shape", "none without a BART trajectory", tuple(image_shape))
    select = dict(select or {})
    if format == "fastMRI":
        measurement = _fastmri(path)
    else:
        if format == "BART":
            raw = _bart(path, trajectory, image_shape, select)
        elif format == "ISMRMRD":
            raw = read_ismrmrd(path, group=group or "dataset", select=select)
        elif format == "Siemens twix":
            raw = read_twix(path, select=select)
        else:
            raw = read_radial(path) if format == "radial" else read_epi(path, group)
        if raw.trajectory is None:
            measurement = _cartesian(format, raw)
        else:
            measurement = _non_cartesian(path, format, raw, trajectory_unit)
    return measurement if slices is None else _kept(measurement, slices)


def correct_delays(measurement: Measurement) -> Measurement:
    """Measures the delays of the gradients from spokes and corrects their trajectory; says so in ``notes``.

    Measurements without a trajectory, or with one for each slice, and those of `corrected_spokes` that need
    no correction come back as they are.
    """
    k, readout = measurement.trajectory, measurement.readout
    if k is None or readout is None or k.ndim != 2:
        return measurement
    spokes = k.reshape(-1, readout, 2)
    found = corrected_spokes(measurement.kspace.reshape(*measurement.kspace.shape[:2], -1, readout), spokes)
    if found is None:
        return measurement
    corrected, (rows, columns) = found
    note = f"gradient delays of {rows:.2f} and {columns:.2f} samples along rows and columns corrected"
    notes = (*measurement.notes, note)
    return dataclasses.replace(measurement, trajectory=corrected.reshape(k.shape), notes=notes)


def _kept(measurement: Measurement, slices: Sequence[int]) -> Measurement:
    count, slices = len(measurement.kspace), list(slices)
    if not slices or not all(0 <= i < count for i in slices) or len(set(slices)) < len(slices):
        raise ArgumentError("slices", f"distinct numbers from 0 to {count - 1}", slices)

    def kept(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[slices]

    trajectory, affine, pixel = measurement.trajectory, measurement.affine, measurement.pixel_size
    steps = set(np.diff(slices).tolist()) or {1}
    step = steps.pop()
    if affine is not None:
        # Slices at other distances have no common place.
        place = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, step, slices[0]], [0, 0, 0, 1]])
        affine = None if steps else affine @ place
    if pixel is not None and not steps:
        pixel = (pixel[0] * abs(step), *pixel[1:])
    return dataclasses.replace(
        measurement,
        kspace=measurement.kspace[slices],
        mask=kept(measurement.mask),
        calibration=kept(measurement.calibration),
        trajectory=kept(trajectory) if trajectory is not None and trajectory.ndim == 3 else trajectory,
        pixel_size=pixel,
        affine=affine,
    )


def file_format(path: str | os.PathLike) -> str | None:
    """The format of a measurement; None for another HDF5 file, and `DataError` for any other file."""
    path = Path(path)
    if path.suffix in (".cfl", ".hdr") or (not path.exists() and Path(f"{path}.hdr").exists()):
        return "BART"
    if is_twix(path):
        return "Siemens twix"
    with open_hdf5(path) as file:
        if "kspace" in file:
            return "fastMRI"
        if {"kdata", "traj"} <= set(file):
            return "radial"
        groups = [entry for entry in file.values() if hasattr(entry, "keys")]
        if any({"xml", "data"} <= set(entry) for entry in groups):
            return "ISMRMRD"
        if any(is_epi(entry) for entry in groups):
            return "EPI"
        return None


def _fastmri(path: str | os.PathLike) -> Measurement:
    volume = read_fastmri(path, single_coil=None)
    kspace, shape = volume.kspace, volume.kspace.shape[-2:]
    crop, pixel = shape, None
    if volume.header is not None:
        geometry = image_geometry(volume.header.encoded, volume.header.recon, (*shape, 1))
        crop, voxel = geometry.crop[:2], geometry.voxel
        pixel = voxel and (voxel[2], voxel[0], voxel[1])
    if volume.mask is None:
        mask = sampled(kspace)
    else:
        lines = np.any(kspace, (0, 1))
        inside = np.outer(_span(np.any(lines, 1)), _span(np.any(lines, 0)))
        mask = np.broadcast_to(volume.mask & inside, (len(kspace), *shape))
        kspace = kspace * mask[:, None]
    return Measurement("fastMRI", kspace, shape, mask, None, None, None, crop, pixel)


def _span(used: np.ndarray) -> np.ndarray:
    """True from the first to the last True one; everywhere where there is none."""
    places = np.flatnonzero(used)
    result = np.zeros(len(used), bool)
    result[places[0] if places.size else 0 : places[-1] + 1 if places.size else None] = True
    return result


def _cartesian(format: str, raw: RawMeasurement) -> Measurement:
    kspace, mask, view = raw.kspace, raw.mask, raw.field_of_view
    calibration = raw.calibration if raw.calibration_separate else None
    crop = raw.crop_shape or raw.image_shape
    shown = (crop[-2], crop[-1])
    if mask is None:
        mask = sampled(kspace)
    voxel = view and tuple(
        v / n for v, n in zip(view, (*((1,) if kspace.ndim == 4 else ()), *raw.image_shape), strict=True)
    )
    if kspace.ndim == 5:
        readout, kept = kspace.shape[-2], crop[1]
        start = readout // 2 - kept // 2
        kspace = _readout_as_slices(kspace, start, kept)
        calibration = None if calibration is None else _readout_as_slices(calibration, start, kept)
        # (slices, nz, ny, nx): a phase encoding is measured where any of its readout is.
        mask = np.any(mask, 2).swapaxes(1, 2).repeat(kept, 0)
        shown = (crop[2], crop[0])
        voxel = voxel and (voxel[1], voxel[2], voxel[0])
    return Measurement(
        format=format,
        kspace=kspace,
        image_shape=kspace.shape[-2:],
        mask=mask,
        trajectory=None,
        calibration=calibration,
        noise=raw.noise,
        crop_shape=shown,
        pixel_size=voxel,
        affine=_shown_affine(raw, shown),
        notes=raw.notes,
    )


def _shown_affine(raw: RawMeasurement, shown: tuple[int, int]) -> np.ndarray | None:
    """That of slices in the plane, or along the readout of a volume, cropped to (rows, columns)."""
    if raw.affine is None:
        return None
    if raw.kspace.ndim == 4:
        (ny, nx), axes = raw.image_shape, [1, 0, 2]
        starts = [ny // 2 - shown[0] // 2, nx // 2 - shown[1] // 2, 0]
    else:
        (nz, ny, nx), axes = raw.image_shape, [2, 1, 0]
        kept = ny if raw.crop_shape is None else raw.crop_shape[1]
        starts = [ny // 2 - kept // 2, nx // 2 - shown[0] // 2, nz // 2 - shown[1] // 2]
    result = raw.affine.copy()
    result[:, 3] = raw.affine @ [*starts, 1]
    result[:, :3] = result[:, axes]
    return result


def _readout_as_slices(kspace: np.ndarray, start: int, kept: int) -> np.ndarray:
    """(slices, coils, nz, ny, nx) -> (slices * kept, coils, nx, nz), an image along the readout ny."""
    image = np.fft.fftshift(
        np.fft.ifft(np.fft.ifftshift(kspace, -2), axis=-2, norm="ortho").astype(np.complex64), -2
    )
    image = image[..., start : start + kept, :]
    return image.transpose(0, 3, 1, 4, 2).reshape(-1, kspace.shape[1], kspace.shape[4], kspace.shape[2])


def _non_cartesian(
    path: str | os.PathLike, format: str, raw: RawMeasurement, unit: str | None
) -> Measurement:
    assert raw.trajectory is not None, "the caller's test"
    shape, trajectory = raw.image_shape, raw.trajectory
    readout = trajectory.shape[-2]
    trajectory = trajectory.reshape(*trajectory.shape[:-3], -1, trajectory.shape[-1])
    if len(shape) != 2:
        found = f"one of {len(shape)} components"
        raise DataError(path, None, "a trajectory in two dimensions", found)
    if unit not in (None, *TRAJECTORY_UNITS):
        raise ArgumentError("trajectory_unit", f"one of {TRAJECTORY_UNITS}", repr(unit))
    if unit == "radians/pixel":
        trajectory = trajectory / np.float32(2 * np.pi)
    elif unit == "cycles/fov":
        trajectory = trajectory / np.array(shape, np.float32)
    view = raw.field_of_view
    return Measurement(
        format=format,
        kspace=raw.kspace.reshape(*raw.kspace.shape[:2], -1),
        image_shape=shape,
        mask=None,
        trajectory=trajectory,
        calibration=None,
        noise=raw.noise,
        crop_shape=(shape[0], shape[1]) if raw.crop_shape is None else (raw.crop_shape[0], raw.crop_shape[1]),
        pixel_size=view and (view[0], view[1] / shape[0], view[2] / shape[1]),
        readout=readout,
        notes=raw.notes,
    )


def _bart(
    path: str | os.PathLike,
    trajectory: str | os.PathLike | None,
    image_shape: Sequence[int] | None,
    select: Mapping[str, int],
) -> RawMeasurement:
    array = _selected(path, read_cfl(path), select)
    if not np.isfinite(array).all():
        raise DataError(path, None, "finite values", "NaN or infinite")
    try:
        if trajectory is None:
            if array.shape[0] == 1:
                kspace = from_bart(array, ("SLICE", "COIL", "PHS1", "PHS2"))
            elif array.shape[2] == 1:
                kspace = from_bart(array, ("SLICE", "COIL", "READ", "PHS1"))
            else:
                kspace = from_bart(array, ("SLICE", "COIL", "PHS2", "READ", "PHS1"))
            return RawMeasurement(np.ascontiguousarray(kspace), kspace.shape[2:])
        kspace = from_bart(array, ("SLICE", "COIL", "PHS2", "PHS1"))
    except ValueError as error:
        raise DataError(path, None, "k-space along READ, PHS1, PHS2, COIL and SLICE", error) from error
    whole = _selected(trajectory, read_cfl(trajectory), select)
    if image_shape is None:
        # The trajectory reaches half the matrix to either side.
        size = int(2 * np.ceil(np.nanmax(np.abs(whole))))
        image_shape = (max(size, 1),) * 2
    place = DIMENSIONS.index("SLICE")
    try:
        own = [trajectory_from_bart(one, image_shape) for one in np.split(whole, whole.shape[place], place)]
    except ValueError as error:
        raise DataError(trajectory, None, "a BART trajectory", error) from error
    if own[0].shape[:2] != kspace.shape[2:] or len(own) not in (1, len(kspace)):
        found = f"{own[0].shape[:2]} for {len(own)} slices"
        expected = f"(spokes, samples) {kspace.shape[2:]} as in {path}, for 1 or {len(kspace)} slices"
        raise DataError(trajectory, None, expected, found)
    k = own[0] if len(own) == 1 else np.stack(own)
    return RawMeasurement(np.ascontiguousarray(kspace), tuple(image_shape), trajectory=k)


def _selected(path: str | os.PathLike, array: np.ndarray, select: Mapping[str, int]) -> np.ndarray:
    """The array with one index of every counter's dimension; a trajectory may be common to all of them."""
    unknown = sorted(select.keys() - _BART_COUNTERS.keys())
    if unknown:
        raise ArgumentError("select", f"some of {sorted(_BART_COUNTERS)} with a BART array", unknown)
    for name, dimension in _BART_COUNTERS.items():
        place = DIMENSIONS.index(dimension)
        length = array.shape[place]
        if name not in select:
            if length > 1:
                raise DataError(
                    path, dimension, f"a single {name}, or one selected (select {name}=N)", f"{length}"
                )
        elif length > 1:
            if not 0 <= select[name] < length:
                raise DataError(path, dimension, f"{name} from 0 to {length - 1}", f"{select[name]}")
            array = array.take([select[name]], place)
        elif select[name]:
            raise DataError(path, dimension, f"{name} 0, the only one", f"{select[name]}")
    return array
