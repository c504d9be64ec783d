"""The trainings of the review's rows, and their figures."""

import functools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.pipeline import survey_besides, sweep
from experiments.pipeline.cohorts import Split
from experiments.pipeline.contrastive import few_labels
from experiments.pipeline.federated_data import FederatedData, load_data, pad_examples
from experiments.pipeline.federated_run import with_seed
from experiments.pipeline.federated_settings import TrainSettings, check_settings
from experiments.pipeline.multitask_scores import seconds_of
from experiments.pipeline.pretraining import started
from experiments.pipeline.reconstruction import classical, physics_of
from experiments.pipeline.survey_problems import PROBLEMS, SMOKE, Problem
from experiments.pipeline.survey_rows import Row
from experiments.pipeline.unseen_sites import without_site
from fedrecon import catalog, reporting
from fedrecon.runtime import read_log
from fedrecon.tasks import lower_is_better, measure_of
from fedrecon.training import (
    Execution,
    FederationSettings,
    FlagError,
    changed,
    check_method,
    comparator,
    summary,
)

FEDAVG, ALONE, POOLED, TRIVIAL = "FedAvg", "each alone", "pooled", "without training"


class Training(NamedTuple):
    """What a figure is the result of.

    Attributes:
      settings: of the training.
      start: the way without labels of the model that it starts from; "" for random weights.
      folder: of its runs, in that of the problem.
    """

    settings: TrainSettings
    start: str
    folder: str


def entry_of(row: Row) -> catalog.Entry:
    """The catalog's row."""
    return next(entry for entry in catalog.entries() if entry.survey_row == row.name)


def plan(row: Row, name: str, preset: str, data_dir: str) -> dict[str, Training]:
    """The trainings of a row on a problem by their labels, the row's own first, checked.

    Raises:
      FlagError: a setting does not fit.
    """
    problem = PROBLEMS[name]
    base = _base(problem, preset, data_dir, row.shared)
    own = f"{row.name}-" if row.shared else ""
    algorithm = row.method or entry_of(row).name
    # With settings of the row's own a directory of its own; otherwise it is the plain method's.
    folder = f"{row.name.lower()}" if row.settings or row.start else f"{own}{algorithm}"
    changes = {"algorithm": algorithm, "rounds": base.rounds * row.turns, **row.settings}
    if preset == "smoke":
        changes |= row.smoke
    if base.federation.validate_every:
        changes["validate_every"] = changes["rounds"]
    planned = {row.name: Training(_with(base, changes), row.start, folder)}
    for label, changes in row.rivals.items():
        # Without the public files a problem stands in for the row's own.
        if problem.public and name not in changes.get("on", row.problems):
            continue
        settings = {name: value for name, value in changes.items() if name not in ("start", "on")}
        planned[label] = Training(_with(base, settings), changes.get("start", ""), f"{row.name}-{label}")
    planned |= {label: Training(base, way, f"{own}fedavg-{way}") for label, way in row.starts.items()}
    if preset == "smoke":
        planned = {row.name: planned[row.name]}
    comparators = () if preset == "smoke" else ((ALONE, "local_only"), (POOLED, "centralized"))
    planned[FEDAVG] = Training(base, "", f"{own}fedavg")
    for label, method in comparators:
        alone = changed(base, federation=comparator(base.federation, method))
        planned[label] = Training(alone, "", f"{own}{method}")
    for label, training in planned.items():
        # The model that it starts from is not there yet.
        settings = changed(training.settings, initialize_from="pretraining" if training.start else "")
        try:
            check_settings(settings)
            check_method(settings.federation, (settings.task,))
        except FlagError as error:
            raise error.renamed("algorithm", f"{row.name}: {label}") from error
    return {label: training._replace(folder=_words(training.folder)) for label, training in planned.items()}


