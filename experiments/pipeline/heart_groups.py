"""Diagnosis from the volumes of a heart's cavity: a linear model of all sites, and the ejection fraction."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.pipeline.joint_data import GROUPS, JointData
from fedrecon import federated as fl
from fedrecon.data import ClientData, stack_clients
from fedrecon.reporting import auc
from fedrecon.tasks import module_task
from fedrecon.types import Task, Variables

_ROUNDS = 100


# Task, model, and (2, features) means and deviations of the features.
Model = tuple[Task, Variables, np.ndarray]


class Linear(nn.Module):
    """Logits of the classes."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.classes)(x)


def features(diastole: float, systole: float) -> np.ndarray:
    """What tells groups: logarithms of the two volumes and the fraction that is ejected, (3,) float32."""
    fraction = (diastole - systole) / max(diastole, 1.0)
    return np.asarray([np.log(diastole + 1), np.log(systole + 1), fraction], np.float32)


def train(data: JointData) -> Model:
    """A linear model of the expert masks of the training patients, by federated averaging."""
    sites = []
    for site, names in enumerate(data.patients["train"]):
        valid = np.asarray(data.train.valid[site])
        entries = {k: np.asarray(v[site])[valid] for k, v in data.train.examples.items()}
        rows = [_reference(entries, number) for number in range(len(names))]
        groups = [GROUPS.index(data.groups[name]) for name in names]
        sites.append({"x": np.stack(rows), "label": np.asarray(groups, np.int32)})
    return fit(sites, data.train.names, len(GROUPS))


def fit(
    sites: Sequence[Mapping[str, np.ndarray]], names: Sequence[str], classes: int, decay: float = 0.0
) -> Model:
    """A linear model of features that are brought to one scale, by federated averaging.

    Args:
      sites: "x" (patients, features) and "label" (patients,) of each.
      names: of the sites.
      classes: number of labels.
      decay: of the weights.

    Returns:
      (task, model, (2, features) means and deviations of the features, which are sums over sites).
    """
    every = np.concatenate([site["x"] for site in sites])
    scale = np.stack([every.mean(0), every.std(0) + 1e-6])
    own = [{**site, "x": (site["x"] - scale[0]) / scale[1]} for site in sites]
    clients: ClientData = stack_clients(own, names)
    example = {name: x[0, :1] for name, x in clients.examples.items()}
    task = module_task(Linear(classes), "cross_entropy", example, inputs=("x",))
    optimizer = optax.sgd(0.3)
    if decay:
        optimizer = optax.chain(optax.add_decayed_weights(decay), optimizer)
    algorithm = fl.fedavg(task, optimizer)
    state = fl.init_state(algorithm, task.init(jax.random.key(0)), clients)
    round_ = fl.make_round(algorithm, batch_size=clients.valid.shape[1], epochs=1)
    state, _ = fl.run_rounds(round_, _ROUNDS)(state, fl.place(clients), jax.random.key(0))
    return task, algorithm.release(state), scale


def _reference(entries: Mapping[str, np.ndarray], number: int) -> np.ndarray:
    here = entries["volume"] == number
    area = (entries["segmentation"][here] > 0).sum((1, 2))
    late = entries["systole"][here] > 0
    return features(float(area[~late].sum()), float(area[late].sum()))


def diagnose(model: Model, rows: Sequence[Mapping[str, Any]], groups: Mapping[str, str]) -> dict[str, float]:
    """Accuracy of the four groups, area of heart failure by ejection, and its mean error in percent."""
    task, variables, scale = model
    known = [row for row in rows if "volumes" in row]
    if not known:
        return {}
    found = np.stack([features(*row["volumes"][:2]) for row in known])
    true = np.stack([features(*row["volumes"][2:]) for row in known])
    logits = task.predict(*variables, {"x": jnp.asarray((found - scale[0]) / scale[1])})
    names = [groups[row["patient"]] for row in known]
    right = np.asarray(logits).argmax(1) == [GROUPS.index(name) for name in names]
    failing = [name.startswith("HF") for name in names]
    return {
        "accuracy": float(right.mean()),
        "failure_auc": auc(-found[:, 2], np.asarray(failing)),
        "ejection_error": 100 * float(np.abs(found[:, 2] - true[:, 2]).mean()),
    }
