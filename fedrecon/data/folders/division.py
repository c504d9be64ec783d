"""Dividing the volumes of a site into training, validation and test."""

import numpy as np

from fedrecon.data.clients import PARTS, split_patients
from fedrecon.data.folders.manifest import Manifest
from fedrecon.data.folders.volume import Volume, some_slices
from fedrecon.data.formats import DataError


def divide(
    site: str, volumes: list[Volume], held_out: str, manifest: Manifest, seed: int
) -> dict[str, list[tuple[str, Volume, int]]]:
    """By part: patient, volume, and the number of masks that it gets."""
    few, many = manifest.undersampling.evaluation_masks, manifest.undersampling.train_masks
    if held_out == "masks":
        counts = {"train": many, "validation": few, "test": few}
        return {part: [(v.patient, v, counts[part]) for v in volumes] for part in PARTS}
    if held_out == "slices":
        return _divided_slices(site, volumes, manifest, many)
    names = sorted({volume.patient for volume in volumes})
    parts = {volume.patient: volume.part for volume in volumes if volume.part is not None}
    if parts:
        for volume in volumes:
            if (found := volume.part or parts.get(volume.patient)) != parts.get(
                volume.patient
            ) or found is None:
                expected = "a part, one for each patient, as others of the site have"
                raise DataError(volume.path, None, expected, volume.part or "none")
        missing = [part for part in PARTS if part not in parts.values()]
        if missing:
            raise DataError(manifest.folder / site, None, f"a patient in the part {missing[0]}", "none")
    else:
        if len(names) < len(PARTS):
            advice = 'held_out of the site in cohort.json may be "slices" or, of k-space, "masks"'
            expected = f"at least {len(PARTS)} patients, one each for {', '.join(PARTS)}; {advice}"
            raise DataError(manifest.folder / site, None, expected, f"{len(names)} ({', '.join(names)})")
        chosen = split_patients(names, manifest.fractions, seed, [site] * len(names))
        parts = {names[i]: part for part, members in zip(PARTS, chosen, strict=True) for i in members}
    result: dict[str, list[tuple[str, Volume, int]]] = {part: [] for part in PARTS}
    for volume in sorted(volumes, key=lambda v: v.patient):
        part = parts[volume.patient]
        result[part].append((volume.patient, volume, many if part == "train" else 1))
    return result


def _divided_slices(
    site: str, volumes: list[Volume], manifest: Manifest, masks: int
) -> dict[str, list[tuple[str, Volume, int]]]:
    """Neighboring slices stay together: the first are for training, the last for test."""
    result: dict[str, list[tuple[str, Volume, int]]] = {part: [] for part in PARTS}
    for volume in volumes:
        if volume.slices < len(PARTS):
            expected = f"at least {len(PARTS)} slices, to hold out slices"
            raise DataError(volume.path, None, expected, volume.slices)
        train, validation, _ = manifest.fractions
        first = min(max(round(train * volume.slices), 1), volume.slices - 2)
        second = min(max(round((train + validation) * volume.slices), first + 1), volume.slices - 1)
        bounds = (0, first, second, volume.slices)
        for number, part in enumerate(PARTS):
            kept = np.arange(bounds[number], bounds[number + 1])
            name = f"{volume.patient} slices {bounds[number] + 1}-{bounds[number + 1]}"
            result[part].append((name, some_slices(volume, kept), masks if part == "train" else 1))
    return result
