"""The ISMRMRD header: matrix sizes, fields of view and what else places lines."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from fedrecon.data.formats.hdf5 import DataError


@dataclasses.dataclass(frozen=True)
class EncodingSpace:
    """One space of the header, axes in the header's order (x: readout, y, z).

    Attributes:
      matrix: number of samples along (x, y, z).
      field_of_view: along (x, y, z) in mm, zero along an axis that the header does not know; None where it
        knows none.
    """

    matrix: tuple[int, int, int]
    field_of_view: tuple[float, float, float] | None


@dataclasses.dataclass(frozen=True)
class ISMRMRDHeader:
    """One encoding of the header.

    Attributes:
      encoded: the space that the gradients encode.
      recon: the space of the prescribed images.
      centers: counters of both phase encodings in the center of k-space; None where they are not stated.
      trajectory: its kind in the header's words; "cartesian" where it states none.
      calibration_mode: of parallel imaging ("embedded", "separate", ...); None where it is not stated.
      timing: numbers of the description of the trajectory, such as "rampUpTime" of an EPI readout, by name.
    """

    encoded: EncodingSpace
    recon: EncodingSpace
    centers: tuple[int | None, int | None] = (None, None)
    trajectory: str = "cartesian"
    calibration_mode: str | None = None
    timing: Mapping[str, float] = dataclasses.field(default_factory=dict)


def parse_ismrmrd_header(
    xml: str, path: str = "<header>", key: str = "ismrmrd_header", encoding: int = 0
) -> ISMRMRDHeader:
    """Parses the header's XML. Document types and entities are refused, so nothing is expanded or fetched.

    Args:
      xml: the text of the header.
      path: file named in errors.
      key: key named in errors.
      encoding: number of the encoding, in the order of the header.

    Raises:
      DataError: not well-formed, holds a document type or entity, lacks the encoding, a positive matrix size
        or a field of view, or has limits that are no integers.
    """
    root = parse_header_xml(xml, path, key)
    encodings = root.findall("{*}encoding")
    if not encodings:
        raise DataError(path, key, "an element 'encoding'", f"the element {root.tag!r} without it")
    if encoding >= len(encodings):
        raise DataError(path, key, f"encoding {encoding} that lines name", f"{len(encodings)} of them")
    element = encodings[encoding]
    return ISMRMRDHeader(
        encoded=_space(element, "encodedSpace", path, key),
        recon=_space(element, "reconSpace", path, key),
        centers=(_center(element, 1, path, key), _center(element, 2, path, key)),
        trajectory=(element.findtext("{*}trajectory") or "cartesian").strip(),
        calibration_mode=element.findtext("{*}parallelImaging/{*}calibrationMode"),
        timing=_timing(element),
    )


def parse_header_xml(xml: str, path: str, key: str) -> ElementTree.Element:
    """The root of a header's XML, without document types and entities; arguments as `parse_ismrmrd_header`.

    Raises:
      DataError: not well-formed, or it holds a document type or entity.
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
    return root


def _center(encoding: ElementTree.Element, axis: int, path: str, key: str) -> int | None:
    place = f"kspace_encoding_step_{axis}"
    text = encoding.findtext(f"{{*}}encodingLimits/{{*}}{place}/{{*}}center")
    try:
        return None if text is None else int(text)
    except ValueError as error:
        raise DataError(path, key, f"an integer in encodingLimits/{place}/center", repr(text)) from error


def _timing(encoding: ElementTree.Element) -> dict[str, float]:
    """User parameters of the trajectory; what is no number is nobody's here."""
    result = {}
    for kind in ("Long", "Double"):
        for parameter in encoding.findall(f"{{*}}trajectoryDescription/{{*}}userParameter{kind}"):
            try:
                result[parameter.findtext("{*}name") or ""] = float(parameter.findtext("{*}value") or "")
            except ValueError:
                continue
    return result


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
    return EncodingSpace(matrix, field_of_view if max(field_of_view) > 0 else None)


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
