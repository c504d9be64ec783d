"""Files of reconstructed images: HDF5, NIfTI, PNG."""

import gzip
import io
import math
from pathlib import Path

import h5py
import numpy as np

from experiments.pipeline.options import FlagError
from fedrecon.data import Measurement
from fedrecon.data.formats import centered_affine, nifti_bytes
from fedrecon.files import replacing, write_atomically

SUFFIXES = (".h5", ".nii.gz", ".nii", ".png")
_BRIGHTEST = 99.5


def write_images(path: Path, images: np.ndarray, measurement: Measurement, record: dict) -> None:
    """Writes the images in the format of the suffix, in one step.

    - ``.h5``: ``image`` (slices, ny, nx), complex64 or float32, and ``record`` as attributes.
    - ``.nii``, ``.nii.gz``: float32 magnitudes (columns, rows, slices) with the pixel size in mm, 1 where it
      is not known. They lie in the patient as the file says (ISMRMRD), else upright around the origin.
    - ``.png``: magnitudes, slices side by side, white at the 99.5th percentile.

    Raises:
      ImportError: NIfTI without the package ``nibabel``.
      OSError: the file cannot be written.
    """
    if path.name.endswith(".h5"):
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
            file["image"] = images
            file.attrs.update(record)
        return
    magnitude = np.abs(images).astype(np.float32)
    write_atomically(path, _png(magnitude) if path.suffix == ".png" else _nifti(path, magnitude, measurement))


def _png(magnitude: np.ndarray) -> bytes:
    from matplotlib.image import imsave

    slices, ny, nx = magnitude.shape
    columns = math.ceil(math.sqrt(slices))
    rows = math.ceil(slices / columns)
    tiles = np.zeros((rows * columns, ny, nx), np.float32)
    tiles[:slices] = magnitude
    page = tiles.reshape(rows, columns, ny, nx).swapaxes(1, 2).reshape(rows * ny, columns * nx)
    buffer = io.BytesIO()
    brightest = np.percentile(magnitude, _BRIGHTEST) or 1.0
    imsave(buffer, page, cmap="gray", vmin=0, vmax=brightest, format="png")
    return buffer.getvalue()


def _nifti(path: Path, magnitude: np.ndarray, measurement: Measurement) -> bytes:
    affine = measurement.affine
    if affine is None:
        affine = centered_affine(magnitude.shape, measurement.pixel_size or (1.0, 1.0, 1.0))
    content = nifti_bytes(magnitude, affine, "mm" if measurement.pixel_size else "unknown")
    return gzip.compress(content, mtime=0) if path.suffix == ".gz" else content


def check_output(path: Path, source: str) -> None:
    """Fails before the work rather than after it.

    Raises:
      ValueError: the name has another suffix, its folder does not exist, or it is that of the input.
      ImportError: NIfTI without the package ``nibabel``.
    """
    if not path.name.endswith(SUFFIXES):
        raise FlagError("output", f"a name ending in {', '.join(SUFFIXES)}", repr(path.name))
    if not path.parent.is_dir():
        raise FlagError("output", "a file in an existing folder", path)
    if path.resolve() == Path(source).resolve():
        raise FlagError("output", "another file than --input", path)
    if ".nii" in path.suffixes:
        nifti_bytes(np.zeros((1, 1, 1)), np.eye(4))
