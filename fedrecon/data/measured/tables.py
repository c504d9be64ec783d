"""Clinical tables of real hospitals, prepared and divided as in FLamby's benchmark (arXiv:2210.04620)."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedrecon.data.formats import DataError
from fedrecon.errors import ArgumentError

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
# Slope of the ST segment, number of vessels and thallium scan are missing in most rows of three hospitals.
_DROPPED = (10, 11, 12)
_CATEGORIES = (2, 6)
_COLUMNS = 14


class Table(NamedTuple):
    """Patients of several sites.

    Attributes:
      features: float32 (patients, features), as they are in the files.
      targets: name -> float32 (patients,).
      site: int (patients,), index in ``names``.
      test: bool (patients,), who is for the test.
      names: of the sites.
    """

    features: np.ndarray
    targets: dict[str, np.ndarray]
    site: np.ndarray
    test: np.ndarray
    names: tuple[str, ...]

    def standardized(self, pooled: bool = False) -> "Table":
        """With mean 0 and variance 1 of each feature over the training patients, of each site or of all."""
        features = np.empty_like(self.features)
        for site in range(len(self.names)):
            rows = self.site == site
            train = self.features[~self.test & (rows | pooled)]
            features[rows] = (self.features[rows] - train.mean(0)) / (train.std(0, ddof=1) + 1e-9)
        return self._replace(features=features)

    def part(self, site: int | None, test: bool) -> dict[str, np.ndarray]:
        """``x`` and the targets of the training or test patients of a site, or of all."""
        rows = (self.test == test) & ((self.site == site) | (site is None))
        return {"x": self.features[rows], **{name: values[rows] for name, values in self.targets.items()}}


def read_heart_disease(folder: str | os.PathLike) -> Table:
    """Heart disease of four hospitals (UCI), ``label`` 1 where there is any; 740 patients and 13 features.

    Columns 10 to 12 and then patients with missing values are dropped; the categories of columns 2 and 6
    become indicators without the first. 34 % of each hospital's patients are for the test, stratified by
    label where both have more than two (``train_test_split`` of scikit-learn, random state 43).

    Args:
      folder: has ``heart_cleveland.csv``, ``heart_hungarian.csv``, ``heart_switzerland.csv`` and
        ``heart_va.csv``, 14 columns without a header, missing values empty or ``?``; or has a folder
        ``tabular`` with them.

    Raises:
      DataError: a file is missing or has another form.
      ImportError: scikit-learn is not installed (extra ``tables``).
    """
    folder = _folder(folder, "heart_cleveland.csv")
    values, site = [], []
    for number, name in enumerate(HOSPITALS):
        rows = _heart_rows(folder / f"heart_{name}.csv")
        values.append(rows)
        site += [number] * len(rows)
    table = np.concatenate(values)
    kept = [c for c in range(_COLUMNS - 1) if c not in _DROPPED and c not in _CATEGORIES]
    columns = [table[:, c] for c in kept]
    for c in _CATEGORIES:
        columns += [table[:, c] == level for level in np.unique(table[:, c])[1:]]
    label = (table[:, -1] > 0).astype(np.float32)
    sites = np.asarray(site)
    test = np.zeros(len(table), bool)
    for number in range(len(HOSPITALS)):
        rows = np.flatnonzero(sites == number)
        test[rows[_test_rows(label[rows])]] = True
    features = np.stack(columns, 1).astype(np.float32)
    return Table(features, {"label": label}, sites, test, HOSPITALS)


def read_tcga_brca(folder: str | os.PathLike) -> Table:
    """Survival with breast cancer in six regions (TCGA-BRCA): ``event`` and ``time`` in days.

    Patients whom the split does not name are left out.

    Args:
      folder: has ``tcga_brca.csv`` (patient, 39 features, event, time) and ``tcga_brca_split.csv`` (patient,
        part, part and region), or has a folder ``tabular`` with them.

    Raises:
      DataError: a file is missing or has another form.
    """
    folder = _folder(folder, "tcga_brca.csv")
    header, rows = _read(folder / "tcga_brca.csv")
    _, parts = _read(folder / "tcga_brca_split.csv")
    part = {row[0]: row[2].rsplit("_", 1) for row in parts}
    rows = [row for row in rows if row[0] in part]
    if not rows:
        raise DataError(folder / "tcga_brca_split.csv", None, "patients of tcga_brca.csv", "none")
    values = _numbers(folder / "tcga_brca.csv", [row[1:] for row in rows])
    if values.shape[1] != 41:
        raise DataError(folder / "tcga_brca.csv", None, "42 columns", len(header))
    site = np.array([int(part[row[0]][1]) for row in rows])
    test = np.array([part[row[0]][0] == "test" for row in rows])
    targets = {"event": values[:, 39], "time": values[:, 40]}
    names = tuple(f"region {number}" for number in range(site.max() + 1))
    return Table(values[:, :39], targets, site, test, names)


def _test_rows(label: np.ndarray) -> np.ndarray:
    try:
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError("scikit-learn is not installed: pip install 'fedrecon[tables]'") from error
    levels, counts = np.unique(label, return_counts=True)
    stratify = label if len(levels) > 1 and (counts > 2).all() else None
    options = {"test_size": 1 - 0.66, "train_size": 0.66, "random_state": 43, "stratify": stratify}
    return train_test_split(np.arange(len(label)), **options)[1]


def _heart_rows(path: Path) -> np.ndarray:
    rows = _read(path, header=False)[1]
    if wrong := next((row for row in rows if len(row) != _COLUMNS), None):
        raise DataError(path, None, f"{_COLUMNS} columns", len(wrong))
    used = [c for c in range(_COLUMNS) if c not in _DROPPED]
    whole = [row for row in rows if all(row[c].strip() not in ("", "?") for c in used)]
    cleaned = [["0" if c in _DROPPED else value for c, value in enumerate(row)] for row in whole]
    return _numbers(path, cleaned)


def _numbers(path: Path, rows: Sequence[Sequence[str]]) -> np.ndarray:
    try:
        return np.array([[float(value) for value in row] for row in rows], np.float32)
    except ValueError as error:
        raise DataError(path, None, "numbers", error) from error


def _read(path: Path, header: bool = True) -> tuple[list[str], list[list[str]]]:
    try:
        rows = [row for row in csv.reader(path.read_text().splitlines()) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(path, None, "a table", error) from error
    if len(rows) <= header:
        raise DataError(path, None, "patients", "none")
    return (rows[0], rows[1:]) if header else ([], rows)


def _folder(folder: str | os.PathLike, name: str) -> Path:
    for place in (Path(folder), Path(folder) / "tabular"):
        if (place / name).exists():
            return place
    raise ArgumentError("folder", f"one with {name}", str(folder))
