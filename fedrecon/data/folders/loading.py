"""Reading all files of a cohort: their faults, their patients and their classes."""

import collections
import dataclasses
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from fedrecon.data.folders.files import Faults, Item, discover, list_items
from fedrecon.data.folders.images import normalized
from fedrecon.data.folders.labels import TABLE
from fedrecon.data.folders.manifest import MANIFEST, Manifest, read_manifest
from fedrecon.data.folders.reading import read_item, read_texts
from fedrecon.data.folders.volume import Volume
from fedrecon.data.formats import DataError, read_json_object
from fedrecon.data.simulation import read_mri_cohort_manifest

OTHER = "other"
BACKGROUND = "background"


class Loaded(NamedTuple):
    """The volumes of a cohort, as they are in the files.

    Attributes:
      manifest: of the cohort, with the names of the classes.
      volumes: of each site.
      held_out: of each site, see the manifest.
      unseen: names of the sites that do not train.
      lost: sites none of whose files is sound.
      skipped: faults of files that were left out.
    """

    manifest: Manifest
    volumes: dict[str, list[Volume]]
    held_out: dict[str, str]
    unseen: frozenset[str]
    lost: tuple[str, ...]
    skipped: tuple[DataError, ...]


def is_simulated(data_dir: str | os.PathLike) -> bool:
    """Whether a folder has the cohort.json of a simulated cohort."""
    path = Path(data_dir) / MANIFEST
    return path.is_file() and "format" not in read_json_object(path).members


def find_manifest(
    data_dir: str | os.PathLike, manifest: str | os.PathLike | None = None, faults: Faults | None = None
) -> Manifest:
    """The manifest of a folder: that named, its cohort.json, or the one that its folders amount to."""
    path = Path(data_dir) / MANIFEST if manifest is None else Path(manifest)
    if path.is_file() or manifest is not None:
        return read_manifest(path, data_dir)
    return discover(data_dir, faults)


class Identity(NamedTuple):
    """What tells cohorts of files apart without opening all of them.

    Attributes:
      sha256: of the manifest, and of the names and sizes of files and the tables of labels.
      labels: names of the classes; None of simulated cohorts.
      structures: names of what masks of several values show; None of others.
    """

    sha256: str
    labels: tuple[str, ...] | None
    structures: tuple[str, ...] | None = None


def identify_cohort(data_dir: str | os.PathLike, *, skip_bad: bool = False) -> Identity:
    """What a run writes down of its data.

    Raises:
      DataError: as `read_cohort`.
    """
    if is_simulated(data_dir):
        return Identity(read_mri_cohort_manifest(data_dir).sha256, None)
    folder, faults = Path(data_dir), Faults(skip_bad)
    manifest = find_manifest(folder, faults=faults)
    folders = (folder, *(folder / (source.name or "") for source in manifest.sources))
    tables = {manifest.path, *(place / TABLE for place in folders)}
    parts = [path.read_bytes() for path in sorted(tables) if path.is_file()]
    items = list_items(manifest, faults)
    for item in items:
        inside = sorted(item.path.rglob("*")) if item.path.is_dir() else [item.path]
        for path in (*inside, *([item.mask] if item.mask else [])):
            size = path.stat().st_size if path.is_file() else 0
            parts.append(f"{path.relative_to(folder).as_posix()} {size}".encode())
    digest = hashlib.sha256(b"\n".join(parts)).hexdigest()
    return Identity(digest, _label_names(manifest, items, faults), _structures(manifest, items))


def possible_tasks(data_dir: str | os.PathLike) -> tuple[str, ...]:
    """The tasks that a folder has the data for: those of its manifest, or else by its masks and labels.

    Raises:
      DataError: as `read_cohort`.
    """
    if is_simulated(data_dir):
        tasks = read_mri_cohort_manifest(data_dir).tasks
        return ("reconstruction",) if "reconstruction" in tasks else tuple(tasks)
    manifest = find_manifest(data_dir, faults=Faults(True))
    if manifest.tasks is not None:
        return manifest.tasks
    items = list_items(manifest, Faults(True))
    masks = all(item.mask is not None or "mask" in item.source.keys for item in items)
    labels = all(item.label is not None or "label" in item.source.keys for item in items)
    found = (("segmentation", masks), ("classification", labels))
    return (*(task for task, there in found if there), "reconstruction")


def load_volumes(
    data_dir: str | os.PathLike,
    task: str | None,
    *,
    manifest: str | os.PathLike | None = None,
    skip_bad: bool = False,
) -> Loaded:
    """Reads all files; those that lack what the task needs are faults, too.

    Args:
      data_dir, manifest, skip_bad: as in `read_cohort`.
      task: None for whatever there is.
    """
    faults = Faults(skip_bad)
    found = find_manifest(data_dir, manifest, faults)
    if task is not None and found.tasks is not None and task not in found.tasks:
        raise DataError(found.path, "tasks", f"{task} among them", ", ".join(found.tasks))
    items = list_items(found, faults)
    items = _without_copies(items, faults)
    labels = _label_names(found, items, faults)
    found = dataclasses.replace(found, labels=labels, structures=_structures(found, items))
    volumes: dict[str, list[Volume]] = {}
    held_out: dict[str, str] = {}
    unseen: set[str] = set()
    seen: dict[str, str] = {}
    for item in items:
        with faults.of():
            for volume in read_item(item, found):
                _check_volume(volume, found, task)
                _check_patient(volume, found, seen)
                volumes.setdefault(volume.site, []).append(volume)
                held_out[volume.site] = item.source.held_out
                unseen |= {volume.site} if item.source.unseen else set()
    if found.channels is None:
        _check_channels(volumes, faults)
    lost = tuple(source.name for source in found.sources if source.name and source.name not in volumes)
    least = max(source.minimum_patients for source in found.sources)
    # Where the file names the sites, small ones may have become one.
    merged = _merged(volumes, least, held_out)
    return Loaded(found, merged, held_out, frozenset(unseen), lost, tuple(faults.skipped))


