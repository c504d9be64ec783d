"""Two institutions that know different things of the same patients: a guest, and a host that has the labels.

Features are brought to one scale by constants that are no part of the data, so that nothing is told by them.
Either institution has patients whom the other does not know.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from experiments.pipeline.heart_images import GRID, failing
from experiments.pipeline.heart_images import features as image_features
from fedrecon.data.formats import DataError
from fedrecon.data.measured import read_heart_disease, read_tcga_brca
from fedrecon.vertical import Party, intersect, new_session

HEARTS = "multisite/sunnybrook_cardiac.h5"
# Part of the patients whom only one of the institutions knows, each.
ALONE = 0.1
_SIMULATED, _EDGE = 400, 16
# Deaths within so many days; others are known to have lived longer.
_DAYS = 5 * 365.25
# Of the 39 columns of TCGA-BRCA: age, ethnicity and race, earlier and other tumors, treatment; the rest is
# what a pathologist finds.
_CLINIC = (*range(7), 29, 30, 31, 32)
# Of the 13 features of heart disease: the electrocardiogram, at rest and at work.
_STRESS = (5, 6, 7, 11, 12)
_HEART_MEANS = np.asarray([54, 0.5, 130, 220, 0.2, 140, 0.4, 0.9, 0.2, 0.2, 0.5, 0.2, 0.2])
_HEART_SCALES = np.asarray([9, 0.5, 18, 80, 0.4, 25, 0.5, 1.1, 0.4, 0.4, 0.5, 0.4, 0.4])


class Problem(NamedTuple):
    """What both institutions know of the patients in common, in one order.

    Attributes:
      guest: float32 (patients, features).
      host: float32 (patients, features).
      labels: float32 (patients,), 0 or 1.
      sizes: patients of the guest, of the host, and in common.
      notes: what a reader must know.
    """

    guest: np.ndarray
    host: np.ndarray
    labels: np.ndarray
    sizes: tuple[int, int, int]
    notes: str


class _Patients(NamedTuple):
    names: list[str]
    guest: np.ndarray
    host: np.ndarray
    labels: np.ndarray
    notes: str


def load(name: str, folder: str, seed: int, effect: float = 1.0) -> Problem:
    """A problem of `PROBLEMS`, of the patients that a private set intersection finds.

    Args:
      name: of the problem.
      folder: of the public files; not read for "simulated".
      seed: of what is simulated.
      effect: of a synthetic table: factor of what it tells.

    Raises:
      DataError: a file is missing or not as described.
      ArgumentError: the folder has no such tables.
    """
    every = PROBLEMS[name](folder, seed, effect)
    count, left = len(every.names), int(ALONE * len(every.names))
    drawn = np.random.default_rng(0).permutation(count)
    # Each institution has an order of its own.
    guest, host = drawn[: count - left], drawn[left:][::-1]
    of_guest, of_host = ([every.names[i] for i in rows] for rows in (guest, host))
    session = new_session()
    first, second = intersect(Party(of_guest, session), Party(of_host, session))
    guest, host = guest[list(first.rows)], host[list(second.rows)]
    # The order of an intersection is random; results are not to depend on it.
    order = np.argsort([every.names[i] for i in guest])
    guest, host = guest[order], host[order]
    sizes = (second.others, first.others, len(order))
    return Problem(every.guest[guest], every.host[host], every.labels[host], sizes, every.notes)


def _simulated(folder: str, seed: int, effect: float) -> _Patients:
    del folder
    rng = np.random.default_rng([seed, 1])
    seen, told = rng.standard_normal((2, _SIMULATED))
    labels = rng.random(_SIMULATED) < 1 / (1 + np.exp(-1.5 * (seen + told)))
    # A disk whose radius is what an image tells, somewhere, in noise.
    y, x = np.mgrid[:_EDGE, :_EDGE] - (_EDGE - 1) / 2
    place = rng.uniform(-1, 1, (2, _SIMULATED, 1, 1))
    disk = np.hypot(y - place[0], x - place[1]) < (4.5 + 1.2 * seen)[:, None, None]
    image = disk + 0.5 * rng.standard_normal(disk.shape)
    cell = _EDGE // GRID
    pooled = image.reshape(-1, GRID, cell, GRID, cell).mean((2, 4)).reshape(len(image), -1)
    table = effect * told[:, None] * np.asarray([1, -1, 0.5, 0, 0]) + rng.standard_normal((_SIMULATED, 5))
    notes = "All simulated: images of disks at the guest, a table at the host."
    names = [f"patient {number}" for number in range(_SIMULATED)]
    return _Patients(names, *_numbers(2 * pooled - 1, table, labels), notes)


def _sunnybrook(folder: str, seed: int, effect: float) -> _Patients:
    path = Path(folder) / HEARTS
    if not path.exists():
        raise DataError(path, None, "the hearts of Sunnybrook", "no such file")
    try:
        with h5py.File(path) as file:
            image = np.asarray(file["image"], np.float32)
            names, groups = (np.asarray(file[name]).astype(str) for name in ("patient_id", "group"))
            frames = np.asarray(file["frame"])
    except (OSError, KeyError) as error:
        raise DataError(path, None, "image, patient_id, group and frame", error) from error
    # The heart is in the middle half; a heartbeat has twenty frames and begins at end-diastole.
    edge = image.shape[-1] // 4
    image = image[:, edge:-edge, edge:-edge]
    late = (frames % 20 > 3) & (frames % 20 < 16)
    patients = sorted(set(names))
    found = np.stack([image_features(image[names == one], late[names == one]) for one in patients])
    ill = failing(patients, dict(zip(names.tolist(), groups.tolist(), strict=True)))
    rng = np.random.default_rng([seed, 2])
    # Age, sex, systolic pressure and the logarithm of a natriuretic peptide, all over their deviations.
    shift = effect * np.asarray([0.2, 0.2, -0.4, 1.5])
    table = (ill[:, None] - 0.5) * shift + rng.standard_normal((len(patients), 4))
    notes = (
        "Measured images of 30 patients of Sunnybrook at the guest, four numbers of each at the host that "
        "are SYNTHETIC: drawn from the diagnosis, which decides how much they tell. Label: heart failure."
    )
    return _Patients(patients, *_numbers((found - 0.3) / 0.2, table, ill), notes)


def _tcga_brca(folder: str, seed: int, effect: float) -> _Patients:
    del seed, effect
    table = read_tcga_brca(folder)
    event, days = table.targets["event"] > 0, table.targets["time"]
    known = (event & (days <= _DAYS)) | (days > _DAYS)
    features = table.features[known].copy()
    features[:, 0] = (features[:, 0] - 58) / 13
    pathology = [column for column in range(features.shape[1]) if column not in _CLINIC]
    names = [f"TCGA-BRCA {row}" for row in np.flatnonzero(known)]
    notes = (
        "Measured: 28 columns of pathology at the guest, 11 of a clinic at the host; the institutions are "
        "made by dividing the columns. Label: death within five years, of patients of whom that is known."
    )
    columns = features[:, pathology], features[:, list(_CLINIC)]
    return _Patients(names, *_numbers(*columns, days[known] <= _DAYS), notes)


def _heart(folder: str, seed: int, effect: float) -> _Patients:
    del seed, effect
    table = read_heart_disease(folder)
    features = (table.features - _HEART_MEANS) / _HEART_SCALES
    clinic = [column for column in range(features.shape[1]) if column not in _STRESS]
    names = [f"heart {row}" for row in range(len(features))]
    notes = (
        "Measured: 5 columns of electrocardiography at the guest, 8 of a clinic at the host; the "
        "institutions are made by dividing the columns of four hospitals' patients. Label: heart disease."
    )
    columns = features[:, list(_STRESS)], features[:, clinic]
    return _Patients(names, *_numbers(*columns, table.targets["label"] > 0), notes)


def _numbers(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(array, np.float32) for array in arrays)


PROBLEMS: dict[str, Callable[[str, int, float], _Patients]] = {
    "simulated": _simulated,
    "sunnybrook": _sunnybrook,
    "tcga_brca": _tcga_brca,
    "heart": _heart,
}
