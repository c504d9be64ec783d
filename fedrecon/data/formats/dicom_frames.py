"""Single pictures of DICOM files: plain ones, multi-frame ones, and slices tiled into one picture.

Reference: DICOM PS3.3, C.7.6.16 (functional groups), C.11.1 (rescaling).
"""

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedrecon.data.formats.dicom_elements import element, import_pydicom, numbers, rescaled, stored_pixels
from fedrecon.data.formats.hdf5 import DataError

_VFRAME_COUNT, _VFRAME_SLICES = 0x00651050, 0x00651051


class Frame(NamedTuple):
    """One picture and what is stated about it.

    Attributes:
      file: where it comes from.
      name: the file, with the number of the frame where there are several.
      layers: data sets in which an element is looked up, nearest first.
      pixels: as stored ``(rows, columns)``.
    """

    file: Path
    name: Path
    layers: tuple[Any, ...]
    pixels: np.ndarray

    def layer(self, key: str) -> Any:
        """The nearest data set that has this element; the last one where none has."""
        return next((layer for layer in self.layers if key in layer), self.layers[-1])

    def get(self, key: str) -> Any:
        """The value of an element, None where there is none, it is empty or cannot be decoded."""
        try:
            return element(self.layer(key), key)
        except Exception:
            return None

    def numbers(self, key: str, count: int) -> np.ndarray:
        """An element as float64 ``(count,)``; `DataError` where it is not that."""
        return numbers(self.name, self.layer(key), key, count)

    def values(self) -> np.ndarray:
        """float32 (rows, columns) after rescaling; where nothing says how, which CT must, as stored."""
        layer = next((x for x in self.layers if "RescaleSlope" in x or "RescaleIntercept" in x), None)
        if layer is None and self.get("Modality") != "CT":
            if self.get("ModalityLUTSequence"):
                found = "a ModalityLUTSequence"
                raise DataError(self.name, "RescaleSlope", "values rescaled by two numbers", found)
            return self.pixels.astype(np.float32)
        return rescaled(self.name, self.layers[-1] if layer is None else layer, self.pixels)


def frames_of(file: Path, header: Any) -> list[Frame]:
    """The pictures of one file.

    Raises:
      DataError: the picture cannot be read, or what places its frames in space is missing.
    """
    pixels = stored_pixels(file, header)
    kinds = element(header, "ImageType") or ()
    if pixels.ndim == 2 and "MOSAIC" in kinds:
        return _mosaic(file, header, pixels)
    if pixels.ndim == 2 and "VFRAME" in kinds:
        return _vframe(file, header, pixels)
    if "PerFrameFunctionalGroupsSequence" in header:
        return _enhanced(file, header, pixels.reshape(-1, *pixels.shape[-2:]))
    if pixels.ndim == 2:
        return [Frame(file, file, (header,), pixels)]
    expected = f"what places each of NumberOfFrames = {len(pixels)}"
    raise DataError(file, "PerFrameFunctionalGroupsSequence", expected, "no such element")


def _enhanced(file: Path, header: Any, pixels: np.ndarray) -> list[Frame]:
    groups = header.PerFrameFunctionalGroupsSequence
    if len(groups) != len(pixels):
        raise DataError(file, "PerFrameFunctionalGroupsSequence", f"{len(pixels)} frames", len(groups))
    shared = _macros((element(header, "SharedFunctionalGroupsSequence") or [()])[0])
    return [
        Frame(file, _numbered(file, number), (*_macros(group), *shared, header), image)
        for number, (group, image) in enumerate(zip(groups, pixels, strict=True), 1)
    ]


def _macros(group: Any) -> tuple[Any, ...]:
    """The data sets of a functional group, each of which is a sequence of one item."""
    return tuple(entry.value[0] for entry in group if entry.VR == "SQ" and len(entry.value or ()) == 1)


