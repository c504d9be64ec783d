"""Arrays of the Berkeley Advanced Reconstruction Toolbox (BART): pairs of ``.cfl`` and ``.hdr`` files.

The ``.cfl`` holds complex64 little-endian values in column-major order, the ``.hdr`` their 16 dimensions as
text. Every dimension has its meaning; `DIMENSIONS` names them in order:

  READ, PHS1, PHS2   readout and phase encodings of k-space, or the image axes that belong to them; a
                     trajectory has components along READ, samples along PHS1 and spokes along PHS2
  COIL, MAPS         receive coils; sets of coil maps
  TE, COEFF, COEFF2  echoes; coefficients
  ITER, CSHIFT       iterations; chemical shifts
  TIME, TIME2        frames; a second time axis, such as the respiratory phase
  LEVEL, SLICE, AVG  levels; slices; averages
  BATCH              examples

In fedrecon the rows of an image (ny) are READ and the columns (nx) PHS1: the layout of fastMRI, in which
masks select columns. BART's centered unitary transforms, ``fft -u`` and ``nufft``, are then those of
`operators`.

Reference: Uecker et al., "Berkeley Advanced Reconstruction Toolbox", Proc. ISMRM 23:2486, 2015.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedrecon.data.formats.hdf5 import DataError
from fedrecon.errors import ArgumentError
from fedrecon.files import replacing

DIMENSIONS = (
    "READ", "PHS1", "PHS2", "COIL", "MAPS", "TE", "COEFF", "COEFF2",
    "ITER", "CSHIFT", "TIME", "TIME2", "LEVEL", "SLICE", "AVG", "BATCH",
)  # fmt: skip

_DTYPE = np.dtype("<c8")
_LARGEST_HEADER = 1 << 20
# The component of a BART trajectory (READ, PHS1, PHS2) that belongs to each image axis.
_COMPONENTS = {2: (0, 1), 3: (2, 0, 1)}


class CflHeader(NamedTuple):
    """The header of an array.

    Attributes:
      dimensions: the 16 lengths, in the order of `DIMENSIONS`.
      sections: text of the other sections, such as ``Command``, ``Files`` and ``Creator``, by keyword.
    """

    dimensions: tuple[int, ...]
    sections: dict[str, str]


def read_cfl_header(path: str | os.PathLike) -> CflHeader:
    """Reads the ``.hdr`` of an array.

    Args:
      path: of the array: with the suffix ``.cfl`` or ``.hdr``, or without one, as BART writes it.

    Raises:
      DataError: no such file, or the text does not state at most 16 positive dimensions exactly once.
    """
    header = _files(path)[0]
    try:
        with header.open("rb") as file:
            text = file.read(_LARGEST_HEADER).decode(errors="replace")
    except OSError as error:
        raise DataError(header, None, "a readable BART header", error.strerror or error) from error
    # Before the first keyword, then keyword and body in turn.
    _, *parts = re.split(r"^#[ \t]*(\S+)[^\n]*$\n?", text, flags=re.MULTILINE)
    keywords, bodies = parts[::2], [body.strip() for body in parts[1::2]]
    if keywords.count("Dimensions") != 1:
        found = f"{keywords.count('Dimensions')} among the sections {keywords[:8]}"
        raise DataError(header, "Dimensions", "one section of this name", found)
    sections = dict(zip(keywords, bodies, strict=True))
    return CflHeader(_dimensions(header, sections.pop("Dimensions")), sections)


def read_cfl(path: str | os.PathLike) -> np.ndarray:
    """Opens an array, memory-mapped: nothing is read before it is used, and values are not checked.

    Args:
      path: of the array: with the suffix ``.cfl`` or ``.hdr``, or without one, as BART writes it.

    Returns:
      Read-only complex64 array with the 16 axes of `DIMENSIONS`; see `from_bart`.

    Raises:
      DataError: a file of the pair is missing or malformed, or the size of the ``.cfl`` is not that which its
        header states.
    """
    dimensions = read_cfl_header(path).dimensions
    data = _files(path)[1]
    expected = math.prod(dimensions) * _DTYPE.itemsize
    try:
        found = data.stat().st_size
        if not data.is_file():
            raise DataError(data, None, "a file of values", "not a regular file")
        if found != expected:
            stated = " x ".join(map(str, _trimmed(dimensions)))
            raise DataError(data, None, f"{expected} bytes ({stated} complex64)", f"{found} bytes")
        return np.memmap(data, _DTYPE, "r", shape=dimensions, order="F")
    except OSError as error:
        raise DataError(data, None, "a readable file of values", error.strerror or error) from error


def write_cfl(path: str | os.PathLike, array: np.ndarray, sections: Mapping[str, str] | None = None) -> None:
    """Writes an array that BART and `read_cfl` read.

    The old pair of files stays until the new one is complete on disk. A crash in between leaves values
    without a header, which nothing reads, never values under another array's header.

    Args:
      path: of the array: with the suffix ``.cfl`` or ``.hdr``, or without one.
      array: real or complex with at most 16 axes, in the order of `DIMENSIONS`; see `to_bart`.
      sections: further sections of the header, text by keyword.

    Raises:
      DataError: the array is empty, has more than 16 axes or values beyond the range of complex64, or a
        section would not be read back; nothing is written.
      OSError: the folder does not exist or cannot be written.
    """
    header, data = _files(path)
    array = np.asarray(array)
    if array.dtype.kind not in "biufc" or array.size == 0 or array.ndim > len(DIMENSIONS):
        expected = f"numbers with at most {len(DIMENSIONS)} axes and at least one element"
        raise DataError(data, None, expected, f"{array.dtype} of shape {array.shape}")
    try:
        with np.errstate(over="raise"):
            values = array.astype(_DTYPE)
    except FloatingPointError as error:
        raise DataError(data, None, "values in the range of complex64", error) from error
    lengths = array.shape + (1,) * (len(DIMENSIONS) - array.ndim)
    text = "# Dimensions\n" + " ".join(map(str, lengths)) + "\n"
    for keyword, body in (sections or {}).items():
        whole = re.fullmatch(r"[^\s#]\S{0,30}", keyword) and not re.search("^#", body, re.MULTILINE)
        if keyword == "Dimensions" or not whole:
            raise DataError(header, keyword, "a keyword of one word and lines without '#'", repr(body))
        text += f"# {keyword}\n{body}\n"
    with replacing(header) as new_header, replacing(data) as new_data:
        new_header.write_text(text)
        with new_data.open("wb") as file:
            # The transpose in row-major order is the array in column-major order.
            values.T.tofile(file)
            file.flush()
            os.fsync(file.fileno())
        header.unlink(missing_ok=True)


def from_bart(array: np.ndarray, axes: Sequence[str]) -> np.ndarray:
    """The axes of a BART array that are named, in that order; a view.

    Cartesian k-space is ``("SLICE", "COIL", "READ", "PHS1")``, or with ``"PHS2"`` before ``"READ"`` for
    volumes (nz, ny, nx); non-Cartesian k-space is ``("SLICE", "COIL", "PHS2", "PHS1")``, (slices, coils,
    spokes, samples); images are ``("SLICE", "READ", "PHS1")``.

    Args:
      array: at most 16 axes, in the order of `DIMENSIONS`.
      axes: names of distinct dimensions; all others must have length 1.

    Raises:
      ValueError: a name is unknown or repeated, there are more than 16 axes, or a dimension without a name is
        longer than 1.
    """
    places = _places(axes, "from_bart")
    if array.ndim > len(DIMENSIONS):
        raise ArgumentError("from_bart: array", "at most 16 axes", f"shape {array.shape}")
    shape: tuple[int, ...] = array.shape + (1,) * (len(DIMENSIONS) - array.ndim)
    array = array.reshape(shape, order="F")
    for place, (name, length) in enumerate(zip(DIMENSIONS, shape, strict=True)):
        if length > 1 and place not in places:
            raise ArgumentError(f"from_bart: dimension {place} ({name})", "length 1", length)
    rest = [place for place in range(len(DIMENSIONS)) if place not in places]
    return np.squeeze(array.transpose(*places, *rest), tuple(range(len(places), len(DIMENSIONS))))


def to_bart(array: np.ndarray, axes: Sequence[str]) -> np.ndarray:
    """Inverse of `from_bart`: a view with 16 axes, those of ``array`` at the places of their names.

    Raises:
      ValueError: a name is unknown or repeated, or there is not one name for each axis.
    """
    places = _places(axes, "to_bart")
    if len(places) != array.ndim:
        raise ArgumentError("to_bart: axes", f"names of {array.ndim} axes of shape {array.shape}", axes)
    order = np.argsort(places)
    lengths = [1] * len(DIMENSIONS)
    for place, length in zip(places, array.shape, strict=True):
        lengths[place] = length
    return array.transpose(order).reshape(lengths)


def trajectory_from_bart(trajectory: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """A BART trajectory as `operators.NUFFT` takes it.

    Args:
      trajectory: (3, samples, spokes) in cycles per field of view, components (READ, PHS1, PHS2); further
        axes of length 1. Complex with imaginary part zero, as in a ``.cfl``, or real.
      image_shape: (ny, nx), rows along READ and columns along PHS1, or (nz, ny, nx), slices along PHS2.

    Returns:
      float32 (spokes, samples, ndim) in cycles per pixel, columns in the order of the image axes.

    Raises:
      ValueError: the shape is another one, the values are not finite or not real, or the last component is
        not zero with a two-dimensional image.
    """
    components = _image_components(image_shape, "trajectory_from_bart")
    if trajectory.ndim < 2 or len(trajectory) != 3:
        shape = tuple(trajectory.shape)
        raise ArgumentError("trajectory_from_bart: trajectory", "(3, samples, spokes)", shape)
    values = from_bart(trajectory, ("PHS2", "PHS1", "READ"))
    if not np.isfinite(values).all() or np.imag(values).any():
        raise ArgumentError("trajectory_from_bart: trajectory", "finite real values", "other values")
    values = np.real(values)
    if len(components) == 2 and values[..., 2].any():
        raise ArgumentError(
            "trajectory_from_bart: component PHS2",
            "zero for a two-dimensional image",
            f"values up to {np.abs(values[..., 2]).max():.4g}",
        )
    return (values[..., components] / np.asarray(image_shape)).astype(np.float32)


def trajectory_to_bart(trajectory: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """Inverse of `trajectory_from_bart`: (spokes, samples, ndim) -> complex64 (3, samples, spokes).

    Raises:
      ValueError: the shapes do not fit each other.
    """
    components = _image_components(image_shape, "trajectory_to_bart")
    trajectory = np.asarray(trajectory)
    if trajectory.ndim != 3 or trajectory.shape[-1] != len(components):
        expected = f"(spokes, samples, {len(components)})"
        raise ArgumentError("trajectory_to_bart: trajectory", f"{expected}", trajectory.shape)
    result = np.zeros((3, *trajectory.shape[1::-1]), np.complex64)
    result[list(components)] = (trajectory * np.asarray(image_shape)).T
    return result


def _files(path: str | os.PathLike) -> tuple[Path, Path]:
    """The ``.hdr`` and the ``.cfl``."""
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".cfl", ".hdr") else path
    return stem.with_name(stem.name + ".hdr"), stem.with_name(stem.name + ".cfl")


def _dimensions(path: Path, text: str) -> tuple[int, ...]:
    try:
        lengths = [int(word) for word in text.split()]
    except ValueError as error:
        raise DataError(path, "Dimensions", "integers", repr(text[:80])) from error
    count = len(DIMENSIONS)
    if not lengths or min(lengths) < 1 or any(n != 1 for n in lengths[count:]):
        raise DataError(path, "Dimensions", f"at most {count} positive integers", repr(text[:80]))
    return tuple(lengths[:count]) + (1,) * (count - len(lengths))


def _trimmed(dimensions: tuple[int, ...]) -> tuple[int, ...]:
    longest = max((i for i, n in enumerate(dimensions) if n > 1), default=0)
    return dimensions[: longest + 1]


def _places(axes: Sequence[str], where: str) -> list[int]:
    unknown = [name for name in axes if name not in DIMENSIONS]
    if unknown or len(set(axes)) != len(axes):
        raise ArgumentError(f"{where}: axes", f"distinct names of {DIMENSIONS}", tuple(axes))
    return [DIMENSIONS.index(name) for name in axes]


def _image_components(image_shape: Sequence[int], where: str) -> tuple[int, ...]:
    if len(image_shape) not in _COMPONENTS or min(image_shape) < 1:
        expected = "two or three positive integers"
        raise ArgumentError(f"{where}: image_shape", f"{expected}", tuple(image_shape))
    return _COMPONENTS[len(image_shape)]
