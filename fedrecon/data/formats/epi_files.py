"""Echo-planar measurements in a small HDF5 layout: groups of ``kspace``, ``traj`` and ``polarity``."""

import os
from typing import Any

import h5py
import numpy as np

from fedrecon.data.formats.hdf5 import DataError, open_hdf5, read_array
from fedrecon.data.formats.ismrmrd_files import RawMeasurement
from operators.mri import echo_planar_matrix, echo_planar_shift


def is_epi(group: Any) -> bool:
    """Whether an entry of a file is a measurement of this layout."""
    return isinstance(group, h5py.Group) and {"kspace", "traj", "polarity"} <= set(group)


def epi_images(path: str | os.PathLike) -> tuple[str, ...]:
    """Names of the groups of a file that hold images, not calibration alone.

    Raises:
      DataError: it is no HDF5 file.
    """
    with open_hdf5(path) as file:
        return tuple(
            name
            for name, entry in file.items()
            if is_epi(entry) and not entry.attrs.get("calibration", False)
        )


def read_epi(path: str | os.PathLike, group: str | None = None) -> RawMeasurement:
    """Reads one echo-planar image, its lines turned, its ramps put on the grid and its delay corrected.

    A group has ``kspace`` (lines, samples, coils) as acquired, ``traj`` (lines, samples, 2), the nominal
    positions (k along the readout, k along the phase encoding) in cycles per pixel, ``polarity`` (lines,) of
    1 and -1, and the attributes ``matrix``, ``fov_mm`` and ``slice_thickness_mm`` (in mm; may be absent).
    ``calibration_group`` names the group of the same readout without phase encoding, from which the delay
    between both directions comes. The readout runs along rows, as in the other formats.

    Args:
      path: the file.
      group: name of the group; None where the file has only one image.

    Raises:
      DataError: no such group, several of which none is named, or an entry is missing, of the wrong type or
        shape, or not finite.
    """
    images = list(epi_images(path))
    with open_hdf5(path) as file:
        if group is None and len(images) != 1:
            raise DataError(path, None, "a single image, or one selected (group)", f"{images}")
        group = images[0] if group is None else group
        if group not in file or not is_epi(file[group]):
            raise DataError(path, group, f"one of the groups {images}", "none of them")
        attributes = dict(file[group].attrs)
        matrix = attributes.get("matrix")
        if not isinstance(matrix, int | np.integer) or matrix < 1:
            raise DataError(path, f"{group}/@matrix", "a positive integer", repr(matrix))
        lines, k, polarity = _group(file, group)
        size = int(matrix)
        step = np.round(k[..., 1].mean(1) * size).astype(int)
        if np.abs(k[..., 1] * size - step[:, None]).max() > 0.25 or len(set(step % size)) < len(step):
            raise DataError(path, f"{group}/traj", "lines of their own along the phase encoding", "others")
        calibration = attributes.get("calibration_group")
        shift = None
        if isinstance(calibration, str) and calibration != group:
            other, nominal, signs = _group(file, calibration)
            shift = echo_planar_shift(other, nominal[..., 0], signs)
    kspace = np.zeros((lines.shape[1], size, size), np.complex64)
    mask = np.zeros((size, size), bool)
    for line, nominal, sign, column in zip(
        lines, k[..., 0], polarity, (step + size // 2) % size, strict=True
    ):
        # Every line on its own: nominal readouts of one direction need not be alike.
        turned = echo_planar_matrix(nominal, int(sign), size, *(() if shift is None else (shift,)))
        kspace[..., column] = line @ turned.T
        mask[:, column] = True
    note = "reversed lines turned, without reference for their delay"
    if shift is not None:
        dwell = attributes.get("dwell_us")
        delay = f"{shift.delay:.3f} samples" + (f" ({shift.delay * dwell:.2f} us)" if dwell else "")
        note = f"odd/even delay of {delay} from {calibration}"
    view, thickness = attributes.get("fov_mm"), attributes.get("slice_thickness_mm")
    return RawMeasurement(
        kspace[None],
        (size, size),
        mask=mask[None],
        field_of_view=(float(thickness), float(view), float(view)) if view and thickness else None,
        notes=(f"EPI: {note}",),
    )


def _group(file: h5py.File, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lines (lines, coils, samples), positions (lines, samples, 2) and polarity (lines,)."""
    kspace = read_array(file, f"{name}/kspace", kinds="c", ndim=3, dtype=np.complex64)
    count, samples, _ = kspace.shape
    shape = (count, samples, 2)
    k = read_array(file, f"{name}/traj", kinds="f", ndim=3, dtype=np.float64, shape=shape)
    polarity = read_array(file, f"{name}/polarity", kinds="iu", ndim=1, dtype=np.int64, shape=(count,))
    if not np.isin(polarity, (1, -1)).all():
        raise DataError(file.filename, f"{name}/polarity", "values 1 and -1", f"{sorted(set(polarity))}")
    return kspace.transpose(0, 2, 1), k, polarity
