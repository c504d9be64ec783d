"""Which files a cohort has: those of hospital folders, or those that a manifest names."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import h5py

from fedrecon.data.folders.labels import TABLE, Table
from fedrecon.data.folders.manifest import MANIFEST, Entry, Manifest, Source
from fedrecon.data.formats import DataError, epi_images, file_format, is_ct, series_of

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_HDF5 = (".h5", ".hdf5", ".hdf", ".mrd")
_DICOM = (".dcm", ".ima")
# What lies beside data.
_PAPERS = (".csv", ".json", ".txt", ".md", ".rst", ".pdf", ".html", ".yaml", ".yml", ".log", ".xml", ".hdr")
_NAMES = ("DICOMDIR", "README", "LICENSE", "Thumbs.db")
_MASK_FILES = (*PICTURES, ".nii.gz", ".nii", *_DICOM, "")
_IMAGE_FOLDERS, _MASK_FOLDER, _MASK_ENDS = ("images", "image"), "masks", ("_mask", "_seg")
_WORDS = {
    "mri": "raw MRI",
    "ct": "sinograms of CT",
    "dicom": "DICOM",
    "nifti": "NIfTI",
    "picture": "pictures",
    "hdf5": "arrays in HDF5",
}


class Item(NamedTuple):
    """One file, or folder of a DICOM series, and what is known of it before it is read.

    Attributes:
      source: of the manifest.
      site: its name; empty where the file names the sites.
      path: of the file or folder.
      name: the same relative to the cohort.
      patient: within the site.
      part, label: None where nobody says it.
      mask: file of the segmentation; None without.
      group, select: which of several measurements in the file, see `read_measurement`.
    """

    source: Source
    site: str
    path: Path
    name: str
    patient: str
    part: str | None
    label: str | None
    mask: Path | None
    group: str | None = None
    select: tuple[tuple[str, int], ...] = ()


class Faults:
    """Faults of files: raised, or kept in ``skipped`` where they are to be skipped."""

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.skipped: list[DataError] = []

    @contextlib.contextmanager
    def of(self) -> Iterator[None]:
        """Keeps a `DataError` of the block, if faults are to be skipped."""
        try:
            yield
        except DataError as error:
            if not self.skip:
                raise
            self.skipped.append(error)


def discover(folder: str | os.PathLike, faults: Faults | None = None) -> Manifest:
    """The manifest of ``FOLDER/<hospital>/...``: each sub-folder is a site of one kind of files.

    Raises:
      DataError: there is no such folder or hospital, or a file is of no known kind, or of another kind than
        the most of its hospital.
    """
    folder, faults = Path(folder), faults or Faults(skip=False)
    if not folder.is_dir():
        raise DataError(folder, None, "a folder of hospitals", "no such folder")
    sources = []
    for site in sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."):
        with faults.of():
            sources.append(_discovered(folder, site, faults))
    if not sources:
        expected = f"a sub-folder of files for each hospital, or {MANIFEST}"
        raise DataError(folder, None, expected, "neither")
    return Manifest(folder, tuple(sources), patients_numbered_by_site=True)


def list_items(manifest: Manifest, faults: Faults) -> list[Item]:
    """The files of a manifest, in its order, with the labels of tables.

    Raises:
      DataError: a pattern finds nothing, a file is missing, or a table or a row of one does not fit.
    """
    names = tuple(source.name for source in manifest.sources if source.name is not None)
    table = Table(manifest.folder, names)
    items: list[Item] = []
    for index, source in enumerate(manifest.sources):
        for number, entry in enumerate(source.files):
            where = f"sites[{index}].files[{number}]"
            with faults.of():
                items += [_labeled(item, table) for item in _matched(manifest, source, entry, where)]
    for row in table.unused():
        with faults.of():
            what = f"file {row.file}" if row.file else f"patient {row.patient}"
            raise row.error(f"a {what} among those of the cohort", "none")
    seen: dict[tuple, Item] = {}
    for item in items:
        source = item.source
        what = (item.path, source.keys.get("image"), item.group, item.select)
        if what in seen:
            raise DataError(
                item.path,
                None,
                "a file that is named once",
                f"sites {seen[what].site!r} and {item.site!r}",
            )
        seen[what] = item
    return _without_scattered(items, faults)


def _without_scattered(items: list[Item], faults: Faults) -> list[Item]:
    """Refuses DICOM files of one series that are taken for several patients."""
    first: dict[str, Item] = {}
    kept = []
    for item in items:
        uid = series_of(item.path) if item.source.reader == "dicom" and item.path.is_file() else None
        other = item if uid is None else first.setdefault(uid, item)
        with faults.of():
            if other.patient != item.patient:
                expected = "a folder for each series, or its patient in the manifest"
                raise DataError(item.path, None, expected, f"the series of {other.path}")
            kept.append(item)
    return kept


def _labeled(item: Item, table: Table) -> Item:
    row = table.find(item.site, item.name, item.patient)
    if row is None:
        return item
    return item._replace(
        label=item.label or row.label,
        part=item.part or row.part or None,
        patient=row.patient if row.file and row.patient else item.patient,
    )


def _discovered(folder: Path, site: Path, faults: Faults) -> Source:
    kinds: dict[Path, str] = {}
    for path in sorted(site.rglob("*")):
        if path.is_symlink() and not path.exists():
            with faults.of():
                raise DataError(path, None, "a file", "a link to nothing")
        if path.is_file() and _is_visible(path.relative_to(site)):
            with faults.of():
                kind = kind_of(path)
                if kind is not None:
                    kinds[path] = kind
    images = {path: kind for path, kind in kinds.items() if not _is_mask(path.relative_to(site))}
    loose = [path for path in kinds if path not in images]
    if not images:
        if kinds:
            raise DataError(min(kinds), None, "an image that it is the mask of", "masks alone")
        raise DataError(site, None, "files of measurements or images", "none")
    counts = {kind: list(images.values()).count(kind) for kind in images.values()}
    most = max(counts, key=lambda kind: (counts[kind], kind))
    for path, kind in list(images.items()):
        if kind != most:
            with faults.of():
                del images[path]
                raise DataError(path, None, f"{_WORDS[most]}, as the others of {site.name}", _WORDS[kind])
    paths = _series(list(images), site) if most == "dicom" else list(images)
    masks = {path: mask for path in paths if (mask := find_mask(path)) is not None}
    for path in loose:
        if path not in masks.values() and path.parent not in masks.values():
            with faults.of():
                raise DataError(path, None, "an image that it is the mask of", "none")
    entries = tuple(
        Entry(
            file=path.relative_to(folder).as_posix(),
            patient=patient_of(path, site),
            mask=masks[path].relative_to(folder).as_posix() if path in masks else None,
            group=group,
        )
        for path in paths
        for group in (_groups(path) if most == "mri" else (None,))
    )
    return Source(site.name, most, entries)


def _groups(path: Path) -> tuple[str | None, ...]:
    """The images of a file of several, all of one patient."""
    names = epi_images(path) if h5py.is_hdf5(path) and file_format(path) == "EPI" else ()
    return names if len(names) > 1 else (None,)


def _matched(manifest: Manifest, source: Source, entry: Entry, where: str) -> list[Item]:
    folder = manifest.folder
    plain = not any(sign in entry.file for sign in "*?[")
    if plain:
        found = [folder / entry.file]
        if not found[0].exists() and not Path(f"{found[0]}.hdr").exists():
            raise DataError(found[0], None, "the file that the manifest names", "no such file")
        base = found[0].parent
        if found[0].is_dir() and source.reader != "dicom" and source.reader != "ct":
            raise DataError(found[0], None, "a file", "a folder")
    else:
        found = [p for p in sorted(folder.glob(entry.file)) if _is_visible(p.relative_to(folder))]
        found = [
            path for path in found if not _is_mask(path.relative_to(folder)) and _fits(path, source.reader)
        ]
        parts = PurePosixPath(entry.file).parts
        fixed = next(i for i, part in enumerate(parts) if any(sign in part for sign in "*?["))
        base = folder.joinpath(*parts[:fixed])
        if source.reader == "dicom":
            found = _series([path for path in found if path.is_file()], base)
        if not found:
            raise DataError(manifest.path, where, "files that match", repr(entry.file))
    if source.name is not None and (folder / source.name).is_dir() and base != folder / source.name:
        base = folder / source.name if (folder / source.name) in base.parents else base
    items = []
    for path in found:
        name = path.relative_to(folder).as_posix()
        mask = find_mask(path) if entry.mask is None else folder / entry.mask
        patient = entry.patient or patient_of(path, base)
        group, select = entry.group or source.group, tuple(sorted((source.select | entry.select).items()))
        items.append(
            Item(source, source.name or "", path, name, patient, entry.part, entry.label, mask, group, select)
        )
    return items


def find_mask(path: Path) -> Path | None:
    """The mask of an image: its name in ``masks/`` beside it or its folder, or NAME_mask, NAME_seg."""
    stem = stem_of(path)
    ended = [stem + end for end in _MASK_ENDS]
    places = [(path.parent, ended)]
    for folder in (path.parent / _MASK_FOLDER, path.parent.parent / _MASK_FOLDER):
        places.append((folder, [stem, *ended]))
    for folder, names in places:
        for name in names:
            for end in _MASK_FILES:
                if (mask := folder / f"{name}{end}").exists():
                    return mask
    return None


def stem_of(path: Path) -> str:
    """The name without its ending; ``.nii.gz`` is one, folders have none."""
    if path.is_dir():
        return path.name
    return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem


def patient_of(path: Path, site: Path) -> str:
    """The sub-folder of the hospital that a file lies in, else the name of the file without its ending."""
    inner = path.relative_to(site) if site in path.parents else Path(path.name)
    folders = [part for part in inner.parts[:-1] if part not in (*_IMAGE_FOLDERS, _MASK_FOLDER)]
    return folders[0] if folders else stem_of(path)


def _series(files: list[Path], site: Path) -> list[Path]:
    """Folders of DICOM files; files straight in the hospital's folder (or its images/) are by themselves."""
    loose = [site, *(site / name for name in _IMAGE_FOLDERS)]
    return sorted({path if path.parent in loose else path.parent for path in files})


