"""Patients of a finished comparison: scores by site, agreement, calibration, with intervals.

Reads the folder of experiments.compare of a segmentation or a classification, predicts its test patients by
the models that it kept; writes patients.json, boxes.png (scores of patients by site), and agreement.png
(areas that were marked, less those of the reference) or calibration.png. Nothing is trained. Intervals draw
seeds, and then the patients of each site; seeds divide the patients anew.

  python -m experiments.compare --workdir=runs/retina --task=segmentation --cohort=retina --data_dir=DIR
      --methods=fedavg,local_only,centralized --seeds=3
  python -m experiments.diagnosis --workdir=runs/retina
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.pipeline import patients_of_runs, sweep
from experiments.pipeline.patients_of_runs import Found, Patients
from fedrecon import evaluation, reporting
from fedrecon.runtime import ending, run_program

_FIRST = "fedavg"
_BINS = 5


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_string("workdir", None, "Folder of a finished experiments.compare.", required=True)


def summarize(kind: str, found: Found) -> list[dict[str, Any]]:
    """A row of each method: mean with interval, each site, patients; of classifications the calibration."""
    sites = list(next(iter(next(iter(found.values())).values())))
    rows = []
    for method, seeds in found.items():
        mean, low, high = patients_of_runs.interval(kind, seeds, sites)
        together = {site: _joined([by_site[site] for by_site in seeds.values()]) for site in sites}
        row = {
            "method": method,
            "mean": mean,
            "low": low,
            "high": high,
            "sites": {
                site: float(np.nanmean([patients_of_runs.score_of(kind, s[site]) for s in seeds.values()]))
                if not all(np.isnan(patients_of_runs.score_of(kind, s[site])) for s in seeds.values())
                else float("nan")
                for site in sites
            },
            "patients": {site: len(p.score) for site, p in together.items()},
        }
        everyone = _joined(list(together.values()))
        if kind == "classification":
            row["calibration_error"] = evaluation.reliability(everyone.first, everyone.second, _BINS).error
        else:
            row["agreement"] = evaluation.limits_of_agreement(everyone.first, everyone.second)._asdict()
        rows.append(row)
    return rows


def _joined(parts: list[Patients]) -> Patients:
    return Patients(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def save_figures(kind: str, found: Found, folder: Path) -> None:
    """boxes.png, and agreement.png of the first shared model or calibration.png of all methods."""
    joined = {
        method: {site: _joined([s[site] for s in seeds.values()]) for site in next(iter(seeds.values()))}
        for method, seeds in found.items()
    }
    sites = list(next(iter(joined.values())))
    label = "Dice of a patient" if kind == "segmentation" else "probability of what the patient has"

    def shown(patients: Patients) -> np.ndarray:
        right = np.where(patients.second > 0, patients.first, 1 - patients.first)
        return patients.score if kind == "segmentation" else right

    boxes = {method: {site: shown(p) for site, p in of.items()} for method, of in joined.items()}
    sweep.save_figure(folder / "boxes.png", reporting.plot_site_boxes(boxes, sites, label))
    if kind == "segmentation":
        first = joined.get(_FIRST, next(iter(joined.values())))
        pairs = {site: (p.first, p.second) for site, p in first.items()}
        limits = evaluation.limits_of_agreement(*_joined(list(first.values()))[1:])
        figure = reporting.plot_agreement(pairs, limits, "pixels marked, and those of the reference")
        sweep.save_figure(folder / "agreement.png", figure)
        return
    curves = {}
    for method, of in joined.items():
        everyone = _joined(list(of.values()))
        found_there = evaluation.reliability(everyone.first, everyone.second, _BINS)
        curves[method] = (found_there.confidence, found_there.accuracy, found_there.count)
    sweep.save_figure(folder / "calibration.png", reporting.plot_calibration(curves))


def table(kind: str, rows: list[dict[str, Any]]) -> str:
    """The rows in text."""
    sites = list(rows[0]["sites"])
    metric = "Dice" if kind == "segmentation" else "AUC"
    last = "areas apart (95 %)" if kind == "segmentation" else "calibration error"
    header = ["method", metric, "95 %", *(f"{site} ({rows[0]['patients'][site]})" for site in sites), last]
    cells = []
    for row in rows:
        figures = [f"{row['sites'][site]:.3f}" for site in sites]
        if kind == "segmentation":
            limits = row["agreement"]
            end = f"{limits['bias']:+.0f} ({limits['low']:+.0f} to {limits['high']:+.0f}) pixels"
        else:
            end = f"{row['calibration_error']:.3f}"
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        cells.append([row["method"], f"{row['mean']:.3f}", interval, *figures, end])
    return reporting.format_table(header, cells)


def main(_: list[str]) -> None:
    folder = Path(flags.FLAGS.workdir)
    with ending():
        kind, found = patients_of_runs.read(folder)
        rows = summarize(kind, found)
        sweep.write_json(folder / "patients.json", {"task": kind, "methods": rows})
        save_figures(kind, found, folder)
    print(table(kind, rows))
    print("In brackets test patients of all seeds together, who may be the same ones; sites count alike.")


if __name__ == "__main__":
    define_flags()
    run_program(main)
