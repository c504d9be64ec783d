"""The cohorts of the full-stack experiment, simulated or measured."""

import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.pipeline.folders import read_folder
from experiments.pipeline.settings import FullStackSettings
from fedrecon.data import (
    ClientData,
    Cohort,
    MRISite,
    load_measured_chest_xray,
    load_measured_mri_cohort,
    load_measured_retina,
    simulate_ct_cohort,
    simulate_mri_cohort,
)
from fedrecon.data.simulation import (
    HOSPITAL_FRACTIONS,
    brain_hospitals,
    read_mri_test_site,
    simulate_mri_test_site,
)
from fedrecon.training import FlagError

RETINA_SIZE, CHEST_SIZE = 256, 224
_COUNTED = ["patients: train", "validation", "test", "test with lesions"]
_UNSEEN = "{} takes no part in any training: no weight, threshold or network has seen its data."


class Split(NamedTuple):
    """Client data of one task by split.

    Attributes:
      train, validation, test: the sites that train.
      unseen: the test split of a site that takes no part in training; None without one.
    """

    train: ClientData
    validation: ClientData
    test: ClientData
    unseen: ClientData | None = None


class Cohorts(NamedTuple):
    """The data of a run.

    Attributes:
      reconstruction: measurements; for the simulated cohort also lesion masks and labels.
      segmentation, classification: the same patients as ``reconstruction`` when ``shared_images``, else
        images of their own; None where the data have nothing to learn it from.
      shared_images: whether the downstream tasks see the reconstructed images.
      image_shape: (ny, nx) of the reconstructions.
      sites: table of the sites, header first.
      notes: sentences about the data that a reader must know.
      preparations: of the images of a task, see `Cohort`; none where they are reconstructions.
      left_out: stage -> why there is none.
    """

    reconstruction: Split
    segmentation: Split | None
    classification: Split | None
    shared_images: bool
    image_shape: tuple[int, int]
    sites: list[list[str]]
    notes: tuple[str, ...]
    preparations: Mapping[str, dict[str, Any]] = types.MappingProxyType({})
    left_out: Mapping[str, str] = types.MappingProxyType({})

    def splits(self) -> dict[str, Split]:
        """The data of each stage that there is, in their order."""
        every = {name: getattr(self, name) for name in ("reconstruction", "segmentation", "classification")}
        return {name: split for name, split in every.items() if split is not None}


def load_cohorts(settings: FullStackSettings) -> Cohorts:
    """Simulates or reads the cohort that the settings name.

    Raises:
      ValueError: a setting does not fit, or (as ``DataError``) a file is missing or malformed.
    """
    if settings.cohort == "measured":
        return _measured(settings)
    if settings.cohort == "folder":
        flag = max(("pools", "finetune_pools"), key=lambda name: getattr(settings, name))
        tasks, pools = ("reconstruction", "segmentation", "classification"), getattr(settings, flag)
        cohort = read_folder(
            settings.data_dir, tasks, pools=pools, flag=flag, seed=settings.seed, skip_bad=settings.skip_bad
        )
        if settings.data_labels:
            return _own(cohort, settings.data_dir)
        return _mri_cohorts(cohort, read_mri_test_site(settings.data_dir))
    return _simulated_mri(settings) if settings.modality == "mri" else _simulated_ct(settings)


def _simulated_mri(settings: FullStackSettings) -> Cohorts:
    """Small hospitals that scan brains, and one whose patients are all for the test."""
    shape = (settings.image_size, settings.image_size)
    hospitals, unseen = brain_hospitals(
        settings.sites, settings.patients_per_site, acceleration=settings.acceleration, seed=settings.seed
    )
    coils = max(site.coils for site in (*hospitals, unseen))
    cohort = simulate_mri_cohort(
        hospitals,
        slices=settings.slices,
        image_shape=shape,
        fractions=HOSPITAL_FRACTIONS,
        coils=coils,
        seed=settings.seed,
    )
    foreign = simulate_mri_test_site(unseen, settings.slices, shape, coils, settings.seed)
    return _mri_cohorts(cohort, (unseen, foreign))


