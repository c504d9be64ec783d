"""Files of reconstructed images: HDF5, NIfTI, DICOM, PNG."""

import gzip
import io
import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from fedrecon.data import Measurement, write_dicom
from fedrecon.data.formats import centered_affine, nifti_bytes
from fedrecon.files import replacing, write_atomically
from fedrecon.training import FlagError, as_json

SUFFIXES = (".h5", ".nii.gz", ".nii", ".dcm", ".png")
_BRIGHTEST = 99.5
# Errors are small beside the images.
_WIDTHS_BRIGHTER = 4


class Place(NamedTuple):
    """Where images lie.

    Attributes:
      affine: (4, 4) from (column, row, slice) to coordinates in mm, see `write_dicom`; None: not known.
      modality: ``"MR"`` or ``"CT"``.
      rescale_type: ``"HU"``, or ``"US"`` where values have no unit of DICOM.
      placed: whether the coordinates are the patient's, rather than those of an array around the origin.
    """

    affine: np.ndarray | None
    modality: str = "MR"
    rescale_type: str = "US"
    placed: bool = False


def place_of(measurement: Measurement, shape: tuple[int, int, int]) -> Place:
    """Of images (slices, ny, nx): as the file says (ISMRMRD), else upright around the origin."""
    if measurement.affine is not None:
        return Place(measurement.affine, placed=True)
    return Place(measurement.pixel_size and centered_affine(shape, measurement.pixel_size))


def write_images(
    path: Path, images: np.ndarray, place: Place, record: dict, half_widths: np.ndarray | None = None
) -> None:
    """Writes the images in the format of the suffix, in one step.

    - ``.h5``: ``image`` (slices, ny, nx), complex64 or float32, and ``record`` as attributes.
    - ``.nii``, ``.nii.gz``: float32 magnitudes (columns, rows, slices) with the pixel size in mm, 1 where it
      is not known.
    - ``.dcm``: magnitudes as DICOM, a file of one slice, a folder of several (`write_dicom`).
    - ``.png``: magnitudes, slices side by side, white at the 99.5th percentile; values that are negative by
      their nature are black from the 0.5th.

    ``half_widths`` of intervals, float32 like the images, are ``half_width`` of ``.h5``, and below the images
    of ``.png``, four times as bright; the other formats do not hold them.

    Real images stay as they are. Where the file does not say how the patient lay, columns are taken to go to
    the left, rows to the back, slices to the head.

    Raises:
      FlagError: DICOM without a pixel size.
      ImportError: NIfTI without the package ``nibabel``, DICOM without ``highdicom``.
      OSError: the file cannot be written.
    """
    if path.name.endswith(".h5"):
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
            file["image"] = images
            if half_widths is not None:
                file["half_width"] = half_widths
            file.attrs.update(record)
        return
    magnitude = (np.abs(images) if np.iscomplexobj(images) else images).astype(np.float32)
    if path.suffix == ".png":
        write_atomically(path, _png(magnitude, half_widths))
        return
    if path.suffix == ".dcm":
        if place.affine is None:
            expected = "NIfTI, HDF5 or PNG, as the size of the pixels in mm is not known"
            raise FlagError("output", expected, path.name)
        text = f"{record['method']} of {record['source']}"
        how = {"rescale_type": place.rescale_type, "placed": place.placed}
        write_dicom(path, magnitude, place.affine, place.modality, description=text, **how)
        return
    known = place.affine is not None
    affine = place.affine if known else centered_affine(magnitude.shape, (1.0, 1.0, 1.0))
    content = nifti_bytes(magnitude, affine, "mm" if known else "unknown")
    write_atomically(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def write_record(path: str | None, record: Mapping[str, Any]) -> None:
    """Writes what is known of images as JSON, if there is a path; settings are an object there."""
    if path is None:
        return
    document = {k: json.loads(v) if k == "settings" else v for k, v in record.items()}
    document = {k: v.item() if isinstance(v, np.generic) else v for k, v in document.items()}
    write_atomically(path, (json.dumps(as_json(document), indent=2) + "\n").encode())


def _png(magnitude: np.ndarray, half_widths: np.ndarray | None) -> bytes:
    from matplotlib.image import imsave

    brightest = np.percentile(magnitude, _BRIGHTEST) or 1.0
    darkest = np.percentile(magnitude, 100 - _BRIGHTEST) if magnitude.mean() < 0 else 0
    page = _tiled(magnitude)
    if half_widths is not None:
        shown = darkest + _WIDTHS_BRIGHTER * half_widths
        page = np.concatenate([page, _tiled(shown)])
    buffer = io.BytesIO()
    imsave(buffer, page, cmap="gray", vmin=darkest, vmax=max(brightest, darkest + 1e-30), format="png")
    return buffer.getvalue()


def _tiled(images: np.ndarray) -> np.ndarray:
    slices, ny, nx = images.shape
    columns = math.ceil(math.sqrt(slices))
    rows = math.ceil(slices / columns)
    tiles = np.zeros((rows * columns, ny, nx), np.float32)
    tiles[:slices] = images
    return tiles.reshape(rows, columns, ny, nx).swapaxes(1, 2).reshape(rows * ny, columns * nx)


def check_output(path: Path, source: str, record: str | None = None) -> None:
    """Fails before the work rather than after it.

    Args:
      path: of the images.
      source: the input.
      record: file for what is known of the images.

    Raises:
      ValueError: the name has another suffix, its folder does not exist, or it is that of the input.
      ImportError: NIfTI or DICOM without their packages.
    """
    if not path.name.endswith(SUFFIXES):
        raise FlagError("output", f"a name ending in {', '.join(SUFFIXES)}", repr(path.name))
    if not path.parent.is_dir():
        raise FlagError("output", "a file in an existing folder", path)
    if path.resolve() == Path(source).resolve():
        raise FlagError("output", "another file than --input", path)
    if record is not None and not Path(record).parent.is_dir():
        raise FlagError("json", "a file in an existing folder", record)
    if record is not None and Path(record).resolve() in (path.resolve(), Path(source).resolve()):
        raise FlagError("json", "another file than --input and --output", record)
    for suffix, package, extra in ((".nii", "nibabel", "nifti"), (".dcm", "highdicom", "dicom")):
        if suffix in path.suffixes and find_spec(package) is None:
            raise ImportError(f"{suffix} files need an extra: pip install 'fedrecon[{extra}]'")
