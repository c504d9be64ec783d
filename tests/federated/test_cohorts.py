"""Sampled clients, gathered before they compute: the same round at the cost of the cohort."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.cohorts import largest_cohort

CLIENTS, COUNT = 12, 3


def data_of(fx, clients):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.5, 2, clients), rng.normal(size=(clients, 2))
    return fx.quad_data(a.astype(np.float32), b.astype(np.float32), np.arange(clients) % 5 + 1)


@functools.cache
def run(fx, gathered, clients=CLIENTS, devices=1, parallel="scan"):
    """Three rounds of SCAFFOLD with clients' own momentum: (state, infos), all rows of all clients."""
    sampler = fl.uniform_clients(COUNT)
    whole = functools.partial(lambda sampler, *arguments: sampler(*arguments), sampler)
    mesh = fl.client_mesh(jax.devices()[:devices])
    assert (largest_cohort(sampler, clients, mesh) is not None) and largest_cohort(
        whole, clients, mesh
    ) is None
    algorithm = fl.federated(
        fx.quad,
        optax.sgd(0.05, momentum=0.5),
        method=fl.control_variates(0.05),
        keep_optimizer=True,
        channel=fl.chain(fl.clip(0.3)),
        sampler=sampler if gathered else whole,
    )
    return fx.trajectory(fx.quad, algorithm, 3, key=5, mesh=mesh, parallel=parallel)(data_of(fx, clients))


@pytest.mark.slow
def test_one_after_another_the_bits_are_those_of_all_clients(fx):
    fx.assert_equal(run(fx, True), run(fx, False))


@pytest.mark.parametrize(
    ("clients", "devices", "parallel"),
    [
        (CLIENTS, 3, "vmap"),
        pytest.param(CLIENTS, 3, "scan", marks=pytest.mark.slow),
        pytest.param(9, 1, "vmap", marks=pytest.mark.slow),
        pytest.param(9, 1, 2, marks=pytest.mark.slow),
    ],
)
def test_on_several_devices_and_at_once_the_numbers_are_the_same(fx, clients, devices, parallel):
    fx.assert_close(run(fx, True, clients, devices, parallel), run(fx, False, clients), 1e-6)


def test_absent_clients_keep_what_they_have(fx):
    states, infos = run(fx, True)
    rows = jax.tree.leaves((states.client, states.client_channel, states.private))
    assert {x.shape[:2] for x in rows} == {(3, CLIENTS)}
    before, present = np.zeros(CLIENTS, int), np.asarray(infos.participated)
    assert (present.sum(1) == COUNT).all() and not present[:, 0].all()
    for number in range(3):
        for x in rows:
            old = np.asarray(x[number - 1]) if number else np.zeros(x.shape[1:])
            np.testing.assert_array_equal(x[number][~present[number]], old[~present[number]])
            assert (x[number][present[number]] != old[present[number]]).any(1).all()
        before = before + present[number]
        np.testing.assert_array_equal(states.history.participations[number], before)
        # Reports are at the places of the clients' numbers.
        np.testing.assert_array_equal(infos.bytes_up[number] > 0, present[number])
        steps = (np.arange(CLIENTS) % 5 + 1) * present[number]
        np.testing.assert_array_equal(infos.client_metrics["steps"][0][number], steps)


def test_a_second_round_of_others_does_not_compile(fx, compiled):
    algorithm = fl.fedavg(fx.quad, optax.sgd(0.05), sampler=fl.uniform_clients(COUNT))
    mesh = fl.client_mesh(jax.devices()[:3])
    data = fl.place(data_of(fx, 12), mesh)
    round = fl.make_round(algorithm, batch_size=1, epochs=1, mesh=mesh)
    state, cohorts = fl.init_state(algorithm, fx.quad.init(None), data, mesh), set()
    for _ in range(3):
        state, info = round(state, data, jax.random.key(3))
        cohorts.add(tuple(np.flatnonzero(info.participated)))
    assert len(cohorts) > 1 and compiled("round") == 1
    assert jnp.isfinite(state.variables.params["w"]).all()
