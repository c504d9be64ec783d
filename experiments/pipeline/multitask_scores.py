"""Scores of finished trainings by patient, for `experiments.multitask`; what is scored once is kept."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pipeline import diagnosis, patient_scores
from experiments.pipeline.cohorts import Split
from experiments.pipeline.downstream import RATERS, predictor
from experiments.pipeline.federated_data import FederatedData, make_task
from experiments.pipeline.federated_settings import TrainSettings
from experiments.pipeline.multitask_problems import METRICS
from experiments.pipeline.reconstruction import classical, images_of, physics_of
from experiments.pipeline.sweep import Done, write_json
from fedrecon import Variables
from fedrecon.data import ClientData
from fedrecon.reporting import mean_interval
from fedrecon.runtime import decode_numbers, read_log
from fedrecon.tasks import measure_of
from fedrecon.training import example_of, finetuning, model_files

_FILE = "patients.json"


class PatientScores(NamedTuple):
    """How well patients of the test are served.

    Attributes:
      value, low, high: mean over patients, or of the whole for AUC, and 95 % of it by drawing patients; NaN
        where there is nothing to score, infinite where the network diverged.
      sites: site -> score.
      patients: of each patient, in one order for all trainings on the same data; NaN of those whom the metric
        says nothing about, empty for AUC.
      scored, unscored: numbers of patients; for AUC all or none are scored.
      reason: why some are not.
    """

    value: float
    low: float
    high: float
    sites: dict[str, float]
    patients: list[float]
    scored: int
    unscored: int
    reason: str


def scores_of(done: Done) -> PatientScores:
    """Those of a training's models on its test patients, kept in its directory."""
    file = done.folder / _FILE
    if not file.exists():
        data, algorithm = done.data(), done.settings.federation.algorithm
        released, own = model_files.read_models(done.folder, algorithm)
        # Where clients have models of their own they evaluate with these.
        models: list[Variables] = [own.get(name, released) for name in data.test.names]
        write_json(file, score(done.settings, data, models)._asdict())
    return _read(json.loads(file.read_text()))


def _read(document: dict[str, Any]) -> PatientScores:
    document = decode_numbers(document)
    document["sites"] = {site: _number(value) for site, value in document["sites"].items()}
    document["patients"] = [_number(value) for value in document["patients"]]
    return PatientScores(**{name: _number(value) for name, value in document.items()})


def score(settings: TrainSettings, data: FederatedData, models: Sequence[Variables]) -> PatientScores:
    """Scores of the models of the clients, thresholds from the validation patients of all sites."""
    example = example_of(data.train)
    task = finetuning.released_task(settings.federation, make_task(settings, example), example)
    if settings.task == "reconstruction":
        predict = jax.jit(lambda model, batch: task.predict(*model, batch))
        return _of_images(images_of(predict, models, data.test), data.test)
    rater = RATERS[settings.task]
    probabilities = predictor(task, rater.target)
    assert data.validation is not None, "every problem has validation patients"
    held_out = diagnosis.cases(probabilities(models, data.validation), data.validation, rater.target)
    threshold = rater.threshold(held_out)
    tested = diagnosis.cases(probabilities(models, data.test), data.test, rater.target)
    return _of_cases(settings.task, tested, threshold)


def untrained(
    folder: Path, settings: TrainSettings, data: Callable[[int], FederatedData], *, tuned: bool
) -> dict[str, PatientScores]:
    """Name -> scores of what needs no training: classical images, or the better constant; kept in ``folder``.

    Args:
      folder: of the problem's.
      settings: of the problem and the seed.
      data: the data of a seed.
      tuned: of reconstructions also total variation, by its best weight in validation.
    """
    file = folder / f"seed-{settings.seed}{'-tuned' if tuned else ''}.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        found = _untrained(settings, data(settings.seed), tuned=tuned)
        write_json(file, {name: scores._asdict() for name, scores in found.items()})
    document = json.loads(file.read_text())
    return {name: _read(scores) for name, scores in document.items()}


def _untrained(settings: TrainSettings, data: FederatedData, *, tuned: bool) -> dict[str, PatientScores]:
    if settings.task != "reconstruction":
        rater = RATERS[settings.task]
        shape = (*data.test.valid.shape, *data.test.examples[rater.target].shape[2:], 2)
        found = {}
        for name, value in rater.trivial.items():
            cases = diagnosis.cases(np.full(shape, value, np.float32), data.test, rater.target)
            found[name] = _of_cases(settings.task, cases, 0.5)
        best = max(found, key=lambda name: np.nan_to_num(found[name].value, nan=-1.0))
        return {best: found[best]}
    split = Split(data.train, data.validation or data.test, data.test)
    examples = data.train.examples
    _, images, _ = classical(measure_of(examples), split, physics_of(examples), tuned=tuned)
    chosen = [name for name in images if name in ("zero-filled", "FBP", "TV")]
    return {name: _of_images(_stacked(images[name], data.test), data.test) for name in chosen}


