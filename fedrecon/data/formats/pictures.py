"""Pictures (PNG, JPEG, TIFF, BMP) and NIfTI volumes as arrays of slices."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedrecon.data.formats.hdf5 import DataError

_GRAY = ("L", "I;16", "I;16B", "I;16L", "I", "F")


def read_picture(path: str | os.PathLike, *, indices: bool = False) -> np.ndarray:
    """Reads a picture with Pillow: the stored numbers, turned as the camera says.

    Args:
      path: of the file; pages of a TIFF are slices.
      indices: of a picture with a palette its indices, as in masks, not its colors.

    Returns:
      ``(pages, ny, nx)`` of gray, ``(pages, ny, nx, 3)`` of color pictures (without transparency): uint8,
      uint16, int32 or float32.

    Raises:
      DataError: it is empty, damaged, truncated, of another kind, or its pages differ in shape.
      ImportError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps, ImageSequence
    except ImportError as error:
        raise ImportError("PNG, JPEG and TIFF files need an extra: pip install 'fedrecon[images]'") from error

    def plain(page: Any) -> np.ndarray:
        page = ImageOps.exif_transpose(page)
        if page.mode == "P" and indices:
            return np.asarray(page)
        if page.mode in ("1", "LA", "La"):
            page = page.convert("L")
        elif page.mode not in (*_GRAY, "RGB"):
            page = page.convert("RGB")
        values = np.asarray(page)
        return values.astype(np.uint16) if values.dtype.kind == "u" and values.itemsize == 2 else values

    expected = "a readable picture (PNG, JPEG, TIFF or BMP)"
    _check_file(path, expected)
    try:
        with Image.open(path) as image:
            pages = [plain(page) for page in ImageSequence.Iterator(image)]
    # Pillow reports damage as OSError, SyntaxError, ValueError, struct.error, DecompressionBombError ...
    except Exception as error:
        raise DataError(path, None, expected, _first_line(error)) from error
    if len({page.shape for page in pages}) > 1:
        raise DataError(path, None, "pages of one shape", sorted({page.shape for page in pages}))
    return np.stack(pages)


class Nifti(NamedTuple):
    """A NIfTI volume.

    Attributes:
      values: float32 ``(slices, ny, nx)``: axial slices from the feet to the head, rows to the back, columns
        to the left of the patient, as one looks at DICOM.
      spacing: ``(z, y, x)`` in mm.
      affine: (4, 4), the index (column, row, slice, 1) to mm, as `DicomSlices.affine`.
    """

    values: np.ndarray
    spacing: tuple[float, float, float]
    affine: np.ndarray


def read_nifti(path: str | os.PathLike) -> Nifti:
    """Reads a volume; its axes are put into the order of the patient's by flips and exchanges alone.

    Raises:
      DataError: it is damaged, not NIfTI, or has more than three axes.
      ImportError: nibabel is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ImportError("NIfTI files need an extra: pip install 'fedrecon[nifti]'") from error
    _check_file(path, "a NIfTI file")
    try:
        image: Any = nibabel.load(path)
        shape = image.shape
        if len(shape) > 3 and set(shape[3:]) == {1}:
            image = image.slicer[(..., *[0] * (len(shape) - 3))]
        if len(image.shape) == 3:
            image = nibabel.as_closest_canonical(image)
            values = np.asarray(image.get_fdata(dtype=np.float32))
        elif len(image.shape) == 2:
            values = np.asarray(image.get_fdata(dtype=np.float32))[..., None]
        else:
            raise DataError(path, None, "a volume of three axes", f"shape {shape}")
        sizes = [float(size) for size in nibabel.affines.voxel_sizes(image.affine)]
    except DataError:
        raise
    # The library reports damage as ImageFileError, OSError, EOFError, zlib.error, ValueError ...
    except Exception as error:
        raise DataError(path, None, "a readable NIfTI file", _first_line(error)) from error
    values = np.ascontiguousarray(values.transpose(2, 1, 0)[:, ::-1, ::-1])
    turned = np.array(
        [[-1, 0, 0, values.shape[2] - 1], [0, -1, 0, values.shape[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    affine = np.diag([-1.0, -1, 1, 1]) @ np.asarray(image.affine) @ turned
    return Nifti(values, (sizes[2], sizes[1], sizes[0]), affine)


def _check_file(path: str | os.PathLike, expected: str) -> None:
    file = Path(path)
    if not file.is_file():
        raise DataError(path, None, expected, "not a regular file" if file.exists() else "no such file")
    if file.stat().st_size == 0:
        raise DataError(path, None, expected, "an empty file")


def _first_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
