"""Tables of labels, ``labels.csv``: of files or patients, in the folder of a hospital or at the top."""

import csv
from pathlib import Path
from typing import NamedTuple

from fedrecon.data.clients import PARTS
from fedrecon.data.formats import DataError

TABLE = "labels.csv"
_COLUMNS = ("file", "patient", "label", "part", "site")


class Row(NamedTuple):
    """One row: what is known of a file, or of all files of a patient."""

    table: Path
    line: int
    file: str
    patient: str
    label: str
    part: str
    site: str

    def error(self, expected: str, found: object) -> DataError:
        """A fault of this row."""
        return DataError(self.table, f"line {self.line}", expected, found)


class Table:
    """The rows of the tables of a cohort, found by file or patient.

    Args:
      folder: of the cohort.
      sites: names of the folders of the hospitals.
    """

    def __init__(self, folder: Path, sites: tuple[str, ...]) -> None:
        self.folder = folder
        self.used: dict[Row, str] = {}
        self.by_site: dict[str, dict[str, Row]] = {}
        top = folder / TABLE
        shared = _read(top) if top.is_file() else None
        for site in sites:
            own = folder / site / TABLE
            rows = _read(own) if own.is_file() else None
            if rows is None and shared is not None:
                rows = [row for row in shared if row.site in ("", site)]
            if rows is not None:
                self.by_site[site] = _keys(rows, folder, site)
        self.shared = shared or []

    def find(self, site: str, file: str, patient: str) -> Row | None:
        """The row of a file, named relative to the cohort, else that of its patient.

        Raises:
          DataError: a row of the table of all hospitals fits files of two of them.
        """
        keys = self.by_site.get(site, {})
        row = keys.get(f"file {file}") or keys.get(f"patient {patient}")
        if row is not None and (first := self.used.setdefault(row, site)) != site:
            name = row.file or row.patient
            expected = f"HOSPITAL/{name}, or a column site, since two hospitals have {name}"
            raise row.error(expected, f"{name!r}, of {first!r} and {site!r}")
        return row

    def unused(self) -> list[Row]:
        """Rows that no file belongs to, and whose file is not there at all."""
        rows = {row for keys in self.by_site.values() for row in keys.values()} | set(self.shared)
        folders = {self.folder, *(self.folder / site for site in self.by_site)}
        rows = {row for row in rows if not any((f / row.file).is_file() for f in folders if row.file)}
        return sorted(rows - set(self.used), key=lambda row: (str(row.table), row.line))


def _keys(rows: list[Row], folder: Path, site: str) -> dict[str, Row]:
    found: dict[str, Row] = {}
    by_name: dict[str, Path] = {}
    for path in sorted((folder / site).rglob("*"), reverse=True):
        by_name[path.name] = path
    for row in rows:
        if row.file:
            base = row.table.parent
            names = [base / row.file, folder / site / row.file, folder / row.file]
            paths = [path for path in names if path.exists()]
            if not paths and row.file in by_name:
                # A bare name may lie in any folder of the hospital.
                paths = [by_name[row.file]]
            keys = [f"file {path.relative_to(folder).as_posix()}" for path in paths[:1]]
        else:
            keys = [f"patient {row.patient.removeprefix(site + '/')}"]
        for key in keys:
            if key in found and found[key].label != row.label:
                raise row.error(f"one label of a {key}", f"{found[key].label!r} and {row.label!r}")
            found[key] = row
    return found


def _read(path: Path) -> list[Row]:
    """The rows of a table with commas, semicolons or tabs.

    Raises:
      DataError: it is not such a table; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, None, "a table in UTF-8", f"{type(error).__name__}") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    lines = list(csv.reader(text.splitlines(), delimiter=delimiter))
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    header = ["site" if cell == "hospital" else cell for cell in header]
    if "label" not in header or not {"file", "patient"} & set(header):
        expected = "the columns file or patient, and label, in the first line"
        raise DataError(path, None, expected, f"{', '.join(header)}" or "an empty file")
    if unknown := [cell for cell in header if cell not in _COLUMNS] or len(set(header)) < len(header):
        raise DataError(path, None, f"columns of {', '.join(_COLUMNS)}, each once", f"{unknown}")
    rows = []
    for number, cells in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise DataError(path, f"line {number}", f"{len(header)} cells", len(cells))
        values = {name: "" for name in _COLUMNS} | {
            name: cell.strip() for name, cell in zip(header, cells, strict=True)
        }
        row = Row(path, number, **values)
        if not row.label:
            raise row.error("a label", "none")
        if not row.file and not row.patient:
            raise row.error("a file or a patient", "none")
        if row.part and row.part not in PARTS:
            raise row.error(f"{', '.join(PARTS)} or nothing as the part", repr(row.part))
        rows.append(row)
    if not rows:
        raise DataError(path, None, "at least one row below the names of the columns", "none")
    return rows
