"""Simulated cohorts as files, and back."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedrecon.data.clients import (
    FRACTIONS,
    PARTS,
    ClientData,
    Cohort,
    stack_clients,
    stack_parts,
    stack_volumes,
)
from fedrecon.data.formats import (
    DataError,
    FastMRIVolume,
    JsonObject,
    read_fastmri,
    read_json_object,
    write_fastmri,
)
from fedrecon.data.simulation.cohort import NOTES, examples_of_volume
from fedrecon.data.simulation.mri import MRISite, simulate_mri_patient
from fedrecon.data.simulation.planning import plan_patients
from fedrecon.errors import ArgumentError
from fedrecon.files import write_atomically

MANIFEST = "cohort.json"
TASKS = ("reconstruction", "segmentation", "classification")


def write_mri_cohort(
    output: str | os.PathLike,
    sites: Sequence[MRISite],
    slices: int,
    image_shape: tuple[int, int],
    seed: int,
    *,
    fractions: tuple[float, float, float] = FRACTIONS,
    unseen: MRISite | None = None,
) -> dict[str, Any]:
    """Simulates a cohort and writes it: a folder for each site, a file for each patient, cohort.json.

    The files are those patients, in those parts, that `simulate_mri_cohort` has for the same arguments, and
    `simulate_mri_test_site` for ``unseen``; their names are ``<site>/<patient>.h5``. cohort.json is written
    last: a directory without it is incomplete. `read_mri_cohort` and `read_mri_test_site` read them.

    Args:
      output: directory, created with its parents if absent.
      sites: of the cohort.
      slices: of each patient.
      image_shape: (ny, nx).
      seed: non-negative integer.
      fractions: of each site's patients in train, validation and test, all positive.
      unseen: a site that takes no part in training: all its patients are for the test.

    Returns:
      The content of cohort.json: ``tasks`` that the cohort is for, ``seed``, ``image_shape``, ``slices``, the
      name of the ``unseen`` site or null, and ``sites``, the unseen one last: a list of the fields of each
      `MRISite` and its ``volumes``: ``file`` and its ``sha256``, ``patient``, ``part``, and ``labels`` of the
      slices.

    Raises:
      ValueError: ``output`` already holds a cohort, or a site cannot be simulated.
      OSError: ``output`` cannot be written.
    """
    output = Path(output)
    if (output / MANIFEST).exists():
        raise ArgumentError(f"output {output}", "a directory without a cohort", MANIFEST)
    plans = [plan_patients(s.name, s.patients, s.prevalence, seed, fractions) for s in sites]
    if unseen is not None:
        sites = [*sites, unseen]
        plans.append(plan_patients(unseen.name, unseen.patients, unseen.prevalence, seed, (0.0, 0.0, 1.0)))
    # Noise is drawn for the coils of the whole cohort, as in memory.
    coils = max(site.coils for site in sites)
    described: list[dict] = []
    document = {
        "tasks": list(TASKS),
        "seed": seed,
        "image_shape": list(image_shape),
        "slices": slices,
        "unseen": None if unseen is None else unseen.name,
        "sites": described,
    }
    for site, plan in zip(sites, plans, strict=True):
        (output / site.name).mkdir(parents=True, exist_ok=True)
        entries = []
        for part, members in plan.items():
            for patient in members:
                volume = simulate_mri_patient(
                    site, patient.index, patient.lesions, image_shape, slices, seed, coils
                )
                volume = dataclasses.replace(volume, kspace=volume.kspace[:, : site.coils])
                file = f"{site.name}/{patient.name}.h5"
                write_fastmri(output / file, volume)
                entry = {"file": file, "sha256": _sha256(output / file), "patient": patient.name}
                entries.append(entry | {"part": part, "labels": _labels(volume)})
        described.append(dataclasses.asdict(site) | {"volumes": entries})
    write_atomically(output / MANIFEST, (json.dumps(document, indent=2) + "\n").encode())
    return document


def read_mri_cohort(data_dir: str | os.PathLike) -> Cohort:
    """Reads the cohort that `write_mri_cohort` wrote: the same arrays as those of `simulate_mri_cohort`.

    Args:
      data_dir: the folder of cohort.json.

    Raises:
      DataError: there is no cohort.json, or a member is missing, unknown or contradicts another one; a file
        is missing, damaged, changed, not named there, or not of the site and patient that are named.
    """
    manifest = read_mri_cohort_manifest(data_dir)
    volumes: dict[str, list] = {part: [] for part in PARTS}
    patients: dict[str, list[tuple[str, ...]]] = {part: [] for part in PARTS}
    sites = [site for site in manifest.sites if site.name != manifest.unseen]
    for site in sites:
        for part in PARTS:
            examples, names = _examples(Path(data_dir), manifest, site, part)
            volumes[part].append(examples)
            patients[part].append(names)
    return Cohort(
        **stack_parts(volumes, [site.name for site in sites]),
        sites=tuple(sites),
        image_shape=manifest.image_shape,
        patients={part: tuple(names) for part, names in patients.items()},
        notes=NOTES,
    )


def read_mri_test_site(data_dir: str | os.PathLike) -> tuple[MRISite, ClientData] | None:
    """Reads the site that takes no part in training, as `simulate_mri_test_site` makes it; None without one.

    Args:
      data_dir: the folder of cohort.json.

    Raises:
      DataError: as `read_mri_cohort`.
    """
    manifest = read_mri_cohort_manifest(data_dir)
    for site in manifest.sites:
        if site.name == manifest.unseen:
            examples, _ = _examples(Path(data_dir), manifest, site, "test")
            return site, stack_clients([stack_volumes(examples)], [site.name])
    return None


class CohortVolume(NamedTuple):
    """One file of a cohort; the members are those of the manifest."""

    file: str
    sha256: str
    patient: str
    part: str
    labels: tuple[int, ...]


class CohortManifest(NamedTuple):
    """What cohort.json says.

    Attributes:
      tasks: that the cohort is for.
      image_shape: (ny, nx).
      slices: of each patient.
      sites: with their scanners.
      unseen: name of the one that takes no part in training; None without one.
      volumes: of each site.
      sha256: of the manifest, which names those of the files.
    """

    tasks: tuple[str, ...]
    image_shape: tuple[int, int]
    slices: int
    sites: tuple[MRISite, ...]
    unseen: str | None
    volumes: tuple[tuple[CohortVolume, ...], ...]
    sha256: str


def read_mri_cohort_manifest(data_dir: str | os.PathLike) -> CohortManifest:
    """Reads and checks cohort.json; the files themselves are not opened.

    Raises:
      DataError: as `read_mri_cohort`.
    """
    path = Path(data_dir) / MANIFEST
    if not path.is_file():
        expected = f"a folder with {MANIFEST}, as data_scripts.simulate_cohort writes it"
        raise DataError(data_dir, None, expected, "none" if path.parent.is_dir() else "no such folder")
    top = read_json_object(path)
    tasks = top.take("tasks", f"some of {', '.join(TASKS)}", _are_tasks)
    top.integer("seed", 0)
    shape = top.take("image_shape", "two positive integers", _is_shape)
    slices = top.integer("slices", 1)
    unseen = top.members.pop("unseen", None)
    sites: list[MRISite] = []
    volumes: list[tuple[CohortVolume, ...]] = []
    for index, entry in enumerate(top.objects("sites")):
        members = tuple(_volume(value, slices) for value in entry.objects("volumes"))
        site = _site(entry)
        if site.name in {other.name for other in sites}:
            raise top.error(f"sites[{index}].name", "a name unlike those before", site.name)
        if site.patients != len(members):
            raise entry.error("volumes", f"one for each of {site.patients} patients", len(members))
        has = {member.part for member in members}
        if site.name == unseen and has != {"test"}:
            raise entry.error("volumes", "patients in the part 'test' alone, of the unseen site", sorted(has))
        for part in PARTS if site.name != unseen else ():
            if part not in has:
                raise entry.error("volumes", f"a patient in the part {part!r}", "none")
        for name in ("file", "patient"):
            before = {getattr(other, name) for others in volumes for other in others}
            for number, member in enumerate(members):
                if (value := getattr(member, name)) in before:
                    raise entry.error(
                        f"volumes[{number}].{name}", f"no {name} that another volume has", value
                    )
                before.add(value)
        sites.append(site)
        volumes.append(members)
    top.finish()
    if unseen is not None and (len(sites) < 2 or unseen not in [site.name for site in sites]):
        raise top.error("unseen", "the name of one of several sites, or null", unseen)
    _check_folders(path, volumes)
    image_shape = (shape[0], shape[1])
    members = tuple(volumes)
    return CohortManifest(tuple(tasks), image_shape, slices, tuple(sites), unseen, members, _sha256(path))


def _examples(
    folder: Path, manifest: CohortManifest, site: MRISite, part: str
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The examples of each of a site's patients in a part, and their names."""
    coils = max(site.coils for site in manifest.sites)
    members = [m for m in manifest.volumes[manifest.sites.index(site)] if m.part == part]
    volumes = (_read_volume(folder / member.file, member, site, manifest) for member in members)
    examples = [examples_of_volume(site, volume, manifest.image_shape, coils) for volume in volumes]
    return examples, tuple(member.patient for member in members)


