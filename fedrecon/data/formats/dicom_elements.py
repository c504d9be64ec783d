"""Elements of DICOM files that may be damaged: every fault is one `DataError`."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.data.formats.hdf5 import DataError


def import_pydicom() -> Any:
    """The package, or an ImportError that names the extra."""
    try:
        import pydicom
    except ImportError as error:
        raise ImportError("DICOM files need an extra: pip install 'fedrecon[dicom]'") from error
    return pydicom


def read_headers(path: str | os.PathLike) -> list[tuple[Path, Any]]:
    """The data set of a file, or of every file of a folder except hidden ones and ``DICOMDIR``.

    Values that the standard does not allow, such as the asterisks of some de-identified files, are no fault
    before somebody asks for them.

    Raises:
      DataError: there is no file, or one is not DICOM.
      ImportError: pydicom is not installed.
    """
    pydicom, path = import_pydicom(), Path(path)
    if not path.exists():
        raise DataError(path, None, "a DICOM file or a folder of them", "no such file")
    names = [path]
    if path.is_dir():
        names = sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != "." and p.name != "DICOMDIR")
    if not names:
        raise DataError(path, None, "a folder of DICOM files", "no file")
    result = []
    for name in names:
        try:
            with _lenient():
                result.append((name, pydicom.dcmread(name)))
        # Damage is reported by many types.
        except Exception as error:
            raise DataError(name, None, "a DICOM file", f"{type(error).__name__}: {error}") from error
    return result


def element(header: Any, key: Any) -> Any:
    """The value of an element, None where there is none or it is empty; text that breaks a rule as it is.

    Raises:
      Exception: the value cannot be decoded; pydicom has many types for that.
    """
    with _lenient():
        value = header[key].value if key in header else None
    return None if isinstance(value, str) and not value.strip() else value


def numbers(name: Path, header: Any, key: str, count: int) -> np.ndarray:
    """A standard element as float64 ``(count,)``."""
    try:
        value = element(header, key)
        values = np.empty(0) if value is None else np.atleast_1d(np.asarray(value, float))
    except Exception as error:
        raise DataError(name, key, f"{count} numbers", f"{type(error).__name__}: {error}") from error
    if values.shape != (count,) or not np.isfinite(values).all():
        missing = "an empty element" if key in header else "no such element"
        found = missing if value is None or values.size == 0 else str(value)
        raise DataError(name, key, "a number" if count == 1 else f"{count} numbers", found)
    return values


def stored_pixels(name: Path, header: Any) -> np.ndarray:
    """The picture as stored, (Rows, Columns) or (frames, Rows, Columns): integers before rescaling."""
    if "PixelData" not in header:
        raise DataError(name, "PixelData", "a picture", "no such element")
    frames = int(header.get("NumberOfFrames") or 1)
    try:
        with _lenient():
            pixels = header.pixel_array
    except Exception as error:
        found = _undecoded(header) or f"{type(error).__name__}: {error}"
        expected = "a readable picture" if frames == 1 else f"pictures of NumberOfFrames = {frames}"
        raise DataError(name, "PixelData", expected, " ".join(found.split())) from error
    shape = (header.Rows, header.Columns)
    if not pixels.size or pixels.shape not in {(frames, *shape), shape if frames == 1 else ()}:
        raise DataError(name, "PixelData", f"shape {(frames, *shape)} of gray values", pixels.shape)
    return pixels


def rescaled(name: Path, header: Any, pixels: np.ndarray) -> np.ndarray:
    """Stored pixels times RescaleSlope plus RescaleIntercept, float32."""
    slope, intercept = (numbers(name, header, f"Rescale{key}", 1)[0] for key in ("Slope", "Intercept"))
    if slope == 0:
        raise DataError(name, "RescaleSlope", "a number other than 0", "0")
    return (pixels * slope + intercept).astype(np.float32)


def _undecoded(header: Any) -> str | None:
    """What is missing to decode the picture, None where nothing is."""
    from pydicom.pixels import get_decoder

    syntax = getattr(header.file_meta, "TransferSyntaxUID", None)
    if syntax is None:
        return "no TransferSyntaxUID"
    try:
        available = not syntax.is_compressed or get_decoder(syntax).is_available
    except (NotImplementedError, ValueError):
        return f"{syntax.name}, which no decoder reads"
    return None if available else f"{syntax.name} and no decoder: pip install 'fedrecon[dicom]'"


@contextlib.contextmanager
def _lenient() -> Iterator[None]:
    """Neither errors nor warnings about values that the standard does not allow."""
    with warnings.catch_warnings(), import_pydicom().config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def series_of(path: str | os.PathLike) -> str | None:
    """SeriesInstanceUID of a DICOM file; None of what has none or cannot be read."""
    pydicom = import_pydicom()
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        return str(header.SeriesInstanceUID)
    # The reader of the file tells what is wrong with it.
    except Exception:
        return None
