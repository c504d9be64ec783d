"""The figures of a full-stack run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.pipeline.downstream import Downstream
from experiments.pipeline.learning_curves import learning_curves
from experiments.pipeline.outcome import Outcome
from experiments.pipeline.patient_scores import PatientScores, worst_cases
from experiments.pipeline.report_tables import shown
from fedrecon.data import ClientData
from fedrecon.reporting import (
    plot_classification,
    plot_patients,
    plot_reconstructions,
    plot_segmentations,
    plot_site_scores,
    plot_training,
)

_SHOWN_SITES = 3
_WORST = 3
# Of networks of single sites one is shown.
_AT_UNSEEN = {"each site alone, at home": "one site alone (of median PSNR)"}


def draw_figures(
    folder: Path, outcome: Outcome, patients: PatientScores, records: Sequence[Mapping[str, Any]]
) -> dict[str, Path]:
    """Draws the figures, and writes them as PNG.

    Args:
      folder: that they are written to.
      outcome: of the run.
      patients: scores of its test patients.
      records: the log.

    Returns:
      Name of a figure -> its file, ``<name>.png``.
    """
    reconstruction = outcome.reconstruction
    sites = list(outcome.reconstruction_tests())
    patients = shown(patients)
    figures = {
        "reconstruction": plot_reconstructions(_reconstruction_panels(outcome), shown(reconstruction.scores)),
        "psnr": plot_site_scores(shown(reconstruction.scores), "psnr", sites, "PSNR (dB)"),
        "patients": _patient_figure(patients, sites),
        "worst": plot_reconstructions(*_worst_panels(outcome, patients)),
        "training": plot_training(learning_curves(records)),
    }
    if outcome.segmentation is not None:
        panels = _segmentation_panels(outcome.segmentation, outcome.tests["segmentation"])
        figures["segmentation"] = plot_segmentations(panels)
    if outcome.classification is not None:
        curves = _roc_curves(outcome.classification, outcome.tests["classification"])
        figures["classification"] = plot_classification(curves)
    return {name: _save(canvas, folder / f"{name}.png") for name, canvas in figures.items()}


def _patient_figure(patients: PatientScores, sites: list[str]) -> Canvas:
    """All patients in one order, and NaN for those whom a method was not applied to."""
    nothing = {site: np.full_like(patients["federated"][site]["psnr"], np.nan) for site in sites}
    psnr = {
        method: np.concatenate([found[site]["psnr"] if site in found else nothing[site] for site in sites])
        for method, found in patients.items()
    }
    return plot_patients(psnr, "federated", "PSNR (dB)", "federated minus the other (dB)")


def _worst_panels(outcome: Outcome, patients: PatientScores) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Panels of the worst patients, and their scores by panel."""
    images, panels = shown(outcome.reconstruction.images), []
    scores: dict[str, Any] = {}
    for case in worst_cases(patients, images, outcome.reconstruction_tests(), "federated", _WORST):
        name = f"{case.site}{_unseen(outcome, case.site)}, patient {case.patient + 1}"
        target = images["reference"][case.site][case.example]
        side = max(8, target.shape[-1] // 4)
        panels.append(
            {
                "site": name,
                "images": {method: found[case.site][case.example] for method, found in images.items()},
                "zoom": (*_busiest(target, side), side, side),
            }
        )
        for method, value in case.scores.items():
            scores.setdefault(method, {})[name] = {"psnr": value}
    return panels, scores


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
                "title": f"{site}{_unseen(outcome, site)}",
                "names": _AT_UNSEEN if site == reconstruction.unseen else {},
                "images": {method: of_sites[site][j] for method, of_sites in images.items()},
                "zoom": (*_busiest(target, side), side, side),
            }
        )
    return panels


def _unseen(outcome: Outcome, site: str) -> str:
    return " (unseen)" if site == outcome.reconstruction.unseen else ""


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


def _segmentation_panels(found: Downstream, test: ClientData) -> list[dict[str, Any]]:
    panels = []
    for i, site in enumerate(test.names):
        j = _most_lesion(test, i)
        image = np.asarray(test.examples["image"][i, j])
        image = np.clip(image / np.percentile(image, 99.5), 0, 1)
        marked = found.predictions[i, j, ..., 1] > found.threshold
        panels.append(
            {
                "site": site,
                "image": image if image.shape[-1] == 3 else image[..., 0],
                "reference": np.asarray(test.examples["segmentation"][i, j]),
                "prediction": marked.astype(float),
            }
        )
    return panels


def _roc_curves(found: Downstream, test: ClientData) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    curves = {}
    for i, site in enumerate(test.names):
        valid = np.asarray(test.valid[i])
        label = np.asarray(test.examples["label"][i])[valid].astype(bool)
        score = found.predictions[i][valid, 1]
        if label.any() and not label.all():
            thresholds = np.concatenate([[np.inf], np.unique(score)[::-1]])
            rates = [[(score[side] >= t).mean() for t in thresholds] for side in (~label, label)]
            name = f"{site} ({label.sum()} of {len(label)} positive)"
            curves[name] = (np.asarray(rates[0]), np.asarray(rates[1]))
    return curves


def _save(canvas: Canvas, path: Path) -> Path:
    canvas.savefig(path, dpi=150, facecolor=canvas.get_facecolor())
    return path