def _structures(manifest: Manifest, items: list[Item]) -> tuple[str, ...] | None:
    """What the labels of a manifest name where they are of masks: "background" may come first."""
    if manifest.labels is None or manifest.structure is not None:
        return None
    if any(item.label is not None or "label" in item.source.keys for item in items):
        return None
    masks = any(item.mask is not None or "mask" in item.source.keys for item in items)
    raw = any(item.source.reader == "mri" for item in items)
    first = 1 if manifest.labels[0].lower() == BACKGROUND else 0
    return manifest.labels[first:] if masks or raw else None


def _label_names(manifest: Manifest, items: list[Item], faults: Faults) -> tuple[str, ...]:
    """The classes in their order: of the manifest, else of all files, sorted; those of masks without any."""
    if manifest.labels is not None:
        return manifest.labels
    found = {item.label for item in items if item.label is not None}
    for item in items:
        if "label" in item.source.keys:
            with faults.of():
                found |= set(read_texts(item.path, item.source.keys["label"]))
    if not found:
        return ("without", "with")
    if all(label.lstrip("-").isdigit() for label in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def _without_copies(items: list[Item], faults: Faults) -> list[Item]:
    """Refuses files of the same content: a copy may be in training and test."""
    by_size: dict[int, list[Item]] = {}
    for item in items:
        if item.path.is_file() and item.source.reader != "hdf5":
            by_size.setdefault(item.path.stat().st_size, []).append(item)
    copies = set()
    for size, members in by_size.items():
        seen: dict[bytes, Item] = {}
        for item in members if len(members) > 1 and size else ():
            with item.path.open("rb") as file:
                first = seen.setdefault(hashlib.file_digest(file, "sha256").digest(), item)
            if first.path != item.path:
                copies.add(item.path)
                with faults.of():
                    raise DataError(
                        item.path, None, "a file unlike the others", f"the content of {first.path}"
                    )
    return [item for item in items if item.path not in copies]


def _check_volume(volume: Volume, manifest: Manifest, task: str | None) -> None:
    """Refuses what lacks something for the task."""
    path = volume.path
    if task is not None:
        check_needs(volume, task)
    for label in volume.labels or ():
        if manifest.labels is not None and label not in manifest.labels:
            raise DataError(path, None, f"one of the labels {', '.join(manifest.labels)}", repr(label))
    if volume.image is not None:
        try:
            normalized(volume.image, volume.intensity)
        except ValueError as error:
            raise DataError(path, None, "an image of several values", error) from error


def _check_channels(volumes: dict[str, list[Volume]], faults: Faults) -> None:
    """Refuses, and takes out, images of other numbers of channels than the most."""
    images = [v for members in volumes.values() for v in members if v.image is not None]
    counts = collections.Counter(v.image.shape[-1] for v in images if v.image is not None)
    for volume in images if len(counts) > 1 else ():
        assert volume.image is not None, "chosen so"
        most, found = counts.most_common(1)[0][0], volume.image.shape[-1]
        if found != most:
            with faults.of():
                expected = f"{most} channels as the most have, or channels in the manifest"
                raise DataError(volume.path, None, expected, found)
            volumes[volume.site] = [v for v in volumes[volume.site] if v is not volume]
    for site in [site for site, members in volumes.items() if not members]:
        del volumes[site]


def check_needs(volume: Volume, task: str) -> None:
    """Raises `DataError` unless a volume has what a task needs."""
    path = volume.path
    if task == "reconstruction" and volume.lacks is not None:
        raise DataError(path, None, *volume.lacks)
    if task == "reconstruction" and volume.kspace is None and volume.rays is None:
        expected = (
            "raw k-space to reconstruct (or coils and field_of_view in the manifest, which simulate it)"
        )
        raise DataError(path, None, expected, f"images ({volume.unit})")
    if task == "segmentation" and volume.segmentation is None:
        raise DataError(path, None, "a mask (the same name in masks/, or NAME_mask)", "none")
    if task == "classification" and volume.labels is None and volume.segmentation is None:
        raise DataError(path, None, "a label in labels.csv", "none")


def _check_patient(volume: Volume, manifest: Manifest, seen: dict[str, str]) -> None:
    """Refuses patients at two sites, unless sites number their own."""
    if manifest.patients_numbered_by_site:
        return
    if (site := seen.setdefault(volume.patient, volume.site)) != volume.site:
        expected = f"patient {volume.patient!r} at one site, or patients_numbered_by_site in the manifest"
        raise DataError(volume.path, None, expected, f"{site!r} and {volume.site!r}")


def _merged(
    volumes: dict[str, list[Volume]], least: int, held_out: dict[str, str]
) -> dict[str, list[Volume]]:
    """Sites of fewer patients are one, at the end."""
    small = [site for site, members in volumes.items() if len({v.patient for v in members}) < least]
    if not small:
        return volumes
    kept = {site: members for site, members in volumes.items() if site not in small}
    kept[OTHER] = [v._replace(patient=f"{site}/{v.patient}") for site in small for v in volumes[site]]
    held_out[OTHER] = held_out[small[0]]
    return kept
