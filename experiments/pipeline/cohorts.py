"""The cohorts of the full-stack experiment, simulated or measured."""

from typing import NamedTuple

import numpy as np

from experiments.pipeline.settings import FullStackSettings
from fedrecon.data import (
    ClientData,
    Cohort,
    load_measured_chest_xray,
    load_measured_mri_cohort,
    load_measured_retina,
    simulate_ct_cohort,
    simulate_mri_cohort,
)

RETINA_SIZE, CHEST_SIZE = 256, 224


class Split(NamedTuple):
    """Client data of one task by split."""

    train: ClientData
    validation: ClientData
    test: ClientData


class Cohorts(NamedTuple):
    """The data of a run.

    Attributes:
      reconstruction: measurements; for the simulated cohort also lesion masks and labels.
      segmentation, classification: the same patients as ``reconstruction`` when ``shared_images``, else
        images of their own.
      shared_images: whether the downstream tasks see the reconstructed images.
      image_shape: (ny, nx) of the reconstructions.
      sites: table of the sites, header first.
      notes: sentences about the data that a reader must know.
    """

    reconstruction: Split
    segmentation: Split
    classification: Split
    shared_images: bool
    image_shape: tuple[int, int]
    sites: list[list[str]]
    notes: tuple[str, ...]


def load_cohorts(settings: FullStackSettings) -> Cohorts:
    """Simulates or reads the cohort that the settings name.

    Raises:
      ValueError: a setting does not fit, or (as ``DataError``) a file is missing or malformed.
    """
    if settings.cohort == "measured":
        return _measured(settings)
    options = {
        "sites": settings.sites,
        "patients_per_site": settings.patients_per_site,
        "slices": settings.slices,
        "image_shape": (settings.image_size, settings.image_size),
        "seed": settings.seed,
    }
    if settings.modality == "mri":
        cohort = simulate_mri_cohort(**options, acceleration=settings.acceleration)
        physics = ["coils", "mask", "acceleration", "SNR", "field of view (mm)"]
        rows = [
            [str(s.coils), s.mask, f"{s.acceleration:g}", f"{s.snr:g}", f"{s.field_of_view:g}"]
            for s in cohort.sites
        ]
    else:
        # As many views as columns would be fully sampled to the eye; sparse-view by the acceleration.
        views = max(8, round(1.5 * settings.image_size * 4 / settings.acceleration))
        cohort = simulate_ct_cohort(**options, views=views)
        physics = ["views", "photons", "electronic noise", "field of view (mm)"]
        rows = [
            [str(s.views), f"{s.photons:.2g}", f"{s.electronic_noise:g}", f"{s.field_of_view:g}"]
            for s in cohort.sites
        ]
    split = _split(cohort)
    table = [["site", "anatomy", *physics, "patients", "train slices", "test slices", "test lesions"]]
    for i, site in enumerate(cohort.sites):
        counts = [int(data.counts[i]) for data in (split.train, split.test)]
        lesions = int(np.asarray(split.test.examples["label"][i])[np.asarray(split.test.valid[i])].sum())
        table.append([site.name, site.anatomy, *rows[i], str(site.patients), *map(str, counts), str(lesions)])
    return Cohorts(split, split, split, True, cohort.image_shape, table, (cohort.notes,))


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
    return Cohorts(_split(mri), _split(retina), _split(chest), False, mri.image_shape, table, notes)


def _split(cohort: Cohort) -> Split:
    return Split(cohort.train, cohort.validation, cohort.test)
