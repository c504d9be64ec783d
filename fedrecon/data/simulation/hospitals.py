"""Small simulated hospitals, each with a scanner and a protocol of its own."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from fedrecon.data.simulation.mri import MRISite
from fedrecon.data.simulation.planning import site_prevalences, site_sizes
from fedrecon.errors import ArgumentError

# Of four patients one is for training, one for validation and two for the test.
HOSPITAL_FRACTIONS = (1 / 4, 1 / 4, 1 / 2)
# Name, field of view (mm), field (T), TR, TE, TI (ms); then coils, mask, acceleration, SNR, unit.
HOSPITALS = (
    MRISite("T1-1.5T", "head", 230, 1.5, 550, 12, coils=6, mask="random", acceleration=3, snr=30,
            gain=1e-4),
    MRISite("T2-3T", "head", 220, 3.0, 4500, 95, coils=6, mask="equispaced", acceleration=5, snr=45,
            gain=3e-3),
    MRISite("FLAIR-3T", "head", 240, 3.0, 9000, 110, 2500, coils=4, mask="poisson", acceleration=5, snr=25,
            gain=5.0),
    MRISite("T2-1.5T", "head", 240, 1.5, 4000, 90, coils=5, mask="random", acceleration=3, snr=28,
            gain=1e2),
    MRISite("T1-3T", "head", 225, 3.0, 700, 10, fat_suppression=0.8, coils=5, mask="poisson", acceleration=6,
            snr=40, gain=1e3),
    MRISite("FLAIR-1.5T", "head", 230, 1.5, 8000, 100, 2200, coils=6, mask="equispaced", acceleration=4,
            snr=20),
    MRISite("PD-1.5T", "head", 235, 1.5, 2200, 18, coils=4, mask="random", acceleration=3, snr=25, gain=0.1),
    MRISite("T2-FS-3T", "head", 220, 3.0, 4000, 85, fat_suppression=0.8, coils=4, mask="poisson",
            acceleration=6, snr=35, gain=2e-2),
)  # fmt: skip
# Takes no part in training: known contrasts, coils and masks in a combination that no other has.
UNSEEN_HOSPITAL = MRISite("PD-3T", "head", 240, 3.0, 2500, 20, coils=5, mask="poisson", acceleration=6,
                          snr=40, gain=10.0, prevalence=0.75)  # fmt: skip
# Of other patients, scanners and protocols than those above: the starting network is trained there.
ABDOMINAL_HOSPITALS = (
    MRISite("abdomen-T1-FS-1.5T", "abdomen", 380, 1.5, 500, 11, fat_suppression=0.5, coils=6, mask="random",
            acceleration=3, snr=30, gain=1e-2, slice_spacing=8),
    MRISite("abdomen-T2-3T", "abdomen", 360, 3.0, 3500, 80, fat_suppression=0.3, coils=6, mask="equispaced",
            acceleration=5, snr=45, gain=2e-3, slice_spacing=8),
    MRISite("abdomen-IR-3T", "abdomen", 400, 3.0, 6000, 60, 2300, coils=4, mask="poisson", acceleration=5,
            snr=25, gain=4.0, slice_spacing=8),
    MRISite("abdomen-T2-FS-1.5T", "abdomen", 370, 1.5, 3000, 75, fat_suppression=0.8, coils=5, mask="random",
            acceleration=4, snr=25, gain=50.0, slice_spacing=8),
    MRISite("abdomen-T1-FS-3T", "abdomen", 390, 3.0, 600, 9, fat_suppression=0.85, coils=5, mask="poisson",
            acceleration=6, snr=40, gain=7e2, slice_spacing=8),
    MRISite("abdomen-IR-1.5T", "abdomen", 350, 1.5, 7000, 70, 2000, coils=6, mask="equispaced",
            acceleration=4, snr=20, slice_spacing=8),
    MRISite("abdomen-PD-1.5T", "abdomen", 380, 1.5, 2000, 16, fat_suppression=0.9, coils=4, mask="random",
            acceleration=3, snr=22, gain=0.2, slice_spacing=8),
    MRISite("abdomen-PD-FS-3T", "abdomen", 360, 3.0, 3000, 30, fat_suppression=0.7, coils=4, mask="poisson",
            acceleration=6, snr=35, gain=3e-2, slice_spacing=8),
)  # fmt: skip
_NOMINAL = 4.0


def brain_hospitals(
    count: int = 8,
    patients_per_site: float = 4,
    *,
    acceleration: float = 4.0,
    size_skew: float = 0.0,
    seed: int = 0,
) -> tuple[tuple[MRISite, ...], MRISite]:
    """Hospitals that train together, and one that does not.

    Args:
      count: number of hospitals that train; from the ninth on the scanners repeat with less signal.
      patients_per_site: on average, at least 3.
      acceleration: of the masks on average; each hospital has 3/4 to 3/2 of it.
      size_skew: see `simulated_mri_sites`.
      seed: of the order of the prevalences of lesions, between 0.6 and 0.9.

    Returns:
      (hospitals, unseen hospital); the latter has half as many patients, and at least 4.

    Raises:
      ValueError: an argument is out of its range.
    """
    hospitals = _hospitals(HOSPITALS, count, patients_per_site, acceleration, size_skew, seed)
    patients = max(4, round(patients_per_site / 2))
    return hospitals, dataclasses.replace(_accelerated(UNSEEN_HOSPITAL, acceleration), patients=patients)


def abdominal_hospitals(
    count: int = 8,
    patients_per_site: float = 6,
    *,
    acceleration: float = 4.0,
    size_skew: float = 0.0,
    seed: int = 0,
) -> tuple[MRISite, ...]:
    """Hospitals that scan abdomens; arguments as in `brain_hospitals`, with whom they share no scanner.

    Raises:
      ValueError: an argument is out of its range.
    """
    return _hospitals(ABDOMINAL_HOSPITALS, count, patients_per_site, acceleration, size_skew, seed)


def _hospitals(
    templates: Sequence[MRISite],
    count: int,
    patients_per_site: float,
    acceleration: float,
    size_skew: float,
    seed: int,
) -> tuple[MRISite, ...]:
    if not acceleration >= 4 / 3:
        raise ArgumentError("acceleration", "at least 4/3, of which some hospitals have 3/4", acceleration)
    sizes = site_sizes(round(count * patients_per_site), count, size_skew)
    prevalences = site_prevalences(count, 0.375, seed)
    hospitals = []
    for index, (size, prevalence) in enumerate(zip(sizes, prevalences, strict=True)):
        site, again = templates[index % len(templates)], index // len(templates)
        changes: dict[str, Any] = {"patients": size, "prevalence": round(prevalence + 0.25, 6)}
        if again:
            changes |= {"name": f"{site.name}-{again + 1}", "snr": round(site.snr * 0.85**again, 1)}
        hospitals.append(dataclasses.replace(_accelerated(site, acceleration), **changes))
    return tuple(hospitals)


def _accelerated(site: MRISite, acceleration: float) -> MRISite:
    """A hospital's site at its own part of the mean acceleration."""
    return dataclasses.replace(site, acceleration=round(acceleration * site.acceleration / _NOMINAL, 2))
