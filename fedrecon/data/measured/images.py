"""Measured images: vessels of the retina (segmentation) and chest radiographs (classification)."""

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from fedrecon.data.clients import FRACTIONS, PARTS, Cohort, split_patients, stack_parts
from fedrecon.data.formats import DataError, open_hdf5, read_array
from fedrecon.data.measured.manifest import ImageManifest, read_image_manifest
from fedrecon.errors import ArgumentError


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


def load_measured_images(
    data_dir: str | os.PathLike,
    cohort: str,
    *,
    size: int | None = None,
    minimum_patients: int = 1,
    fractions: tuple = FRACTIONS,
    seed: int = 0,
) -> Cohort:
    """Loads the cohort of images that a manifest describes.

    Examples: ``image`` (ny, nx, channels) float32, 0 to 1; ``segmentation`` (ny, nx) float32, 0 or 1, or
    ``label`` () int32, or (findings,) of 0 and 1; ``volume`` () int32, the patient within client and part.

    Args:
      data_dir: the folder of the file, and of ``cohorts/COHORT.json`` where there is one.
      cohort: name of the manifest.
      size: edge of the images; None for the file's. Smaller ones are made by averaging over whole blocks of
        pixels; then a pixel belongs to the segmentation where more than the manifest's ``area`` of it does.
      minimum_patients: sites with fewer patients are merged into one client named ``"other"``.
      fractions: of each client's patients in train, validation and test.
      seed: of the split.

    Raises:
      DataError: the file or the manifest is missing or not as it should be.
      ValueError: ``size`` does not divide the file's, or a client has too few patients.
    """
    manifest = read_image_manifest(data_dir, cohort)
    path = Path(data_dir) / manifest.file
    channels = () if manifest.channels == 1 else (manifest.channels,)
    shape = (None, None, None, *channels)
    with open_hdf5(path) as file:
        image = read_array(file, manifest.image, kinds="iu", dtype=np.uint8, ndim=len(shape), shape=shape)
        target = _read_target(file, path, manifest, image.shape[:3])
        names = _names(file, path, manifest.site, len(image)) or [manifest.name or ""] * len(image)
        patients = _names(file, path, manifest.patient, len(image))
    pixels = _shrink(image.astype(np.float32) / manifest.largest, size, path, manifest.image)
    if manifest.target == "segmentation":
        area = _shrink(target.astype(np.float32), size, path, manifest.target_key)
        target = (area > manifest.area).astype(np.float32)
    examples = {"image": pixels if channels else pixels[..., None], manifest.target: target}
    patients = patients or [f"image {number}" for number in range(len(image))]
    if manifest.patients_numbered_by_site:
        patients = [f"{site}/{patient}" for site, patient in zip(names, patients, strict=True)]
    numbers = collections.Counter(site for site, _ in set(zip(names, patients, strict=True)))
    merged = {site: "other" if numbers[site] < minimum_patients else site for site in names}
    cohort = _cohort(examples, names, patients, merged, fractions, seed, manifest.notes)
    labels = tuple(manifest.names or ())
    preparation = {
        "matrix": list(cohort.image_shape),
        "channels": manifest.channels,
        "intensity": {"rule": "window", "low": 0.0, "high": float(manifest.largest)},
        "classes": [],
    }
    return dataclasses.replace(cohort, preparation=preparation, labels=labels)


def load_measured_retina(
    data_dir: str | os.PathLike, *, size: int | None = None, fractions: tuple = FRACTIONS, seed: int = 0
) -> Cohort:
    """Loads color photographs of the retina with expert masks of the vessels from three sites.

    The manifest ``retina`` by `load_measured_images`: images of three channels and a ``segmentation``. Both
    eyes of a child are one patient. ``size`` None is 256 in the public file.
    """
    return load_measured_images(data_dir, "retina", size=size, fractions=fractions, seed=seed)


