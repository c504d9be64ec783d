"""Whole experiments on the quadratics of tests/federated, which compile in a second."""

import jax
import numpy as np

from experiments.pipeline import federated_run
from experiments.pipeline.federated_data import FederatedData
from experiments.pipeline.federated_settings import TrainSettings
from fedrecon.data import ClientData
from fedrecon.runtime import Workdir, read_log
from fedrecon.training.options import flat
from fedrecon.types import Variables
from tests.federated.conftest import QUAD, quad_data

SETTINGS = TrainSettings(rounds=3, batch_size=1, learning_rate=0.05)
START = np.array([0.3, -0.7], np.float32)
TASK = QUAD._replace(init=lambda key: Variables({"w": jax.numpy.asarray(START)}, {}))


def clients(**data) -> FederatedData:
    """Clients a, b, c, ... of `quad_data`, the same examples for training and testing."""
    arrays = jax.tree.map(np.asarray, quad_data(**data))
    names = tuple("abcdefghijklmnop"[: len(arrays.valid)])
    both = ClientData(arrays.examples, arrays.valid, names)
    return FederatedData(both, both, both, arrays.valid.sum(1, keepdims=True), ("all",), "")


def run(monkeypatch, folder, settings, data=None, **execution):
    """``(results, cost, log)`` of `federated_run.run`."""
    monkeypatch.setattr(federated_run, "make_task", lambda settings, example, chosen: TASK)
    monkeypatch.setattr(federated_run, "save_partition_plot", lambda *arguments, **options: None)
    with Workdir(folder, flat(settings)) as workdir:
        results, cost = federated_run.run(
            settings, workdir, data=data or clients(), **{"parallel": "scan", **execution}
        )
    return results, cost, read_log(folder / "metrics.jsonl")
