"""The printed tables, the figures and the HTML page of a full-stack run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.pipeline.downstream import Downstream
from experiments.pipeline.learning_curves import learning_curves, training_table
from experiments.pipeline.reconstruction import Reconstruction
from experiments.pipeline.report_tables import (
    diagnosis_tables,
    quality_tables,
    shown,
    traffic_table,
)
from experiments.pipeline.settings import FullStackSettings
from experiments.pipeline.stages import Traffic
from fedrecon.data import ClientData
from fedrecon.files import write_atomically
from fedrecon.reporting import (
    Figure,
    Section,
    Table,
    format_table,
    plot_classification,
    plot_reconstructions,
    plot_segmentations,
    plot_site_scores,
    plot_training,
    write_report,
)
from fedrecon.runtime import Workdir, read_log
from fedrecon.training import Course, as_json, flat

_SHOWN_SITES = 3
# Of networks of single sites one is shown.
_AT_UNSEEN = {"each site alone, at home": "one site alone (of median PSNR)"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Everything a finished run reports.

    Attributes:
      reconstruction, segmentation, classification: the stages' results.
      tests: test split of each stage.
      unseen: that of the reconstruction at the unseen site; None without one.
      checks: site -> sentences about its federated reconstructions that are unlike those in training.
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
    unseen: ClientData | None
    checks: dict[str, list[str]]
    sites: list[list[str]]
    notes: tuple[str, ...]
    courses: dict[str, Course]
    traffic: list[Traffic]
    privacy: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Provenance:
    """How a run was made; part of the page, and of no result.

    Attributes:
      command: the command line.
      seconds: spent in this process.
    """

    command: str
    seconds: float


def write_results(workdir: Workdir, settings: FullStackSettings, outcome: Outcome) -> dict[str, Any]:
    """Writes ``results.json``: every score, free of times, so that equal runs give equal files."""

    def diagnosed(found: Downstream) -> dict[str, Any]:
        scores = {method: score._asdict() for method, score in found.scores.items()}
        return {"scores": scores, "unseen": found.unseen, "threshold": found.threshold}

    results = {
        "settings": flat(settings),
        "sites": outcome.sites,
        "notes": outcome.notes,
        "reconstruction": outcome.reconstruction.scores,
        "regularization_weights": outcome.reconstruction.weights,
        "segmentation": diagnosed(outcome.segmentation),
        "classification": diagnosed(outcome.classification),
        "training": {name: course._asdict() for name, course in outcome.courses.items()},
        "checks": outcome.checks,
        "traffic": [t._asdict() for t in outcome.traffic],
        "privacy": outcome.privacy,
    }
    results = as_json(results)
    write_atomically(workdir / "results.json", json.dumps(results, indent=2).encode())
    return results


def tables(outcome: Outcome) -> dict[str, list[Table]]:
    """The tables of each stage."""
    return {
        "reconstruction": quality_tables(outcome.reconstruction, outcome.tests["reconstruction"].names),
        "segmentation": diagnosis_tables("segmentation", outcome.segmentation),
        "classification": diagnosis_tables("classification", outcome.classification),
        "traffic": [traffic_table(outcome.traffic)],
    }


def print_tables(outcome: Outcome) -> None:
    """Prints the site table, the first tables of each stage, the trainings and the traffic."""
    print("\n" + format_table(outcome.sites[0], outcome.sites[1:]))
    for stage, stage_tables in tables(outcome).items():
        for table in stage_tables[: 2 if stage == "reconstruction" else 1]:
            print(f"\n{table.caption}\n" + format_table(table.header, table.rows))
    if outcome.privacy:
        rows = [[site, f"{value:.3f}"] for site, value in outcome.privacy["epsilon"].items()]
        print("\n" + outcome.privacy["statement"] + "\n" + format_table(["site", "ε"], rows))
    for note in outcome.notes:
        print(f"\nNote: {note}")


def write_page(
    workdir: Workdir, settings: FullStackSettings, outcome: Outcome, provenance: Provenance
) -> Path:
    """Draws the figures and writes ``report.html``; returns its path."""
    records = read_log(workdir / "metrics.jsonl")
    stage_tables = tables(outcome)
    reconstruction, test = outcome.reconstruction, outcome.tests["reconstruction"]
    sites = [*test.names, *([reconstruction.unseen] if reconstruction.unseen else [])]
    figures = {
        "reconstruction": plot_reconstructions(_reconstruction_panels(outcome), shown(reconstruction.scores)),
        "psnr": plot_site_scores(shown(reconstruction.scores), "psnr", sites, "PSNR (dB)"),
        "segmentation": plot_segmentations(_segmentation_panels(outcome)),
        "classification": plot_classification(_roc_curves(outcome)),
        "training": plot_training(learning_curves(records)),
    }
    paths = {name: _save(canvas, workdir / f"{name}.png") for name, canvas in figures.items()}
    sections = [
        Section("Sites", outcome.notes, [Table("", outcome.sites[0], outcome.sites[1:])]),
        Section(
            "Reconstruction",
            ["PSNR, SSIM and NMSE are per volume, with the range of the reference volume, averaged over test "
             "volumes. The classical weights were chosen on the validation split. A site's own network is "
             "scored on its own patients (at home) and, as the mean of the others, elsewhere."],
            stage_tables["reconstruction"],
            [Figure(paths["reconstruction"], "A test image of each shown site, with PSNR over the site's "
                    "test volumes; zoomed region framed; error maps below."),
             Figure(paths["psnr"], "PSNR by site and method.")],
        ),
        Section("Checks of the reconstructions", _checks(outcome)),
        Section("Training", ["Networks are evaluated on the validation patients after each round. Steps are "
                             "those of one model: of the federated one, those of a site between averages.",
                             *(line for course in outcome.courses.values() for line in course.lines())],
                [training_table(outcome.courses)],
                [Figure(paths["training"], "Learning curves: validation and training loss by round.")]),
        Section("Segmentation", [_fine_tuning(outcome.segmentation) + " Dice is of patients (volumes) who "
                                 "have a lesion; those without count as falsely marked or not. The threshold "
                                 "was chosen on the validation patients."], stage_tables["segmentation"],
                [Figure(paths["segmentation"], "Federated segmentation of a test image of each site.")]),
        Section("Classification", [_fine_tuning(outcome.classification) + " Slices are classified. The area "
                                   "under the curve counts pairs of slices within a site; its interval is "
                                   "from patients drawn with replacement."], stage_tables["classification"],
                [Figure(paths["classification"], "Receiver operating characteristic by site.")]),
        Section("Communication", ["Sizes of the float32 arrays exchanged, with the aggregation weights."],
                stage_tables["traffic"]),
    ]  # fmt: skip
    if outcome.privacy:
        rows = [[site, f"{value:.3f}"] for site, value in outcome.privacy["epsilon"].items()]
        sections.append(Section("Privacy", [outcome.privacy["statement"]], [Table("", ["site", "ε"], rows)]))
    sections += _made_by(workdir, settings, provenance)
    path = workdir / "report.html"
    write_report(path, "Federated reconstruction to diagnosis", _lead(settings, outcome), sections)
    return path


def _checks(outcome: Outcome) -> list[str]:
    bounds = outcome.reconstruction.network.bounds._asdict().items()
    limits = ", ".join(f"{name} {value:.2g}" for name, value in bounds if value == value)
    found = [f"{site}: {text}." for site, texts in outcome.checks.items() for text in texts]
    lead = (
        "network.npz holds the federated network and bounds, half as much again as the largest values on the "
        f"sites' training data ({limits}): of the part of the measured samples that an image leaves "
        "unexplained, in itself and in standard deviations of their noise, and of its distance from the "
        "regularized least-squares image."
    )
    return [lead, *(found or ["All test images are within them."])]


def _lead(settings: FullStackSettings, outcome: Outcome) -> str:
    kind = "Measured" if settings.cohort == "measured" else "Simulated (synthetic)"
    sites = f"{len(outcome.tests['reconstruction'].names)} sites that train together"
    if outcome.reconstruction.unseen:
        sites += " and one that does not"
    algorithm = settings.federation.algorithm
    return f"{kind} {settings.modality.upper()} cohort, {sites}; {algorithm}; seed {settings.seed}."


def _made_by(workdir: Workdir, settings: FullStackSettings, provenance: Provenance) -> list[Section]:
    environment = json.loads((workdir / "config.json").read_text()).get("environment", {})
    packages = environment.get("packages", {})
    rows = [
        ["command", provenance.command],
        ["seconds in this process", f"{provenance.seconds:.0f}"],
        ["seed", str(settings.seed)],
        ["versions", ", ".join(f"{name} {version}" for name, version in packages.items() if version)],
        *([name, str(environment[name])] for name in ("python", "backend", "git") if environment.get(name)),
    ]
    flags = [[name, str(value)] for name, value in flat(settings).items()]
    return [
        Section("How it was made", [], [Table("", ["", ""], rows, prose=True)]),
        Section("Settings", [], [Table("", ["flag", "value"], flags, prose=True)]),
    ]


def _reconstruction_panels(outcome: Outcome) -> list[dict[str, Any]]:
    """The first sites, of three the last being the unseen one."""
    reconstruction = outcome.reconstruction
    images = shown(reconstruction.images)
    chosen = [(name, outcome.tests["reconstruction"], i) for i, name in
              enumerate(outcome.tests["reconstruction"].names)][:_SHOWN_SITES]  # fmt: skip
    if outcome.unseen is not None:
        chosen = [*chosen[: _SHOWN_SITES - 1], (outcome.unseen.names[0], outcome.unseen, 0)]
    panels = []
    for site, data, i in chosen:
        j = _most_lesion(data, i)
        target = images["reference"][site][j]
        side = max(8, target.shape[-1] // 4)
        panels.append(
            {
                "site": site,
                "title": f"{site} (unseen)" if site == reconstruction.unseen else site,
                "names": _AT_UNSEEN if site == reconstruction.unseen else {},
                "images": {method: of_sites[site][j] for method, of_sites in images.items()},
                "zoom": (*_busiest(target, side), side, side),
            }
        )
    return panels


def _most_lesion(data: ClientData, site: int) -> int:
    """The example with the largest lesion, or else the first."""
    if "segmentation" not in data.examples:
        return 0
    areas = np.asarray(data.examples["segmentation"][site]).sum((-2, -1))
    return int(np.argmax(areas * np.asarray(data.valid[site])))


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
        j = _most_lesion(test, i)
        image = np.asarray(test.examples["image"][i, j])
        image = np.clip(image / np.percentile(image, 99.5), 0, 1)
        marked = outcome.segmentation.predictions[i, j, ..., 1] > outcome.segmentation.threshold
        panels.append(
            {
                "site": site,
                "image": image if image.shape[-1] == 3 else image[..., 0],
                "reference": np.asarray(test.examples["segmentation"][i, j]),
                "prediction": marked.astype(float),
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
            name = f"{site} ({label.sum()} of {len(label)} positive)"
            curves[name] = (np.asarray(rates[0]), np.asarray(rates[1]))
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
