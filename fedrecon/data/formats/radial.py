"""Non-Cartesian measurements in a small HDF5 layout: ``kdata``, ``traj`` and the attribute ``image_size``."""

import os

import numpy as np

from fedrecon.data.formats.hdf5 import DataError, open_hdf5, read_array
from fedrecon.data.formats.ismrmrd_files import RawMeasurement
from fedrecon.data.formats.spokes import has_empty_frame


def read_radial(path: str | os.PathLike) -> RawMeasurement:
    """Reads spokes and their trajectory whole, or raises: never a part of them.

    ``kdata`` is (slices, coils, spokes, samples), ``traj`` (spokes, samples, 2) with columns (kx, ky) in
    cycles per pixel, x along the columns of the image and y along its rows, and ``image_size`` the number of
    pixels along both.

    Returns:
      The measurement; the columns of its trajectory are (ky, kx), the order of the image axes. Where the
      outer half of images is empty, as with readouts oversampled twice, ``crop_shape`` is the inner half.

    Raises:
      DataError: no such file, not HDF5, damaged; or an entry is missing, of the wrong type or shape, or not
        finite.
    """
    with open_hdf5(path) as file:
        kspace = read_array(file, "kdata", kinds="c", ndim=4, dtype=np.complex64)
        shape = (*kspace.shape[2:], 2)
        trajectory = read_array(file, "traj", kinds="f", ndim=3, dtype=np.float32, shape=shape)
        size = file.attrs.get("image_size")
        if not isinstance(size, int | np.integer) or size < 1:
            raise DataError(path, "@image_size", "a positive integer", repr(size))
    size = int(size)
    crop, notes = None, ()
    if has_empty_frame(kspace, trajectory, size):
        crop = (size - 2 * (size // 4),) * 2
        notes = (
            f"oversampled readouts: {crop[0]} of {size} pixels of both axes are shown, the rest is empty",
        )
    trajectory = np.ascontiguousarray(trajectory[..., ::-1])
    return RawMeasurement(kspace, (size, size), trajectory=trajectory, crop_shape=crop, notes=notes)
