"""Vendor and field strength of the scanner, where a file says them."""

import os
from pathlib import Path
from typing import NamedTuple

import h5py

from fedrecon.data.formats.dicom_elements import element, read_headers
from fedrecon.data.formats.hdf5 import DataError, open_hdf5, read_text
from fedrecon.data.formats.ismrmrd import parse_header_xml


class Scanner(NamedTuple):
    """What made a measurement.

    Attributes:
      vendor: in the file's words; None where it does not say.
      field: strength of the main field in tesla; likewise.
    """

    vendor: str | None = None
    field: float | None = None


def read_scanner(path: str | os.PathLike) -> Scanner:
    """The scanner of a fastMRI or ISMRMRD file, or of a DICOM file or series; nothing of other files.

    Raises:
      DataError: a header cannot be read.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() in (".dcm", ".ima"):
        return _of_dicom(path)
    if not h5py.is_hdf5(path):
        return Scanner()
    with open_hdf5(path) as file:
        groups = [f"{name}/xml" for name, entry in file.items() if isinstance(entry, h5py.Group)]
        for key in ("ismrmrd_header", *groups):
            if key in file:
                return _of_header(read_text(file, key), path, key)
    return Scanner()


def _of_header(xml: str, path: Path, key: str) -> Scanner:
    root = parse_header_xml(xml, str(path), key)
    system = "{*}acquisitionSystemInformation/{*}"
    vendor = (root.findtext(f"{system}systemVendor") or "").strip()
    return Scanner(vendor or None, _number(root.findtext(f"{system}systemFieldStrength_T")))


def _of_dicom(path: Path) -> Scanner:
    try:
        header = read_headers(path)[0][1]
        vendor, field = (element(header, name) for name in ("Manufacturer", "MagneticFieldStrength"))
    # pydicom has many types for values that cannot be decoded.
    except Exception as error:
        raise DataError(path, None, "a DICOM header", error) from error
    return Scanner(str(vendor).strip() or None if vendor else None, _number(field))


def _number(text: object) -> float | None:
    try:
        return round(float(str(text)), 2)
    except ValueError:
        return None
