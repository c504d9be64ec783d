"""FLamby's protocol on clinical tables: data, models, budgets and hyperparameters, and its published rows.

Taken from https://github.com/owkin/FLamby at edacf54: batches of 4 or 8, 100 local steps a round, and as many
rounds as pooled epochs allow. Every method starts from the weights that torch draws for the seed.
"""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrecon import federated as fl
from fedrecon.catalog import RATES
from fedrecon.data import ClientData, stack_clients
from fedrecon.data.formats import DataError
from fedrecon.data.measured import Table, read_heart_disease, read_tcga_brca
from fedrecon.errors import ArgumentError
from fedrecon.tasks import cox_task, module_task
from fedrecon.training import method as catalog_entry
from fedrecon.types import Task, Variables

STEPS = 100


class Protocol(NamedTuple):
    """One data set of the benchmark.

    Attributes:
      read: reads the table from a folder.
      metric: of the test, the name in the task's metrics.
      batch_size: of local steps.
      rounds: of federated training.
      epochs: of pooled training and of each site alone, by Adam.
      rate: of that Adam.
      standardize: whether features are standardized.
      methods: method -> options: ``learning_rate`` of the clients and the recipe's own.
    """

    read: Callable[[str], Table]
    metric: str
    batch_size: int
    rounds: int
    epochs: int
    rate: float
    standardize: bool
    methods: Mapping[str, Mapping[str, float]]


def _adaptive(rate: float, server_rate: float) -> dict[str, float]:
    decays = {"first_decay": 0.9, "second_decay": 0.999, "floor": 1e-8}
    return {"learning_rate": rate, "server_learning_rate": server_rate, **decays}


PROTOCOLS = {
    "heart": Protocol(
        read_heart_disease, "accuracy", 4, 486 // 4 // 4 * 50 // STEPS, 50, 1e-3, True,
        {
            "fedavg": {"learning_rate": 1e-3},
            "fedprox": {"learning_rate": 1e-3, "strength": 0.01},
            "scaffold": {"learning_rate": 1e-3},
            "fedadam": _adaptive(0.01, 0.01),
            "fedyogi": _adaptive(0.003162, 0.01),
            "fedadagrad": _adaptive(0.003162, 0.316228),
            "cyclic": {"learning_rate": 0.01},
        },
    ),
    "tcga_brca": Protocol(
        read_tcga_brca, "concordance", 8, 866 // 6 // 8 * 30 // STEPS, 30, 0.1, False,
        {
            "fedavg": {"learning_rate": 0.1},
            "fedprox": {"learning_rate": 0.1, "strength": 0.1},
            "scaffold": {"learning_rate": 0.01},
            "fedadam": _adaptive(0.01, 0.1),
            "fedyogi": _adaptive(0.01, 0.1),
            "fedadagrad": _adaptive(0.01, 1.0),
            "cyclic": {"learning_rate": 0.01},
        },
    ),
}  # fmt: skip
METHODS = ("pooled", "local", *PROTOCOLS["heart"].methods, "cyclic_published")
_PUBLISHED = {
    "Pooled Training": "pooled", "FedAvg100": "fedavg", "FedProx100": "fedprox", "Scaffold100": "scaffold",
    "FedAdam100": "fedadam", "FedYogi100": "fedyogi", "FedAdagrad100": "fedadagrad", "Cyclic100": "cyclic",
}  # fmt: skip


class Setting(NamedTuple):
    """A data set as the methods get it: training data of the sites and of all, and each site's test."""

    task: Task
    sites: ClientData
    pooled: ClientData
    tests: list[dict[str, jax.Array]]
    features: int


def setting(protocol: Protocol, folder: str) -> Setting:
    """Reads a data set and makes its task."""
    raw = protocol.read(folder)
    table = raw.standardized() if protocol.standardize else raw
    together = raw.standardized(pooled=True) if protocol.standardize else raw
    numbers = range(len(table.names))
    sites = stack_clients([table.part(number, test=False) for number in numbers], table.names)
    pooled = stack_clients([together.part(None, test=False)], ["pooled"])
    tests = []
    for number in numbers:
        part = table.part(number, test=True)
        valid = np.ones(len(part["x"]), bool)
        tests.append({name: jnp.asarray(x) for name, x in {**part, "valid": valid}.items()})
    example = {name: x[0, :1] for name, x in sites.examples.items()}
    if protocol.metric == "concordance":
        task = cox_task(_Linear(), example)
    else:
        task = module_task(
            _Linear(), "binary_cross_entropy", example, inputs=("x",), metrics={"accuracy": _right}
        )
    return Setting(task, sites, pooled, tests, table.features.shape[1])


