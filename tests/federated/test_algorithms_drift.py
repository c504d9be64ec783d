"""Algorithms against client drift, on objectives with closed forms: FedProx, SCAFFOLD, FedDyn, FedNova."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.local import LocalState
from fedrecon.federated.methods.fednova import gradient_weight
from fedrecon.types import Variables

RATE = 0.05
START = np.array([0.3, -0.7])


def uniform_optimum(fx):
    return (fx.a[:, None] * fx.b).sum(0) / fx.a.sum()


def weighted(k, b):
    return (k[:, None] * b).sum(0) / k.sum()


def start(w=START):
    return Variables({"w": jnp.asarray(w, jnp.float32)}, {})


@pytest.mark.parametrize("strengths", [(2.0,), pytest.param((0.1, 0.5, 5.0), marks=pytest.mark.slow)])
def test_fedprox_solves_the_proximal_problem(fx, strengths):
    """w_i = (a_i b_i + mu w) / (a_i + mu), the nearer to w the larger mu."""
    lengths = [np.linalg.norm(fx.b - START, axis=1)]
    for strength in strengths:
        algorithm = fl.fedprox(fx.quad, optax.sgd(0.1), strength=strength)
        result = fx.alone(algorithm.client, fx.quad_data(), start(), steps=200)
        a = fx.a[:, None]
        expected = (a * fx.b + strength * START) / (a + strength)
        np.testing.assert_allclose(result.variables.params["w"], expected, rtol=1e-4, atol=1e-5)
        lengths.append(np.linalg.norm(result.delta.params["w"], axis=1))
    assert (np.diff(lengths, axis=0) < 0).all()


@pytest.mark.slow
def test_fedprox_fixed_point(fx):
    algorithm = fl.fedprox(fx.quad, optax.sgd(0.2), strength=0.5, weighting=fx.fixed_weights)
    states, _ = fx.trajectory(fx.quad, algorithm, 40, batch_size=1, steps=100)(fx.quad_data())
    expected = weighted(fx.p * fx.a / (fx.a + 0.5), fx.b)
    np.testing.assert_allclose(states.variables.params["w"][-1], expected, rtol=1e-4)


@pytest.mark.slow
def test_fedprox_is_the_gradient_of_its_penalty(fx):
    def penalty(params, stats, batch, memory, context, key):
        away = jax.tree.map(jnp.subtract, params, context.received.params)
        return 0.35 * optax.tree.norm(away, squared=True), ()

    data, variables = fx.regression_data([6, 4]), fx.regression.init(jax.random.key(0))
    updates = (
        fl.fedprox(fx.regression, optax.adam(0.05), strength=0.7).client,
        fl.local_training(fx.regression.loss, optax.adam(0.05), fl.Method(penalty=penalty)),
    )
    fx.assert_close(*(fx.alone(u, data, variables, steps=5, batch_size=2) for u in updates))


@pytest.mark.parametrize("option", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_scaffold_converges_to_the_uniform_optimum(fx, option):
    """With 2 of 4 clients and unequal steps, c being the mean of all c_i after every round."""
    sampler = fl.uniform_clients(2)
    algorithm = fl.scaffold(fx.quad, RATE, option=option, sampler=sampler)
    # Rounding accumulates in option 1, where c is a sum of differences of gradients.
    kind = np.float64 if option == 1 else np.float32
    with jax.enable_x64(option == 1):
        data = fx.quad_data(fx.a.astype(kind), fx.b.astype(kind))
        start = Variables({"w": jnp.array([0.3, -0.7], kind)}, {})
        states, infos = jax.tree.map(np.asarray, fx.trajectory(fx.quad, algorithm, 600)(data, start))
    own = states.client.method["w"]
    np.testing.assert_allclose(states.exchange["w"], own.mean(1), atol=1e-6)
    optimum = uniform_optimum(fx)
    np.testing.assert_allclose(states.variables.params["w"][-1], optimum, atol=1e-3)
    np.testing.assert_allclose(own[-1], fx.a[:, None] * (optimum - fx.b), atol=5e-3)
    model = 2 * np.dtype(kind).itemsize
    assert set(infos.bytes_up.ravel().tolist()) == {0, 2 * model + 4}
    assert set(infos.bytes_down.ravel().tolist()) == {0, 2 * model}


@pytest.mark.slow
def test_scaffold_begins_as_fedavg_and_goes_elsewhere(fx):
    """Control variates are zero in the first round; without them unequal steps have a bias."""
    options = {"weighting": fl.equal, "sampler": fl.uniform_clients(2)}
    w = [
        fx.trajectory(fx.quad, algorithm, 600)(fx.quad_data())[0].variables.params["w"]
        for algorithm in (
            fl.scaffold(fx.quad, RATE, **options),
            fl.fedavg(fx.quad, optax.sgd(RATE), **options),
        )
    ]
    fx.assert_equal(w[0][0], w[1][0])
    optimum = uniform_optimum(fx)
    assert np.linalg.norm(np.asarray(w[1][-100:]).mean(0) - optimum) > 0.1
    np.testing.assert_allclose(w[0][-1], optimum, atol=1e-3)


def test_scaffold_first_option_takes_the_gradient_at_the_received_model(fx):
    client = fl.scaffold(fx.quad, RATE, option=1).client
    zero = {"w": jnp.zeros(2)}
    result = fx.alone(client, fx.quad_data(), start(), steps=3, batch_size=3, broadcast=zero)
    gradient = fx.a[:, None] * (START - fx.b)
    np.testing.assert_allclose(result.client_state.method["w"], gradient, rtol=1e-5)
    np.testing.assert_allclose(result.message.summed["w"], gradient, rtol=1e-5)


def test_feddyn_converges_to_the_uniform_optimum(fx):
    """Exact local solutions by 2 of 4 clients; h is the mean of the g_i, which become the gradients."""
    algorithm = fl.feddyn(fx.quad, optax.sgd(0.25), strength=0.5, sampler=fl.uniform_clients(2))
    states, _ = fx.trajectory(fx.quad, algorithm, 300, batch_size=1, steps=80)(fx.quad_data())
    own = np.asarray(states.client.method["w"])
    np.testing.assert_allclose(states.server[0].drift["w"], own.mean(1), atol=1e-5)
    optimum = uniform_optimum(fx)
    np.testing.assert_allclose(states.variables.params["w"][-1], optimum, atol=2e-3)
    np.testing.assert_allclose(own[-1], fx.a[:, None] * (optimum - fx.b), atol=5e-3)


@pytest.mark.slow
def test_feddyn_solves_its_local_problem(fx):
    """theta_i = (a_i b_i + g_i + alpha w) / (a_i + alpha), and with a small alpha the local minimizer."""
    drift = np.array([[0.5, -1.0], [0.0, 2.0], [1.0, 1.0], [-2.0, 0.3]], np.float32)
    for strength, own in ((0.5, drift), (1e-4, np.zeros_like(drift))):
        client = fl.feddyn(fx.quad, optax.sgd(0.25), strength=strength).client
        states = LocalState({"w": jnp.asarray(own)})
        result = fx.alone(client, fx.quad_data(), start(), steps=150, states=states)
        a = fx.a[:, None]
        expected = (a * fx.b + own + strength * START) / (a + strength)
        np.testing.assert_allclose(result.variables.params["w"], expected, atol=1e-4)
        renewed = own - strength * (expected - START)
        np.testing.assert_allclose(result.client_state.method["w"], renewed, atol=1e-4)
    np.testing.assert_allclose(result.variables.params["w"], fx.b, atol=2e-3)


@pytest.mark.parametrize(
    ("momentum", "strength"),
    [
        (0.6, 0.0),
        pytest.param(0.0, 0.0, marks=pytest.mark.slow),
        pytest.param(0.0, 3.0, marks=pytest.mark.slow),
    ],
)
def test_fednova_on_linear_objectives(fx, momentum, strength):
    """The server moves by -eta tau_eff sum p_i g_i, however many steps the clients take."""
    algorithm = fl.fednova(fx.linear, RATE, momentum=momentum, strength=strength, weighting=fx.fixed_weights)
    states, infos = fx.trajectory(fx.linear, algorithm, 1)(fx.quad_data(), start())
    weight = simulated_weight(fx.tau, RATE, momentum, strength)
    effective = (fx.p * (fx.tau if strength else weight)).sum()
    moved = np.asarray(states.variables.params["w"][0]) - START
    np.testing.assert_allclose(moved, -RATE * effective * (fx.p[:, None] * fx.b).sum(0), rtol=1e-5)
    # The model and one scalar, and the weight.
    np.testing.assert_array_equal(infos.bytes_up[0], 8 + 4 + 4)


def simulated_weight(steps, rate, momentum, strength):
    """How far one constant gradient of 1 carries a client, over -rate: its own steps, one by one."""
    weights = []
    for number in steps:
        place = velocity = 0.0
        for _ in range(number):
            velocity = momentum * velocity + 1.0 + strength * place
            place -= rate * velocity
        weights.append(-place / rate)
    return np.array(weights)


@pytest.mark.parametrize(("momentum", "strength"), [(0.0, 0.0), (0.9, 0.0), (0.0, 2.0), (0.0, 1e-3)])
def test_fednova_normalizer_is_that_of_steps_one_by_one(momentum, strength):
    steps = np.arange(9)
    found = gradient_weight(steps.astype(np.float32), RATE, momentum, strength)
    expected = simulated_weight(steps, RATE, momentum, strength)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_fednova_fixed_point(fx):
    algorithm = fl.fednova(fx.quad, RATE, weighting=fx.fixed_weights)
    states, _ = fx.trajectory(fx.quad, algorithm, 300)(fx.quad_data())
    k = fx.p * (1 - (1 - RATE * fx.a) ** fx.tau) / fx.tau
    np.testing.assert_allclose(states.variables.params["w"][-1], weighted(k, fx.b), rtol=1e-4)


@pytest.mark.slow
def test_fednova_with_equal_steps_is_fedavg(fx):
    data = fx.quad_data(counts=np.full(4, 5))
    found, expected = (
        fx.trajectory(fx.quad, algorithm, 5)(data)[0].variables
        for algorithm in (fl.fednova(fx.quad, RATE), fx.averaging)
    )
    fx.assert_close(found, expected, 1e-6)


def test_errors_name_the_argument(fx):
    for match, make in (
        ("strength", lambda: fl.fedprox(fx.quad, optax.sgd(0.1), strength=-1.0)),
        ("option", lambda: fl.scaffold(fx.quad, 0.1, option=3)),
        ("optimizer", lambda: fl.scaffold(fx.quad, 0.1, optimizer=optax.adam(0.1))),
        ("strength", lambda: fl.feddyn(fx.quad, optax.sgd(0.1), strength=0.0)),
        ("momentum", lambda: fl.fednova(fx.quad, 0.1, momentum=1.0)),
        ("strength", lambda: fl.fednova(fx.quad, 0.1, strength=-1.0)),
        ("less than 1 / learning_rate", lambda: fl.fednova(fx.quad, 0.1, strength=10.0)),
        ("strength: expected 0 with momentum", lambda: fl.fednova(fx.quad, 0.1, strength=1.0, momentum=0.5)),
    ):
        with pytest.raises(ValueError, match=match):
            make()


def test_options_that_would_be_ignored_are_refused(fx):
    for make in (
        lambda **o: fl.scaffold(fx.quad, 0.1, **o),
        lambda **o: fl.feddyn(fx.quad, optax.sgd(0.1), **o),
        lambda **o: fl.fednova(fx.quad, 0.1, **o),
        lambda **o: fl.pfedme(fx.quad, **o),
        lambda **o: fl.qfedavg(fx.quad, optax.sgd(0.1), learning_rate=0.1, **o),
        lambda **o: fl.afl(fx.quad, optax.sgd(0.1), clients=4, **o),
        lambda **o: fl.moon(fx.quad, optax.sgd(0.1), represent=None, **o),
        lambda **o: fl.fedrep(fx.quad, optax.sgd(0.1), head=Variables(False, False), head_steps=0, **o),
    ):
        with pytest.raises(TypeError, match="keep_optimizer"):
            make(keep_optimizer=True)
