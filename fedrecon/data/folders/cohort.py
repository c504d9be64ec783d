"""Cohorts of files: read, divided by patient and brought to one grid."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import jax
import numpy as np

from fedrecon.data.clients import (
    PARTS,
    ClientData,
    Cohort,
    mask_key,
    mri_examples,
    resize_kspace,
    stack_clients,
    stack_parts,
    stack_volumes,
    undersampled_examples,
)
from fedrecon.data.folders.division import divide
from fedrecon.data.folders.images import by_area, classes_by_area, fitted, in_channels, normalized
from fedrecon.data.folders.loading import BACKGROUND, Loaded, is_simulated, load_volumes
from fedrecon.data.folders.manifest import TASKS, Manifest
from fedrecon.data.folders.preparation import Preparation
from fedrecon.data.folders.sinograms import few_views, kept_views
from fedrecon.data.folders.volume import Volume
from fedrecon.data.formats import DataError
from fedrecon.data.simulation import read_mri_cohort
from fedrecon.errors import ArgumentError
from operators import ifft2c, rss

UNSEEN = "unseen"
UNSEEN_NOTE = "{} takes no part in any training: no weight, threshold or network has seen its data."


@dataclasses.dataclass(frozen=True)
class FolderSite:
    """A site of a cohort of files.

    Attributes:
      name: of the site.
      patients, files, slices: their numbers.
      native_shapes: the (ny, nx) of its images before they got the common one.
      coils: numbers of coils of its k-space; empty for images.
      held_out: what validation and test have that training has not, see the manifest.
      gridded: files whose samples were brought to the grid of k-space.
      undersampling: what references of too few of these samples lack, in words.
    """

    name: str
    patients: int
    files: int
    slices: int
    native_shapes: tuple[tuple[int, int], ...]
    coils: tuple[int, ...]
    held_out: str
    gridded: int = 0
    undersampling: tuple[str, ...] = ()


def read_cohort(
    data_dir: str | os.PathLike,
    task: str,
    *,
    manifest: str | os.PathLike | None = None,
    matrix: tuple[int, int] | None = None,
    seed: int = 0,
    skip_bad: bool = False,
) -> Cohort:
    """Reads a cohort of files for a task: what cohort.json names, or ``DIR/<hospital>/...`` without one.

    docs/own_data.md says what files there may be and what the manifest says of them. A cohort.json of
    `write_mri_cohort` is read as `read_mri_cohort` does.

    Examples of reconstruction are those of `mri_examples` (of fully sampled k-space, undersampled) and
    ``native_shape`` (2,) int32, or those of `few_views`; those of other tasks are ``image`` (ny, nx,
    channels) float32, and ``segmentation`` (ny, nx) float32, 0 or 1, or of several structures their numbers,
    or ``label`` () int32. ``volume`` () int32 is the patient within client and part. Examples of
    reconstruction also have segmentation, and a label, where all files have.

    Args:
      data_dir: the folder.
      task: ``"reconstruction"``, ``"segmentation"`` or ``"classification"``.
      manifest: another file than ``data_dir/cohort.json``; names in it are relative to ``data_dir``.
      matrix: (ny, nx) of all images, in place of the manifest's.
      seed: of the split and the masks.
      skip_bad: leave out files with a fault, and name them in ``notes``.

    Raises:
      DataError: the manifest or a file is missing, damaged or not as it should be, or a site has too few
        patients; names the file.
      ValueError: an argument is out of its range.
      ImportError: a file needs an extra that is not installed.
    """
    if task not in TASKS:
        raise ArgumentError("task", f"one of {', '.join(TASKS)}", repr(task))
    if manifest is None and is_simulated(data_dir):
        return _as_images(read_mri_cohort(data_dir), task)
    loaded = load_volumes(data_dir, task, manifest=manifest, skip_bad=skip_bad)
    return make_cohort(loaded, task, matrix=matrix, seed=seed)


def make_cohort(loaded: Loaded, task: str, *, matrix: tuple[int, int] | None = None, seed: int = 0) -> Cohort:
    """The cohort of volumes that were read for a task; they are taken out of ``loaded``."""
    manifest = loaded.manifest
    if loaded.lost:
        expected = "at least one sound file of the site"
        raise DataError(manifest.folder / loaded.lost[0], None, expected, "none")
    everything = [volume for volumes in loaded.volumes.values() for volume in volumes]
    shapes = [volume.matrix for volume in everything]
    ny, nx = (max(shape[axis] for shape in shapes) for axis in (0, 1))
    matrix = matrix or manifest.matrix or (ny, nx)
    coils = max((v.kspace.shape[1] for v in everything if v.kspace is not None), default=0)
    classes = manifest.labels or ()
    if task == "classification" and len(classes) < 2:
        raise DataError(manifest.folder, None, "two labels or more", f"{', '.join(classes)} alone")
    if task == "classification":
        _check_classes(manifest, everything)
    masked = all(volume.segmentation is not None for volume in everything)
    labeled = masked or all(volume.labels is not None for volume in everything)
    # Those that do not train come last.
    order = sorted(loaded.volumes, key=lambda name: name in loaded.unseen)
    sites = tuple(_site(name, loaded.volumes[name], _held_out(name, loaded)) for name in order)
    if all(name in loaded.unseen for name in order):
        raise DataError(manifest.path, "sites", "a site that trains", "unseen ones alone")
    structures = manifest.structures or ()
    names = classes if task == "classification" else ((BACKGROUND, *structures) if structures else ())
    # New files have no site that could say otherwise.
    rules = {source.intensity or manifest.intensity for source in manifest.sources}
    preparation = Preparation(
        (int(matrix[0]), int(matrix[1])),
        manifest.channels or max(1 if v.image is None else v.image.shape[-1] for v in everything),
        rules.pop() if len(rules) == 1 else None,
        names if task != "reconstruction" else (),
    )
    if task == "reconstruction":
        _check_physics(everything)
    views = max(
        (kept_views(v.rays, manifest.undersampling.acceleration) for v in everything if v.rays), default=0
    )
    padded = (coils, views)
    del everything
    examples: dict[str, list] = {part: [] for part in (*PARTS, UNSEEN)}
    patients: dict[str, list[tuple[str, ...]]] = {part: [] for part in examples}
    for name in [site.name for site in sites]:
        volumes = loaded.volumes.pop(name)
        if name in loaded.unseen:
            divided = {UNSEEN: [(volume.patient, volume, 1) for volume in volumes]}
        else:
            divided = divide(name, volumes, loaded.held_out[name], manifest, seed)
        del volumes
        for part, members in divided.items():
            made: dict[str, list[dict[str, np.ndarray]]] = {}
            for patient, volume, copies in members:
                for number in range(copies):
                    key = mask_key(seed, f"{name}/{volume.name}/{patient}/{part}/{number}")
                    one = _examples(volume, task, key, matrix, padded, manifest, classes, masked, labeled)
                    made.setdefault(patient if copies == 1 else f"{patient} mask {number}", []).append(one)
            joined = {p: {k: np.concatenate([e[k] for e in es]) for k in es[0]} for p, es in made.items()}
            examples[part].append(list(joined.values()))
            patients[part].append(tuple(joined))
    every = [site.name for site in sites]
    trained = every[: len(every) - len(examples[UNSEEN])]
    apart = [stack_volumes(volumes) for volumes in examples.pop(UNSEEN)]
    if not apart:
        del patients[UNSEEN]
    return Cohort(
        **stack_parts(examples, trained),
        unseen=stack_clients(apart, every[len(trained) :]) if apart else None,
        sites=sites,
        image_shape=(int(matrix[0]), int(matrix[1])),
        patients={part: tuple(ids) for part, ids in patients.items()},
        notes=_notes(loaded, sites),
        labels=classes if task == "classification" or (task == "reconstruction" and labeled) else (),
        preparation={} if task == "reconstruction" else preparation.as_document(),
    )


def _held_out(name: str, loaded: Loaded) -> str:
    return "the whole site" if name in loaded.unseen else loaded.held_out[name]


def _check_classes(manifest: Manifest, volumes: Sequence[Volume]) -> None:
    found: set[str] = set()
    for volume in volumes:
        if volume.labels is not None:
            found |= set(volume.labels)
        elif volume.segmentation is not None:
            found |= {"with" if mask.any() else "without" for mask in volume.segmentation}
    if len(found) < 2:
        raise DataError(manifest.folder, None, "two labels or more", f"{', '.join(found) or 'none'} alone")


def _check_physics(volumes: Sequence[Volume]) -> None:
    """Refuses what one network cannot reconstruct: k-space and sinograms, or detectors of other sizes."""
    first = volumes[0]
    for volume in volumes:
        if (volume.rays is None) != (first.rays is None):
            kinds = ("k-space", "sinograms")
            expected, found = kinds if first.rays is None else kinds[::-1]
            raise DataError(volume.path, None, f"{expected}, as {first.name}, to reconstruct together", found)
        if volume.rays is None or first.rays is None:
            continue
        expected, found = (v.values.shape[-1] for v in (first.rays, volume.rays))
        if expected != found:
            text = f"a detector of {expected} elements, as {first.name}, to reconstruct together"
            raise DataError(volume.path, None, text, f"{found} elements")


def _examples(
    volume: Volume,
    task: str,
    key: jax.Array,
    matrix: tuple[int, int],
    padded: tuple[int, int],
    manifest: Manifest,
    classes: Sequence[str],
    masked: bool,
    labeled: bool,
) -> dict[str, np.ndarray]:
    """The examples of one volume, one for each slice; ``padded`` are coils and views of all."""
    labels: np.ndarray | None = None
    if volume.labels is not None:
        labels = np.asarray([classes.index(label) for label in volume.labels], np.int32)
    elif volume.segmentation is not None:
        labels = np.asarray(volume.segmentation.any((1, 2)), np.int32)

    def marked(masks: np.ndarray, scaled: Callable) -> np.ndarray:
        count = len(manifest.structures or ("",))
        return classes_by_area(masks, count, lambda mask: scaled(mask, matrix), manifest.mask_area)

    if task == "reconstruction":
        segmentation = None
        if masked and volume.segmentation is not None:
            segmentation = marked(volume.segmentation, by_area if volume.rays is None else fitted)
        if volume.rays is None:
            examples = _measured(volume, key, matrix, padded[0], manifest, segmentation)
        else:
            acceleration = manifest.undersampling.acceleration
            examples = few_views(volume, key, matrix, padded[1], acceleration, segmentation)
        examples.pop("volume")
        return examples | {"label": labels} if labeled and labels is not None else examples
    if volume.kspace is None:
        assert volume.image is not None, "one of both is there"
        image = normalized(volume.image, volume.intensity)
        image = fitted(in_channels(image, manifest.channels or image.shape[-1]), matrix)
        scaled = fitted
    else:
        reference = volume.reference
        if reference is None:
            reference = np.asarray(rss(ifft2c(resize_kspace(volume.kspace, matrix))))
        image = normalized(reference, volume.intensity)[..., None]
        scaled = by_area
    if task == "segmentation":
        assert volume.segmentation is not None, "checked when it was read"
        return {"image": image, "segmentation": marked(volume.segmentation, scaled).astype(np.float32)}
    assert labels is not None, "checked when it was read"
    return {"image": image, "label": labels}


def _measured(
    volume: Volume,
    key: jax.Array,
    matrix: tuple[int, int],
    coils: int,
    manifest: Manifest,
    segmentation: np.ndarray | None,
) -> dict[str, np.ndarray]:
    kspace, rule = volume.kspace, manifest.undersampling
    assert kspace is not None, "the caller's test"
    if volume.sampling is None:
        return undersampled_examples(
            kspace, key, matrix, coils, rule.acceleration, rule.center_fraction, segmentation
        )
    assert volume.reference is not None, "sampled k-space has one"
    if kspace.shape[-2:] != tuple(matrix):
        expected = f"the matrix {tuple(matrix)} of the cohort, since the reference has no k-space"
        raise DataError(volume.path, None, expected, kspace.shape[-2:])
    columns = np.asarray(volume.sampling.all(0))
    middle = len(columns) // 2
    before, after = columns[:middle][::-1], columns[middle:]
    block = min(*(int(np.argmin(side)) if not side.all() else len(side) for side in (before, after)))
    block = max(2 * block, 1)
    examples = mri_examples(
        kspace,
        volume.sampling,
        volume.reference,
        (min(2 * block, matrix[0]), block),
        coils,
        segmentation,
    )
    return examples | {"native_shape": np.tile(np.asarray(matrix, np.int32), (len(kspace), 1))}


def _site(name: str, volumes: list[Volume], held_out: str) -> FolderSite:
    return FolderSite(
        name=name,
        patients=len({volume.patient for volume in volumes}),
        files=len(volumes),
        slices=sum(volume.slices for volume in volumes),
        native_shapes=tuple(sorted({volume.matrix for volume in volumes})),
        coils=tuple(sorted({v.kspace.shape[1] for v in volumes if v.kspace is not None})),
        held_out=held_out,
        gridded=sum(bool(volume.gridded) for volume in volumes),
        undersampling=tuple(dict.fromkeys(v.undersampling for v in volumes if v.undersampling)),
    )


def _notes(loaded: Loaded, sites: Sequence[FolderSite]) -> str:
    """What the manifest says, what is held out, and what was skipped."""
    manifest = loaded.manifest
    sentences = [manifest.notes, *(f"{s.name}: {s.notes}" for s in manifest.sources if s.notes)]
    if single := [source.name for source in manifest.sources if source.single_subject and source.name]:
        sentences.append(f"All data of {', '.join(single)} are of one subject each.")
    for kind in ("slices", "masks"):
        names = [site.name for site in sites if site.held_out == kind]
        if names:
            what = "slices" if kind == "slices" else "sampling masks"
            sentences.append(
                f"Validation and test of {', '.join(names)} are other {what} of the same patients: that "
                "measures no generalization to other patients."
            )
    sentences += [UNSEEN_NOTE.format(site.name) for site in sites if site.name in loaded.unseen]
    for site in sites:
        sentences += [f"{site.name}: {text}." for text in site.undersampling]
    if loaded.skipped:
        faults = "; ".join(str(error) for error in loaded.skipped)
        sentences.append(f"{len(loaded.skipped)} skipped (--skip_bad): {faults}.")
    return " ".join(sentence for sentence in sentences if sentence)


def _as_images(cohort: Cohort, task: str) -> Cohort:
    """Volumes of k-space are segmented and classified on their references."""
    if task == "reconstruction":
        return cohort
    kept = ("label", "volume", *(("segmentation",) if task == "segmentation" else ()))

    def images(data: ClientData) -> ClientData:
        examples = {name: data.examples[name] for name in kept}
        return ClientData(examples | {"image": data.examples["target"][..., None]}, data.valid, data.names)

    train, validation, test = (images(data) for data in (cohort.train, cohort.validation, cohort.test))
    return dataclasses.replace(cohort, train=train, validation=validation, test=test)