def load_measured_chest_xray(
    data_dir: str | os.PathLike,
    *,
    size: int | None = None,
    minimum_patients: int = 10,
    fractions: tuple = FRACTIONS,
    seed: int = 0,
) -> Cohort:
    """Loads frontal chest radiographs from hospitals of several countries.

    The manifest ``chest_xray`` by `load_measured_images`: images of one channel and a ``label``, 1 for
    COVID-19, 0 for another pneumonia or no finding. ``size`` None is 224 in the public file.
    """
    return load_measured_images(
        data_dir, "chest_xray", size=size, minimum_patients=minimum_patients, fractions=fractions, seed=seed
    )


def _read_target(file: h5py.File, path: Path, manifest: ImageManifest, shape: tuple) -> np.ndarray:
    """Masks (n, ny, nx) of 0 and 1, labels (n,), or (n, findings)."""
    if manifest.names is not None:
        return _read_texts(file, path, manifest, shape[0])
    masks = manifest.target == "segmentation"
    ndim, dtype = (3, np.uint8) if masks else (1, np.int32)
    values = read_array(file, manifest.target_key, kinds="iu", dtype=dtype, ndim=ndim, shape=shape[:ndim])
    if not np.isin(values, range(manifest.classes)).all():
        expected = "values 0 and 1" if manifest.classes == 2 else f"values 0 to {manifest.classes - 1}"
        found = f"values from {values.min()} to {values.max()}"
        raise DataError(path, manifest.target_key, expected, found)
    return values


def _read_texts(file: h5py.File, path: Path, manifest: ImageManifest, count: int) -> np.ndarray:
    """Labels (n,) of classes, or (n, findings), of what texts say."""
    groups, texts = manifest.names or {}, _names(file, path, manifest.target_key, count) or []
    known = {text for group in groups.values() for text in group}
    if not manifest.several and (unknown := set(texts) - known):
        raise DataError(path, manifest.target_key, f"texts of {', '.join(groups)}", sorted(unknown)[0])
    for name, group in groups.items():
        if not set(group) & set(texts):
            raise DataError(path, manifest.target_key, f"some text of {name}", f"none of {', '.join(group)}")
    members = np.asarray([[text in group for group in groups.values()] for text in texts])
    return (members if manifest.several else members.argmax(1)).astype(np.int32)


def _cohort(
    examples: dict[str, np.ndarray],
    names: Sequence[str],
    patients: Sequence[str],
    clients: Mapping[str, str],
    fractions: tuple[float, ...],
    seed: int,
    notes: str,
) -> Cohort:
    """Splits and stacks; ``clients`` maps the file's sites to clients."""
    client_of = [clients[name] for name in names]
    order = sorted(set(client_of), key=lambda name: (name == "other", client_of.index(name)))
    parts = split_patients(patients, fractions, seed, client_of)
    volumes: dict[str, list] = {part: [] for part in PARTS}
    ids: dict[str, list[tuple[str, ...]]] = {part: [] for part in PARTS}
    for part, members in zip(PARTS, parts, strict=True):
        for client in order:
            groups: dict[str, list[int]] = {}
            for i in (i for i in members if client_of[i] == client):
                groups.setdefault(patients[i], []).append(i)
            groups = dict(sorted(groups.items()))
            volumes[part].append(
                [{k: v[g] for k, v in examples.items()} for g in groups.values()]
                or [{k: v[:0] for k, v in examples.items()}]
            )
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


def _shrink(images: np.ndarray, size: int | None, path: Path, key: str) -> np.ndarray:
    """Averages ``(n, edge, edge, ...)`` over blocks to ``(n, size, size, ...)``."""
    edge = images.shape[1]
    if images.shape[2] != edge:
        raise DataError(path, key, "square images", f"shape {images.shape}")
    size = edge if size is None else size
    if size < 1 or edge % size:
        raise ArgumentError("size", f"a divisor of {edge}", size)
    block = edge // size
    return images.reshape(len(images), size, block, size, block, *images.shape[3:]).mean((2, 4))


def _names(file: h5py.File, path: Path, key: str | None, count: int) -> list[str] | None:
    if key is None:
        return None
    values = read_array(file, key, kinds="S", ndim=1, shape=(count,))
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise DataError(path, key, "UTF-8 text", repr(error)) from error
