"""From measurement to mask, in two stages and jointly, as a problem of `experiments.multitask`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.pipeline import joint_runs, multitask_report
from experiments.pipeline.joint_data import JointData
from experiments.pipeline.joint_scores import evaluator
from experiments.pipeline.joint_settings import JointSettings, check_settings
from experiments.pipeline.joint_training import Training
from experiments.pipeline.multitask_scores import PatientScores, over_seeds
from fedrecon.reporting import bootstrap_interval
from fedrecon.runtime import read_log
from fedrecon.training import Execution, changed

BASELINE = "two stages"
CONSTANT = "everything marked"
# Flags of the program that joint training has, too.
TAKEN = ("seed", "rounds", "epochs", "batch_size", "learning_rate", "channels", "pools", "optimizer")
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"rounds": 2, "image_size": 32, "cascades": 1, "channels": 2, "reader_channels": 2, "pools": 1},
    "small": {"rounds": 10, "image_size": 32, "cascades": 2, "channels": 6, "reader_channels": 6},
    "full": {"rounds": 60, "image_size": 128, "cascades": 6, "channels": 16, "reader_channels": 16,
             "pools": 3, "remat": True},
}  # fmt: skip
_ACCELERATION = {"smoke": 4.0, "small": 4.0, "full": 8.0}


class JointRow(NamedTuple):
    """A row: the trainings that it costs, of which the last is scored, and whether it is a federation."""

    trainings: tuple[Training, ...]
    exchanges: bool


_FIRST = Training("rec_only", "rec_only")
_JOINT = Training("joint-1", "joint", 1.0)
ROWS = {
    "alone": JointRow((_JOINT._replace(name="joint-1-alone", who="alone"),), False),
    "pooled": JointRow((_JOINT._replace(name="joint-1-pooled", who="pooled"),), False),
    "oracle": JointRow((Training("oracle", "oracle", reference_weight=0.0),), False),
    BASELINE: JointRow((_FIRST, Training("frozen", "frozen", reconstruction=_FIRST.name)), True),
    "joint": JointRow((_JOINT,), True),
}


def settings_of(preset: str, given: Mapping[str, Any], data_dir: str) -> JointSettings:
    """The settings of a preset with those flags that joint training has.

    Raises:
      FlagError: one does not fit.
    """
    values = {name: given[name] for name in TAKEN if name in given}
    sizes = {"acceleration": _ACCELERATION[preset], **PRESETS[preset]}
    return check_settings(changed(JointSettings(), **{**sizes, **values, "data_dir": data_dir}))


def solve(
    title: str, settings: JointSettings, folder: Path, seeds: Sequence[int], execution: Execution
) -> dict[str, Any]:
    """Trains and scores all rows, as `multitask.solve` returns them; scores are Dice of patients' volumes."""
    data = joint_runs.load_cohort(settings)
    trainings = tuple(dict.fromkeys(t for row in ROWS.values() for t in row.trainings))
    tool = evaluator(settings, data)
    runs = [
        joint_runs.run_seed(settings, seed, trainings, data, tool, folder / f"seed-{seed}", execution)
        for seed in seeds
    ]
    # The same patients with every seed.
    names = [[name for site in data.patients["test"] for name in site]] * len(runs)
    constant = over_seeds([of_rows(marked_everywhere(data))] * len(runs), names)
    found: dict[str, dict[str, Any]] = {CONSTANT: {"exchanges": False, **constant}}
    for label, row in ROWS.items():
        name = row.trainings[-1].name
        scores = [of_rows(run.test[name]) for run in runs]
        costs = [cost_of(run.folder, {t.name for t in row.trainings}) for run in runs]
        found[label] = {
            "exchanges": row.exchanges,
            "refused": "",
            **over_seeds(scores, names),
            **{key: float(np.mean([cost[key] for cost in costs])) for key in costs[0]},
            "epsilon": math.inf,
            "validated": float(np.mean([of_rows(run.validation[name]).value for run in runs])),
            "psnr": float(np.mean([_values(run.test[name], "psnr").mean() for run in runs])),
        }
    methods = [label for label, row in ROWS.items() if row.exchanges]
    return {
        "title": title,
        "metric": "dice",
        "label": "Dice",
        "untrained": [CONSTANT],
        "chosen": max(methods, key=lambda label: np.nan_to_num(found[label]["validated"], nan=-np.inf)),
        "rows": multitask_report.with_fronts(multitask_report.with_differences(found, BASELINE)),
        "saved_bytes": multitask_report.saved_bytes(found, found[CONSTANT]["score"]),
        "notes": data.notes,
    }


def of_rows(rows: Sequence[Mapping[str, Any]]) -> PatientScores:
    """Dice of patients, from the rows of `joint_scores.patient_rows`."""
    dice = _values(rows, "dice")
    known = dice[~np.isnan(dice)]
    low, high = bootstrap_interval(lambda drawn: float(known[drawn].mean()), len(known))
    site_of = np.asarray([row["site"] for row in rows])
    sites = {}
    for site in dict.fromkeys(site_of.tolist()):
        own = dice[(site_of == site) & ~np.isnan(dice)]
        sites[site] = float(own.mean()) if len(own) else math.nan
    missing = len(dice) - len(known)
    reason = "patients without the structure, of whom Dice says nothing" if missing else ""
    value = float(known.mean()) if len(known) else math.nan
    return PatientScores(value, low, high, sites, dice.tolist(), len(known), missing, reason)


def marked_everywhere(data: JointData) -> list[dict[str, Any]]:
    """Rows of test patients of whom every pixel is marked."""
    rows = []
    for site, names in enumerate(data.patients["test"]):
        valid = np.asarray(data.test.valid[site])
        masks = np.asarray(data.test.examples["segmentation"][site])[valid] > 0
        volume = np.asarray(data.test.examples["volume"][site])[valid]
        for number, name in enumerate(names):
            part = float(masks[volume == number].mean())
            dice = 2 * part / (1 + part) if part else math.nan
            rows.append({"patient": name, "site": data.test.names[site], "dice": dice})
    return rows


def cost_of(folder: Path, names: set[str]) -> dict[str, float]:
    """Bytes and seconds of all rounds of the trainings of these names, without compiling and validation."""
    log = [record for record in read_log(folder / "metrics.jsonl") if record["stage"] in names]
    bytes_of = {key: float(sum(record[key] for record in log)) for key in ("bytes_up", "bytes_down")}
    return {**bytes_of, "seconds": sum(r["seconds"] - r.get("validation_seconds", 0.0) for r in log)}


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """A score of each row, NaN where there is none (null in a file)."""
    return np.asarray([math.nan if row.get(name) is None else row[name] for row in rows], float)
