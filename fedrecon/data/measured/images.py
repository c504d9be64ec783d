"""Measured multi-site images: vessels of the retina (segmentation) and chest radiographs (classification)."""

import collections
import dataclasses
import os
from pathlib import Path

import numpy as np

from fedrecon.data.clients import FRACTIONS, PARTS, Cohort, split_patients, stack_parts
from fedrecon.data.formats import DataError, open_hdf5, read_array


@dataclasses.dataclass(frozen=True)
class ImageSite:
    """A site of a cohort of images.

    Attributes:
      name: of the client.
      members: names in the file that make up the client.
      patients: number of patients.
      images: number of images.
    """

    name: str
    members: tuple[str, ...]
    patients: int
    images: int


def load_measured_retina(
    data_dir: str | os.PathLike, *, size: int | None = None, fractions: tuple = FRACTIONS, seed: int = 0
) -> Cohort:
    """Loads colour photographs of the retina with expert masks of the vessels from three sites.

    Examples: ``image`` (ny, nx, 3) float32 in [0, 1]; ``segmentation`` (ny, nx) float32, 0 or 1; ``volume``
    () int32, the patient within client and part (both eyes of a child are one patient).

    Args:
      data_dir: the folder that has ``multisite/``.
      size: edge of the images; None for the file's 256. Smaller ones are made by averaging over whole
        blocks of pixels; then a pixel is a vessel where more than 0.35 of its area is, as in the file.
      fractions: of each site's patients in train, validation and test.
      seed: of the split.

    Raises:
      DataError: the file is missing or not as it should be.
      ValueError: ``size`` does not divide the file's, or a site has too few patients.
    """
    path = Path(data_dir) / "multisite" / "retina_vessels.h5"
    with open_hdf5(path) as file:
        image = read_array(file, "image", kinds="iu", dtype=np.uint8, ndim=4, shape=(None, None, None, 3))
        mask = read_array(file, "mask", kinds="iu", dtype=np.uint8, ndim=3, shape=image.shape[:3])
        sites = read_array(file, "site", kinds="S", ndim=1, shape=image.shape[:1])
        patients = read_array(file, "patient_id", kinds="S", ndim=1, shape=image.shape[:1])
    if not np.isin(mask, (0, 1)).all():
        raise DataError(path, "mask", "values 0 and 1", f"values up to {mask.max()}")
    examples = {
        "image": _shrink(image.astype(np.float32) / 255, size, path),
        "segmentation": (_shrink(mask.astype(np.float32), size, path) > 0.35).astype(np.float32),
    }
    names = _text(path, "site", sites)
    # Patients are numbered anew by each site.
    patients = [f"{s}/{p}" for s, p in zip(names, _text(path, "patient_id", patients), strict=True)]
    notes = "DRIVE, STARE and CHASE_DB1, first observer; 44 images: shows that a method works, no more."
    return _cohort(examples, names, patients, dict.fromkeys(names), fractions, seed, notes)


def load_measured_chest_xray(
    data_dir: str | os.PathLike,
    *,
    size: int | None = None,
    minimum_patients: int = 10,
    fractions: tuple = FRACTIONS,
    seed: int = 0,
) -> Cohort:
    """Loads frontal chest radiographs from hospitals of several countries.

    Examples: ``image`` (ny, nx, 1) float32 in [0, 1]; ``label`` () int32, 1 for COVID-19, 0 for another
    pneumonia or no finding; ``volume`` () int32, the patient within client and part.

    Args:
      data_dir: the folder that has ``multisite/``.
      size: edge of the images; None for the file's 224. Smaller ones are made by averaging over whole
        blocks of pixels.
      minimum_patients: sites with fewer patients are merged into one client named ``"other"``.
      fractions: of each client's patients in train, validation and test.
      seed: of the split.

    Raises:
      DataError: the file is missing or not as it should be.
      ValueError: ``size`` does not divide the file's, or a client has too few patients.
    """
    path = Path(data_dir) / "multisite" / "chest_xray_covid.h5"
    with open_hdf5(path) as file:
        image = read_array(file, "image", kinds="iu", dtype=np.uint8, ndim=3)
        label = read_array(file, "label", kinds="iu", dtype=np.int32, ndim=1, shape=image.shape[:1])
        sites = read_array(file, "site", kinds="S", ndim=1, shape=image.shape[:1])
        patients = read_array(file, "patient_id", kinds="S", ndim=1, shape=image.shape[:1])
    if not np.isin(label, (0, 1)).all():
        raise DataError(path, "label", "values 0 and 1", f"values from {label.min()} to {label.max()}")
    examples = {"image": _shrink(image.astype(np.float32) / 255, size, path)[..., None], "label": label}
    names, patients = _text(path, "site", sites), _text(path, "patient_id", patients)
    numbers = collections.Counter(site for site, _ in set(zip(names, patients, strict=True)))
    merged = {site: "other" if numbers[site] < minimum_patients else site for site in names}
    notes = (
        "Site and label are confounded: a classifier can learn the site. Images passed through publishers; "
        "some carry burnt-in marks. 136 images: shows that a method works, no more."
    )
    return _cohort(examples, names, patients, merged, fractions, seed, notes)


def _cohort(examples, names, patients, clients, fractions, seed, notes) -> Cohort:
    """Splits and stacks; ``clients`` maps the file's sites to clients (None: to themselves), in order."""
    client_of = [clients[name] or name for name in names]
    order = sorted(set(client_of), key=lambda name: (name == "other", client_of.index(name)))
    parts = split_patients(patients, fractions, seed, client_of)
    volumes = {part: [] for part in PARTS}
    ids = {part: [] for part in PARTS}
    for part, members in zip(PARTS, parts, strict=True):
        for client in order:
            here = [i for i in members if client_of[i] == client]
            groups = {p: [i for i in here if patients[i] == p] for p in sorted({patients[i] for i in here})}
            volumes[part].append([{k: v[g] for k, v in examples.items()} for g in groups.values()]
                                 or [{k: v[:0] for k, v in examples.items()}])  # fmt: skip
            ids[part].append(tuple(groups))
    sites = tuple(
        ImageSite(
            name=client,
            members=tuple(sorted({n for n, c in zip(names, client_of, strict=True) if c == client})),
            patients=len({p for p, c in zip(patients, client_of, strict=True) if c == client}),
            images=client_of.count(client),
        )
        for client in order
    )
    return Cohort(
        **stack_parts(volumes, order),
        sites=sites,
        image_shape=examples["image"].shape[1:3],
        patients={part: tuple(i) for part, i in ids.items()},
        notes=notes,
    )


def _shrink(images: np.ndarray, size: int | None, path: Path) -> np.ndarray:
    """Averages ``(n, edge, edge, ...)`` over blocks to ``(n, size, size, ...)``."""
    edge = images.shape[1]
    if images.shape[2] != edge:
        raise DataError(path, "image", "square images", f"shape {images.shape}")
    size = edge if size is None else size
    if size < 1 or edge % size:
        raise ValueError(f"size: expected a divisor of {edge}, found {size}")
    block = edge // size
    return images.reshape(len(images), size, block, size, block, *images.shape[3:]).mean((2, 4))


def _text(path: Path, key: str, values: np.ndarray) -> list[str]:
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise DataError(path, key, "UTF-8 text", repr(error)) from error
