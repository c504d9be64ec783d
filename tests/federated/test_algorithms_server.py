"""Adaptive, momentum and fair servers: FedAvgM, FedAdagrad, FedYogi, FedAdam, q-FedAvg, AFL."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.afl import project_simplex
from fedrecon.federated.methods.diloco import diloco
from fedrecon.federated.methods.fedopt import adaptive_server
from fedrecon.types import Variables

RATE = 0.05
UPDATES = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def served(algorithm, updates=UPDATES):
    """Parameters (steps, ...) and states after feeding a server these mean updates."""
    server = getattr(algorithm, "server_optimizer", algorithm)
    update = jax.jit(server.update)
    params, places, states = jnp.zeros(3), [], []
    state = server.init(params)
    for change in updates:
        step, state = update(-jnp.asarray(change), state, params)
        params = params + step
        places.append(params)
        states.append(state)
    return np.stack(places), states


def minmax4(fx):
    """Four scalar quadratics, three at 0 and one at 1."""
    b = np.array([[0.0], [0.0], [0.0], [1.0]], np.float32)
    return fx.quad_data(np.ones(4, np.float32), b, np.ones(4, int)), Variables({"w": jnp.array([0.3])}, {})


@pytest.mark.parametrize(("momentum", "rate"), [(0.9, 1.0), (0.5, 0.3)])
def test_fedavgm_under_a_constant_update(fx, momentum, rate):
    """T rounds move by the update times sum_k (1 - momentum^k) / (1 - momentum)."""
    algorithm = fl.fedavgm(fx.quad, optax.sgd(0.1), momentum=momentum, server_learning_rate=rate)
    places, _ = served(algorithm, np.tile(UPDATES[:1], (8, 1)))
    k = np.arange(1, 9)
    expected = rate * np.cumsum((1 - momentum**k) / (1 - momentum))[:, None] * UPDATES[0]
    np.testing.assert_allclose(places, expected, rtol=1e-5)


def test_fedavgm_dampening_and_nesterov(fx):
    places, _ = served(fl.fedavgm(fx.quad, optax.sgd(0.1), momentum=0.8, dampening=0.8, nesterov=True))
    v, w = np.zeros(3), np.zeros(3)
    for update, place in zip(0.2 * UPDATES, places, strict=True):
        v = 0.8 * v - update
        w = w - (0.8 * v - update)
        np.testing.assert_allclose(place, w, rtol=1e-5, atol=1e-6)


def test_diloco_under_a_constant_update(fx):
    """Nesterov's displacement; moments stay at the client; with neither it is averaging, bit for bit."""
    algorithm = diloco(fx.quad, optax.adam(0.1), momentum=0.9, server_learning_rate=0.7)
    places, _ = served(algorithm, np.tile(UPDATES[:1], (6, 1)))
    velocity = np.cumsum(0.9 ** np.arange(6))
    expected = 0.7 * np.cumsum(1 + 0.9 * velocity)[:, None] * UPDATES[0]
    np.testing.assert_allclose(places, expected, rtol=1e-5)
    variables = Variables({"w": jnp.zeros(2)}, {})
    state = fl.init_state(algorithm, variables, fx.quad_data())
    assert len(jax.tree.leaves(state.client)) > 2
    sent = fl.traffic.round_bytes(algorithm, variables, fx.quad_data())
    assert sent == fl.traffic.round_bytes(fl.fedavg(fx.quad, optax.sgd(0.1)), variables, fx.quad_data())
    plain = diloco(fx.quad, optax.adam(0.1), momentum=0.0, server_learning_rate=1.0)
    kept = fl.fedavg(fx.quad, optax.adam(0.1), keep_optimizer=True)
    ends = [fx.trajectory(fx.quad, a, 2)(fx.quad_data())[0].variables for a in (plain, kept)]
    fx.assert_equal(*ends)


@pytest.mark.parametrize("recipe", ["fedadagrad", "fedyogi", "fedadam"])
def test_adaptive_servers_follow_their_recursions(fx, recipe):
    algorithm = getattr(fl, recipe)(fx.quad, optax.sgd(0.1), server_learning_rate=0.2, floor=0.5)
    places, states = served(algorithm)
    decay = {"fedadagrad": 0.0}.get(recipe, 0.9)
    m, v, w = np.zeros(3), np.full(3, 0.25), np.zeros(3)
    grew = []
    for update, place, state in zip(UPDATES, places, states, strict=True):
        m = decay * m + (1 - decay) * update
        squared = update**2
        if recipe == "fedyogi":
            # By exactly (1 - b2) D^2, up when v < D^2 and down when v > D^2.
            grew.append(v < squared)
            v = np.where(v < squared, v + 0.01 * squared, v - 0.01 * squared)
        else:
            v = v + squared if recipe == "fedadagrad" else 0.99 * v + 0.01 * squared
        w = w + 0.2 * m / (np.sqrt(v) + 0.5)
        np.testing.assert_allclose(state.second, v, rtol=1e-5)
        np.testing.assert_allclose(place, w, rtol=1e-4, atol=1e-6)
    if grew:
        assert np.any(grew) and not np.all(grew)
    assert (np.sign(places[0]) == np.sign(UPDATES[0])).all()


