"""From hospitals with labels to one without: federated averaging, and labels that its own model is sure of.

Each hospital in turn has no labels. Its features are brought to mean 0 and variance 1 by its own patients, as
are those of all, which needs none. Scores are of its test patients, of whom nothing is trained on.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.pipeline.heart_groups import Linear
from experiments.pipeline.vertical_training import area_under
from fedrecon import federated as fl
from fedrecon.data import ClientData, stack_clients
from fedrecon.data.measured import Table, read_heart_disease
from fedrecon.reporting import bootstrap_interval
from fedrecon.tasks import module_task
from fedrecon.types import Task, Variables

SOURCES, PSEUDO, ALL = "labels of the others", "and labels it is sure of", "labels of all"
# Parts of the patients, those it is surest of, whom a hospital labels itself after a training.
SURE = (0.5, 0.75)
_ROUNDS, _STEPS, _RATE = 30, 5, 0.1
_HOSPITALS, _PATIENTS, _FEATURES = 4, 150, 6
_RESAMPLES = 1000


def simulated(seed: int) -> Table:
    """Four hospitals with other means of the features, of which two tell; a third of them is for the test."""
    rng = np.random.default_rng([seed, 5])
    site = np.repeat(np.arange(_HOSPITALS), _PATIENTS)
    label = rng.random(len(site)) < np.asarray([0.3, 0.5, 0.5, 0.7])[site]
    told = (label[:, None] - 0.5) * np.asarray([1.2, -0.8, 0, 0, 0, 0])
    shifts = rng.standard_normal((_HOSPITALS, _FEATURES))[site]
    features = told + shifts + rng.standard_normal((len(site), _FEATURES))
    test = np.arange(len(site)) % 3 == 0
    names = tuple(f"hospital {number}" for number in range(_HOSPITALS))
    return Table(features.astype(np.float32), {"label": label.astype(np.float32)}, site, test, names)


def run(problem: str, folder: str, seeds: int) -> dict[str, dict[str, Any]]:
    """{hospital without labels: {row: "auc", "low", "high", "per_seed"}}, over seeds of weights and batches.

    Args:
      problem: "simulated" or "heart".
      folder: of the tables of heart disease.
      seeds: their number.

    Raises:
      DataError, ArgumentError: the tables are missing or of another form.
    """
    table = (simulated(0) if problem == "simulated" else read_heart_disease(folder)).standardized()
    sites = []
    for number in range(len(table.names)):
        part = table.part(number, test=False)
        sites.append({"x": part["x"], "label": part["label"].astype(np.int32)})
    clients = stack_clients(sites, table.names)
    example = {name: x[0, :1] for name, x in clients.examples.items()}
    task = module_task(Linear(2), "cross_entropy", example, inputs=("x",))
    fit = _trainer(task, clients)
    found = {}
    for target, name in enumerate(table.names):
        logits: dict[str, list[np.ndarray]] = {SOURCES: [], PSEUDO: [], ALL: []}
        test = table.part(target, test=True)
        for seed in range(seeds):
            models = _models(task, fit, clients, target, seed)
            for row, model in models.items():
                logits[row].append(_logits(task, model, test["x"]))
        found[name] = {row: _summary(np.stack(x), test["label"] > 0) for row, x in logits.items()}
    return found


Trainer = Callable[[ClientData, int], Variables]


def _models(task: Task, fit: Trainer, clients: ClientData, target: int, seed: int) -> dict[str, Variables]:
    valid, labels = np.asarray(clients.valid), np.asarray(clients.examples["label"])
    others = valid & (np.arange(len(valid)) != target)[:, None]
    model = fit(dataclasses.replace(clients, valid=others), seed)
    models = {SOURCES: model, ALL: fit(clients, seed)}
    for part in SURE:
        logits = _logits(task, model, np.asarray(clients.examples["x"][target]))
        # Of either label as many as it has, so that the more frequent one does not take all.
        sure = np.zeros(len(logits), bool)
        for own in (logits > 0, logits <= 0):
            rows = np.flatnonzero(own & valid[target])
            order = rows[np.argsort(-np.abs(logits[rows]))]
            sure[order[: round(part * len(order))]] = True
        known, guessed = others.copy(), labels.copy()
        known[target], guessed[target] = sure, logits > 0
        told = dataclasses.replace(clients, examples={**clients.examples, "label": guessed}, valid=known)
        model = fit(told, seed)
    return {SOURCES: models[SOURCES], PSEUDO: model, ALL: models[ALL]}


def _trainer(task: Task, clients: ClientData) -> Trainer:
    algorithm = fl.fedavg(task, optax.sgd(_RATE))
    round_ = fl.make_round(algorithm, batch_size=clients.valid.shape[1], steps=_STEPS)
    rounds = fl.run_rounds(round_, _ROUNDS)

    def fit(data: ClientData, seed: int) -> Variables:
        key = jax.random.key(seed)
        state = fl.init_state(algorithm, task.init(key), data)
        return algorithm.release(rounds(state, fl.place(data), key)[0])

    return fit


def _logits(task: Task, model: Variables, x: np.ndarray) -> np.ndarray:
    found = np.asarray(task.predict(*model, {"x": jnp.asarray(x)}))
    return found[:, 1] - found[:, 0]


def _summary(logits: np.ndarray, ill: np.ndarray) -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def area(drawn: np.ndarray, chosen: Any) -> float:
        return float(np.mean([area_under(logits[seed, drawn], ill[drawn]) for seed in chosen]))

    interval = bootstrap_interval(
        lambda drawn: area(drawn, rng.integers(len(logits), size=len(logits))), len(ill), _RESAMPLES
    )
    each = [area_under(own, ill) for own in logits]
    return {"auc": float(np.mean(each)), "low": interval[0], "high": interval[1], "per_seed": each}