def _site(entry: JsonObject) -> MRISite:
    """The fields of a site, by the types of its class."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(MRISite):
        if field.type is str:
            values[field.name] = entry.text(field.name)
        elif field.type is int:
            values[field.name] = entry.integer(field.name, 1)
        elif field.type is float:
            values[field.name] = entry.take(field.name, "a finite number", _is_finite)
        else:
            fits = "a finite number or null", lambda value: value is None or _is_finite(value)
            values[field.name] = entry.take(field.name, *fits)
    entry.finish()
    site = MRISite(**values)
    if site.mask not in ("random", "equispaced", "poisson"):
        raise entry.error("mask", "'random', 'equispaced' or 'poisson'", site.mask)
    if not 0 <= site.center_fraction <= 1:
        raise entry.error("center_fraction", "a number in [0, 1]", site.center_fraction)
    return site


def _volume(entry: JsonObject, slices: int) -> CohortVolume:
    def are_labels(value: Any) -> bool:
        return isinstance(value, list) and len(value) == slices and all(v in (0, 1) for v in value)

    result = CohortVolume(
        file=entry.file("file"),
        sha256=entry.text("sha256"),
        patient=entry.text("patient"),
        part=entry.choice("part", PARTS),
        labels=tuple(entry.take("labels", f"{slices} labels of 0 and 1", are_labels)),
    )
    entry.finish()
    return result


def _check_folders(path: Path, volumes: Sequence[Sequence[CohortVolume]]) -> None:
    """Refuses files that are missing, and such as the manifest does not name: they would be left out."""
    named = {path.parent / member.file for members in volumes for member in members}
    for file in sorted(named):
        if not file.is_file():
            raise DataError(file, None, f"the file that {path} names", "no such file")
    found = {file for folder in {file.parent for file in named} for file in folder.glob("*.h5")}
    for file in sorted(found - named):
        raise DataError(file, None, f"a file that {path} names", "a file that it does not name")


def _read_volume(path: Path, member: CohortVolume, site: MRISite, manifest: CohortManifest) -> FastMRIVolume:
    volume = read_fastmri(path)
    shape = (manifest.slices, site.coils, *manifest.image_shape)
    if volume.kspace.shape != shape:
        raise DataError(path, "kspace", f"shape {shape} by {MANIFEST}", f"shape {volume.kspace.shape}")
    if volume.mask is None or volume.segmentation is None:
        missing = "mask" if volume.mask is None else "segmentation"
        raise DataError(path, missing, "an array", "none")
    if volume.reconstruction_rss is None or volume.reconstruction_rss.shape[1:] != manifest.image_shape:
        found = "none" if volume.reconstruction_rss is None else f"shape {volume.reconstruction_rss.shape}"
        raise DataError(path, "reconstruction_rss", f"shape {(shape[0], *shape[2:])}", found)
    for key, expected in (("patient_id", member.patient), ("site", site.name)):
        if (found := volume.attributes.get(key)) != expected:
            raise DataError(path, key, f"{expected!r} by {MANIFEST}", repr(found))
    if _labels(volume) != list(member.labels):
        expected = f"lesions in the slices labeled in {MANIFEST}, {list(member.labels)}"
        raise DataError(path, "segmentation", expected, _labels(volume))
    if (digest := _sha256(path)) != member.sha256:
        raise DataError(path, None, f"SHA-256 {member.sha256[:12]}... by {MANIFEST}", f"{digest[:12]}...")
    return volume


def _labels(volume: FastMRIVolume) -> list[int]:
    """Of each slice, whether it shows a lesion."""
    assert volume.segmentation is not None, "what is simulated is complete"
    return volume.segmentation.any(axis=(1, 2)).astype(int).tolist()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(n) is int and n > 0 for n in value)


def _are_tasks(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(task in TASKS for task in value)