@pytest.mark.parametrize("kind", ["adagrad", "yogi", "adam"])
def test_a_large_floor_makes_adaptive_servers_plain(kind, x64):
    """b1 = 0 and rate s * floor: FedAvg with server rate s / 2, since v begins at the floor's square.

    Adam forgets that beginning, and its rate grows towards s.
    """
    updates = UPDATES.astype(np.float64)
    places, _ = served(adaptive_server(kind, 0.7e8, first_decay=0.0, floor=1e8), updates)
    root = 0.99 ** (np.arange(1, 7) / 2)[:, None] if kind == "adam" else 1.0
    np.testing.assert_allclose(places, np.cumsum(0.7 * updates / (1 + root), 0), rtol=1e-7)


def test_bias_correction_is_that_of_adam():
    places, _ = served(adaptive_server("adam", 0.2, floor=1e-8, bias_correction=True))
    expected, _ = served(optax.adam(0.2, 0.9, 0.99, eps=1e-8))
    np.testing.assert_allclose(places, expected, rtol=1e-4, atol=1e-5)


def run_minmax(fx, algorithm, rounds=400):
    data, variables = minmax4(fx)
    return fx.trajectory(fx.quad, algorithm, rounds)(data, variables)[0]


@pytest.mark.parametrize(
    "fairness", [1.0, pytest.param(0.0, marks=pytest.mark.slow), pytest.param(2.0, marks=pytest.mark.slow)]
)
def test_qfedavg_limit(fx, fairness):
    """Three clients at 0 and one at 1: w = 1 / (1 + 3^(1 / (2 q + 1))), ever closer to the middle."""
    algorithm = fl.qfedavg(fx.quad, optax.sgd(RATE), learning_rate=RATE, fairness=fairness)
    states = run_minmax(fx, algorithm, 800)
    expected = 1 / (1 + 3 ** (1 / (2 * fairness + 1)))
    np.testing.assert_allclose(states.variables.params["w"][-1], expected, atol=2e-4)


@pytest.mark.slow
def test_qfedavg_lessens_the_variance_of_losses(fx):
    data, variances = fx.quad_data(counts=np.full(4, 2)), []
    for fairness in (0.0, 0.5, 1.0, 2.0):
        algorithm = fl.qfedavg(fx.quad, optax.sgd(0.02), learning_rate=0.02, fairness=fairness)
        w = fx.trajectory(fx.quad, algorithm, 1500)(data)[0].variables.params["w"][-1]
        variances.append((0.5 * fx.a * ((w - fx.b) ** 2).sum(1)).var())
    assert (np.diff(variances) < 0).all(), variances


@pytest.mark.slow
def test_qfedavg_without_fairness_is_fedavg_with_equal_weights(fx):
    algorithm = fl.qfedavg(fx.quad, optax.sgd(RATE), learning_rate=RATE, fairness=0.0)
    states, infos = fx.trajectory(fx.quad, algorithm, 5)(fx.quad_data())
    w = np.array([0.3, -0.7])
    for found in states.variables.params["w"]:
        w = (fx.b + (1 - RATE * fx.a[:, None]) ** fx.tau[:, None] * (w - fx.b)).mean(0)
        np.testing.assert_allclose(found, w, rtol=1e-5)
    # The model and one scalar, and the weight.
    np.testing.assert_array_equal(infos.bytes_up, 8 + 4 + 4)


