"""MRI measurements of any supported file format, in one form."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedrecon.data.formats.bart import from_bart, read_cfl, trajectory_from_bart
from fedrecon.data.formats.fastmri import read_fastmri
from fedrecon.data.formats.hdf5 import DataError, open_hdf5
from fedrecon.data.formats.ismrmrd_files import RawMeasurement, read_ismrmrd
from fedrecon.data.formats.radial import read_radial
from fedrecon.errors import ArgumentError

TRAJECTORY_UNITS = ("cycles/pixel", "radians/pixel", "cycles/fov")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A stack of slices to reconstruct.

    Attributes:
      format: of the file, in words.
      kspace: complex64 ``(slices, coils, ny, nx)``, zero where not measured; with a trajectory
        ``(slices, coils, samples)``.
      image_shape: ``(ny, nx)``.
      mask: bool ``(slices, ny, nx)``, True where measured; None with a trajectory.
      trajectory: float32 ``(samples, 2)`` in cycles per pixel, columns (ky, kx); None for Cartesian sampling.
      calibration: like ``kspace``, from a separate scan; None when there is none.
      noise: complex64 ``(coils, samples)`` of noise alone; None when there is none.
      crop_shape: (height, width) of the middle of the image that is to be shown.
      pixel_size: in mm along (slices, rows, columns); None when the file does not know.
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


def read_measurement(
    path: str | os.PathLike,
    *,
    trajectory: str | os.PathLike | None = None,
    image_shape: Sequence[int] | None = None,
    trajectory_unit: str | None = None,
) -> Measurement:
    """Reads a fastMRI, ISMRMRD, BART or radial HDF5 file; its content says which it is.

    Volumes with two phase encodings are transformed along the readout: its positions are the slices, the
    first phase encoding runs along rows, the second along columns. Where no mask is stored, samples that are
    not zero in all coils are those measured; slices of zeros are taken for empty ones measured as the others.

    Args:
      path: the file; of a BART array, either of the pair or their common name.
      trajectory: BART array (3, samples, spokes) of the BART k-space (1, samples, spokes, coils).
      image_shape: (ny, nx) of its field of view; None: the trajectory is taken to fill a square matrix.
      trajectory_unit: one of `TRAJECTORY_UNITS`, of a trajectory in an ISMRMRD file; None: cycles/pixel.

    Raises:
      DataError: the file is of another kind, damaged, or three-dimensional with a trajectory.
      ValueError: an argument does not belong to this kind of file.
      ImportError: the file needs an extra that is not installed.
    """
    format = _format(path)
    if trajectory is not None and format != "BART":
        raise ArgumentError("trajectory", f"none with the {format} file {path}", trajectory)
    if image_shape is not None and trajectory is None:
        raise ArgumentError("image_shape", "none without a BART trajectory", tuple(image_shape))
    if trajectory_unit is not None and format != "ISMRMRD":
        raise ArgumentError("trajectory_unit", f"none with the {format} file {path}", trajectory_unit)
    if format == "fastMRI":
        return _fastmri(path)
    if format == "BART":
        raw = _bart(path, trajectory, image_shape)
    else:
        raw = read_ismrmrd(path) if format == "ISMRMRD" else read_radial(path)
    if raw.trajectory is None:
        return _cartesian(format, raw)
    return _non_cartesian(path, format, raw, trajectory_unit)


def _format(path: str | os.PathLike) -> str:
    path = Path(path)
    if path.suffix in (".cfl", ".hdr") or (not path.exists() and Path(f"{path}.hdr").exists()):
        return "BART"
    with open_hdf5(path) as file:
        if "kspace" in file:
            return "fastMRI"
        if {"kdata", "traj"} <= set(file):
            return "radial"
        if any(hasattr(entry, "keys") and {"xml", "data"} <= set(entry) for entry in file.values()):
            return "ISMRMRD"
        expected = "'kspace' (fastMRI), 'kdata' and 'traj' (radial) or a group of 'xml' and 'data' (ISMRMRD)"
        raise DataError(path, None, expected, f"the keys {sorted(file)}")


def _fastmri(path: str | os.PathLike) -> Measurement:
    with open_hdf5(path) as file:
        single = getattr(file["kspace"], "ndim", None) == 3
    volume = read_fastmri(path, single_coil=single)
    shape = volume.kspace.shape[-2:]
    crop, pixel = shape, None
    if volume.header is not None:
        recon, encoded = volume.header.recon.matrix, volume.header.encoded
        crop = tuple(min(n, m) for n, m in zip(shape, recon, strict=False))
        if encoded.field_of_view:
            x, y, z = encoded.field_of_view
            pixel = (z, x / shape[0], y / shape[1])
    kspace, mask = volume.kspace, volume.mask
    if mask is None:
        mask = _sampled(kspace)
    else:
        mask = np.broadcast_to(mask, (len(kspace), *shape))
        kspace = kspace * mask[:, None]
    return Measurement("fastMRI", kspace, shape, mask, None, None, None, crop, pixel)


def _cartesian(format: str, raw: RawMeasurement) -> Measurement:
    kspace, calibration, mask, view = raw.kspace, raw.calibration, raw.mask, raw.field_of_view
    readout = kspace.shape[-2]
    if kspace.ndim == 5:
        mask = None if mask is None else mask.repeat(readout, 0).swapaxes(1, 2)
        kspace = _readout_as_slices(kspace)
        calibration = None if calibration is None else _readout_as_slices(calibration)
        view = view and (view[1] / readout, view[2], view[0])
    elif mask is not None:
        mask = mask[:, None].repeat(readout, 1)
    shape = kspace.shape[-2:]
    return Measurement(
        format=format,
        kspace=kspace,
        image_shape=shape,
        mask=_sampled(kspace) if mask is None else mask,
        trajectory=None,
        calibration=calibration,
        noise=raw.noise,
        crop_shape=shape,
        pixel_size=view and (view[0], view[1] / shape[0], view[2] / shape[1]),
    )


def _sampled(kspace: np.ndarray) -> np.ndarray:
    """(slices, ny, nx): samples not zero in all coils; slices without any have those of the others."""
    mask = np.any(kspace, 1)
    mask[~np.any(mask, (1, 2))] = np.any(mask, 0)
    return mask


def _readout_as_slices(kspace: np.ndarray) -> np.ndarray:
    """(slices, coils, nz, ny, nx) -> (slices * ny, coils, nx, nz), an image along the readout ny."""
    image = np.fft.fftshift(
        np.fft.ifft(np.fft.ifftshift(kspace, -2), axis=-2, norm="ortho").astype(np.complex64), -2
    )
    return image.transpose(0, 3, 1, 4, 2).reshape(-1, kspace.shape[1], kspace.shape[4], kspace.shape[2])


def _non_cartesian(
    path: str | os.PathLike, format: str, raw: RawMeasurement, unit: str | None
) -> Measurement:
    assert raw.trajectory is not None, "the caller's test"
    shape, trajectory = raw.image_shape, raw.trajectory.reshape(-1, raw.trajectory.shape[-1])
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
        crop_shape=shape,
        pixel_size=view and (view[0], view[1] / shape[0], view[2] / shape[1]),
    )


def _bart(
    path: str | os.PathLike, trajectory: str | os.PathLike | None, image_shape: Sequence[int] | None
) -> RawMeasurement:
    array = read_cfl(path)
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
    k = read_cfl(trajectory)
    if image_shape is None:
        # The trajectory reaches half the matrix to either side.
        size = int(2 * np.ceil(np.nanmax(np.abs(k))))
        image_shape = (max(size, 1),) * 2
    try:
        k = trajectory_from_bart(k, image_shape)
    except ValueError as error:
        raise DataError(trajectory, None, "a BART trajectory", error) from error
    if k.shape[:2] != kspace.shape[2:]:
        found = f"{k.shape[:2]}"
        raise DataError(trajectory, None, f"(spokes, samples) {kspace.shape[2:]} as in {path}", found)
    return RawMeasurement(np.ascontiguousarray(kspace), tuple(image_shape), trajectory=k)