def _mri_cohorts(cohort: Cohort, outside: tuple[MRISite, ClientData] | None = None) -> Cohorts:
    """Sites of simulated scanners; ``outside`` is one that takes no part in training."""
    unseen, foreign = outside or (None, None)
    table = [["site", "coils", "mask", "acceleration", "SNR", "field of view (mm)", *_COUNTED]]
    sites = (*cohort.sites, *(() if unseen is None else (unseen,)))
    for site, counts in zip(sites, _patients(cohort, foreign), strict=True):
        name = f"{site.name} (unseen)" if site is unseen else site.name
        physics = [str(site.coils), site.mask, f"{site.acceleration:g}", f"{site.snr:g}"]
        table.append([name, *physics, f"{site.field_of_view:g}", *counts])
    split = _split(cohort)._replace(unseen=foreign)
    notes = (cohort.notes, *(() if unseen is None else (_UNSEEN.format(unseen.name),)))
    return Cohorts(split, split, split, True, cohort.image_shape, table, notes)


def _own(cohort: Cohort, data_dir: str) -> Cohorts:
    """Sites of own files of k-space; stages that masks or labels are missing for are left out."""
    if "sinogram" in cohort.train.examples:
        expected = "k-space; experiments.train_federated --task=reconstruction takes sinograms"
        raise FlagError("data_dir", expected, f"{data_dir} of sinograms")
    table = [["site", "coils", "native matrix", "held out", *_COUNTED]]
    if "label" not in cohort.train.examples:
        table[0].pop()
    elif cohort.labels and cohort.labels[1] != "with":
        table[0][-1] = f"test with {', '.join(cohort.labels[1:])}"
    apart = None if cohort.unseen is None else cohort.unseen.names
    if apart is not None and len(apart) > 1:
        raise FlagError("data_dir", "at most one unseen site", ", ".join(apart))
    for site, counts in zip(cohort.sites, _patients(cohort, cohort.unseen), strict=True):
        shapes = ", ".join(f"{ny}×{nx}" for ny, nx in site.native_shapes)
        name = f"{site.name} (unseen)" if site.name in (apart or ()) else site.name
        table.append([name, ", ".join(map(str, site.coils)), shapes, site.held_out, *counts])
    split, left_out = _split(cohort)._replace(unseen=cohort.unseen), _left_out(cohort)
    notes = [cohort.notes] if cohort.notes else []
    if "classification" not in left_out and cohort.labels:
        notes.append(f"Classification tells {cohort.labels[1]} (positive) from {cohort.labels[0]}.")
    notes += [f"There is no stage of {stage}: {why}." for stage, why in left_out.items()]
    segmentation, classification = (
        None if stage in left_out else split for stage in ("segmentation", "classification")
    )
    return Cohorts(
        split,
        segmentation,
        classification,
        True,
        cohort.image_shape,
        table,
        tuple(notes),
        left_out=left_out,
    )


def _left_out(cohort: Cohort) -> dict[str, str]:
    """Stages that the examples have nothing to learn from, and why."""
    found = {}
    if "segmentation" not in cohort.train.examples:
        found["segmentation"] = "not every file has a mask (segmentation)"
    elif (count := int(np.max(cohort.train.examples["segmentation"]))) > 1:
        text = "it takes one structure, and masks have {}; train_federated --task=segmentation takes them"
        found["segmentation"] = text.format(count)
    if "label" not in cohort.train.examples:
        found["classification"] = "not every file has a label (labels.csv) or a mask"
    elif len(cohort.labels) > 2:
        found["classification"] = f"it takes two labels, and there are {len(cohort.labels)}"
    else:
        labels = {int(v) for v in np.asarray(cohort.train.examples["label"])[np.asarray(cohort.train.valid)]}
        if len(labels) < 2:
            name = cohort.labels[labels.pop()] if cohort.labels else labels.pop()
            found["classification"] = f"all slices for training have one label, {name}"
    return found


