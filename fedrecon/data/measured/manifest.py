"""Manifests of the measured cohorts that have loaders of their own, in the format of all cohorts of files.

The manifest of the cohort NAME (``mri``, ``retina``, ``chest_xray``) is ``cohorts/NAME.json`` in the data
folder; where that does not exist, the one of this package, which describes the public files that the project
is tested with. Files are named relative to the data folder. docs/own_data.md describes the format; of what it
allows, these loaders take

- MRI: sites of the reader ``"mri"`` (fully sampled), and of the reader ``"hdf5"`` with one file, whose
  complex data sets (echoes, ny, nx) are named by ``keys.image`` up to a final ``*`` and seen by simulated
  coils (``coils``, ``field_of_view``); no two files of a cohort have the same name, and ``held_out`` is
  ``"patients"`` (files, or data sets) or ``"masks"``.
- images: one entry of the reader ``"hdf5"`` with one file and the keys ``image``, ``mask`` or ``label``,
  ``site`` (or the ``name`` of the entry, which then is the only site) and ``patient`` (without it every image
  is a patient of its own); ``channels``, and an ``intensity`` window from 0; labels are numbers from 0, or
  texts, of which ``classes`` or ``findings`` name those of each class or finding, as in
  ``"findings": {"fracture": ["fracture", "fracture, effusion"], "effusion": ["fracture, effusion"]}``.
"""

import dataclasses
import os
from pathlib import Path, PurePosixPath

from fedrecon.data.folders import Manifest, Source, read_manifest
from fedrecon.data.formats import DataError

_SHIPPED = Path(__file__).with_name("manifests")


@dataclasses.dataclass(frozen=True)
class Scanner:
    """One site of an MRI manifest; ``prefix`` and ``field_of_view`` are None of measured k-space."""

    name: str
    files: tuple[str, ...]
    held_out: str
    single_subject: bool
    prefix: str | None
    field_of_view: float | None


@dataclasses.dataclass(frozen=True)
class MRIManifest:
    """The sites of an MRI cohort, and what a report must say about them."""

    sites: tuple[Scanner, ...]
    notes: str


@dataclasses.dataclass(frozen=True)
class ImageManifest:
    """A cohort of images.

    Attributes:
      file: relative to the data folder.
      image, channels, largest: key, number of channels, and the value that becomes 1.
      target: ``"segmentation"`` or ``"label"``.
      target_key: of its values.
      area: of segmentations, the part of a pixel above which it belongs to the structure.
      classes: of labels; 2 for segmentations.
      names: name -> texts of the file, of each class or finding; None where labels are numbers.
      several: whether labels have one number, 0 or 1, for each finding.
      site, patient: keys; None where there is one site, and where images are not told apart by patient.
      name: of the only site; None where they are in the file.
      patients_numbered_by_site: whether the same name at two sites means two patients.
      notes: what a report must say.
    """

    file: str
    image: str
    channels: int
    largest: float
    target: str
    target_key: str
    area: float
    classes: int
    site: str | None
    patient: str | None
    name: str | None
    patients_numbered_by_site: bool
    notes: str
    names: dict[str, tuple[str, ...]] | None = None
    several: bool = False


def manifest_path(data_dir: str | os.PathLike, name: str) -> Path:
    """The manifest of a cohort: that of the data folder, or else that of this package."""
    path = Path(data_dir) / "cohorts" / f"{name}.json"
    return path if path.exists() else _SHIPPED / f"{name}.json"


