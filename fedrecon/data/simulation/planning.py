"""Sites of simulated cohorts: how many patients each has, who falls ill, and who is in which part."""

import dataclasses

import numpy as np

from fedrecon.data.clients import FRACTIONS, PARTS, split_patients
from fedrecon.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class PlannedPatient:
    """A patient of a simulated site.

    Attributes:
      index: within the site.
      name: unique over all sites.
      lesions: whether there are any.
    """

    index: int
    name: str
    lesions: bool


def site_sizes(total: int, sites: int, skew: float, smallest: int = len(PARTS)) -> tuple[int, ...]:
    """Numbers of patients, falling linearly from ``1 + skew`` to ``1 - skew`` times the mean.

    Raises:
      ValueError: ``skew`` is outside [0, 1) or there are fewer than ``smallest`` patients for each site.
    """
    if not 0 <= skew < 1:
        raise ArgumentError("size_skew", "a number in [0, 1)", skew)
    if sites < 1 or total < smallest * sites:
        raise ArgumentError("patients", f"at least {smallest} for each of {sites} sites", total)
    shares = np.linspace(1 + skew, 1 - skew, sites) if sites > 1 else np.ones(1)
    wanted = shares / shares.sum() * total
    counts = np.maximum(np.floor(wanted).astype(int), smallest)
    while counts.sum() != total:
        step = 1 if counts.sum() < total else -1
        room = np.where((counts > smallest) | (step > 0), step * (wanted - counts), -np.inf)
        counts[np.argmax(room)] += step
    return tuple(int(n) for n in counts)


def site_prevalences(sites: int, skew: float, seed: int) -> tuple[float, ...]:
    """Fractions of patients with lesions: evenly spread over ``0.5 ± 0.4 skew``, in random order.

    Raises:
      ValueError: ``skew`` is outside [0, 1].
    """
    if not 0 <= skew <= 1:
        raise ArgumentError("label_skew", "a number in [0, 1]", skew)
    spread = np.linspace(-0.4, 0.4, sites) if sites > 1 else np.zeros(1)
    order = np.random.default_rng([seed, 1]).permutation(sites)
    return tuple(float(round(p, 6)) for p in 0.5 + skew * spread[order])


def plan_patients(
    name: str,
    patients: int,
    prevalence: float,
    seed: int,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> dict[str, list[PlannedPatient]]:
    """Splits a site's patients into parts and decides who has lesions.

    ``fractions`` of the patients are in train, validation and test; a part of fraction 0 has none.
    About ``prevalence`` of the patients have lesions, unless it is 0 or 1 at least one in train and one in
    test, and at least one of all has none. (Of several slices of a patient, one has no lesion in any case.)

    Raises:
      ValueError: fewer than three patients, or a prevalence outside [0, 1].
    """
    if not 0 <= prevalence <= 1:
        raise ArgumentError(f"site {name!r}: prevalence", "a number in [0, 1]", prevalence)
    names = [f"{name}-{index:03d}" for index in range(patients)]
    parts = dict(zip(PARTS, split_patients(names, fractions, seed, [name] * patients), strict=True))
    ill = {part: round(prevalence * len(members)) for part, members in parts.items()}
    if 0 < prevalence < 1:
        ill["test"] = max(ill["test"], 1)
        rest = round(prevalence * patients) - ill["test"] - ill["validation"]
        ill["train"] = min(max(rest, 1), len(parts["train"]))
        if sum(ill.values()) == patients:
            ill["validation"] -= 1
    plan = {}
    for number, (part, members) in enumerate(parts.items()):
        order = np.random.default_rng([seed, 2, number, len(members)]).permutation(len(members))
        chosen = set(members[order[: ill[part]]].tolist())
        plan[part] = [PlannedPatient(int(i), names[i], int(i) in chosen) for i in members]
    return plan
