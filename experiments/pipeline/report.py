"""The printed tables, the figures and the HTML page of a full-stack run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.pipeline.downstream import Downstream
from experiments.pipeline.options import flat
from experiments.pipeline.progress import Course
from experiments.pipeline.reconstruction import Reconstruction
from experiments.pipeline.scores import as_json
from experiments.pipeline.settings import FullStackSettings
from experiments.pipeline.stages import Traffic
from fedrecon.data import ClientData
from fedrecon.files import write_atomically
from fedrecon.reporting import (
    Figure,
    Section,
    Table,
    format_table,
    metric_rows,
    plot_classification,
    plot_reconstructions,
    plot_segmentations,
    plot_site_bars,
    plot_training,
    write_report,
)
from fedrecon.runtime import Workdir, read_log

_METRICS = {
    "reconstruction": (("psnr", "PSNR (dB)", 2), ("ssim", "SSIM", 3), ("nmse", "NMSE", 4)),
    "segmentation": (("dice", "Dice", 3), ("hd95", "HD95 (pixels)", 2)),
    "classification": (
        ("auc", "AUC", 3),
        ("accuracy", "accuracy", 3),
        ("sensitivity", "sensitivity at specificity 0.9", 3),
    ),
}
_SHOWN_SITES = 3
_EMPTY = (
    " Dice is per image: 1 where both masks are empty, 0 where one is; HD95 then is not counted in the first "
    "case and the image's diagonal in the second."
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Everything a finished run reports.

    Attributes:
      reconstruction, segmentation, classification: the stages' results.
      tests: test split of each stage.
      sites: rows of the site table, header first.
      notes: sentences about the data that a reader must know.
      courses: training -> how it went.
      traffic: bytes by stage.
      privacy: site -> epsilon, with the sentence that says what it means; empty without privacy.
    """

    reconstruction: Reconstruction
    segmentation: Downstream
    classification: Downstream
    tests: dict[str, ClientData]
    sites: list[list[str]]
    notes: tuple[str, ...]
    courses: dict[str, Course]
    traffic: list[Traffic]
    privacy: dict[str, Any]


def write_results(workdir: Workdir, settings: FullStackSettings, outcome: Outcome) -> dict[str, Any]:
    """Writes ``results.json``: every score, free of times, so that equal runs give equal files."""
    results = {
        "settings": flat(settings),
        "sites": outcome.sites,
        "notes": outcome.notes,
        "reconstruction": outcome.reconstruction.scores,
        "regularization_weights": outcome.reconstruction.weights,
        "segmentation": outcome.segmentation.scores,
        "classification": outcome.classification.scores,
        "training": {name: course._asdict() for name, course in outcome.courses.items()},
        "traffic": [t._asdict() for t in outcome.traffic],
        "privacy": outcome.privacy,
    }
    results = as_json(results)
    write_atomically(workdir / "results.json", json.dumps(results, indent=2).encode())
    return results


def tables(outcome: Outcome) -> dict[str, list[Table]]:
    """The tables of each stage."""
    found = {}
    for stage, metrics in _METRICS.items():
        scores, sites = getattr(outcome, stage).scores, outcome.tests[stage].names
        found[stage] = [
            Table(f"{stage}: {label}", *metric_rows(scores, name, sites, digits))
            for name, label, digits in metrics
        ]
    rows = [
        [t.stage, str(t.rounds), _megabytes(t.bytes_up), _megabytes(t.bytes_down)] for t in outcome.traffic
    ]
    found["traffic"] = [Table("bytes sent, all sites", ["stage", "rounds", "up (MB)", "down (MB)"], rows)]
    return found


def print_tables(outcome: Outcome) -> None:
    """Prints the site table, the first table of each stage and the traffic."""
    print("\n" + format_table(outcome.sites[0], outcome.sites[1:]))
    for stage, stage_tables in tables(outcome).items():
        for table in stage_tables[: 2 if stage == "reconstruction" else 1]:
            print(f"\n{table.caption}\n" + format_table(table.header, table.rows))
    if outcome.privacy:
        rows = [[site, f"{value:.3f}"] for site, value in outcome.privacy["epsilon"].items()]
        print("\n" + outcome.privacy["statement"] + "\n" + format_table(["site", "ε"], rows))
    for note in outcome.notes:
        print(f"\nNote: {note}")