def read_mri_manifest(data_dir: str | os.PathLike, name: str = "mri") -> MRIManifest:
    """Reads and checks the manifest of an MRI cohort.

    Raises:
      DataError: it cannot be read, or a member is missing, unknown or not as it should be.
    """
    path = manifest_path(data_dir, name)
    manifest = read_manifest(path, data_dir)
    stems: set[str] = set()
    sites = []
    for index, source in enumerate(manifest.sources):
        where = f"sites[{index}]"
        files = tuple(entry.file for entry in source.files)
        own = [PurePosixPath(file).stem for file in files]
        if stems & set(own) or len(set(own)) < len(own):
            raise DataError(path, f"{where}.files", "files of distinct names in the cohort", list(files))
        stems |= set(own)
        if source.name is None or source.reader not in ("mri", "hdf5"):
            raise DataError(path, f"{where}.reader", "'mri', or 'hdf5' of a named site", source.reader)
        if source.held_out == "slices":
            raise DataError(path, f"{where}.held_out", "'patients' or 'masks'", source.held_out)
        prefix = field_of_view = None
        if source.reader == "hdf5":
            prefix, field_of_view = _complex_images(path, where, source)
        sites.append(
            Scanner(source.name, files, source.held_out, source.single_subject, prefix, field_of_view)
        )
    return MRIManifest(tuple(sites), manifest.notes)


def _complex_images(path: Path, where: str, source: Source) -> tuple[str, float]:
    """How the names of data sets begin, and the extent of the longer edge in mm."""
    if len(source.files) > 1:
        raise DataError(path, f"{where}.files", "one file for the reader hdf5", len(source.files))
    prefix, star, rest = source.keys["image"].partition("*")
    if not star or rest or set(source.keys) != {"image"}:
        raise DataError(path, f"{where}.keys", "the key image alone, with * at its end", source.keys)
    if source.simulation is None:
        raise DataError(path, f"{where}.coils", "a number of coils to simulate, and field_of_view", "none")
    return prefix, source.simulation.field_of_view


def read_image_manifest(data_dir: str | os.PathLike, name: str) -> ImageManifest:
    """Reads and checks the manifest of a cohort of images.

    Raises:
      DataError: it cannot be read, or a member is missing, unknown or not as it should be.
    """
    path = manifest_path(data_dir, name)
    manifest = read_manifest(path, data_dir, texts=True)
    if len(manifest.sources) != 1 or manifest.sources[0].reader != "hdf5":
        raise DataError(path, "sites", "one entry of the reader hdf5", f"{len(manifest.sources)} entries")
    (source,) = manifest.sources
    targets = {"mask", "label"} & set(source.keys)
    if len(targets) != 1 or ("site" in source.keys) == (source.name is not None):
        expected = "the keys image, one of mask and label, and site in place of a name"
        raise DataError(path, "sites[0].keys", expected, ", ".join(source.keys))
    if len(source.files) != 1:
        raise DataError(path, "sites[0].files", "one file", len(source.files))
    if manifest.channels is None:
        raise DataError(path, "channels", "1 or 3", "nothing")
    (kind,) = targets
    return ImageManifest(
        file=source.files[0].file,
        image=source.keys["image"],
        channels=manifest.channels,
        largest=_largest(path, manifest, source),
        target="segmentation" if kind == "mask" else "label",
        target_key=source.keys[kind],
        area=manifest.mask_area,
        classes=_classes(path, manifest) if kind == "label" else 2,
        site=source.keys.get("site"),
        patient=source.keys.get("patient"),
        name=source.name,
        patients_numbered_by_site=manifest.patients_numbered_by_site,
        notes=manifest.notes,
        names=manifest.findings or manifest.classes,
        several=manifest.findings is not None,
    )


def _largest(path: Path, manifest: Manifest, source: Source) -> float:
    rule = source.intensity or manifest.intensity
    if rule is None or rule.rule != "window" or rule.low != 0:
        raise DataError(path, "intensity", "the rule window with low 0", rule and rule.rule)
    return rule.high


def _classes(path: Path, manifest: Manifest) -> int:
    given = [x for x in (manifest.labels, manifest.classes, manifest.findings) if x is not None]
    if len(given) != 1:
        raise DataError(path, "labels", "one of labels, classes and findings", f"{len(given)} of them")
    if manifest.labels is None:
        return len(given[0])
    labels = manifest.labels
    if not labels or list(labels) != [str(i) for i in range(len(labels))]:
        raise DataError(path, "labels", "the numbers of the classes, '0', '1', ...", labels)
    return len(labels)
