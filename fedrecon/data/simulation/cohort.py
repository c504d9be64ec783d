"""Simulated multi-site cohorts of MRI and CT."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedrecon.data.clients import (
    FRACTIONS,
    PARTS,
    ClientData,
    Cohort,
    mri_examples,
    stack_clients,
    stack_parts,
    stack_volumes,
)
from fedrecon.data.formats import FastMRIVolume
from fedrecon.data.simulation.ct import CTSite, simulate_ct_patient
from fedrecon.data.simulation.mri import MRISite, calibration_shape, simulate_mri_patient
from fedrecon.data.simulation.planning import plan_patients, site_prevalences, site_sizes
from fedrecon.errors import ArgumentError

NOTES = "Simulated anatomy and physics: shows that a method works, not how well it does on patients."
# Scanners that differ as hospitals do: anatomy, field, sequence, coils, mask, noise and stored unit.
MRI_SITES = (
    MRISite("head-t1-1.5T", "head", 230, 1.5, 550, 12, coils=8, mask="random", snr=35, gain=1e-4),
    MRISite("abdomen-t2-3T", "abdomen", 380, 3.0, 3500, 80, fat_suppression=0.5, coils=8, mask="random",
            snr=30, gain=2e-5, slice_spacing=6.0),
    MRISite("head-t2-3T", "head", 220, 3.0, 4500, 95, coils=6, mask="equispaced", snr=45, gain=3e-3),
    MRISite("abdomen-t1-1.5T", "abdomen", 370, 1.5, 450, 10, fat_suppression=0.85, coils=6, mask="equispaced",
            snr=25, gain=1e2, slice_spacing=6.0),
    MRISite("head-flair-3T", "head", 240, 3.0, 9000, 110, 2500, coils=4, mask="poisson", snr=20, gain=5.0),
)  # fmt: skip
CT_SITES = (
    CTSite("abdomen-120kV", "abdomen", 380, photons=6e5),
    CTSite("head-120kV", "head", 240, photons=8e5),
    CTSite("abdomen-100kV-low-dose", "abdomen", 400, photons=1.5e5, water_attenuation=0.0203),
    CTSite("head-100kV-low-dose", "head", 230, photons=2e5, water_attenuation=0.0203),
    CTSite("abdomen-80kV", "abdomen", 370, photons=4e5, water_attenuation=0.0217, electronic_noise=15.0),
)
# Views of each of them, as a fraction of the argument.
CT_VIEWS = (1.0, 1.0, 0.75, 0.5, 0.625)


def simulated_mri_sites(
    count: int = 5,
    patients_per_site: float = 8,
    *,
    acceleration: float = 4.0,
    center_fraction: float = 0.1,
    size_skew: float = 0.5,
    label_skew: float = 0.5,
    seed: int = 0,
) -> tuple[MRISite, ...]:
    """Sites of a simulated cohort; from the sixth on the scanners repeat with other noise and field of view.

    Args:
      count: number of sites.
      patients_per_site: on average, at least 3.
      acceleration: of all sites.
      center_fraction: of all sites.
      size_skew: in [0, 1): numbers of patients fall from ``1 + size_skew`` to ``1 - size_skew`` times
        the mean.
      label_skew: in [0, 1]: prevalences of lesions are spread over ``0.5 ± 0.4 label_skew``.
      seed: of the order of the prevalences and of the changes from the sixth site on.

    Raises:
      ValueError: an argument is out of its range.
    """
    sizes = site_sizes(round(count * patients_per_site), count, size_skew)
    prevalences = site_prevalences(count, label_skew, seed)
    sites = []
    for index, (size, prevalence) in enumerate(zip(sizes, prevalences, strict=True)):
        site = _vary(MRI_SITES, index, seed)
        sites.append(
            dataclasses.replace(
                site,
                acceleration=acceleration,
                center_fraction=center_fraction,
                patients=size,
                prevalence=prevalence,
            )
        )
    return tuple(sites)


def simulate_mri_cohort(
    sites: int | Sequence[MRISite] = 5,
    patients_per_site: float = 8,
    slices: int = 4,
    image_shape: tuple[int, int] = (64, 64),
    *,
    acceleration: float = 4.0,
    center_fraction: float = 0.1,
    size_skew: float = 0.5,
    label_skew: float = 0.5,
    fractions: tuple[float, float, float] = FRACTIONS,
    coils: int | None = None,
    seed: int = 0,
) -> Cohort:
    """Simulates a multi-site cohort of undersampled multi-coil MRI with lesions.

    Examples are those of `mri_examples`; coils are padded to the largest number. Label 1 means that the slice
    shows a lesion. The same arguments give the same arrays on the same machine and versions.

    Args:
      sites: number of sites, made by `simulated_mri_sites` from the arguments below, or the sites themselves
        (then ``patients_per_site``, ``acceleration``, ``center_fraction`` and the skews are not used).
      patients_per_site: on average.
      slices: neighboring slices of each patient.
      image_shape: (ny, nx).
      acceleration: see `MRISite`.
      center_fraction: see `MRISite`.
      size_skew: see `simulated_mri_sites`.
      label_skew: see `simulated_mri_sites`.
      fractions: of each site's patients in train, validation and test, all positive.
      coils: number of coils of all examples; None for the largest number of a site.
      seed: non-negative integer.

    Raises:
      ValueError: an argument is out of its range.
    """
    if isinstance(sites, int):
        sites = simulated_mri_sites(
            sites,
            patients_per_site,
            acceleration=acceleration,
            center_fraction=center_fraction,
            size_skew=size_skew,
            label_skew=label_skew,
            seed=seed,
        )
    coils = coils or max(site.coils for site in sites)

    def examples(site: MRISite, patient: int, lesions: bool) -> dict[str, np.ndarray]:
        return _mri_examples(site, patient, lesions, image_shape, slices, seed, coils)

    return _simulate(sites, examples, image_shape, seed, fractions)


def simulate_mri_test_site(
    site: MRISite, slices: int, image_shape: tuple[int, int], coils: int, seed: int = 0
) -> ClientData:
    """Simulates a site that takes no part in training: one client, whose patients are all for the test.

    Args:
      site: the site.
      slices: of each patient.
      image_shape: (ny, nx).
      coils: number of coils of the examples, as those of the cohort that trains.
      seed: non-negative integer.

    Raises:
      ValueError: as `simulate_mri_cohort`, or the site has more coils.
    """
    plan = plan_patients(site.name, site.patients, site.prevalence, seed, (0.0, 0.0, 1.0))["test"]
    volumes = [_mri_examples(site, p.index, p.lesions, image_shape, slices, seed, coils) for p in plan]
    return stack_clients([stack_volumes(volumes)], [site.name])


def _mri_examples(
    site: MRISite,
    patient: int,
    lesions: bool,
    image_shape: tuple[int, int],
    slices: int,
    seed: int,
    coils: int,
) -> dict[str, np.ndarray]:
    volume = simulate_mri_patient(site, patient, lesions, image_shape, slices, seed, coils)
    return examples_of_volume(site, volume, image_shape, coils)


def examples_of_volume(
    site: MRISite, volume: FastMRIVolume, image_shape: tuple[int, int], coils: int
) -> dict[str, np.ndarray]:
    """The examples of a simulated volume, with reference and segmentation; coils are padded to ``coils``.

    "noise_level" (slices,), the deviation of a complex sample, is there where the volume tells it, as those
    do that are simulated now.
    """
    block = calibration_shape(site, image_shape)
    reference = volume.reconstruction_rss
    assert volume.mask is not None and reference is not None, "what is simulated is complete"
    examples = mri_examples(volume.kspace, volume.mask, reference, block, coils, volume.segmentation)
    if (deviation := volume.attributes.get("noise_deviation")) is not None:
        examples["noise_level"] = np.float32(deviation) / examples["scale"]
    return examples


def simulated_ct_sites(
    count: int = 5,
    patients_per_site: float = 8,
    *,
    views: int = 96,
    dose: float = 1.0,
    size_skew: float = 0.5,
    label_skew: float = 0.5,
    seed: int = 0,
) -> tuple[CTSite, ...]:
    """Sites of a simulated CT cohort; from the sixth on scanners repeat with other dose and field of view.

    Args:
      count: number of sites.
      patients_per_site: on average, at least 3.
      views: of the sites with the most; others have down to half of it.
      dose: factor on the photons of every site.
      size_skew: see `simulated_mri_sites`.
      label_skew: see `simulated_mri_sites`.
      seed: of the order of the prevalences and of the changes from the sixth site on.

    Raises:
      ValueError: an argument is out of its range.
    """
    if views < 2 or not dose > 0:
        raise ArgumentError("views and dose", "at least 2 views and a positive dose", f"{views}, {dose}")
    sizes = site_sizes(round(count * patients_per_site), count, size_skew)
    prevalences = site_prevalences(count, label_skew, seed)
    sites = []
    for index, (size, prevalence) in enumerate(zip(sizes, prevalences, strict=True)):
        site = _vary(CT_SITES, index, seed)
        fraction = CT_VIEWS[index % len(CT_VIEWS)]
        sites.append(
            dataclasses.replace(
                site,
                views=max(round(views * fraction), 1),
                photons=site.photons * dose,
                patients=size,
                prevalence=prevalence,
            )
        )
    return tuple(sites)


def simulate_ct_cohort(
    sites: int | Sequence[CTSite] = 5,
    patients_per_site: float = 8,
    slices: int = 4,
    image_shape: tuple[int, int] = (64, 64),
    *,
    views: int = 96,
    dose: float = 1.0,
    size_skew: float = 0.5,
    label_skew: float = 0.5,
    seed: int = 0,
) -> Cohort:
    """Simulates a multi-site cohort of sparse-view, low-dose parallel-beam CT with lesions.

    Examples are those of `simulate_ct_patient`; views are padded to the largest number. All sites share one
    operator: `ct_detector_count` elements of spacing 1, pixel size 1. The same arguments give the same
    arrays on the same machine and versions.

    Args:
      sites: number of sites, made by `simulated_ct_sites` from the arguments below, or the sites themselves
        (then ``patients_per_site``, ``views``, ``dose`` and the skews are not used).
      patients_per_site: on average.
      slices: neighboring slices of each patient.
      image_shape: (ny, nx).
      views: see `simulated_ct_sites`.
      dose: see `simulated_ct_sites`.
      size_skew: see `simulated_mri_sites`.
      label_skew: see `simulated_mri_sites`.
      seed: non-negative integer.

    Raises:
      ValueError: an argument is out of its range.
    """
    if isinstance(sites, int):
        sites = simulated_ct_sites(
            sites,
            patients_per_site,
            views=views,
            dose=dose,
            size_skew=size_skew,
            label_skew=label_skew,
            seed=seed,
        )
    most = max(site.views for site in sites)

    def examples(site: CTSite, patient: int, lesions: bool) -> dict[str, np.ndarray]:
        return simulate_ct_patient(site, patient, lesions, image_shape, slices, seed, most)

    return _simulate(sites, examples, image_shape, seed)


def _simulate(
    sites: Sequence[Any],
    examples: Callable[[Any, int, bool], dict[str, np.ndarray]],
    image_shape: tuple[int, ...],
    seed: int,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> Cohort:
    """Plans, simulates and stacks; ``examples(site, patient index, lesions)`` makes one patient's."""
    names = [site.name for site in sites]
    volumes: dict[str, list] = {part: [] for part in PARTS}
    patients: dict[str, list[tuple[str, ...]]] = {part: [] for part in PARTS}
    for site in sites:
        plan = plan_patients(site.name, site.patients, site.prevalence, seed, fractions)
        for part in PARTS:
            volumes[part].append([examples(site, p.index, p.lesions) for p in plan[part]])
            patients[part].append(tuple(p.name for p in plan[part]))
    ny, nx = image_shape
    return Cohort(
        **stack_parts(volumes, names),
        sites=tuple(sites),
        image_shape=(ny, nx),
        patients={part: tuple(ids) for part, ids in patients.items()},
        notes=NOTES,
    )


def _vary(templates: Sequence, index: int, seed: int) -> Any:
    """The index-th site: a template, or a template repeated under another name with other noise and size."""
    site = templates[index % len(templates)]
    repeat = index // len(templates)
    if repeat == 0:
        return site
    rng = np.random.default_rng([seed, 3, index])
    size = round(site.field_of_view * rng.uniform(0.95, 1.1), 1)
    changes = {"name": f"{site.name}-{repeat + 1}", "field_of_view": size}
    level = "snr" if isinstance(site, MRISite) else "photons"
    changes[level] = round(getattr(site, level) * rng.uniform(0.7, 1.4), 1)
    return dataclasses.replace(site, **changes)