def _stacked(by_site: Mapping[str, np.ndarray], data: ClientData) -> np.ndarray:
    return np.stack([by_site[name] for name in data.names])


def _of_images(images: np.ndarray, data: ClientData) -> PatientScores:
    by_site = dict(zip(data.names, jnp.asarray(images), strict=True))
    tests = {name: (data, i) for i, name in enumerate(data.names)}
    found = patient_scores.patient_scores({"": by_site}, tests)[""]
    overall = patient_scores.overall(found, METRICS["reconstruction"])
    psnr = {site: found[site]["psnr"] for site in data.names}
    patients = np.concatenate(list(psnr.values()))
    unscored = int(np.isnan(patients).sum())
    return PatientScores(
        overall["mean"],
        overall["low"],
        overall["high"],
        {site: _mean(values) for site, values in psnr.items()},
        [float(value) for value in patients],
        len(patients) - unscored,
        unscored,
        "blank images, which have no range" if unscored else "",
    )


def _of_cases(task: str, cases: diagnosis.Cases, threshold: float) -> PatientScores:
    thresholds, metric = [threshold] * len(cases.names), METRICS[task]
    found = RATERS[task].score(cases, thresholds)
    sites = {site: values[metric] for site, values in found.sites.items()}
    value, low, high = (float(found.overall[name]) for name in (metric, "low", "high"))
    if not np.isfinite(cases.probability).all():
        value = low = high = -math.inf
    count = len(np.unique(cases.patient))
    if task == "segmentation":
        dice = diagnosis.dice_of_patients(cases, thresholds)
        missing = int(np.isnan(dice).sum())
        reason = "patients without the structure, of whom Dice says nothing" if missing else ""
        return PatientScores(value, low, high, sites, dice.tolist(), count - missing, missing, reason)
    if not math.isnan(value):
        return PatientScores(value, low, high, sites, [], count, 0, "")
    overall = found.overall
    reason = f"an AUC of {overall['positives']} positive and {overall['negatives']} negative images"
    return PatientScores(value, low, high, sites, [], 0, count, reason)


def tested(folder: Path, settings: TrainSettings, data: Callable[[int], FederatedData]) -> tuple[str, ...]:
    """Names of the test patients, in the order of `PatientScores.patients`; kept in ``folder``."""
    file = folder / f"seed-{settings.seed}-patients.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, [name for names in data(settings.seed).tested for name in names])
    return tuple(json.loads(file.read_text()))


def over_seeds(scores: Sequence[PatientScores], names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Means over seeds; intervals of patients are averaged, as if all seeds had the same patients.

    Args:
      scores: of each seed.
      names: of each seed the patients. Who is tested with several seeds counts once, with the mean.

    Raises:
      ValueError: a seed has scores of another number of patients.
    """
    by_patient: dict[str, list[float]] = {}
    for each, of_seed in zip(scores, names, strict=True):
        # An AUC is of all patients or of none.
        values = each.patients or [each.value] * len(of_seed)
        for name, value in zip(of_seed, values, strict=True):
            by_patient.setdefault(name, []).append(value)
    means = [_mean(values) for values in by_patient.values()]
    scored = int(np.sum(~np.isnan(means)))
    interval = mean_interval([each.value for each in scores])
    worst = [np.nanmin([*each.sites.values(), np.inf]) for each in scores]
    return {
        "score": interval.mean,
        "low": float(np.mean([each.low for each in scores])),
        "high": float(np.mean([each.high for each in scores])),
        "half_width": interval.half_width,
        "worst_site": float(np.mean(worst)) if np.isfinite(worst).all() else math.nan,
        "seeds": len(scores),
        "patients": means if all(each.patients for each in scores) else [],
        "scored": scored,
        "unscored": len(means) - scored,
        "reason": next((each.reason for each in scores if each.reason), ""),
    }


def validated(done: Done) -> float:
    """How good the last validation is, the mean over sites: higher is better; NaN where there was none.

    Of classifications minus the loss, since an AUC of a few validation images says little.
    """
    metric = {"reconstruction": "psnr", "segmentation": "dice"}.get(done.settings.task, "loss")
    records = [r["validation"] for r in read_log(done.folder / "metrics.jsonl") if "validation" in r]
    mean = _mean([_number(site.get(metric)) for site in records[-1].values()] if records else [])
    return -mean if metric == "loss" else mean


def seconds_of(done: Done) -> float:
    """Of all rounds, without compiling and validation."""
    return done.results.course.rounds / done.cost.rounds_per_second


def _mean(values: Any) -> float:
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else math.nan


def _number(value: Any) -> Any:
    """Null in JSON is NaN here."""
    return math.nan if value is None else value
