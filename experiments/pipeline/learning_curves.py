"""Learning curves and the table of trainings, from the log of a run."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.reporting import Table, plot_training
from fedrecon.runtime import read_log
from fedrecon.training import Course

# What is shown of a task in place of its validation loss, where readers know something better.
_VALIDATION = {"reconstruction": ("psnr", "validation PSNR (dB)")}
# More lines cannot be told apart.
_MOST_SITES = 12
_KINDS = {"local": "each site alone", "centralized": "pooled data"}


def learning_curves(
    records: Iterable[Mapping[str, Any]],
) -> dict[str, dict[str, dict[str, list[tuple[float, float]]]]]:
    """``curves[task][quantity][training]``: points (round, value), for `plot_training`.

    Quantities are a validation score, averaged over the sites that have it, the training loss, and the
    validation score of the federated model by site; those without any value are left out.
    """
    curves: dict[str, dict[str, dict[str, list[tuple[float, float]]]]] = {}
    for record in records:
        task, _, kind = record["stage"].partition("/")
        metric, label = _VALIDATION.get(task, ("loss", "validation loss"))
        sites = {site: scores.get(metric) for site, scores in record.get("validation", {}).items()}
        sites = {site: v for site, v in sites.items() if v is not None}
        training = _KINDS.get(kind, kind) or task
        mean = float(np.mean(list(sites.values()))) if sites else None
        points = [(label, training, mean), ("training loss", training, record.get("loss"))]
        if kind in ("", "federated") and len(sites) <= _MOST_SITES:
            quantity = f"{label}, federated by site" if kind else f"{label} by site"
            points += [(quantity, site, value) for site, value in sites.items()]
        panels = curves.setdefault(task, {})
        for quantity, line, value in points:
            if value is not None and math.isfinite(value):
                panels.setdefault(quantity, {}).setdefault(line, []).append((record["round"], value))
    return {task: panels for task, panels in curves.items() if panels}


def save_learning_curves(folder: Path) -> None:
    """Draws the curves in metrics.jsonl of a run into learning_curves.png."""
    if curves := learning_curves(read_log(folder / "metrics.jsonl")):
        plot_training(curves).savefig(folder / "learning_curves.png", dpi=150)


def training_table(courses: Mapping[str, Course]) -> Table:
    """Rounds and steps of each training, its course, and whether it has converged."""
    rows = []
    for stage, course in courses.items():
        task, _, kind = stage.partition("/")
        values = ["–" if math.isnan(v) else f"{v:.4g}" for v in (course.first, course.last)]
        end = "?" if math.isnan(course.remaining) else "yes" if course.converged else "no"
        lowest = str(course.best_round or "–")
        counts = [f"{course.rounds} of {course.planned}", f"{course.steps:.0f}"]
        rows.append([f"{task}: {_KINDS.get(kind, kind)}", *counts, course.curve, *values, lowest, end])
    header = [
        "training",
        "rounds",
        "steps of a model",
        "curve",
        "first",
        "last",
        "lowest in round",
        "converged",
    ]
    return Table("trainings", header, rows)
