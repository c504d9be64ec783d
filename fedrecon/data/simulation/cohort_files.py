"""Simulated cohorts as files."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrecon.data.formats import write_fastmri
from fedrecon.data.simulation.mri import MRISite, simulate_mri_patient
from fedrecon.data.simulation.planning import plan_patients
from fedrecon.errors import ArgumentError
from fedrecon.files import write_atomically


def write_mri_cohort(
    output: str | os.PathLike,
    sites: Sequence[MRISite],
    slices: int,
    image_shape: tuple[int, int],
    seed: int,
) -> dict[str, Any]:
    """Simulates a cohort and writes it: a folder for each site, a file for each patient, cohort.json.

    The files are those patients, in those parts, that `simulate_mri_cohort` has for the same arguments; their
    names are ``<site>/<patient>.h5``. cohort.json is written last: a directory without it is incomplete.

    Args:
      output: directory, created with its parents if absent.
      sites: of the cohort.
      slices: of each patient.
      image_shape: (ny, nx).
      seed: non-negative integer.

    Returns:
      The content of cohort.json: ``seed``, ``image_shape``, ``slices`` and ``sites``, a list of the fields of
      each `MRISite` and its ``volumes``: ``file``, ``patient``, ``part``, and ``labels`` of the slices.

    Raises:
      ValueError: ``output`` already holds a cohort, or a site cannot be simulated.
      OSError: ``output`` cannot be written.
    """
    output = Path(output)
    if (output / "cohort.json").exists():
        raise ArgumentError(f"output {output}", "a directory without a cohort", "cohort.json")
    plans = [plan_patients(s.name, s.patients, s.prevalence, seed) for s in sites]
    described: list[dict] = []
    document = {"seed": seed, "image_shape": list(image_shape), "slices": slices, "sites": described}
    for site, plan in zip(sites, plans, strict=True):
        folder = output / site.name
        folder.mkdir(parents=True, exist_ok=True)
        entries = []
        for part, members in plan.items():
            for patient in members:
                volume = simulate_mri_patient(site, patient.index, patient.lesions, image_shape, slices, seed)
                write_fastmri(folder / f"{patient.name}.h5", volume)
                assert volume.segmentation is not None, "what is simulated is complete"
                labels = volume.segmentation.any(axis=(1, 2)).astype(int).tolist()
                file = f"{site.name}/{patient.name}.h5"
                entries.append({"file": file, "patient": patient.name, "part": part, "labels": labels})
        described.append(dataclasses.asdict(site) | {"volumes": entries})
    write_atomically(output / "cohort.json", (json.dumps(document, indent=2) + "\n").encode())
    return document