class _Linear(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(1, name="linear")(x)[:, 0]


def _right(logits: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
    return ((logits > 0) == (batch["label"] > 0.5)).astype(jnp.float32)


def initial_variables(task: Task, features: int, seed: int) -> Variables:
    """The weights of ``torch.nn.Linear(features, 1)`` after ``torch.manual_seed(seed)``.

    Both draw 24 bits of the Mersenne Twister for each number, uniform within 1 / sqrt(features).
    """
    twister = np.random.RandomState(seed)  # seeded as torch seeds its own
    words = twister.randint(0, 2**32, features + 1, dtype=np.uint32)
    uniform = (words & (2**24 - 1)).astype(np.float32) * np.float32(2.0**-24)
    bound = np.float32(1 / np.sqrt(features))
    drawn = uniform * (2 * bound) - bound
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    values = {(features, 1): drawn[:features, None], (1,): drawn[features:]}
    return Variables(jax.tree.map(lambda x: jnp.asarray(values[x.shape]), shapes.params), shapes.stats)


# ``train(seed, setting) -> the model that each site tests``.
Trainer = Callable[[int, Setting], list[Variables]]


def counts(protocol: Protocol, setting: Setting, models: Sequence[Variables]) -> np.ndarray:
    """(sites, 2): of each site's model on its test, the sum and the count of the metric."""
    found = [
        setting.task.metrics(*model, test)[protocol.metric]
        for model, test in zip(models, setting.tests, strict=True)
    ]
    return np.asarray(found, float)


def scores(found: np.ndarray) -> list[float]:
    """The metric at each site from its sum and count; NaN where there is nothing to count."""
    return [float(total / count) if count > 0 else float("nan") for total, count in found]


def trainer(name: str, protocol: Protocol, setting: Setting) -> Trainer:
    """How a method trains; the second seed, or other patients in the same arrays, compile nothing.

    "pooled" is trained on all sites' patients, "local" is each site's own network on its own test, "cyclic"
    is handed on from site to site, and "cyclic_published" what FLamby's code does by that name: every site
    trains a copy of its own, and that of the first is scored.

    Raises:
      ArgumentError: a method that is not in the catalog, or needs something that a table has not.
    """
    task, rate = setting.task, protocol.rate
    if name == "pooled":
        return _rounds(fl.fedavg(task, optax.adam(rate)), protocol, lambda data: data.pooled, epochs=True)
    if name == "local":
        return _rounds(fl.local_only(task, optax.adam(rate)), protocol, epochs=True, own=True)
    if name.startswith("cyclic"):
        return _cyclic(protocol, setting, handed_on=name == "cyclic")
    return _rounds(_recipe(name, protocol, task), protocol, own=catalog_entry(name).personal)


def _recipe(name: str, protocol: Protocol, task: Task) -> fl.FederatedAlgorithm:
    options = dict(protocol.methods.get(name, protocol.methods["fedavg"]))
    rate = options.pop("learning_rate")
    entry = catalog_entry(name)
    if entry.needs or entry.pooled:
        raise ArgumentError("methods", "some that need nothing besides a table", name)
    given = {"optimizer": optax.sgd(rate), "learning_rate": rate}
    return entry.recipe(task, **{key: given[key] for key in RATES[entry.rate]}, **options)


def _rounds(
    algorithm: fl.FederatedAlgorithm,
    protocol: Protocol,
    clients: Callable[[Setting], ClientData] = lambda setting: setting.sites,
    *,
    epochs: bool = False,
    own: bool = False,
) -> Trainer:
    """The protocol's rounds, or one round of its epochs; sites may have models of their own."""
    work = {"epochs": protocol.epochs} if epochs else {"steps": STEPS}
    round = fl.make_round(algorithm, batch_size=protocol.batch_size, **work)

    def train(seed: int, setting: Setting) -> list[Variables]:
        data = fl.place(clients(setting))
        state = fl.init_state(algorithm, initial_variables(setting.task, setting.features, seed), data)
        for _ in range(1 if epochs else protocol.rounds):
            state, _ = round(state, data, jax.random.key(seed))
        if own:
            return [fl.client_variables(algorithm, state, site) for site in range(len(setting.tests))]
        return [algorithm.release(state)] * len(setting.tests)

    return train


def _cyclic(protocol: Protocol, setting: Setting, handed_on: bool) -> Trainer:
    """A visit is a round of the protocol; sites are shuffled for each cycle, of which the last is cut off."""
    clients = setting.sites.clients

    def visited(key: jax.Array, cycle: jax.Array, history: fl.History) -> jax.Array:
        left = protocol.rounds - cycle * clients
        return jax.random.permutation(key, clients) < left

    optimizer = optax.sgd(protocol.methods["cyclic"]["learning_rate"])
    make = fl.fedavg if handed_on else fl.local_only
    algorithm = make(setting.task, optimizer)._replace(sampler=visited)
    cycle = fl.topologies.make_ring_round(
        algorithm, batch_size=protocol.batch_size, steps=STEPS, order="shuffled"
    )

    def train(seed: int, setting: Setting) -> list[Variables]:
        data = fl.place(setting.sites)
        state = fl.init_state(algorithm, initial_variables(setting.task, setting.features, seed), data)
        for _ in range(math.ceil(protocol.rounds / clients)):
            state, _ = cycle(state, data, jax.random.key(seed))
        model = algorithm.release(state) if handed_on else fl.client_variables(algorithm, state, 0)
        return [model] * len(setting.tests)

    return train


def published(path: Path, seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
    """FLamby's own rows of these seeds, as {method: `summary`}; its sites alone as "local".

    Raises:
      DataError: the file has other columns.
    """
    found: dict[str, dict[str, list[float]]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            if set(row) != {"seed", "method", "test", "metric"}:
                raise DataError(path, None, "columns seed, method, test, metric", list(row))
            if int(row["seed"]) not in seeds or not row["test"].startswith("client_test_"):
                continue
            name = _PUBLISHED.get(row["method"])
            if name is None and row["method"] == f"Local {row['test'].removeprefix('client_test_')}":
                name = "local"
            if name:
                found.setdefault(name, {}).setdefault(row["test"], []).append(float(row["metric"]))
    return {
        name: summary([list(seed) for seed in zip(*by_test.values(), strict=True)])
        for name, by_test in found.items()
    }


def summary(values: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Scores (seeds, sites) as their mean over both, by site, and by seed."""
    array = np.asarray(values, float)
    return {
        "mean": float(array.mean()),
        "per_client": array.mean(0).tolist(),
        "per_seed": array.mean(1).tolist(),
    }