def write_page(workdir: Workdir, settings: FullStackSettings, outcome: Outcome) -> Path:
    """Draws the figures and writes ``report.html``; returns its path."""
    records = read_log(workdir / "metrics.jsonl")
    stage_tables = tables(outcome)
    reconstruction, test = outcome.reconstruction, outcome.tests["reconstruction"]
    figures = {
        "reconstruction": plot_reconstructions(
            _reconstruction_panels(reconstruction, test), reconstruction.scores
        ),
        "psnr": plot_site_bars(
            {m: s for m, s in reconstruction.scores.items() if "other" not in m},
            "psnr",
            test.names,
            "PSNR (dB)",
        ),
        "segmentation": plot_segmentations(_segmentation_panels(outcome)),
        "classification": plot_classification(_roc_curves(outcome)),
        "training": plot_training(records, sorted({r["stage"] for r in records if "loss" in r})),
    }
    paths = {name: _save(canvas, workdir / f"{name}.png") for name, canvas in figures.items()}
    kind = "Simulated (synthetic)" if settings.cohort == "simulated" else "Measured"
    sections = [
        Section("Sites", outcome.notes, [Table("", outcome.sites[0], outcome.sites[1:])]),
        Section(
            "Reconstruction",
            ["PSNR, SSIM and NMSE are per volume, with the range of the reference volume, averaged over test "
             "volumes. The classical weights were chosen on the validation split."],
            stage_tables["reconstruction"],
            [Figure(paths["reconstruction"], "First test image of each shown site, with PSNR over the "
                    "site's test volumes; zoomed region framed; error maps below."),
             Figure(paths["psnr"], "PSNR by site and method.")],
        ),
        Section("Segmentation", [_fine_tuning(outcome.segmentation) + _EMPTY], stage_tables["segmentation"],
                [Figure(paths["segmentation"], "Federated segmentation of a test image of each site.")]),
        Section("Classification", [_fine_tuning(outcome.classification)], stage_tables["classification"],
                [Figure(paths["classification"], "Receiver operating characteristic by site.")]),
        Section("Communication", ["Sizes of the float32 arrays exchanged, with the aggregation weights."],
                stage_tables["traffic"]),
        Section("Training", ["One point a round; each site logs its own data only.",
                             *(line for course in outcome.courses.values() for line in course.lines())], [],
                [Figure(paths["training"], "Training loss by round.")]),
    ]  # fmt: skip
    if outcome.privacy:
        rows = [[site, f"{value:.3f}"] for site, value in outcome.privacy["epsilon"].items()]
        sections.insert(
            -1, Section("Privacy", [outcome.privacy["statement"]], [Table("", ["site", "ε"], rows)])
        )
    rows = [[name, str(value)] for name, value in flat(settings).items()]
    sections.append(Section("Settings", [], [Table("", ["flag", "value"], rows)]))
    algorithm = settings.federation.algorithm
    lead = f"{kind} {settings.modality.upper()} cohort, {len(test.names)} sites, {algorithm}."
    path = workdir / "report.html"
    write_report(path, "Federated reconstruction to diagnosis", lead, sections)
    return path


def _reconstruction_panels(reconstruction: Reconstruction, test: ClientData) -> list[dict[str, Any]]:
    order = list(reconstruction.scores)
    methods = [m for m in order if m in reconstruction.images] + ["reference"]
    panels = []
    for i, site in list(enumerate(test.names))[:_SHOWN_SITES]:
        size = reconstruction.images["reference"].shape[-1]
        target = reconstruction.images["reference"][i, 0]
        side = max(8, size // 4)
        panels.append(
            {
                "site": site,
                "images": {method: reconstruction.images[method][i, 0] for method in methods},
                "zoom": (*_busiest(target, side), side, side),
            }
        )
    return panels


def _busiest(image: np.ndarray, side: int) -> tuple[int, int]:
    """Top left corner of the central square in which the image varies most, clear of the inset."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (side, side)).std((-2, -1))
    rows, columns = (np.arange(n)[:, None] / n for n in windows.shape)
    columns = columns.T
    central = (abs(rows - 0.5) < 0.3) & (abs(columns - 0.5) < 0.3) & ((rows < 0.4) | (columns < 0.35))
    row, column = np.unravel_index(np.argmax(np.where(central, windows, -1)), windows.shape)
    return int(row), int(column)


def _segmentation_panels(outcome: Outcome) -> list[dict[str, Any]]:
    test, panels = outcome.tests["segmentation"], []
    for i, site in enumerate(test.names):
        masks = np.asarray(test.examples["segmentation"][i])
        j = int(np.argmax(masks.sum((-2, -1)) * np.asarray(test.valid[i])))
        image = np.asarray(test.examples["image"][i, j])
        image = np.clip(image / np.percentile(image, 99.5), 0, 1)
        panels.append(
            {
                "site": site,
                "image": image if image.shape[-1] == 3 else image[..., 0],
                "reference": masks[j],
                "prediction": (outcome.segmentation.predictions[i, j, ..., 1] > 0.5).astype(float),
            }
        )
    return panels


def _roc_curves(outcome: Outcome) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    test, curves = outcome.tests["classification"], {}
    for i, site in enumerate(test.names):
        valid = np.asarray(test.valid[i])
        label = np.asarray(test.examples["label"][i])[valid].astype(bool)
        score = outcome.classification.predictions[i][valid, 1]
        if label.any() and not label.all():
            thresholds = np.concatenate([[np.inf], np.unique(score)[::-1]])
            rates = [[(score[side] >= t).mean() for t in thresholds] for side in (~label, label)]
            curves[site] = (np.asarray(rates[0]), np.asarray(rates[1]))
    return curves


def _fine_tuning(downstream: Downstream) -> str:
    if downstream.copied:
        return (
            f"The encoder starts from the reconstruction network, {len(downstream.copied)} arrays of it, "
            "and is trained on its images."
        )
    return "The network starts from random weights."


def _save(canvas: Canvas, path: Path) -> Path:
    canvas.savefig(path, dpi=150, facecolor=canvas.get_facecolor())
    return path


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f}"
