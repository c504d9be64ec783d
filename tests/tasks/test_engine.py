"""A task inside the compiled federated round, on four devices and on one."""

import jax
import numpy as np
import optax
import pytest

from fedrecon.data import stack_clients
from fedrecon.federated import client_mesh, fedavg, fedbn, init_state, make_evaluate, make_round
from fedrecon.models import BatchNorm, UNet, VarNet
from fedrecon.tasks import mri_measure, reconstruction_task, segmentation_task

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
    """Variables and metrics after two rounds on four devices and on one."""
    data = cohort()
    example = {name: a[0] for name, a in data.examples.items()}
    task = segmentation_task(UNet(2, 0, norm=BatchNorm), example)
    algorithm = fedbn(task, optax.sgd(0.1))

    def run(mesh):
        state = init_state(algorithm, task.init(jax.random.key(0)), data, mesh)
        advance = make_round(algorithm, batch_size=2, epochs=1, mesh=mesh)
        for _ in range(2):
            state, _ = advance(state, data, jax.random.key(1))
        scores = make_evaluate(algorithm, task.metrics, mesh=mesh)(state, data)
        return jax.device_get((state.variables, state.private, scores))

    return run(client_mesh()), run(None)


@pytest.mark.slow
def test_sharding_changes_nothing(outcome):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *outcome)


@pytest.mark.slow
def test_every_valid_example_is_counted(outcome):
    scores = outcome[0][2]
    np.testing.assert_array_equal(scores["dice"][1], [3, 2, 1, 0])
    np.testing.assert_array_equal(scores["hd95"][0][-1], 0)


def measured_cohort():
    rng = np.random.default_rng(1)

    def normal(*shape):
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)

    shape = (CLIENTS, EXAMPLES)
    mask = (rng.random((*shape, 1, N)) < 0.5).astype(np.float32) * np.ones((N, 1), np.float32)
    target = np.abs(normal(*shape, N, N))
    examples = {
        "mask": mask,
        "coil_maps": normal(*shape, 2, N, N) / 2,
        "kspace": normal(*shape, 2, N, N) * mask[:, :, None],
        "target": target,
        "data_range": target.max((2, 3)),
        "volume": np.zeros(shape, np.int32),
    }
    return stack_clients(
        [{k: x[i] for k, x in examples.items()} for i in range(CLIENTS)], ["a", "b", "c", "d"]
    )


@pytest.mark.slow
def test_reconstruction_trains_alike_however_the_clients_run():
    data = measured_cohort()
    task = reconstruction_task(VarNet(2, 2, 0), mri_measure, {k: x[0] for k, x in data.examples.items()})
    algorithm = fedavg(task, optax.sgd(0.1))

    def train(parallel, devices):
        mesh = client_mesh(jax.devices()[:devices])
        state = init_state(algorithm, task.init(jax.random.key(0)), data, mesh)
        advance = make_round(algorithm, batch_size=2, epochs=1, mesh=mesh, parallel=parallel)
        state, info = advance(state, data, jax.random.key(1))
        return jax.device_get((state.variables.params, info.metrics["loss"]))

    expected = train("scan", 1)
    for parallel, devices in (("vmap", 2), (2, 1)):
        found = train(parallel, devices)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
