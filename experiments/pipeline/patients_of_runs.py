"""Scores of each test patient by the models of a finished comparison, with their intervals."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import export
from experiments.pipeline.examples import each
from experiments.pipeline.federated_data import FederatedData, load_data
from fedrecon.data import ClientData
from fedrecon.reporting import auc, patient_masks
from fedrecon.training import FlagError, example_of, released_file
from fedrecon.weights import read_weights

DRAWS = 2000


class Patients(NamedTuple):
    """The test patients of one method, site and seed, in the order of their numbers.

    Attributes:
      score: Dice of the mask at 0.5, NaN without a reference; or the probability of the positive class, the
        mean over a patient's images.
      first: pixels that were marked, or the same probability.
      second: pixels of the reference, or 1 for positive patients.
    """

    score: np.ndarray
    first: np.ndarray
    second: np.ndarray


# Method -> seed -> site -> patients.
Found = dict[str, dict[int, dict[str, Patients]]]
Evaluate = Callable[[Any, ClientData], np.ndarray]


def read(workdir: Path) -> tuple[str, Found]:
    """(the task, the patients of all methods and seeds of a comparison); data are read once a seed.

    "NAME, elsewhere" are the models that sites have of their own, each at the other sites: the mean of their
    scores.

    Raises:
      FlagError: there is no finished comparison of segmentations or classifications.
    """
    folders = sorted(workdir.glob("*/seed-*/config.json"))
    if not folders:
        raise FlagError(
            "workdir", "the folder of experiments.compare, with METHOD/seed-N in it", str(workdir)
        )
    found: Found = {}
    data: dict[int, FederatedData] = {}
    for file in folders:
        run = export.read_run(file.parent)
        kind, name = export.stage_of(run, None)
        if kind not in ("segmentation", "classification"):
            raise FlagError("workdir", "a comparison of segmentations or classifications", kind)
        seed = int(run.config["seed"])
        if seed not in data:
            data[seed] = load_data(run.settings)  # type: ignore[arg-type]
        test = data[seed].test
        evaluate = jax.jit(export.task_of(run, kind, example_of(test)).predict)
        kept = released_file(file.parent, name)
        released, own = (
            read_weights(f) if f.exists() else None for f in (kept, kept.with_suffix(".own.npz"))
        )
        home = [released and released[0]] * test.clients
        if own is not None:
            home = [
                jax.tree.map(lambda x, i=i: x[i], own[0]) for i in map(own[1]["clients"].index, test.names)
            ]
        found.setdefault(name, {})[seed] = of_models(kind, evaluate, home, test)
        if released is None:
            foreign = _elsewhere(kind, evaluate, home, test)
            found.setdefault(f"{name}, elsewhere", {})[seed] = foreign
    return kind, found


def of_models(kind: str, evaluate: Evaluate, models: Sequence[Any], test: ClientData) -> dict[str, Patients]:
    """The patients of each site by the site's model; ``kind`` is "segmentation" or "classification"."""
    predicted = each(lambda model, batch: evaluate(*model, batch), models, test)
    valid = np.asarray(test.valid)
    site, _ = np.nonzero(valid)
    volume = np.asarray(test.examples["volume"])[valid]
    truth = np.asarray(test.examples["segmentation" if kind == "segmentation" else "label"])[valid]
    by_site = {}
    for i, name in enumerate(test.names):
        here = site == i
        by_site[name] = _patients(kind, predicted[here], truth[here], volume[here])
    return by_site


def _patients(kind: str, predicted: np.ndarray, truth: np.ndarray, volume: np.ndarray) -> Patients:
    if kind == "segmentation":
        masks = patient_masks(predicted[..., 0] < 0.5, truth, volume)
        return Patients(masks.dice, masks.marked.astype(float), masks.lesion.astype(float))
    numbers, rows = np.unique(volume, return_inverse=True)
    count = np.bincount(rows, minlength=len(numbers))
    said = np.bincount(rows, 1 - predicted[:, 0], len(numbers)) / count
    return Patients(said, said, (np.bincount(rows, truth > 0, len(numbers)) > 0).astype(float))


def _elsewhere(kind: str, evaluate: Evaluate, models: Sequence[Any], test: ClientData) -> dict[str, Patients]:
    everywhere = [of_models(kind, evaluate, [model] * test.clients, test) for model in models]
    found = {}
    for i, name in enumerate(test.names):
        others = [by_site[name] for j, by_site in enumerate(everywhere) if j != i]
        found[name] = mean_of_models(others)
    return found


def mean_of_models(found: Sequence[Patients]) -> Patients:
    """The mean over models of the same patients."""
    return Patients(*(np.mean(parts, 0) for parts in zip(*found, strict=True)))


def score_of(kind: str, patients: Patients) -> float:
    """Mean Dice of the patients that have a reference, or the area under the curve; NaN without any."""
    if kind == "classification":
        return auc(patients.score, patients.second)
    known = patients.score[~np.isnan(patients.score)]
    return float(known.mean()) if len(known) else float("nan")


def interval(
    kind: str, seeds: Mapping[int, Mapping[str, Patients]], sites: Sequence[str]
) -> tuple[float, float, float]:
    """(mean over seeds and sites, and 95 % of bootstrap samples: of seeds, and then of patients of sites)."""
    rng, numbers = np.random.default_rng(0), list(seeds)

    def mean(drawn: Sequence[int], draw: Callable[[Patients], Patients]) -> float:
        values = [score_of(kind, draw(seeds[seed][site])) for seed in drawn for site in sites]
        known = np.asarray(values)[~np.isnan(values)]
        return float(known.mean()) if len(known) else float("nan")

    def again(patients: Patients) -> Patients:
        rows = rng.integers(0, len(patients.score), len(patients.score))
        return Patients(*(array[rows] for array in patients))

    samples = [mean(rng.choice(numbers, len(numbers)), again) for _ in range(DRAWS)]
    low, high = np.nanpercentile(samples, (2.5, 97.5))
    return mean(numbers, lambda patients: patients), float(low), float(high)
