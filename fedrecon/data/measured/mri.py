"""A federation of measured scanners, retrospectively undersampled."""

import dataclasses
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedrecon.data.clients import (
    FRACTIONS,
    PARTS,
    Cohort,
    mask_key,
    split_patients,
    stack_parts,
    undersampled_examples,
)
from fedrecon.data.formats import DataError, open_hdf5, read_array, read_fastmri
from fedrecon.data.measured.manifest import Scanner, read_mri_manifest
from fedrecon.data.simulation import chest_coils
from fedrecon.errors import ArgumentError
from operators import fft2c


@dataclasses.dataclass(frozen=True)
class MeasuredMRISite:
    """A scanner of the measured cohort.

    Attributes:
      name: of the site.
      files: read for it, relative to the data folder.
      native_shapes: the (ny, nx) of its measurements, without repetitions.
      coils: the numbers of coils of its measurements.
      single_subject: whether all its data are of one subject.
      unseen_objects: whether validation and test hold objects that training has not seen (else only masks).
      simulated_coils: whether the coils are simulated.
    """

    name: str
    files: tuple[str, ...]
    native_shapes: tuple[tuple[int, int], ...]
    coils: tuple[int, ...]
    single_subject: bool
    unseen_objects: bool
    simulated_coils: bool


def load_measured_mri_cohort(
    data_dir: str | os.PathLike,
    *,
    matrix: tuple[int, int] | None = None,
    acceleration: float = 4.0,
    center_fraction: float = 0.08,
    train_masks: int = 6,
    evaluation_masks: int = 2,
    simulated_coils: int = 4,
    echoes: int = 1,
    seed: int = 0,
) -> Cohort:
    """Loads the scanners of the manifest ``mri`` as one cohort on a common grid.

    Every fully sampled slice is undersampled along its columns (phase encoding) with random masks drawn on
    its own matrix. Measurement and reference are then brought to the common grid by centered zero-padding of
    k-space, which keeps the field of view and is undone by `to_native`; samples outside the native matrix are
    not measured (mask 0). Coils are padded with zeros. The reference is the root of the sum of squares of the
    fully sampled measurement; one volume is one slice under one mask.

    Examples are those of `mri_examples` without segmentation, and ``native_shape`` (2,) int32. Physical
    values of images on the common grid are normalized * scale; those of the scanner's own matrix come from
    `to_native`.

    Args:
      data_dir: the folder of the files, and of ``cohorts/mri.json`` where the cohort is another than that of
        this package: three scanners with a slice each, and complex cardiac images.
      matrix: (ny, nx) of the common grid; None for the largest native one. A smaller one crops the k-space
        of larger acquisitions: resolution is lost, the target included, and `to_native` only interpolates.
      acceleration: expected, of the native matrix.
      center_fraction: fully sampled fraction of the columns of the native matrix.
      train_masks: masks of each acquisition for training, at sites that hold out masks. Those that hold out
        images have one mask for each acquisition.
      evaluation_masks: masks of each acquisition for validation and again for test, at those sites.
      simulated_coils: number of coils of sites that have images, at least 1.
      echoes: the number of echoes used of each data set of images, from the first.
      seed: of masks, coils and split; a mask's own seed depends on file, part and number.

    Raises:
      DataError: a file or the manifest is missing or not as it should be.
      ValueError: an argument is out of its range, or a site has too few images to hold some out.
    """
    for name, value in (
        ("train_masks", train_masks),
        ("evaluation_masks", evaluation_masks),
        ("simulated_coils", simulated_coils),
        ("echoes", echoes),
    ):
        if value < 1:
            raise ArgumentError(name, "at least 1", value)
    manifest = read_mri_manifest(data_dir)
    masks = {"train": train_masks, "validation": evaluation_masks, "test": evaluation_masks}
    # Site -> part -> acquisitions (name, fully sampled k-space (coils, ny, nx), number of masks).
    acquisitions = {}
    for site in manifest.sites:
        if site.prefix is None:
            groups = [_measured_slices(Path(data_dir) / file) for file in site.files]
        else:
            path = Path(data_dir) / site.files[0]
            groups = _image_sets(path, site, simulated_coils, echoes, seed)
        acquisitions[site.name] = _divide(groups, site, masks, seed)

    spaces = {site: [a[1] for part in PARTS for a in parts[part]] for site, parts in acquisitions.items()}
    rows, columns = (max(k.shape[axis] for ks in spaces.values() for k in ks) for axis in (-2, -1))
    coils = max(k.shape[0] for ks in spaces.values() for k in ks)
    ny, nx = (rows, columns) if matrix is None else (int(n) for n in matrix)
    matrix = (ny, nx)
    volumes: dict[str, list] = {part: [] for part in PARTS}
    patients: dict[str, list[tuple[str, ...]]] = {part: [] for part in PARTS}
    for parts in acquisitions.values():
        for part in PARTS:
            made = [
                (
                    f"{name} mask {number}",
                    _example(kspace, name, part, number, matrix, coils, acceleration, center_fraction, seed),
                )
                for name, kspace, count in parts[part]
                for number in range(count)
            ]
            volumes[part].append([example for _, example in made])
            patients[part].append(tuple(name for name, _ in made))
    return Cohort(
        **stack_parts(volumes, tuple(acquisitions)),
        sites=tuple(_site(site, spaces[site.name]) for site in manifest.sites),
        image_shape=matrix,
        patients={part: tuple(ids) for part, ids in patients.items()},
        notes=manifest.notes,
    )


