"""Reading HDF5 files that may be damaged: every fault is one `DataError`."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from operators.algebra import ArgumentError


class DataError(ArgumentError):
    """A data file is not what it should be; the message names file, key, expected and found.

    Attributes:
      path: the file.
      key: the dataset or attribute at fault, or None when it is the file itself.
    """

    def __init__(self, path: str | os.PathLike, key: str | None, expected: str, found: object) -> None:
        self.path, self.key = str(path), key
        where = f"{path}: key {key!r}" if key is not None else f"{path}"
        super().__init__(where, expected, found)

    def __reduce__(self) -> tuple:
        return DataError, (self.path, self.key, self.expected, self.found)


@contextlib.contextmanager
def open_hdf5(path: str | os.PathLike) -> Iterator[h5py.File]:
    """Opens an HDF5 file for reading.

    Any error that the HDF5 library raises inside the block also becomes a `DataError`.

    Raises:
      DataError: the path does not exist, is a directory, is empty, is not HDF5, or is truncated.
    """
    file = Path(path)
    try:
        if not file.exists():
            raise DataError(path, None, "an HDF5 file", "no such file")
        if not file.is_file():
            raise DataError(path, None, "an HDF5 file", "not a regular file")
        if file.stat().st_size == 0:
            raise DataError(path, None, "an HDF5 file", "an empty file")
        if not h5py.is_hdf5(file):
            raise DataError(path, None, "an HDF5 file", "a file of another type or without its beginning")
        with h5py.File(file, "r", locking=False) as opened:
            yield opened
    except DataError:
        raise
    # The library reports damage as OSError, RuntimeError, KeyError, ValueError, MemoryError, SystemError ...
    except Exception as error:
        raise DataError(path, None, "a readable HDF5 file", f"{type(error).__name__}: {error}") from error


def read_array(
    file: h5py.File,
    key: str,
    *,
    kinds: str,
    ndim: int | tuple[int, ...],
    dtype: np.dtype | type | None = None,
    shape: tuple[int | None, ...] | None = None,
) -> np.ndarray:
    """Reads one dataset whole, checked.

    Args:
      file: an open file, see `open_hdf5`.
      key: name of the dataset.
      kinds: accepted numpy kinds, of ``"b"`` bool, ``"iu"`` integers, ``"f"`` float, ``"c"`` complex,
        ``"S"`` fixed-length bytes. Pairs of numbers named real and imaginary part (of MATLAB, or of integers)
        are complex.
      ndim: number of axes, or the accepted numbers.
      dtype: type of the result; None keeps the file's.
      shape: expected shape, None for an axis of any length.

    Raises:
      DataError: missing, a group or a link into another file, wrong type, number of axes, shape, no element,
        no stored values, NaN or infinity or an integer out of range (also when only after the
        conversion), or damaged.
    """
    path = file.filename
    dataset = _dataset(file, key)
    names = {"b": "bool", "i": "integer", "u": "unsigned integer", "f": "float", "c": "complex", "S": "bytes"}
    pair = _complex_pair(dataset.dtype)
    if ("c" if pair else dataset.dtype.kind) not in kinds:
        raise DataError(path, key, "type " + " or ".join(names[k] for k in kinds), f"{dataset.dtype}")
    axes = (ndim,) if isinstance(ndim, int) else ndim
    if dataset.shape is None or len(dataset.shape) not in axes:
        raise DataError(path, key, f"{' or '.join(map(str, axes))} axes", f"shape {dataset.shape}")
    if 0 in dataset.shape:
        raise DataError(path, key, "at least one element", f"shape {dataset.shape}")
    if shape is not None and any(n is not None and n != m for n, m in zip(shape, dataset.shape, strict=True)):
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise DataError(path, key, f"shape {wanted}", f"shape {dataset.shape}")
    try:
        # A dataset without storage reads as fill values: a claimed shape, not a measurement.
        if dataset.id.get_storage_size() == 0:
            raise DataError(path, key, "stored values", "a dataset without storage")
        values = dataset[()]
        if pair:
            real, imaginary = (values[name] for name in pair)
            values = np.empty(values.shape, np.result_type(real.dtype, np.complex64))
            values.real, values.imag = real, imaginary
        with np.errstate(over="ignore"):
            stored, values = values, values if dtype is None else values.astype(dtype)
    except DataError:
        raise
    except Exception as error:
        raise DataError(path, key, "a readable dataset", f"{type(error).__name__}: {error}") from error
    if values.dtype.kind in "iu" and not np.array_equal(values, stored):
        raise DataError(
            path, key, f"values in the range of {values.dtype}", f"{stored.min()} to {stored.max()}"
        )
    if values.dtype.kind in "fc" and not np.isfinite(values).all():
        raise DataError(path, key, "finite values", f"{int((~np.isfinite(values)).sum())} NaN or infinite")
    return values


def read_text(file: h5py.File, key: str) -> str:
    """Reads a scalar text dataset (UTF-8), checked.

    Raises:
      DataError: missing, not a scalar, not text, or damaged.
    """
    dataset = _dataset(file, key)
    if dataset.shape != () or h5py.check_string_dtype(dataset.dtype) is None:
        raise DataError(file.filename, key, "a scalar text", f"shape {dataset.shape}, type {dataset.dtype}")
    try:
        value = dataset[()]
        return value if isinstance(value, str) else bytes(value).decode()
    except Exception as error:
        raise DataError(file.filename, key, "UTF-8 text", f"{type(error).__name__}: {error}") from error


def read_attributes(file: h5py.File) -> dict[str, str | bool | int | float | np.ndarray | list[str]]:
    """Reads the attributes of the file: texts, lists of them, scalars and numeric arrays.

    Others (empty ones, references, compounds, damaged ones) are left out: what a writer adds for its own
    purposes makes no measurement unsound.
    """
    result: dict[str, Any] = {}
    for key in file.attrs:
        try:
            value = _plain(file.attrs[key])
        # The library raises OSError, TypeError, ValueError, RuntimeError ... for types it does not know.
        except Exception:
            continue
        numeric = isinstance(value, np.ndarray) and value.dtype.kind in "biufc"
        if isinstance(value, str | bool | int | float | list) or numeric:
            result[key] = value
    return result


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray) and value.dtype.kind in "SUO" and value.ndim == 1:
        items = [_plain(item) for item in value]
        return items if all(isinstance(item, str) for item in items) else None
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode() if isinstance(value, bytes) else value


def _complex_pair(dtype: np.dtype) -> tuple[str, str] | None:
    """Names of the fields of a compound of a real and an imaginary part; None for another type."""
    names = dtype.names or ()
    if len(names) != 2 or any(dtype[name].kind not in "iuf" or dtype[name].shape for name in names):
        return None
    words = tuple(name.lower() for name in names)
    return names if words in (("r", "i"), ("re", "im"), ("real", "imag")) else None


def _dataset(file: h5py.File, key: str) -> h5py.Dataset:
    path = file.filename
    if isinstance(file.get(key, getlink=True), h5py.ExternalLink):
        raise DataError(path, key, "a dataset in this file", "a link into another file")
    dataset = file.get(key)
    if dataset is None:
        raise DataError(path, key, "a dataset of this name", f"the keys {sorted(file)}")
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(path, key, "a dataset", f"a {type(dataset).__name__.lower()}")
    if dataset.external or dataset.is_virtual:
        raise DataError(path, key, "values stored in this file", "values stored in another file")
    return dataset
