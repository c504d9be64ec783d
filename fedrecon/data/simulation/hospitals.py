"""Small simulated hospitals that scan brains, each with a scanner and a protocol of its own."""

import dataclasses
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
    if not acceleration >= 4 / 3:
        raise ArgumentError("acceleration", "at least 4/3, of which some hospitals have 3/4", acceleration)
    sizes = site_sizes(round(count * patients_per_site), count, size_skew)
    prevalences = site_prevalences(count, 0.375, seed)

    def adapted(site: MRISite, **changes: Any) -> MRISite:
        factor = site.acceleration / _NOMINAL
        return dataclasses.replace(site, acceleration=round(acceleration * factor, 2), **changes)

    hospitals = []
    for index, (size, prevalence) in enumerate(zip(sizes, prevalences, strict=True)):
        site, again = HOSPITALS[index % len(HOSPITALS)], index // len(HOSPITALS)
        changes: dict[str, Any] = {"patients": size, "prevalence": round(prevalence + 0.25, 6)}
        if again:
            changes |= {"name": f"{site.name}-{again + 1}", "snr": round(site.snr * 0.85**again, 1)}
        hospitals.append(adapted(site, **changes))
    return tuple(hospitals), adapted(UNSEEN_HOSPITAL, patients=max(4, round(patients_per_site / 2)))
