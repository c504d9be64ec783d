"""The manifest of a cohort of files, ``cohort.json``: sites, files, and how they become examples.

docs/own_data.md describes its members. `discover` makes one of folders; `read_manifest` reads and checks one.
"""

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedrecon.data.clients import FRACTIONS, PARTS
from fedrecon.data.formats import JsonObject, read_json_object

FORMAT = "fedrecon-cohort-1"
MANIFEST = "cohort.json"
TASKS = ("reconstruction", "segmentation", "classification")
# What a reader gives: raw measurements, sinograms, or images.
READERS = ("mri", "ct", "dicom", "nifti", "picture", "hdf5")
HELD_OUT = ("patients", "slices", "masks")
RULES = ("window", "percentile")
_KEYS = ("image", "mask", "label", "site", "patient")


@dataclasses.dataclass(frozen=True)
class Entry:
    """Files of a site: a pattern, or one file with what is known of it; the last two as of `Source`."""

    file: str
    patient: str | None = None
    part: str | None = None
    label: str | None = None
    mask: str | None = None
    group: str | None = None
    select: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Intensity:
    """How the values of images become 0 to 1: between ``low`` and ``high``, clipped.

    Attributes:
      rule: ``"window"``, bounds in the unit of the file; ``"percentile"``, bounds in percent of a volume.
      low, high: the bounds.
    """

    rule: str
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Undersampling:
    """Random masks of columns that fully sampled measurements get.

    Attributes:
      acceleration: expected.
      center_fraction: of the columns, fully sampled.
      train_masks: of each volume in training.
      evaluation_masks: of each in validation and in test, of sites that hold out masks.
    """

    acceleration: float = 4.0
    center_fraction: float = 0.08
    train_masks: int = 1
    evaluation_masks: int = 1


@dataclasses.dataclass(frozen=True)
class Simulation:
    """Coils that see images, so that these can be measured: their number and, in mm, the longer edge."""

    coils: int
    field_of_view: float