def solve(
    row: Row, name: str, preset: str, data_dir: str, workdir: Path, seeds: Sequence[int], **execution: Any
) -> dict[str, Any]:
    """Trains what is not yet trained of a row on a problem; its figures, ready for JSON.

    Args:
      row: of the review.
      name: of the problem.
      preset: of sizes.
      data_dir: of the public files.
      workdir: of the survey.
      seeds: of the trainings.
      **execution: as in `sweep.trainings`.
    """
    problem, planned = PROBLEMS[name], plan(row, name, preset, data_dir)
    place = workdir / name
    own: dict[str, dict[int, float]] = {label: {} for label in planned}
    worst: dict[str, dict[int, float]] = {label: {} for label in planned}
    costs: dict[str, list[tuple[float, ...]]] = {label: [] for label in planned}
    settings_of: dict[str, dict[int, TrainSettings]] = {label: {} for label in planned}
    folders: dict[str, dict[int, Path]] = {label: {} for label in planned}
    load = functools.partial(_data, problem, tuple(seeds))
    for label, training in planned.items():
        for seed in seeds:
            settings, way = with_seed(training.settings, seed), training.start
            if way:
                before = place / "pretraining" / way / f"seed-{seed}"
                settings = started(settings, load, before, Execution(**execution), way)
            (done,) = sweep.trainings(
                {label: settings},
                [seed],
                lambda _, seed, folder=training.folder: place / folder / f"seed-{seed}",
                load=load,
                **execution,
            )
            settings_of[label][seed], folders[label][seed] = done.settings, done.folder
            scores = done.results.unseen if problem.unseen else done.results.own
            own[label][seed], worst[label][seed] = summary(scores, problem.metric)
            clock = [
                record["clock"] for record in read_log(done.folder / "metrics.jsonl") if "clock" in record
            ]
            sent = done.results.bytes_up + done.results.bytes_down
            costs[label].append((sent, clock[-1] if clock else math.nan, seconds_of(done)))
    lower = lower_is_better(problem.metric)
    differences, worsts = (
        reporting.compare_values(values, FEDAVG, "own", lower_is_better=lower) for values in (own, worst)
    )
    rows = {}
    for found, least in zip(differences, worsts, strict=True):
        sent, clock, seconds = (
            sum(column) / len(column) for column in zip(*costs[found.method], strict=True)
        )
        rows[found.method] = {
            "values": {str(seed): value for seed, value in found.values.items()},
            "interval": found.interval._asdict(),
            "difference": found.difference._asdict() if found.difference else {},
            "verdict": found.verdict,
            "worst": least.interval.mean,
            "worst_difference": least.difference._asdict() if least.difference else {},
            "bytes": sent,
            "clock": clock,
            "seconds": seconds,
        }
    if not row.comparable:
        rows[row.name] |= {"difference": {}, "verdict": "another score", "worst_difference": {}}
    runs = survey_besides.Runs(settings_of, folders, load, problem.metric, place, execution)
    return {
        "row": row.name,
        "problem": name,
        "metric": problem.metric,
        "rows": rows,
        "besides": _besides(row, problem, runs, preset),
        "trivial": _trivial(problem, planned[FEDAVG], place, load, seeds),
    }


def _besides(row: Row, problem: Problem, runs: survey_besides.Runs, preset: str) -> survey_besides.Figures:
    """What is measured besides; visits, which are trainings of their own, not at smoke size."""
    found: survey_besides.Figures = {}
    if problem.wrong:
        labels = [label for label in runs.settings if label not in (ALONE, POOLED)]
        found |= survey_besides.weights(runs, labels)
    if row.besides and (preset != "smoke" or row.besides != "visits"):
        found |= survey_besides.MEASURES[row.besides](runs, row.name, FEDAVG)
    return found


def _base(problem: Problem, preset: str, data_dir: str, shared: Mapping[str, Any]) -> TrainSettings:
    sizes = {"smoke": {k: v for k, v in SMOKE.items() if k in problem.settings or k == "epochs"},
             "full": problem.full}.get(preset, {})  # fmt: skip
    values = {**problem.settings, **({"data_dir": data_dir} if problem.public else {}), **sizes}
    if "validate_every" in values:
        values["validate_every"] = values["rounds"]
    return _with(changed(TrainSettings(), **values), shared)