def _mosaic(file: Path, header: Any, pixels: np.ndarray) -> list[Frame]:
    """Siemens: slices from left to right, then down, along the normal that the private header states."""
    count = round(float(_csa(file, header, "NumberOfImagesInMosaic", 1)[0]))
    normal = np.array(_csa(file, header, "SliceNormalVector", 3))
    rows, columns = numbers(file, header, "ImageOrientationPatient", 6).reshape(2, 3)
    if abs(abs(normal @ np.cross(rows, columns)) - 1) > 1e-2:
        raise DataError(file, "SliceNormalVector", "a unit vector across the slices", normal.tolist())
    across = math.ceil(math.sqrt(max(count, 1)))
    tiles = _tiles(file, pixels, count, (across, across))
    down, right = numbers(file, header, "PixelSpacing", 2)
    # The position is that of a slice as large as all tiles, with the same center.
    missing = np.array(pixels.shape) / 2 - np.array(tiles.shape[1:]) / 2
    corner = numbers(file, header, "ImagePositionPatient", 3)
    corner = corner + missing[1] * right * rows + missing[0] * down * columns
    step = numbers(file, header, "SpacingBetweenSlices", 1) if count > 1 else 0.0
    places = corner + np.arange(count)[:, None] * step * normal
    return [
        Frame(file, _numbered(file, number), (_placed(place), header), tile)
        for number, (place, tile) in enumerate(zip(places, tiles, strict=True), 1)
    ]


def _vframe(file: Path, header: Any, pixels: np.ndarray) -> list[Frame]:
    """United Imaging: slices from left to right, then down; a private sequence says where they are."""
    slices = element(header, _VFRAME_SLICES) or ()
    count = len(slices)
    stated = element(header, _VFRAME_COUNT)
    if not count or stated != count:
        expected = "positions of as many slices as (0065,1050) states"
        raise DataError(file, "(0065,1051)", expected, f"{count} and {stated}")
    across = math.ceil(math.sqrt(max(count, 1)))
    tiles = _tiles(file, pixels, count, (math.ceil(count / across), across))
    return [
        Frame(file, _numbered(file, number), (item, header), tile)
        for number, (item, tile) in enumerate(zip(slices, tiles, strict=True), 1)
    ]


def _tiles(file: Path, pixels: np.ndarray, count: int, grid: tuple[int, int]) -> np.ndarray:
    """The first tiles (count, rows, columns) of a picture that is divided into grid[0] x grid[1]."""
    if count < 1 or any(n % m for n, m in zip(pixels.shape, grid, strict=True)):
        raise DataError(file, "PixelData", f"{count} tiles, {grid[0]} x {grid[1]} of them", pixels.shape)
    rows, columns = (n // m for n, m in zip(pixels.shape, grid, strict=True))
    tiles = pixels.reshape(grid[0], rows, grid[1], columns).swapaxes(1, 2)
    return tiles.reshape(-1, rows, columns)[:count]


def _placed(place: np.ndarray) -> Any:
    layer = import_pydicom().Dataset()
    layer.ImagePositionPatient = [float(x) for x in place]
    return layer


def _numbered(file: Path, number: int) -> Path:
    return Path(f"{file} (frame {number})")


def _csa(file: Path, header: Any, name: str, count: int) -> list[float]:
    """Numbers of the private header (0029,xx10) of Siemens, in either of its two layouts."""
    try:
        content = header.private_block(0x29, "SIEMENS CSA HEADER")[0x10].value
    except KeyError:
        expected = "the private header SIEMENS CSA HEADER, which places the slices of a mosaic"
        raise DataError(file, "(0029,xx10)", expected, "no such element") from None
    try:
        words = _csa_elements(bytes(content or b""))[name]
        values = [float(word) for word in words[:count]]
    except (KeyError, ValueError, struct.error) as error:
        raise DataError(file, "(0029,xx10)", f"{count} numbers {name}", repr(error)) from error
    if len(values) < count:
        raise DataError(file, "(0029,xx10)", f"{count} numbers {name}", words)
    return values


def _csa_elements(content: bytes) -> dict[str, list[str]]:
    """The texts of every element by its name, without empty ones."""
    second = content[:4] == b"SV10"
    position = 8 if second else 0
    (count,) = struct.unpack_from("<I", content, position)
    position += 8
    result: dict[str, list[str]] = {}
    surplus = 0
    for index in range(count):
        name, items = struct.unpack_from("<64s12xI4x", content, position)
        position += 84
        # The first layout adds the number of items of its first element to all lengths.
        surplus = items if index == 0 and not second else surplus
        texts = []
        for _ in range(items):
            lengths = struct.unpack_from("<4i", content, position)
            length = max(lengths[1] if second else lengths[0] - surplus, 0)
            position += 16
            texts.append(content[position : position + length].split(b"\0")[0].decode("latin-1").strip())
            position += -(-length // 4) * 4
        result[name.split(b"\0")[0].decode("latin-1")] = [text for text in texts if text]
    return result
