"""How files become the images of a cohort: for new files, and undone for what is predicted of them."""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedrecon.data.folders.files import Item, kind_of
from fedrecon.data.folders.images import by_area, fitted, in_channels, normalized, size_in
from fedrecon.data.folders.manifest import Entry, Intensity, Manifest, Source
from fedrecon.data.folders.reading import read_item
from fedrecon.data.formats import DataError, read_dicom_slices, read_nifti
from fedrecon.errors import ArgumentError

_IMAGES = ("dicom", "nifti", "picture")


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What was done to the images of a cohort.

    Attributes:
      matrix: (ny, nx) that images were scaled to by area, and padded to.
      channels: 1 or 3.
      intensity: the rule that all images were normalized by; None for that of the kind of file.
      classes: names of the labels in their order; empty without labels.
    """

    matrix: tuple[int, int]
    channels: int
    intensity: Intensity | None
    classes: tuple[str, ...] = ()

    def as_document(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Preparation":
        """Inverse of `as_document`.

        Raises:
          KeyError, TypeError, ValueError: the document is none of it.
        """
        ny, nx = (int(n) for n in document["matrix"])
        rule = document["intensity"]
        intensity = (
            None if rule is None else Intensity(str(rule["rule"]), float(rule["low"]), float(rule["high"]))
        )
        classes = tuple(str(name) for name in document["classes"])
        return cls((ny, nx), int(document["channels"]), intensity, classes)


class PreparedImages(NamedTuple):
    """The images of one file, as a network takes them.

    Attributes:
      images: float32 (slices, ny, nx, channels).
      native_shape: (ny, nx) of the file.
      affine: (4, 4) of the native grid, see `DicomSlices.affine`; None of pictures.
      reader: "dicom", "nifti" or "picture".
    """

    images: np.ndarray
    native_shape: tuple[int, int]
    affine: np.ndarray | None
    reader: str


def read_images(path: str | os.PathLike, preparation: Preparation) -> PreparedImages:
    """Reads a DICOM file or series (a folder), a NIfTI volume or a picture, and prepares it.

    Raises:
      DataError: the file is damaged, no image, or of constant values.
      ImportError: the file needs an extra that is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(path, None, "a DICOM series, NIfTI volume or picture", "no such file")
    reader = "dicom" if path.is_dir() else kind_of(path)
    if reader not in _IMAGES:
        expected = "images: DICOM, NIfTI, PNG, JPEG or TIFF; reconstruct measurements first"
        raise DataError(path, None, expected, reader or "another kind")
    source = Source("", reader, (Entry(path.name),), intensity=preparation.intensity)
    item = Item(source, "", path, path.name, path.name, None, None, None)
    (volume,) = read_item(item, Manifest(path.parent, (source,)))
    assert volume.image is not None, "of these kinds"
    try:
        image = normalized(volume.image, volume.intensity)
    except ValueError as error:
        raise DataError(path, None, "values that vary", str(error)) from error
    images = fitted(in_channels(image, preparation.channels), preparation.matrix)
    affine = None
    if reader == "dicom":
        affine = read_dicom_slices(path).affine
    elif reader == "nifti":
        affine = read_nifti(path).affine
    ny, nx = volume.image.shape[1:3]
    return PreparedImages(images, (ny, nx), affine, reader)


def is_dicom_series(path: str | os.PathLike) -> bool:
    """Whether all data files of a folder are DICOM; tables and texts do not count."""
    path = Path(path)
    if not path.is_dir():
        return False
    try:
        kinds = {kind_of(file) for file in path.iterdir() if file.is_file() and not file.name.startswith(".")}
    except DataError:
        return False
    return kinds - {None} == {"dicom"}


def to_native_grid(values: np.ndarray, native_shape: tuple[int, int]) -> np.ndarray:
    """Values (slices, ny, nx, ...) on the grid of the cohort, on that of the file: float32, means by area.

    Raises:
      ArgumentError: there are fewer than two axes of the image.
    """
    if values.ndim < 3:
        raise ArgumentError("values", "(slices, ny, nx, ...)", values.shape)
    matrix = (values.shape[1], values.shape[2])
    size = size_in(native_shape, matrix)
    (top, left) = ((m - n) // 2 for n, m in zip(size, matrix, strict=True))
    inside = values[:, top : top + size[0], left : left + size[1]]
    return by_area(inside, native_shape)
