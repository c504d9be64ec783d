"""A task inside the compiled federated round: on four devices, on one, and all clients at once."""

import jax
import numpy as np
import optax
import pytest

from fedrecon.data import stack_clients
from fedrecon.federated import client_mesh, fedavg, init_state, make_evaluate, make_round
from fedrecon.models import BatchNorm, UNet
from fedrecon.tasks import segmentation_task

CLIENTS, EXAMPLES, N = 4, 3, 8


def cohort():
    rng = np.random.default_rng(0)
    segmentation = rng.random((CLIENTS, EXAMPLES, N, N)) < 0.3
    image = segmentation[..., None] + 0.3 * rng.normal(size=(CLIENTS, EXAMPLES, N, N, 1))
    examples = {"image": image.astype(np.float32), "segmentation": segmentation.astype(np.float32)}
    counts = [3, 2, 1, 0]
    clients = [{name: a[i, :n] for name, a in examples.items()} for i, n in enumerate(counts)]
    return stack_clients(clients, ["a", "b", "c", "d"])


@pytest.fixture(scope="module")
def outcome():
    """Variables and metrics of every way to run the same two rounds."""
    data = cohort()
    example = {name: a[0] for name, a in data.examples.items()}
    task = segmentation_task(UNet(2, 1, norm=BatchNorm), example)
    shared = jax.tree.map(lambda own: not own, task.normalisation)
    algorithm = fedavg(task, optax.sgd(0.1))._replace(share_mask=shared)
    ways = {"sharded": (client_mesh(), "scan"), "one device": (None, "scan"), "vmapped": (None, "vmap")}

    def run(mesh, parallel):
        state = init_state(algorithm, task.init(jax.random.key(0)), data, mesh)
        advance = make_round(algorithm, batch_size=2, epochs=1, mesh=mesh, parallel=parallel)
        for _ in range(2):
            state, _ = advance(state, data, jax.random.key(1))
        scores = make_evaluate(algorithm, task.metrics, mesh=mesh, parallel=parallel)(state, data)
        return jax.device_get((state.variables, state.private, scores))

    return {name: run(*way) for name, way in ways.items()}


@pytest.mark.parametrize("way", ["sharded", "vmapped"])
def test_devices_and_vectorisation_change_nothing(outcome, way):
    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)

    jax.tree.map(close, outcome[way], outcome["one device"])


def test_every_valid_example_is_counted(outcome):
    scores = outcome["sharded"][2]
    np.testing.assert_array_equal(scores["dice"][1], [3, 2, 1, 0])
    np.testing.assert_array_equal(scores["hd95"][0][-1], 0)