class _Group(NamedTuple):
    """What is held out together: a file or an image set, and its acquisitions (name, k-space)."""

    name: str
    acquisitions: list[tuple[str, np.ndarray]]


def _divide(groups: list[_Group], site: Scanner, masks: dict[str, int], seed: int) -> dict[str, list]:
    """Acquisitions and their numbers of masks by part."""
    if site.held_out == "masks":
        return {part: [(*a, masks[part]) for group in groups for a in group.acquisitions] for part in PARTS}
    chosen = split_patients([group.name for group in groups], FRACTIONS, seed)
    return {
        part: [(*a, 1) for index in members for a in groups[index].acquisitions]
        for part, members in zip(PARTS, chosen, strict=True)
    }


def _measured_slices(path: Path) -> _Group:
    volume = read_fastmri(path)
    if volume.mask is not None and not volume.mask.all():
        raise DataError(path, "mask", "a fully sampled measurement", "samples that were not measured")
    if not np.abs(volume.kspace).max(axis=(1, 2, 3)).all():
        raise DataError(path, "kspace", "a signal in every slice", "a slice of zeros")
    return _Group(path.stem, [(f"{path.stem} slice {i}", kspace) for i, kspace in enumerate(volume.kspace)])


def _image_sets(path: Path, site: Scanner, coils: int, echoes: int, seed: int) -> list[_Group]:
    """The data sets of complex images, seen by simulated coils: acquisitions (coils, ny, nx) of each echo."""
    with open_hdf5(path) as file:
        names = sorted(name for name in file if name.startswith(site.prefix or ""))
        if len(names) < len(PARTS):
            expected = f"at least {len(PARTS)} data sets named {site.prefix}.."
            raise DataError(path, None, expected, f"{sorted(file)}")
        images = {}
        for name in names:
            images[name] = read_array(file, name, kinds="c", ndim=3, dtype=np.complex64)
            if len(images[name]) < echoes:
                raise DataError(path, name, f"at least {echoes} echoes", f"shape {images[name].shape}")
    assert site.field_of_view is not None, "manifests of images have one"
    result = []
    for name, stack in images.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        maps = chest_coils(rng, coils, stack.shape[-2:], site.field_of_view)
        kspace = np.asarray(fft2c(maps * stack[:echoes, None]))
        result.append(_Group(name, [(f"{name} echo {e + 1}", k) for e, k in enumerate(kspace)]))
    return result


def _example(
    kspace: np.ndarray,
    name: str,
    part: str,
    number: int,
    matrix: tuple[int, int],
    coils: int,
    acceleration: float,
    center_fraction: float,
    seed: int,
) -> dict:
    """One slice under one mask, on the common grid; leading axis of length 1."""
    key = mask_key(seed, f"{name}/{part}/{number}")
    return undersampled_examples(kspace[None], key, matrix, coils, acceleration, center_fraction)


def _site(site: Scanner, spaces: list[np.ndarray]) -> MeasuredMRISite:
    return MeasuredMRISite(
        name=site.name,
        files=site.files,
        native_shapes=tuple(sorted({k.shape[-2:] for k in spaces})),
        coils=tuple(sorted({k.shape[0] for k in spaces})),
        single_subject=site.single_subject,
        unseen_objects=site.held_out == "patients",
        simulated_coils=site.prefix is not None,
    )