def _with(base: TrainSettings, changes: Mapping[str, Any]) -> TrainSettings:
    """The settings with changes; private batches have a size of their own."""
    if changes.get("dp_epsilon"):
        batch = {"dp_batch_size": base.batch_size, "dp_microbatch_size": 1}
        base, changes = changed(base, batch_size=TrainSettings().batch_size), {**batch, **changes}
    return changed(base, **changes)


def _data(problem: Problem, seeds: tuple[int, ...], settings: TrainSettings) -> FederatedData:
    """The data of a problem and a seed, in arrays of the same shapes for all of the seeds.

    What differs between trainings on a problem, such as the method, does not matter to them.
    """
    plain = changed(settings, federation=FederationSettings(), norm="instance", batch_size=1)
    how = (problem.labels, problem.unseen, problem.wrong)
    each = {seed: _loaded(*how, with_seed(plain, seed)) for seed in seeds}
    parts = [
        part for part in ("train", "validation", "test") if getattr(each[settings.seed], part) is not None
    ]
    widths = {part: max(getattr(data, part).valid.shape[1] for data in each.values()) for part in parts}
    return pad_examples(each[settings.seed], **widths)


@functools.lru_cache(maxsize=16)
def _loaded(labels: float, unseen: bool, wrong: tuple[str, ...], settings: TrainSettings) -> FederatedData:
    data = load_data(settings)
    if unseen:
        names = data.train.names
        data = without_site(data, names[settings.seed % len(names)])
    if wrong:
        client = survey_besides.wrong_site(settings.seed, data.train.clients)
        data = survey_besides.wrong_masks(data, wrong, client)
    return few_labels(data, labels, settings.seed)


def _trivial(
    problem: Problem,
    plain: Training,
    place: Path,
    load: Callable[[TrainSettings], FederatedData],
    seeds: Sequence[int],
) -> float:
    """The mean over seeds of the score of what needs no training; NaN where none is known; kept in a file."""
    scores = []
    for seed in seeds:
        # Rows that share settings of their own may have other data.
        file = place / plain.folder / f"seed-{seed}" / "untrained.json"
        if not file.exists():
            of_seed = with_seed(plain.settings, seed)
            sweep.write_json(file, _untrained(problem, of_seed, load(of_seed)))
        found = json.loads(file.read_text())
        scores.append(math.nan if found is None else found)
    return sum(scores) / len(scores)


def _untrained(problem: Problem, settings: TrainSettings, data: FederatedData) -> float:
    """The most frequent class in training, everything marked, or the zero-filled image."""
    test = data.unseen if data.unseen is not None and problem.unseen else data.test
    if settings.task == "reconstruction":
        split = Split(data.train, data.test, test)
        found = classical(measure_of(test.examples), split, physics_of(test.examples), tuned=False)[0]
        return summary(next(iter(found.values())), problem.metric)[0]
    if settings.task == "classification":
        label = data.train.examples["label"]
        frequent = np.bincount(np.asarray(label)[np.asarray(data.train.valid)]).argmax()
        right = [
            np.mean(np.asarray(x)[ok] == frequent)
            for x, ok in zip(test.examples["label"], test.valid, strict=True)
        ]
        return {"accuracy": float(np.mean(right)), "auc": 0.5}.get(problem.metric, math.nan)
    if settings.task == "segmentation":
        masks, volumes = (np.asarray(test.examples[name]) for name in ("segmentation", "volume"))
        found = []
        for mask, volume, ok in zip(masks, volumes, np.asarray(test.valid), strict=True):
            parts = [mask[ok & (volume == number)] > 0 for number in np.unique(volume[ok])]
            dice = [2 * part.sum() / (part.sum() + part.size) for part in parts if part.any()]
            found += [np.mean(dice)] if dice else []
        return float(np.mean(found))
    return math.nan


def _words(folder: str) -> str:
    """A name of a directory: lower case, digits and hyphens."""
    return "-".join(re.findall(r"[a-z0-9_]+", folder.lower()))
