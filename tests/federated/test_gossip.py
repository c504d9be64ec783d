"""Peer-to-peer mixing: means are preserved, distances contract, and only neighbors talk."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.topologies.gossip import (
    consensus_distance,
    make_gossip_round,
    metropolis_weights,
    mixing_matrix,
    peer_to_peer,
)
from fedrecon.types import Variables

KEY = jax.random.key(3)
START = Variables({"w": jnp.array([0.3, -0.7])}, {})


def run(algorithm, data, variables, rounds, mixing, *, models=None, devices=1, **work):
    work = work or {"batch_size": 1, "epochs": 1}
    mesh = fl.client_mesh(jax.devices()[:devices])
    state = fl.init_state(peer_to_peer(algorithm), variables, data, mesh)
    if models is not None:
        state = state._replace(
            private=jax.device_put(models, jax.tree.map(lambda x: x.sharding, state.private))
        )
    round = make_gossip_round(algorithm, mixing, mesh=mesh, **work)
    states = []
    for _ in range(rounds):
        state, info = round(state, data, KEY)
        states.append(jax.tree.map(jnp.copy, state))
    return states, info


@pytest.mark.slow
def test_the_complete_graph_is_federated_averaging(fx, compiled):
    data, algorithm = fx.quad_data(), fl.fedavg(fx.quad, optax.sgd(0.05), weighting=fl.equal)
    states, info = run(algorithm, data, START, 3, "complete")
    assert compiled("round") == 1
    expected, _ = fx.trajectory(fx.quad, algorithm, 3)(data)
    for number, state in enumerate(states):
        w = np.asarray(state.private.params["w"])
        fx.assert_close(w, np.broadcast_to(expected.variables.params["w"][number], w.shape), 1e-6)
    np.testing.assert_array_equal(info.bytes_up, [3 * 8] * 4)
    np.testing.assert_array_equal(info.bytes_down, [3 * 8] * 4)
    np.testing.assert_array_equal(info.client_metrics["steps"][0], fx.tau)
    mean = fl.average_variables(peer_to_peer(algorithm), states[-1])
    fx.assert_close(mean.params["w"], expected.variables.params["w"][-1], 1e-6)


def still(fx):
    """Training that does not move anything, so that mixing is all there is."""
    return fl.fedavg(fx.quad, optax.sgd(0.0))


@pytest.mark.parametrize(
    "mixing", ["matching", *(pytest.param(x, marks=pytest.mark.slow) for x in ("ring", "directed"))]
)
def test_mixing_preserves_the_mean_and_contracts_the_distance(fx, mixing):
    clients = 5
    if mixing == "directed":
        mixing = 0.6 * np.eye(clients) + 0.4 * np.roll(np.eye(clients), 1, axis=1)
    models = np.random.default_rng(0).normal(size=(clients, 2)).astype(np.float32)
    start = Variables({"w": jnp.asarray(models)}, {})
    data = fx.quad_data(np.ones(clients), np.zeros((clients, 2), np.float32), [1] * clients)
    states, info = run(still(fx), data, START, 4, mixing, models=start)
    found = [models] + [np.asarray(s.private.params["w"]) for s in states]
    distances = [np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean()) for x in found]
    for x in found:
        np.testing.assert_allclose(x.mean(0), models.mean(0), atol=1e-6)
    assert float(consensus_distance(still(fx), states[-1])) == pytest.approx(distances[-1], rel=1e-5)
    if isinstance(mixing, str) and mixing == "matching":
        assert sorted(np.asarray(info.bytes_up)) == [0, 8, 8, 8, 8]
        assert distances[-1] < distances[0]
        pairs = [np.argmin(np.abs(x[:, None] - x[None]).sum(-1) + 9 * np.eye(5), 1) for x in found[1:]]
        assert len({tuple(p) for p in pairs}) > 1
        return
    matrix = mixing_matrix(mixing, clients)
    second = np.linalg.svd(matrix)[1][1]
    for before, after in itertools.pairwise(distances):
        assert after <= second * before * (1 + 1e-5)
    for before, after in itertools.pairwise(found):
        np.testing.assert_allclose(after, matrix @ before, atol=1e-6)
    neighbors = (matrix > 0).sum(0) - 1
    np.testing.assert_array_equal(info.bytes_up, 8 * neighbors)


def test_an_eigenvector_contracts_exactly_by_its_eigenvalue():
    """On a ring of n the second eigenvalue is (1 + 2 cos(2 pi / n)) / 3."""
    wave = np.cos(2 * np.pi * np.arange(6) / 6)
    np.testing.assert_allclose(mixing_matrix("ring", 6) @ wave, (1 + 2 * 0.5) / 3 * wave, atol=1e-12)
    np.testing.assert_array_equal(mixing_matrix("ring", 1), [[1.0]])
    np.testing.assert_array_equal(mixing_matrix("ring", 2), np.full((2, 2), 0.5))
    star = np.zeros((4, 4), bool)
    star[0, 1:] = star[1:, 0] = True
    weights = metropolis_weights(star)
    np.testing.assert_allclose(weights.sum(0), 1)
    np.testing.assert_allclose(weights[0], 0.25)


@pytest.mark.slow
def test_private_leaves_stay(fx):
    data, algorithm = fx.regression_data([5, 3, 1, 4]), fl.fedbn(fx.regression, optax.sgd(0.05))
    variables = fx.regression.init(jax.random.key(0))
    states, info = run(algorithm, data, variables, 1, "complete", batch_size=5, epochs=1)
    models = states[-1].private.params
    np.testing.assert_allclose(models["dense"], np.tile(models["dense"][:1], (4, 1)), atol=1e-6)
    assert len(np.unique(np.asarray(models["norm"]["scale"][:, 0]))) == 4
    np.testing.assert_array_equal(info.bytes_up, [3 * 4 * 3] * 4)


@pytest.mark.slow
def test_devices_do_not_matter(fx):
    data = fx.quad_data()
    one, info = run(fx.averaging, data, START, 2, "ring")
    four, other = run(fx.averaging, data, START, 2, "ring", devices=4)
    fx.assert_close((one[-1], info), (four[-1], other))
    assert not four[-1].private.params["w"].sharding.is_fully_replicated


@pytest.mark.slow
def test_a_client_that_fails_mixes_what_it_had(fx):
    data = fx.quad_data(counts=[1, 1, 1, 0])
    data.examples["b"] = data.examples["b"].at[0].set(jnp.nan)
    states, info = run(fx.averaging, data, START, 1, "complete")
    w = np.asarray(START.params["w"])
    models = [w, *[w - 0.05 * fx.a[i] * (w - fx.b[i]) for i in (1, 2)], w]
    fx.assert_close(states[0].private.params["w"], np.tile(np.mean(models, 0), (4, 1)), 1e-6)
    np.testing.assert_array_equal(info.excluded, [True, False, False, False])


@pytest.mark.parametrize(
    ("mixing", "message"),
    [
        ("star", "mixing: expected .ring."),
        (np.eye(3), "mixing: expected a matrix of shape"),
        (np.full((4, 4), 0.3), "mixing: expected entries"),
        (np.eye(4) * 2 - 0.25, "mixing: expected entries"),
    ],
)
def test_other_matrices_are_refused(fx, mixing, message):
    with pytest.raises(ValueError, match=message):
        run(fx.averaging, fx.quad_data(), START, 1, mixing)


def test_a_state_without_a_model_per_client_is_refused(fx):
    data = fx.quad_data()
    round = make_gossip_round(fx.averaging, batch_size=1, epochs=1)
    with pytest.raises(ValueError, match="state: expected a model for each client"):
        round(fl.init_state(fx.averaging, START, data), data, KEY)
    with pytest.raises(ValueError, match=r"algorithm\.channel"):
        run(fx.averaging._replace(channel=fl.chain(fl.clip(1.0))), data, START, 1, "ring")
    with pytest.raises(ValueError, match="adjacency"):
        metropolis_weights(np.eye(3, k=1))
