"""Manifests of measured cohorts: JSON files that say which files a cohort is read from, and how.

The manifest of the cohort NAME (``mri``, ``retina``, ``chest_xray``) is ``cohorts/NAME.json`` in the data
folder; where that does not exist, the one of this package, which describes the public files that the project
is tested with. Files are named relative to the data folder. Unknown members are refused.

Members of an MRI manifest: ``notes`` (text for reports) and ``sites``, a list of

- ``name``: of the site, unlike the others.
- ``reader``: ``"fastmri"`` for fully sampled k-space in fastMRI HDF5; ``"images"`` for one HDF5 file of
  complex data sets (echoes, ny, nx), which coils are simulated for.
- ``files``: a list of at least one file; no two files of a cohort have the same name.
- ``held_out``: what validation and test have that training has not seen: ``"masks"`` (the same slices under
  other masks) or ``"images"`` (other files, or other data sets of an ``"images"`` file).
- ``single_subject``: whether all data of the site are of one subject.
- ``prefix``, ``field_of_view``: for ``"images"`` only, how the names of the data sets begin and the extent of
  the longer edge in mm.

Members of a manifest of images, all in one HDF5 file:

- ``file``.
- ``image``: an object of ``key``, ``channels`` (1 for (n, ny, nx), more for (n, ny, nx, channels)) and
  ``largest``, the value that becomes 1.
- one of ``segmentation``: ``key`` of masks (n, ny, nx) and ``area``, the part of a shrunken pixel above
  which it belongs to the segmentation; ``label``: ``key`` of labels (n,) and ``classes``, their number.
- ``site``, ``patient``: keys of the text (n,) that names them.
- ``patients_numbered_by_site``: whether the same name at two sites means two patients.
- ``notes``.
"""

import dataclasses
import os
from pathlib import Path, PurePosixPath

from fedrecon.data.formats import read_json_object

READERS = ("fastmri", "images")
HELD_OUT = ("masks", "images")
_SHIPPED = Path(__file__).with_name("manifests")


@dataclasses.dataclass(frozen=True)
class Scanner:
    """One site of an MRI manifest; the members are those of the file."""

    name: str
    reader: str
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
      area: of segmentations, see above; None for labels.
      classes: of labels; 2 for segmentations.
      site, patient: keys.
      patients_numbered_by_site: see above.
      notes: what a report must say.
    """

    file: str
    image: str
    channels: int
    largest: float
    target: str
    target_key: str
    area: float | None
    classes: int
    site: str
    patient: str
    patients_numbered_by_site: bool
    notes: str


def manifest_path(data_dir: str | os.PathLike, name: str) -> Path:
    """The manifest of a cohort: that of the data folder, or else that of this package."""
    path = Path(data_dir) / "cohorts" / f"{name}.json"
    return path if path.exists() else _SHIPPED / f"{name}.json"


def read_mri_manifest(data_dir: str | os.PathLike, name: str = "mri") -> MRIManifest:
    """Reads and checks the manifest of an MRI cohort.

    Raises:
      DataError: it cannot be read, or a member is missing, unknown or not as it should be.
    """
    top = read_json_object(manifest_path(data_dir, name))
    sites: list[Scanner] = []
    for index, entry in enumerate(top.objects("sites")):
        reader = entry.choice("reader", READERS)
        images = reader == "images"
        site = Scanner(
            name=entry.text("name"),
            reader=reader,
            files=entry.files("files"),
            held_out=entry.choice("held_out", HELD_OUT),
            single_subject=entry.flag("single_subject"),
            prefix=entry.text("prefix") if images else None,
            field_of_view=entry.positive("field_of_view") if images else None,
        )
        entry.finish()
        if images and len(site.files) > 1:
            raise entry.error("files", "one file for the reader images", list(site.files))
        if site.name in {other.name for other in sites}:
            raise top.error(f"sites[{index}].name", "a name unlike those before", site.name)
        names = {PurePosixPath(file).stem for other in sites for file in other.files}
        stems = [PurePosixPath(file).stem for file in site.files]
        if names & set(stems) or len(set(stems)) < len(stems):
            raise entry.error("files", "files of distinct names in the cohort", list(site.files))
        sites.append(site)
    result = MRIManifest(tuple(sites), top.text("notes"))
    top.finish()
    return result


def read_image_manifest(data_dir: str | os.PathLike, name: str) -> ImageManifest:
    """Reads and checks the manifest of a cohort of images.

    Raises:
      DataError: it cannot be read, or a member is missing, unknown or not as it should be.
    """
    top = read_json_object(manifest_path(data_dir, name))
    image = top.object("image")
    targets = [key for key in ("segmentation", "label") if key in top.members]
    if len(targets) != 1:
        raise top.error(None, "one of the members segmentation and label", sorted(top.members))
    (kind,) = targets
    target = top.object(kind)
    result = ImageManifest(
        file=top.file("file"),
        image=image.text("key"),
        channels=image.integer("channels", 1),
        largest=image.positive("largest"),
        target=kind,
        target_key=target.text("key"),
        area=target.fraction("area") if kind == "segmentation" else None,
        classes=target.integer("classes", 2) if kind == "label" else 2,
        site=top.text("site"),
        patient=top.text("patient"),
        patients_numbered_by_site=top.flag("patients_numbered_by_site"),
        notes=top.text("notes"),
    )
    for table in (image, target, top):
        table.finish()
    return result
