"""What rows of the review are measured by besides their scores: weights, forgetting, copies and agreement."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.pipeline import streams
from experiments.pipeline.federated_data import FederatedData, make_task
from experiments.pipeline.federated_settings import TrainSettings
from fedrecon import reporting
from fedrecon.data import ClientData
from fedrecon.evaluation import kappa, memorization
from fedrecon.federated.methods.fedsim import PAIRS
from fedrecon.federated.methods.fedvss import least_smooth, most_certain
from fedrecon.runtime import read_log
from fedrecon.tasks import lower_is_better
from fedrecon.training import Execution, FederationSettings, changed, example_of, model_files
from fedrecon.training.streams import Block, Member
from fedrecon.types import Task, Variables

# Cycles of visits; averages are scored as often as in that many parts of their rounds.
_CYCLES, _PARTS = 3, 12
# Virtual samples of a client.
_MOST, _SMOOTH = 64, "where the model is least smooth"
# Label -> seed -> number.
Values = Mapping[str, Mapping[int, float]]
# Title -> `figure`.
Figures = dict[str, dict[str, Any]]


class Runs(NamedTuple):
    """The finished trainings of a row on a problem.

    Attributes:
      settings, folders: label -> seed -> settings of the training, and its directory.
      load: ``load(settings) -> FederatedData``.
      metric: of the problem.
      place: a directory for what is trained besides.
      execution: as in `experiments.pipeline.sweep.trainings`.
    """

    settings: Mapping[str, Mapping[int, TrainSettings]]
    folders: Mapping[str, Mapping[int, Path]]
    load: Callable[[TrainSettings], FederatedData]
    metric: str
    place: Path
    execution: Mapping[str, Any]


def figure(values: Values, reference: str = "", *, lower_is_better: bool = False) -> dict[str, Any]:
    """A figure of some labels over seeds, ready for JSON; differences are to the reference, "" for none."""
    rows = reporting.compare_values(values, reference, "own", lower_is_better=lower_is_better)
    found = {
        row.method: {
            "values": {str(seed): value for seed, value in row.values.items()},
            "interval": row.interval._asdict(),
            "difference": row.difference._asdict() if row.difference else {},
            "verdict": row.verdict,
        }
        for row in rows
    }
    return {"reference": reference, "rows": found}


def wrong_site(seed: int, clients: int) -> int:
    """The number of the client whose masks are wrong: another one with every seed."""
    return seed % clients


def wrong_masks(data: FederatedData, parts: Sequence[str], client: int) -> FederatedData:
    """The data with masks of a client that are a quarter of the image away, and no test examples of it."""

    def shifted(part: ClientData) -> ClientData:
        masks = np.array(part.examples["segmentation"])
        masks[client] = np.roll(masks[client], [n // 4 for n in masks.shape[2:]], (1, 2))
        return dataclasses.replace(part, examples={**part.examples, "segmentation": masks})

    scored = np.array(data.test.valid)
    scored[client] = False
    found = {part: shifted(getattr(data, part)) for part in parts if getattr(data, part) is not None}
    return data._replace(test=dataclasses.replace(data.test, valid=scored), **found)


def weights(runs: Runs, labels: Sequence[str]) -> Figures:
    """Of the client whose masks are wrong the weight in the means of all rounds, and its part of examples."""
    share: dict[str, dict[int, float]] = {label: {} for label in labels}
    for label in labels:
        for seed, folder in runs.folders[label].items():
            log = read_log(folder / "metrics.jsonl")
            shown = json.loads((folder / "clock.json").read_text())
            clients = next(iter(shown.values()))["clients"]
            name = list(clients)[wrong_site(seed, len(clients))]
            told = [record["coefficients"][name] for record in log if "coefficients" in record]
            share[label][seed] = float(np.mean(told)) if told else clients[name]["share"]
    return {"weight of the site with wrong masks": figure(share)}


def schedules(rounds: int, sites: Sequence[str], seed: int) -> dict[str, tuple[Block, ...]]:
    """The blocks of averaging, of cycles of visits and of one visit each, of as many rounds of every site.

    Sites are visited in another order in every cycle and with every seed.
    """

    def parts(count: int) -> list[int]:
        """The rounds in as many parts, or fewer."""
        ends = [rounds * k // count for k in range(count + 1)]
        return [n for n in np.diff(ends).tolist() if n]

    rng = np.random.default_rng([seed, 61])

    def visits(count: int) -> tuple[Block, ...]:
        return tuple(Block((Member(sites[i]),), n) for n in parts(count) for i in rng.permutation(len(sites)))

    averaged = tuple(Block(tuple(map(Member, sites)), n) for n in parts(_PARTS))
    return {"averaged (FL)": averaged, "in cycles (CIIL)": visits(_CYCLES), "once (IIL)": visits(1)}


def forgotten(after: np.ndarray, *, lower_is_better: bool = False) -> float:
    """The mean over sites of the best score after any earlier block less the last one; NaN of one block.

    Args:
      after: (blocks, sites), scores after each block.
      lower_is_better: differences get the other sign.
    """
    if len(after) < 2:
        return float("nan")
    signed = -after if lower_is_better else after
    return float(np.mean(signed[:-1].max(0) - signed[-1]))


def visits(runs: Runs, row: str, plain: str) -> Figures:
    """Averages beside visits of as many rounds: scores at the end and of the worst site, and forgetting."""
    last: dict[str, dict[int, float]] = {}
    worst: dict[str, dict[int, float]] = {}
    lost: dict[str, dict[int, float]] = {}
    down = lower_is_better(runs.metric)
    for seed, settings in runs.settings[plain].items():
        data = runs.load(settings)
        name = settings.federation.algorithm
        for label, blocks in schedules(settings.rounds, data.train.names, seed).items():
            plan = streams.Plan({name: settings}, blocks, 0.0, True, runs.metric)
            # "averaged", "in" and "once" are enough of a name.
            folder = runs.place / f"visits-{label.split()[0]}" / f"seed-{seed}"
            found = streams.trained(plan, name, data, seed, folder, Execution(**runs.execution))
            after = np.asarray([[site[runs.metric] for site in scores.values()] for scores in found.domains])
            last.setdefault(label, {})[seed] = float(after[-1].mean())
            worst.setdefault(label, {})[seed] = float(after[-1].max() if down else after[-1].min())
            lost.setdefault(label, {})[seed] = forgotten(after, lower_is_better=down)
    reference = next(iter(last))
    return {
        "at the end": figure(last, reference, lower_is_better=down),
        "worst institution": figure(worst, reference, lower_is_better=down),
        "forgetting": figure(lost, reference, lower_is_better=True),
    }


def agreement(runs: Runs, row: str, plain: str) -> Figures:
    """Kappa of ordered classes, the mean over clients, by the models that clients evaluate with."""
    found: dict[str, dict[str, dict[int, float]]] = {"linear": {}, "quadratic": {}}
    for label, of_seeds in runs.settings.items():
        for seed, settings in of_seeds.items():
            test = runs.load(settings).test
            predict = jax.jit(make_task(settings, example_of(test)).predict)
            models = model_files.read_models(runs.folders[label][seed], settings.federation.algorithm)
            said = [
                np.asarray(predict(*models[1].get(name, models[0]), _examples(test, i))).argmax(-1)
                for i, name in enumerate(test.names)
            ]
            for kind, values in found.items():
                each = [
                    kappa(own[ok], true[ok], kind)
                    for own, true, ok in zip(said, test.examples["label"], test.valid, strict=True)
                ]
                values.setdefault(label, {})[seed] = float(np.nanmean(each))
    return {f"kappa, {kind} weights": figure(values, plain) for kind, values in found.items()}


def simulated(runs: Runs, row: str, plain: str) -> Figures:
    """Whether simulated pairs come nearer to what was trained on than to other patients' images."""
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for seed, settings in runs.settings[row].items():
        data, method = runs.load(settings), settings.federation.algorithm
        own = model_files.read_models(runs.folders[row][seed], method)[1]
        for name, label in (("segmentation", "label maps"), ("image", "images")):
            samples = np.concatenate([model.stats[PAIRS][name] for model in own.values()])
            found.setdefault(label, {})[seed] = _copied(samples, data, name, seed)
    return _copies(found)


