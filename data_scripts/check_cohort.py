"""Says what a cohort of files holds and whether it can train: python -m data_scripts.check_cohort DIR ...

DIR holds a folder for each hospital, or cohort.json; docs/own_data.md says what files there may be. Prints a
table of the hospitals, what is missing or odd with the file's name, and the memory that a training needs.
The exit code is 0 if the cohort can train (the task of --task, or any), else 1. Files with a fault are an
obstacle unless --skip_bad, as in the training programs. --write makes the cohort.json that the folders amount
to, for editing.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from fedrecon.data import DataError, read_mri_cohort
from fedrecon.data.clients import PARTS
from fedrecon.data.folders import (
    MANIFEST,
    TASKS,
    Faults,
    SiteSurvey,
    Survey,
    estimate_memory,
    find_manifest,
    is_simulated,
    list_items,
    manifest_document,
    survey_cohort,
    with_entries,
)
from fedrecon.data.simulation import read_mri_cohort_manifest
from fedrecon.files import write_atomically
from fedrecon.runtime import end_with, ending, parse_flags, run_program


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_enum("task", None, TASKS, "Task that the cohort is for (default: any).")
    flags.DEFINE_integer("image_size", 0, "Edge of the images, as in training; 0 for the files'.", 0)
    flags.DEFINE_bool("json", False, "Print one JSON object, no table.")
    flags.DEFINE_string("figure", None, "PNG file of an example of each hospital, with its mask.")
    flags.DEFINE_bool("skip_bad", False, "Leave out files with a fault.")
    flags.DEFINE_bool("write", False, f"Write {MANIFEST} of the folders; refuses where there is one.")


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        end_with(f"expected one folder, found {len(argv) - 1}")
    folder = Path(argv[1])
    with ending():
        if is_simulated(folder):
            for flag in ("figure", "write"):
                if given := flags.FLAGS[flag].value:
                    end_with(f"--{flag}: expected none for a cohort of simulate_cohort, found {given!r}")
            lines = _simulated_lines(folder)
            found = {"sound": True, "simulated": True, "sites": lines[:-1]}
            print(json.dumps(found, indent=2) if flags.FLAGS.json else "\n".join(lines))
            return 0
        if flags.FLAGS.write:
            _write(folder)
        matrix = (flags.FLAGS.image_size, flags.FLAGS.image_size) if flags.FLAGS.image_size else None
        survey = survey_cohort(folder, flags.FLAGS.task, matrix=matrix)
        if flags.FLAGS.figure and survey.cohort is not None:
            _draw(survey, flags.FLAGS.figure)
    sound = bool(survey.tasks) and (flags.FLAGS.skip_bad or not survey.faults)
    if flags.FLAGS.json:
        print(json.dumps(_document(survey, sound), indent=2))
    else:
        print("\n".join(_lines(survey)))
    for error in survey.faults:
        skipped = " (skipped)" if flags.FLAGS.skip_bad else ""
        print(f"check_cohort: {_line(error)}{skipped}", file=sys.stderr)
    for obstacle in dict.fromkeys(survey.obstacles.values()) if not survey.tasks else ():
        print(f"check_cohort: {_line(obstacle)}", file=sys.stderr)
    return 0 if sound else 1


def _write(folder: Path) -> None:
    """Writes the manifest of the folders, with every file and label."""
    path = folder / MANIFEST
    if path.exists():
        raise DataError(path, None, f"a folder without {MANIFEST}, with --write", "one")
    faults = Faults(flags.FLAGS.skip_bad)
    manifest = find_manifest(folder, faults=faults)
    document = manifest_document(with_entries(manifest, list_items(manifest, faults)))
    write_atomically(path, (json.dumps(document, indent=2) + "\n").encode())
    print(f"{path} written")


def _line(text: object) -> str:
    return " ".join(str(text).split())


def _lines(survey: Survey) -> list[str]:
    header = ["site", "files are", "patients", "files", "slices", "matrix", "coils or channels"]
    header += ["spacing (mm)", "values", "labels", "masks", "gridded"]
    rows = [header, *(_row(site) for site in survey.sites)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * n for n in widths))
    lines += [f"odd: {sentence}" for sentence in survey.odd]
    if survey.cohort is not None and survey.task is not None:
        ny, nx = survey.cohort.image_shape
        memory = estimate_memory(survey.cohort, survey.task)
        counts = [
            int(np.sum(p.counts)) for p in (survey.cohort.train, survey.cohort.validation, survey.cohort.test)
        ]
        lines += [f"can train: {', '.join(survey.tasks)}"]
        if (apart := survey.cohort.unseen) is not None:
            for name, count in zip(apart.names, apart.counts, strict=True):
                lines.append(f"unseen, for the test alone: {name} ({count} examples)")
        lines += [
            f"{survey.task}: images of {ny} x {nx}; {counts[0]} examples for training, {counts[1]} for "
            f"validation, {counts[2]} for test; arrays of {memory.data / 1e6:.0f} MB; "
            f"about {memory.total / 1e9:.2f} GB of memory on CPU",
        ]
    if survey.faults:
        what = "skipped" if flags.FLAGS.skip_bad else "faults"
        lines.append(f"{what}: {len(survey.faults)}, listed below")
    return lines


def _simulated_lines(folder: Path) -> list[str]:
    """Of what simulate_cohort wrote, after every file was read and found to be the one that was written."""
    cohort, manifest = read_mri_cohort(folder), read_mri_cohort_manifest(folder)
    ny, nx = cohort.image_shape
    lines = []
    for site, volumes in zip(manifest.sites, manifest.volumes, strict=True):
        parts = ", ".join(f"{sum(v.part == part for v in volumes)} {part}" for part in PARTS)
        ill = sum(any(v.labels) for v in volumes)
        lines.append(
            f"{site.name}: {len(volumes)} patients ({parts}), {manifest.slices} slices each of {ny}x{nx}, "
            f"{site.coils} coils, {site.mask} masks {site.acceleration:g}x; {ill} patients with lesions"
        )
    return [*lines, f"simulated; every file is as it was written; can train: {', '.join(manifest.tasks)}"]


def _row(site: SiteSurvey) -> list[str]:
    matrices = [
        f"{ny}x{nx}" + (f" ({n})" if len(site.matrices) > 1 else "") for (ny, nx), n in site.matrices.items()
    ]
    spacings = ["x".join(f"{v:g}" for v in s) if s else "–" for s in site.spacings]
    labels = [f"{label} {n}" for label, n in site.labels.items()]
    masks = f"{site.masks[0]} ({100 * site.masks[1]:.1f} %)" if site.masks[0] else "–"
    return [
        site.name,
        site.kind,
        *(str(n) for n in (site.patients, site.files, site.slices)),
        _few(matrices),
        ", ".join(map(str, site.channels)),
        _few(spacings),
        f"{site.intensity[0]:.3g} to {site.intensity[1]:.3g}",
        _few(labels) or "–",
        masks,
        _few([f"{what} ({n})" for what, n in site.gridded.items()]) or "–",
    ]


def _few(texts: list[str]) -> str:
    return ", ".join(texts[:3]) + (f", {len(texts) - 3} more" if len(texts) > 3 else "")


def _document(survey: Survey, sound: bool) -> dict[str, Any]:
    """The survey as JSON-able values."""
    document: dict[str, Any] = {
        "can_train": sound,
        "tasks": list(survey.tasks),
        "obstacles": survey.obstacles,
        "faults": [{"file": e.path, "message": _line(e)} for e in survey.faults],
        "odd": list(survey.odd),
        "sites": [
            site._asdict() | {"matrices": [[*shape, n] for shape, n in site.matrices.items()]}
            for site in survey.sites
        ],
    }
    if survey.cohort is not None and survey.task is not None:
        memory = estimate_memory(survey.cohort, survey.task)
        parts = {p: getattr(survey.cohort, p).counts.tolist() for p in ("train", "validation", "test")}
        document["cohort"] = {
            "task": survey.task,
            "image_shape": list(survey.cohort.image_shape),
            "examples": parts,
            "labels": list(survey.cohort.labels),
            "memory_bytes": memory._asdict() | {"total": memory.total},
        }
    return document


def _draw(survey: Survey, path: str) -> None:
    """A picture of the middle training example of each site, its mask outlined."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cohort = survey.cohort
    assert cohort is not None, "the caller's test"
    data = cohort.train
    columns = min(data.clients, 4)
    rows = -(-data.clients // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(2.6 * columns, 2.9 * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    key = "target" if survey.task == "reconstruction" else "image"
    for index, name in enumerate(data.names):
        number = int(data.counts[index]) // 2
        image, axis = np.asarray(data.examples[key][index, number]), axes.flat[index]
        image = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
        axis.imshow(
            image, cmap="gray" if image.ndim == 2 else None, vmin=0, vmax=max(float(image.max()), 1e-9)
        )
        title = name
        if "segmentation" in data.examples:
            mask = np.asarray(data.examples["segmentation"][index, number])
            if 0 < mask.mean() < 1:
                axis.contour(mask, [0.5], colors="tab:orange", linewidths=1)
        if survey.task == "classification":
            title += f": {cohort.labels[int(data.examples['label'][index, number])]}"
        axis.set_title(title, fontsize=9)
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    pyplot.close(figure)
    write_atomically(path, picture.getvalue())
    print(f"{path} written", file=sys.stderr)


if __name__ == "__main__":
    define_flags()
    run_program(main, functools.partial(parse_flags, positional=True))