@dataclasses.dataclass(frozen=True)
class Source:
    """A site of a manifest, or several in an HDF5 file that names them.

    Attributes:
      name: None where the file names the sites.
      reader: one of `READERS`.
      files: patterns and files.
      keys: of an HDF5 file: "image", "mask", "label", "site", "patient" -> data set.
      held_out: what validation and test have that training has not: ``"patients"``, else of the same patients
        other ``"slices"`` or other sampling ``"masks"``.
      select, group: of `read_measurement`.
      slices: largest number of each volume, evenly spaced; None for all.
      intensity: None for the cohort's.
      simulation: None where images stay images.
      minimum_patients: sites of the file with fewer are one site, "other".
      single_subject: whether all data are of one subject.
      unseen: whether it takes no part in training and is for the test alone.
      notes: about the site.
    """

    name: str | None
    reader: str
    files: tuple[Entry, ...]
    keys: dict[str, str] = dataclasses.field(default_factory=dict)
    held_out: str = "patients"
    select: dict[str, int] = dataclasses.field(default_factory=dict)
    group: str | None = None
    slices: int | None = None
    intensity: Intensity | None = None
    simulation: Simulation | None = None
    minimum_patients: int = 1
    single_subject: bool = False
    unseen: bool = False
    notes: str = ""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A cohort of files.

    Attributes:
      folder: that files are named relative to.
      tasks: that it is for; None for whatever its data allow.
      labels: names of the classes in their order; None: those found, sorted. Where nothing else gives files
        a label, they name the values of masks from 1 on, see ``structures``.
      structures: names of the values 1, 2, ... of masks that show several; None where masks show one.
      structure: values of masks that are what is segmented; None: all but 0, of which there may be one.
      mask_area: part of a pixel of the cohort above which it belongs to the structure.
      matrix: (ny, nx) that all images get; None for the largest.
      channels: of all images; None for those of the files.
      intensity: None: by the kind of file.
      undersampling: of fully sampled measurements.
      fractions: of the patients in training, validation and test.
      patients_numbered_by_site: whether the same name at two sites means two patients.
      sources: sites.
      notes: what a report must say.
      classes, findings: name -> texts of a data set "label"; a text is of one class, and of any number of
        findings. None where labels are numbers.
    """

    folder: Path
    sources: tuple[Source, ...]
    tasks: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    structures: tuple[str, ...] | None = None
    structure: tuple[int, ...] | None = None
    mask_area: float = 0.5
    matrix: tuple[int, int] | None = None
    channels: int | None = None
    intensity: Intensity | None = None
    undersampling: Undersampling = Undersampling()
    fractions: tuple[float, float, float] = FRACTIONS
    patients_numbered_by_site: bool = False
    notes: str = ""
    classes: dict[str, tuple[str, ...]] | None = None
    findings: dict[str, tuple[str, ...]] | None = None

    @property
    def path(self) -> Path:
        """Of the manifest, whether there is one or not."""
        return self.folder / MANIFEST


def read_manifest(
    path: str | os.PathLike, folder: str | os.PathLike | None = None, texts: bool = False
) -> Manifest:
    """Reads and checks a manifest; the files themselves are not opened.

    Args:
      path: of the JSON file.
      folder: that files are named relative to; None for the manifest's own.
      texts: whether it may have ``classes`` or ``findings``.

    Raises:
      DataError: it cannot be read, or a member is missing, unknown or not as it should be.
    """
    top = read_json_object(path)
    top.choice("format", (FORMAT,))
    sources: list[Source] = []
    for index, entry in enumerate(top.objects("sites")):
        source = _source(entry)
        if source.name is not None and source.name in {other.name for other in sources}:
            raise top.error(f"sites[{index}].name", "a name unlike those before", source.name)
        sources.append(source)
    if sources and all(source.unseen for source in sources):
        raise top.error("sites", "a site that trains", "unseen ones alone")
    tasks = _optional(top, "tasks", lambda: top.take("tasks", f"some of {', '.join(TASKS)}", _are_tasks))
    labels = _optional(top, "labels", lambda: top.take("labels", "two or more distinct names", _are_names))
    whole = "whole numbers, not 0"
    structure = _optional(top, "structure", lambda: top.take("structure", whole, _are_values))
    matrix = _optional(top, "matrix", lambda: top.take("matrix", "two positive integers", _is_matrix))
    result = Manifest(
        folder=Path(path).parent if folder is None else Path(folder),
        sources=tuple(sources),
        tasks=tasks and tuple(tasks),
        labels=labels and tuple(labels),
        structure=structure and tuple(structure),
        mask_area=top.fraction("mask_area") if "mask_area" in top.members else 0.5,
        matrix=matrix and (matrix[0], matrix[1]),
        channels=_optional(top, "channels", lambda: top.take("channels", "1 or 3", lambda v: v in (1, 3))),
        intensity=_optional(top, "intensity", lambda: _intensity(top.object("intensity"))),
        undersampling=_undersampling(top),
        fractions=_fractions(top),
        patients_numbered_by_site=bool(
            _optional(top, "patients_numbered_by_site", lambda: top.flag("patients_numbered_by_site"))
        ),
        notes=_optional(top, "notes", lambda: top.take("notes", "text", lambda v: isinstance(v, str))) or "",
        classes=_texts(top, "classes") if texts else None,
        findings=_texts(top, "findings") if texts else None,
    )
    top.finish()
    return result


def manifest_document(manifest: Manifest) -> dict[str, Any]:
    """The JSON document of a manifest, without what is as by default."""
    document: dict[str, Any] = {"format": FORMAT}
    for name in ("tasks", "labels", "structure", "mask_area", "matrix", "channels"):
        if (value := getattr(manifest, name)) is not None:
            document[name] = list(value) if isinstance(value, tuple) else value
    if manifest.intensity is not None:
        document["intensity"] = dataclasses.asdict(manifest.intensity)
    if manifest.patients_numbered_by_site:
        document["patients_numbered_by_site"] = True
    document["undersampling"] = dataclasses.asdict(manifest.undersampling)
    document["split"] = dict(zip(PARTS, manifest.fractions, strict=True))
    document["sites"] = [
        {
            "name": source.name,
            "reader": source.reader,
            "files": [
                {k: v for k, v in dataclasses.asdict(e).items() if v not in (None, {})} for e in source.files
            ],
            "held_out": source.held_out,
            **({"unseen": True} if source.unseen else {}),
        }
        for source in manifest.sources
    ]
    return document | {"notes": manifest.notes}


def _texts(top: JsonObject, kind: str) -> dict[str, tuple[str, ...]] | None:
    if kind not in top.members:
        return None
    table = top.object(kind)
    found = {name: tuple(table.take(name, "a list of texts", _are_texts)) for name in [*table.members]}
    every = [text for texts in found.values() for text in texts]
    if len(found) < 2 or (kind == "classes" and len(set(every)) < len(every)):
        raise top.error(kind, "two names or more, and every text of one class once", ", ".join(every))
    return found


def _source(entry: JsonObject) -> Source:
    reader = entry.choice("reader", READERS)
    keys: dict[str, str] = {}
    if reader == "hdf5":
        table = entry.object("keys")
        keys = {name: table.text(name) for name in _KEYS if name == "image" or name in table.members}
        table.finish()
    if ("site" in keys) == ("name" in entry.members):
        expected = "a name, or the key site of the data set that names the sites of an HDF5 file"
        raise entry.error("name", expected, "both" if "site" in keys else None)
    simulation = None
    if "coils" in entry.members:
        simulation = Simulation(entry.integer("coils", 1), entry.positive("field_of_view"))
    files = entry.take("files", "a list of patterns, or of objects with a file", lambda v: _is_list(v) and v)
    result = Source(
        name=None if "site" in keys else entry.take("name", "a name without / and \\", _is_name),
        reader=reader,
        files=tuple(_entry(entry, f"files[{index}]", value) for index, value in enumerate(files)),
        keys=keys,
        held_out=_optional(entry, "held_out", lambda: entry.choice("held_out", HELD_OUT)) or "patients",
        select=_optional(entry, "select", lambda: entry.take("select", "numbers by counter", _is_select))
        or {},
        group=_optional(entry, "group", lambda: entry.text("group")),
        slices=_optional(entry, "slices", lambda: entry.integer("slices", 1)),
        intensity=_optional(entry, "intensity", lambda: _intensity(entry.object("intensity"))),
        simulation=simulation,
        minimum_patients=_optional(entry, "minimum_patients", lambda: entry.integer("minimum_patients", 1))
        or 1,
        single_subject=bool(_optional(entry, "single_subject", lambda: entry.flag("single_subject"))),
        unseen=bool(_optional(entry, "unseen", lambda: entry.flag("unseen"))),
        notes=_optional(entry, "notes", lambda: entry.text("notes")) or "",
    )
    entry.finish()
    return result


def _entry(site: JsonObject, where: str, value: Any) -> Entry:
    if isinstance(value, str):
        one = JsonObject(site.path, site.where, {where: value})
        return Entry(one.file(where))
    table = JsonObject(site.path, f"{site.where}{where}.", value)
    result = Entry(
        file=table.file("file"),
        patient=_optional(table, "patient", lambda: table.text("patient")),
        part=_optional(table, "part", lambda: table.choice("part", PARTS)),
        label=_optional(table, "label", lambda: str(table.take("label", "a text or integer", _is_label))),
        mask=_optional(table, "mask", lambda: table.file("mask")),
        group=_optional(table, "group", lambda: table.text("group")),
        select=_optional(table, "select", lambda: table.take("select", "numbers by counter", _is_select))
        or {},
    )
    table.finish()
    return result


def _intensity(table: JsonObject) -> Intensity:
    rule = table.choice("rule", RULES)

    def bound(key: str) -> float:
        if rule == "percentile":
            return float(table.take(key, "a number from 0 to 100", lambda v: _is_number(v) and 0 <= v <= 100))
        return float(table.take(key, "a number", _is_number))

    result = Intensity(rule, bound("low"), bound("high"))
    if result.low >= result.high:
        raise table.error("high", f"more than low, {result.low:g}", result.high)
    table.finish()
    return result


def _undersampling(top: JsonObject) -> Undersampling:
    if "undersampling" not in top.members:
        return Undersampling()
    table, base = top.object("undersampling"), Undersampling()
    at_least = "a number of at least 1"
    values: dict[str, Any] = {}
    if "acceleration" in table.members:
        values["acceleration"] = float(
            table.take("acceleration", at_least, lambda v: _is_number(v) and v >= 1)
        )
    if "center_fraction" in table.members:
        values["center_fraction"] = table.fraction("center_fraction")
    for name in ("train_masks", "evaluation_masks"):
        if name in table.members:
            values[name] = table.integer(name, 1)
    table.finish()
    return dataclasses.replace(base, **values)


def _fractions(top: JsonObject) -> tuple[float, float, float]:
    if "split" not in top.members:
        return FRACTIONS
    table = top.object("split")
    train, validation, test = (
        float(table.take(part, "a positive number below 1", lambda v: _is_number(v) and 0 < v < 1))
        for part in PARTS
    )
    if abs(train + validation + test - 1) > 1e-6:
        raise top.error("split", "fractions that sum to 1", [train, validation, test])
    table.finish()
    return train, validation, test


def _optional(table: JsonObject, key: str, read: Callable[[], Any]) -> Any:
    return read() if key in table.members else None


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not {"/", "\\"} & set(value)


def _is_label(value: Any) -> bool:
    return (isinstance(value, str) and bool(value.strip())) or type(value) is int


def _is_select(value: Any) -> bool:
    return isinstance(value, dict) and all(type(v) is int and v >= 0 for v in value.values())


def _is_matrix(value: Any) -> bool:
    return _is_list(value) and len(value) == 2 and all(type(n) is int and n > 0 for n in value)


def _are_tasks(value: Any) -> bool:
    return _is_list(value) and bool(value) and all(task in TASKS for task in value)


def _are_names(value: Any) -> bool:
    return (
        _is_list(value)
        and len(value) > 1
        and all(isinstance(v, str) and v.strip() for v in value)
        and len(set(value)) == len(value)
    )


def _are_texts(value: Any) -> bool:
    return _is_list(value) and bool(value) and all(isinstance(text, str) for text in value)


def _are_values(value: Any) -> bool:
    return _is_list(value) and bool(value) and all(type(v) is int and v != 0 for v in value)