def test_qfedavg_takes_each_clients_own_loss(fx):
    """One round against the paper's formula with losses over all data of every client."""
    algorithm = fl.qfedavg(fx.quad, optax.sgd(RATE), learning_rate=RATE, fairness=2.0)
    states, _ = fx.trajectory(fx.quad, algorithm, 1, batch_size=3, epochs=1)(fx.quad_data())
    w = np.array([0.3, -0.7])
    steps = -(-fx.tau // 3)[:, None]
    local = fx.b + (1 - RATE * fx.a[:, None]) ** steps * (w - fx.b)
    loss = 0.5 * fx.a * ((w - fx.b) ** 2).sum(1)
    d = (w - local) / RATE
    h = 2 * loss * (d**2).sum(1) + loss**2 / RATE
    expected = w - (loss[:, None] ** 2 * d).sum(0) / h.sum()
    np.testing.assert_allclose(states.variables.params["w"][0], expected, rtol=1e-5)


def test_projection_to_the_simplex():
    """Against the nearest point found by bisection on the threshold."""
    for v in np.random.default_rng(1).normal(size=(20, 5)).astype(np.float32):
        low, high = v.min() - 1, v.max()
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if np.maximum(v - middle, 0).sum() > 1 else (low, middle)
        found = project_simplex(v)
        np.testing.assert_allclose(found, np.maximum(v - low, 0), atol=1e-5)
        assert abs(float(found.sum()) - 1) < 1e-5 and (np.asarray(found) >= 0).all()


def test_afl_finds_the_minimax_model(fx):
    """Three clients at 0 and one at 1: the mean model goes to 1/2, and so does the odd one's part."""
    algorithm = fl.afl(fx.quad, optax.sgd(RATE), clients=4, mixture_learning_rate=0.05)
    states = run_minmax(fx, algorithm, 4000)
    released = jax.vmap(algorithm.release)(states)
    w = np.asarray(states.variables.params["w"])
    np.testing.assert_allclose(released.params["w"][-1], 0.5, atol=0.02)
    np.testing.assert_allclose(released.params["w"][99], w[:100].mean(0), rtol=1e-4)
    own = fl.client_variables(algorithm, jax.tree.map(lambda x: x[99], states), 2)
    np.testing.assert_array_equal(own.params["w"], released.params["w"][99])
    mixture = np.asarray(states.exchange)
    np.testing.assert_allclose(mixture[2000:, 3].mean(), 0.5, atol=0.03)
    np.testing.assert_allclose(mixture.sum(1), 1, atol=1e-5)
    assert (mixture >= 0).all()


def test_afl_with_equal_losses_keeps_the_mixture_and_is_fedavg(fx):
    b = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], np.float32)
    data = fx.quad_data(np.ones(4, np.float32), b, np.ones(4, int))
    algorithm = fl.afl(fx.quad, optax.sgd(RATE), clients=4, average=False)
    states, infos = fx.trajectory(fx.quad, algorithm, 2)(data, Variables({"w": jnp.zeros(2)}, {}))
    np.testing.assert_allclose(states.exchange, 0.25, atol=1e-6)
    np.testing.assert_allclose(states.variables.params["w"], 0, atol=1e-6)
    # The model and four losses, and the weight.
    np.testing.assert_array_equal(infos.bytes_up, 8 + 16 + 4)
    np.testing.assert_array_equal(infos.bytes_down, 8 + 16)


def test_a_round_of_afl_is_fedavg_and_evaluation_is_of_the_average(fx):
    """Weights of a quarter each in the first round; clients are evaluated with the mean of the models."""
    data, w = fx.quad_data(counts=[1] * 4), np.array([0.5, -0.2], np.float32)
    algorithm = fl.afl(fx.quad, optax.sgd(RATE), clients=4)
    states, _ = fx.trajectory(fx.quad, algorithm, 2)(data, Variables({"w": jnp.asarray(w)}, {}))
    found = states.variables.params["w"]
    step = (fx.a[:, None] * (w - fx.b)).mean(0)
    np.testing.assert_allclose(found[0], w - RATE * step, rtol=1e-5)
    last = jax.tree.map(lambda x: x[-1], states)
    evaluate = fl.make_evaluate(algorithm, fx.quad.metrics)
    fx.assert_close(evaluate(last, data), evaluate(Variables({"w": found.mean(0)}, {}), data), 1e-6)


def test_errors_name_the_argument(fx):
    sgd = optax.sgd(0.1)
    for match, make in (
        ("momentum", lambda: fl.fedavgm(fx.quad, sgd, momentum=1.0)),
        ("dampening", lambda: fl.fedavgm(fx.quad, sgd, dampening=2.0)),
        ("kind", lambda: adaptive_server("rmsprop", 0.1)),
        ("decays", lambda: fl.fedadam(fx.quad, sgd, second_decay=1.0)),
        ("floor", lambda: fl.fedyogi(fx.quad, sgd, floor=0.0)),
        ("fairness", lambda: fl.qfedavg(fx.quad, sgd, learning_rate=0.1, fairness=-1.0)),
        ("learning_rate", lambda: fl.qfedavg(fx.quad, sgd, learning_rate=0.0)),
        ("clients", lambda: fl.afl(fx.quad, sgd, clients=0)),
        ("mixture_learning_rate", lambda: fl.afl(fx.quad, sgd, clients=4, mixture_learning_rate=0.0)),
    ):
        with pytest.raises(ValueError, match=match):
            make()