def virtual(runs: Runs, row: str, plain: str) -> Figures:
    """The same of virtual samples, which are moved a little from the training images that they are of."""
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for seed, settings in runs.settings[row].items():
        # The method's own options are of its steps alone.
        settings = changed(settings, federation=FederationSettings(algorithm=settings.federation.algorithm))
        data = runs.load(settings)
        task = make_task(settings, example_of(data.train))
        model = model_files.read_models(runs.folders[row][seed], settings.federation.algorithm)[0]
        assert model is not None

        @jax.jit
        def moved(batch: dict, task: Task = task, model: Variables = model) -> dict[str, jax.Array]:
            smooth = least_smooth(task, model, batch, jax.random.key(0), 1.0, 0.1)
            return {_SMOOTH: smooth, "where it is surer": most_certain(task, model, batch, 1.0)}

        samples: dict[str, list[np.ndarray]] = {}
        for client, valid in enumerate(np.asarray(data.train.valid)):
            kept = np.argsort(~valid, kind="stable")[:_MOST]
            batch = {name: x[kept] for name, x in _examples(data.train, client).items()}
            for label, images in moved(batch).items():
                samples.setdefault(label, []).append(np.asarray(images)[batch["valid"]])
        for label, images in samples.items():
            found.setdefault(label, {})[seed] = _copied(np.concatenate(images), data, "image", seed)
    return _copies(found)


MEASURES: Mapping[str, Callable[[Runs, str, str], Figures]] = {
    "visits": visits,
    "agreement": agreement,
    "simulated": simulated,
    "virtual": virtual,
}


def _copies(found: Mapping[str, Mapping[int, tuple[float, float]]]) -> Figures:
    titles = ("nearest image is one of the training, part of samples", "p of as many by chance")
    return {
        title: figure({label: {seed: x[k] for seed, x in of.items()} for label, of in found.items()})
        for k, title in enumerate(titles)
    }


def _copied(samples: np.ndarray, data: FederatedData, name: str, seed: int) -> tuple[float, float]:
    """Of samples the part that is nearest to training data of any client, not to test data, and its p."""
    images, patients = zip(*(_all(part, name) for part in (data.train, data.test)), strict=True)
    found = memorization(samples, *images, groups=patients, seed=seed)
    return found.nearer, found.p_value


def _all(clients: ClientData, name: str) -> tuple[np.ndarray, np.ndarray]:
    """All examples of all clients, and numbers of their patients."""
    valid = np.asarray(clients.valid)
    client, place = np.nonzero(valid)
    own = np.asarray(clients.examples["volume"])[valid] if "volume" in clients.examples else place
    patients = np.unique(np.stack([client, own]), axis=1, return_inverse=True)[1].reshape(-1)
    return np.asarray(clients.examples[name])[valid], patients


def _examples(clients: ClientData, client: int) -> dict[str, np.ndarray]:
    batch = {name: np.asarray(x[client]) for name, x in clients.examples.items()}
    return {**batch, "valid": np.asarray(clients.valid[client])}