def _simulated_ct(settings: FullStackSettings) -> Cohorts:
    # As many views as columns would be fully sampled to the eye; sparse-view by the acceleration.
    views = max(8, round(1.5 * settings.image_size * 4 / settings.acceleration))
    cohort = simulate_ct_cohort(
        settings.sites,
        settings.patients_per_site,
        settings.slices,
        (settings.image_size, settings.image_size),
        views=views,
        seed=settings.seed,
    )
    physics = ["anatomy", "views", "photons", "electronic noise", "field of view (mm)"]
    table = [["site", *physics, *_COUNTED]]
    for site, counts in zip(cohort.sites, _patients(cohort), strict=True):
        row = [site.name, site.anatomy, str(site.views), f"{site.photons:.2g}", f"{site.electronic_noise:g}"]
        table.append([*row, f"{site.field_of_view:g}", *counts])
    split = _split(cohort)
    return Cohorts(split, split, split, True, cohort.image_shape, table, (cohort.notes,))


def _patients(cohort: Cohort, unseen: ClientData | None = None) -> list[list[str]]:
    """Cells of each site under `_COUNTED`; the unseen site comes last."""
    parts = [getattr(cohort, part) for part in ("train", "validation", "test")]
    rows = []
    for i in range(cohort.train.clients):
        cells = [str(len(_volumes(data, i))) for data in parts]
        rows.append([*cells, *([_with_lesions(cohort.test, i)] if "label" in cohort.test.examples else [])])
    if unseen is not None:
        cells = ["0", "0", str(len(_volumes(unseen, 0)))]
        rows.append([*cells, *([_with_lesions(unseen, 0)] if "label" in unseen.examples else [])])
    return rows


def _volumes(data: ClientData, site: int) -> dict[int, bool]:
    """Patient -> whether any slice shows a lesion."""
    valid = np.asarray(data.valid[site])
    volumes = np.asarray(data.examples["volume"][site])[valid]
    labels = np.asarray(data.examples["label"][site])[valid] if "label" in data.examples else 0 * volumes
    return {int(v): bool(labels[volumes == v].any()) for v in np.unique(volumes)}


def _with_lesions(data: ClientData, site: int) -> str:
    return str(sum(_volumes(data, site).values()))


def _measured(settings: FullStackSettings) -> Cohorts:
    mri = load_measured_mri_cohort(
        settings.data_dir,
        acceleration=settings.acceleration,
        train_masks=settings.masks_per_slice,
        matrix=(settings.matrix, settings.matrix) if settings.matrix else None,
        seed=settings.seed,
    )
    retina = load_measured_retina(settings.data_dir, size=RETINA_SIZE // settings.shrink, seed=settings.seed)
    chest = load_measured_chest_xray(
        settings.data_dir, size=CHEST_SIZE // settings.shrink, seed=settings.seed
    )
    table = [["site", "task", "native matrix", "coils", "train", "test", "held out", "subjects"]]
    for i, site in enumerate(mri.sites):
        shapes = sorted({f"{ny}×{nx}" for ny, nx in site.native_shapes})
        coils = ", ".join(map(str, site.coils)) + (" (simulated)" if site.simulated_coils else "")
        held_out = "images" if site.unseen_objects else "masks"
        counts = [str(int(data.counts[i])) for data in (mri.train, mri.test)]
        subjects = "single subject" if site.single_subject else "several"
        table.append([site.name, "reconstruction", ", ".join(shapes), coils, *counts, held_out, subjects])
    for task, cohort in (("segmentation", retina), ("classification", chest)):
        for i, site in enumerate(cohort.sites):
            counts = [str(int(data.counts[i])) for data in (cohort.train, cohort.test)]
            shape = "×".join(map(str, cohort.image_shape))
            table.append([site.name, task, shape, "–", *counts, "patients", str(site.patients)])
    grid = "×".join(map(str, mri.image_shape))
    resolution = (
        f"K-space of every site is cropped or zero-padded to a common grid of {grid} (--matrix; 0 keeps all)."
    )
    notes = tuple(dict.fromkeys((resolution, mri.notes, retina.notes, chest.notes)))
    preparations = {"segmentation": retina.preparation, "classification": chest.preparation}
    splits = (_split(cohort) for cohort in (mri, retina, chest))
    return Cohorts(*splits, False, mri.image_shape, table, notes, preparations)


def _split(cohort: Cohort) -> Split:
    return Split(cohort.train, cohort.validation, cohort.test)