def _is_mask(path: Path) -> bool:
    """Whether a file, named relative to the cohort, is a mask by its name or folder."""
    stem = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    return (
        _MASK_FOLDER in path.parts[:-1] or stem.endswith(_MASK_ENDS) or path.parent.name.endswith(_MASK_ENDS)
    )


def _is_visible(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts) and path.name not in _NAMES


def _fits(path: Path, reader: str) -> bool:
    """Whether a file that a pattern finds is meant for a reader."""
    name = path.name.lower()
    if path.is_dir():
        return False
    if name == TABLE or path.stem in _NAMES:
        return False
    if reader == "picture":
        return name.endswith(PICTURES)
    if reader == "nifti":
        return name.endswith((".nii", ".nii.gz"))
    return not name.endswith(_PAPERS)


def kind_of(path: Path) -> str | None:
    """The reader of a file; None for what lies beside data.

    Raises:
      DataError: no reader takes it.
    """
    name = path.name.lower()
    if name.endswith(PICTURES):
        return "picture"
    if name.endswith((".nii", ".nii.gz")):
        return "nifti"
    if name.endswith(_PAPERS) or path.stem in _NAMES:
        return None
    if name.endswith((".cfl", ".dat")):
        return "mri"
    if name.endswith(_DICOM) or _begins_as_dicom(path):
        return "dicom"
    if h5py.is_hdf5(path):
        if file_format(path) is not None:
            return "mri"
        if is_ct(path):
            return "ct"
        expected = f"HDF5 of measurements; name the keys of arrays in {MANIFEST} (reader hdf5)"
        with h5py.File(path, "r", locking=False) as file:
            raise DataError(path, None, expected, f"the keys {sorted(file)[:8]}")
    if name.endswith(_HDF5):
        return "mri"
    expected = "a file of measurements or images (HDF5, twix, BART, DICOM, NIfTI, PNG, JPEG, TIFF)"
    raise DataError(path, None, expected, "an empty file" if not path.stat().st_size else "another kind")


def _begins_as_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def with_entries(manifest: Manifest, items: list[Item]) -> Manifest:
    """The manifest with the files that its patterns found, each with what is known of it."""
    sources = []
    for source in manifest.sources:
        entries = tuple(
            Entry(
                file=item.name,
                patient=item.patient,
                part=item.part,
                label=item.label,
                mask=None if item.mask is None else item.mask.relative_to(manifest.folder).as_posix(),
                group=item.group,
                select=dict(item.select),
            )
            for item in items
            if item.source is source
        )
        sources.append(dataclasses.replace(source, files=entries))
    return dataclasses.replace(manifest, sources=tuple(sources))
