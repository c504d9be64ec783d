"""What a cohort of files holds, site by site, and what is missing or odd."""

import collections
import os
from typing import NamedTuple

import numpy as np

from fedrecon.data.clients import Cohort
from fedrecon.data.folders.cohort import make_cohort
from fedrecon.data.folders.loading import Loaded, check_needs, load_volumes
from fedrecon.data.folders.manifest import TASKS, Manifest
from fedrecon.data.folders.volume import Volume
from fedrecon.data.formats import DataError

# Ratio of a site's intensities to the median of all, and of spacings, from which they are called odd.
_BRIGHT, _COARSE = 20.0, 1.5


class SiteSurvey(NamedTuple):
    """One site.

    Attributes:
      name: of the site.
      kind: what its files are, in words.
      patients, files, slices: their numbers.
      matrices: (ny, nx) -> number of files.
      channels: numbers of coils of k-space, or of channels of images.
      spacings: (z, y, x) in mm, each once, to a hundredth; None among them where a file does not know.
      intensity: smallest and largest value of the images or magnitudes of k-space.
      labels: label -> number of files.
      masks: files with a mask, and the mean part of the pixels that they mark.
      gridded: what was brought to the grid of k-space -> number of files.
    """

    name: str
    kind: str
    patients: int
    files: int
    slices: int
    matrices: dict[tuple[int, int], int]
    channels: tuple[int, ...]
    spacings: tuple[tuple[float, float, float] | None, ...]
    intensity: tuple[float, float]
    labels: dict[str, int]
    masks: tuple[int, float]
    gridded: dict[str, int]


class Survey(NamedTuple):
    """A cohort.

    Attributes:
      manifest: of the cohort.
      sites: one by one.
      tasks: that it can train; empty where it can train none.
      obstacles: task -> why not.
      faults: of files.
      odd: what is unusual but no fault, in sentences.
      cohort: for the task that was asked for, or the first that it can train; None without.
      task: of ``cohort``.
    """

    manifest: Manifest
    sites: tuple[SiteSurvey, ...]
    tasks: tuple[str, ...]
    obstacles: dict[str, str]
    faults: tuple[DataError, ...]
    odd: tuple[str, ...]
    cohort: Cohort | None
    task: str | None


def survey_cohort(
    data_dir: str | os.PathLike, task: str | None = None, *, matrix: tuple[int, int] | None = None
) -> Survey:
    """Reads all files, beyond faulty ones, and tries to make the cohort of every task.

    Args:
      data_dir: the folder.
      task: the one that matters; None for all.
      matrix: as of `read_cohort`.

    Raises:
      DataError: there is no cohort at all.
      ImportError: a file needs an extra that is not installed.
    """
    loaded = load_volumes(data_dir, task, skip_bad=True)
    volumes = dict(loaded.volumes)
    sites = tuple(_survey(name, members) for name, members in volumes.items())
    obstacles: dict[str, str] = {}
    found: tuple[str, Cohort] | None = None
    tasks = []
    for name in (task,) if task else loaded.manifest.tasks or TASKS:
        try:
            cohort = make_cohort(_complete(loaded, volumes, name), name, matrix=matrix)
        except DataError as error:
            obstacles[name] = str(error)
        else:
            tasks.append(name)
            found = found or (name, cohort)
    return Survey(
        manifest=loaded.manifest,
        sites=sites,
        tasks=tuple(tasks),
        obstacles=obstacles,
        faults=loaded.skipped,
        odd=tuple(_odd(sites, volumes)),
        cohort=None if found is None else found[1],
        task=None if found is None else found[0],
    )


def _complete(loaded: Loaded, volumes: dict[str, list[Volume]], task: str) -> Loaded:
    """The same volumes, if all have what the task needs."""
    for members in volumes.values():
        for volume in members:
            check_needs(volume, task)
    return loaded._replace(volumes=dict(volumes))


def _survey(name: str, volumes: list[Volume]) -> SiteSurvey:
    values = [volume.image if volume.kspace is None else volume.kspace for volume in volumes]
    axis = [-1 if volume.kspace is None else 1 for volume in volumes]
    masks = [v.segmentation for v in volumes if v.segmentation is not None]
    spacings = {v.spacing and tuple(round(s, 2) for s in v.spacing) for v in volumes}
    magnitudes = [np.abs(v) for v in values if v is not None]
    return SiteSurvey(
        name=name,
        kind=" and ".join(sorted({volume.unit for volume in volumes})),
        patients=len({volume.patient for volume in volumes}),
        files=len(volumes),
        slices=sum(volume.slices for volume in volumes),
        matrices=dict(sorted(collections.Counter(volume.matrix for volume in volumes).items())),
        channels=tuple(sorted({v.shape[a] for v, a in zip(values, axis, strict=True) if v is not None})),
        spacings=tuple(sorted(spacings, key=str)),  # type: ignore[arg-type]
        intensity=(float(min(m.min() for m in magnitudes)), float(max(m.max() for m in magnitudes))),
        labels=dict(sorted(collections.Counter(v.labels[0] for v in volumes if v.labels).items())),
        masks=(len(masks), float(np.mean([(mask > 0).mean() for mask in masks])) if masks else 0.0),
        gridded=dict(sorted(collections.Counter(v.gridded for v in volumes if v.gridded).items())),
    )


def _odd(sites: tuple[SiteSurvey, ...], volumes: dict[str, list[Volume]]) -> list[str]:
    """Sentences on what differs from file to file or from site to site."""
    found = []
    median = float(np.median([site.intensity[1] for site in sites]))
    labels = {label for site in sites for label in site.labels}
    for site in sites:
        members = volumes[site.name]
        if len(site.matrices) > 1:
            most = max(site.matrices, key=lambda shape: site.matrices[shape])
            other = next(volume for volume in members if volume.matrix != most)
            shown = " x ".join(map(str, other.matrix))
            found.append(f"{other.name}: matrix {shown}, others of {site.name} {most[0]} x {most[1]}")
        if len(site.channels) > 1:
            found.append(f"{site.name}: files of {' and '.join(map(str, site.channels))} coils or channels")
        if site.slices > site.files:
            for volume in members:
                if volume.slices == 1:
                    found.append(f"{volume.name}: one slice")
        if not 1 / _BRIGHT < max(site.intensity[1], 1e-30) / max(median, 1e-30) < _BRIGHT:
            found.append(f"{site.name}: values up to {site.intensity[1]:.3g}, elsewhere {median:.3g}")
        if len(site.spacings) > 1:
            found.append(f"{site.name}: pixels of {len(site.spacings)} sizes")
        if labels and not site.labels:
            found.append(f"{site.name}: no labels")
        elif labels and set(site.labels) < labels:
            missing = ", ".join(sorted(labels - set(site.labels)))
            found.append(f"{site.name}: nobody with the label {missing}")
        found += [f"{volume.name}: {text}" for volume in members if (text := volume.undersampling)]
        found += [
            f"{volume.name}: an empty mask"
            for volume in members
            if volume.segmentation is not None and not volume.segmentation.any()
        ]
    known = [s for site in sites for s in site.spacings if s is not None]
    if known and max(s[2] for s in known) > _COARSE * min(s[2] for s in known):
        low, high = min(s[2] for s in known), max(s[2] for s in known)
        found.append(f"pixels from {low:g} to {high:g} mm: structures differ in size from site to site")
    return found
