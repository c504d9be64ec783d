"""The ISMRMRD header of a fastMRI file: matrix sizes and fields of view."""

import dataclasses
import math
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from fedrecon.data.formats.hdf5 import DataError


@dataclasses.dataclass(frozen=True)
class EncodingSpace:
    """One space of the header, axes in the header's order (x: readout, y, z).

    Attributes:
      matrix: number of samples along (x, y, z).
      field_of_view: along (x, y, z) in mm; None where the header states zero, that is, does not know.
    """

    matrix: tuple[int, int, int]
    field_of_view: tuple[float, float, float] | None


@dataclasses.dataclass(frozen=True)
class ISMRMRDHeader:
    """The encoded and the reconstructed space of the first encoding."""

    encoded: EncodingSpace
    recon: EncodingSpace


def parse_ismrmrd_header(xml: str, path: str = "<header>", key: str = "ismrmrd_header") -> ISMRMRDHeader:
    """Parses the header's XML. Document types and entities are refused, so nothing is expanded or fetched.

    Args:
      xml: the text of the header.
      path: file named in errors.
      key: key named in errors.

    Raises:
      DataError: not well-formed, holds a document type or entity, or lacks a positive matrix size or a field
        of view.
    """

    def refuse(*_: Any) -> None:
        raise DataError(path, key, "XML without document type and entities", "a document type declaration")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        # The same bytes, declared encoding and all, go to both parsers: what is checked is what is used.
        content = xml.encode()
        parser.Parse(content, True)
        root = ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(path, key, "well-formed XML", error) from error
    encoding = root.find("{*}encoding")
    if encoding is None:
        raise DataError(path, key, "an element 'encoding'", f"the element {root.tag!r} without it")
    return ISMRMRDHeader(
        _space(encoding, "encodedSpace", path, key), _space(encoding, "reconSpace", path, key)
    )


def _space(encoding: ElementTree.Element, name: str, path: str, key: str) -> EncodingSpace:
    def numbers(group: str, read: type, smallest: int) -> tuple:
        result = []
        for axis in "xyz":
            text = encoding.findtext(f"{{*}}{name}/{{*}}{group}/{{*}}{axis}")
            try:
                value = read((text or "").strip())
            except ValueError:
                value = math.nan
            if not math.isfinite(value) or value < smallest:
                place = f"encoding/{name}/{group}/{axis}"
                raise DataError(path, key, f"a number >= {smallest} in {place}", repr(text))
            result.append(value)
        return tuple(result)

    matrix = numbers("matrixSize", int, 1)
    field_of_view = numbers("fieldOfView_mm", float, 0)
    return EncodingSpace(matrix, field_of_view if min(field_of_view) > 0 else None)


def format_ismrmrd_header(header: ISMRMRDHeader) -> str:
    """The header's XML, which `parse_ismrmrd_header` reads back."""

    def triple(name: str, values: tuple) -> str:
        return (
            f"<{name}>"
            + "".join(f"<{a}>{v}</{a}>" for a, v in zip("xyz", values, strict=True))
            + f"</{name}>"
        )

    def space(name: str, value: EncodingSpace) -> str:
        inside = triple("matrixSize", value.matrix)
        return f"<{name}>{inside}{triple('fieldOfView_mm', value.field_of_view or (0, 0, 0))}</{name}>"

    spaces = space("encodedSpace", header.encoded) + space("reconSpace", header.recon)
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        f"<encoding>{spaces}<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    )
