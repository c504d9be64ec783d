"""Methods together: each does what it does alone, in the order in which they were given."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.local import LocalState
from fedrecon.federated.mechanism import Mechanism
from fedrecon.federated.methods.afl import worst_mixture
from fedrecon.federated.methods.ditto import personal_model
from fedrecon.federated.methods.fednova import normalized_averaging
from fedrecon.federated.methods.moon import model_contrast
from fedrecon.federated.methods.pfedme import moreau_envelope
from fedrecon.federated.methods.qfedavg import fair_averaging
from fedrecon.types import Variables

RATE, START = 0.05, np.array([0.3, -0.7], np.float32)
SOME = {"sampler": fl.uniform_clients(2), "weighting": fl.equal}


def start():
    return Variables({"w": jnp.asarray(START)}, {})


@functools.cache
def trained(fx, *methods, rounds=600):
    """States after every round with 2 of 4 clients, who take 1, 5, 3 and 8 steps."""
    algorithm = fl.federated(fx.quad, optax.sgd(RATE), method=fl.combine(*methods), **SOME)
    return jax.tree.map(np.asarray, fx.trajectory(fx.quad, algorithm, rounds)(fx.quad_data())[0])


VARIATES = fl.control_variates(RATE)


def test_proximal_steps_with_control_variates(fx):
    """y <- y - eta (a (y - b) + c - c_i + mu (y - w)), then c_i <- c_i - c + (w - y) / (tau eta)."""
    steps, mu, c = 3, 2.0, np.array([0.4, -0.2], np.float32)
    own = np.array([[0.5, -1.0], [0.0, 2.0], [1.0, 1.0], [-2.0, 0.3]], np.float32)
    method = fl.combine(fl.proximal(mu), VARIATES)
    client = fl.local_training(fx.quad.loss, optax.sgd(RATE), method)
    states = LocalState(((), {"w": jnp.asarray(own)}))
    broadcast = ((), {"w": jnp.asarray(c)})
    result = fx.alone(client, fx.quad_data(), start(), steps=steps, broadcast=broadcast, states=states)
    y = np.tile(START, (4, 1))
    for _ in range(steps):
        y = y - RATE * (fx.a[:, None] * (y - fx.b) + c - own + mu * (y - START))
    renewed = own - c + (START - y) / (steps * RATE)
    np.testing.assert_allclose(result.variables.params["w"], y, rtol=1e-5)
    assert result.client_state.method[0] == result.message.summed[0] == ()
    np.testing.assert_allclose(result.client_state.method[1]["w"], renewed, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.message.summed[1]["w"], renewed - own, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_both_converge_to_the_uniform_optimum(fx):
    """c is the mean of all c_i after every round; the other order gives the same numbers."""
    states = trained(fx, fl.proximal(0.5), VARIATES)
    own = states.client.method[1]["w"]
    np.testing.assert_allclose(states.exchange[1]["w"], own.mean(1), atol=1e-6)
    assert states.client.method[0] == states.exchange[0] == ()
    optimum = (fx.a[:, None] * fx.b).sum(0) / fx.a.sum()
    np.testing.assert_allclose(states.variables.params["w"][-1], optimum, atol=1e-3)
    np.testing.assert_allclose(own[-1], fx.a[:, None] * (optimum - fx.b), atol=5e-3)
    swapped = trained(fx, VARIATES, fl.proximal(0.5))
    fx.assert_close(swapped.exchange[0], states.exchange[1])
    fx.assert_close(swapped.variables, states.variables)


@pytest.mark.slow
def test_parts_without_strength_change_no_bit(fx):
    silent = model_contrast(lambda params, stats, batch: batch["b"], strength=0.0)
    states = trained(fx, fl.proximal(0.0), VARIATES, silent)
    alone = trained(fx, VARIATES)
    fx.assert_equal(states.variables, alone.variables)
    fx.assert_equal(states.exchange[1], alone.exchange)
    fx.assert_equal(states.client.method[1], alone.client.method)


@pytest.mark.slow
def test_personal_models_follow_scaffold(fx):
    """The global model is SCAFFOLD's, bit for bit; v_i goes to (a b_i + lambda w*) / (a + lambda)."""
    algorithm = fl.ditto(fx.quad, optax.sgd(RATE), strength=0.5, method=VARIATES, **SOME)
    states, _ = fx.trajectory(fx.quad, algorithm, 600)(fx.quad_data())
    last = jax.tree.map(lambda x: x[-1], states)
    fx.assert_equal(states.variables, trained(fx, VARIATES).variables)
    optimum, a = (fx.a[:, None] * fx.b).sum(0) / fx.a.sum(), fx.a[:, None]
    found = [fl.client_variables(algorithm, last, i).params["w"] for i in range(4)]
    np.testing.assert_allclose(found, (a * fx.b + 0.5 * optimum) / (a + 0.5), atol=5e-3)


def test_one_method_is_itself_and_none_stands_for_nothing():
    method = fl.proximal(0.1)
    assert fl.combine(method) is method and fl.combine(None, method, None) is method
    assert fl.combine().init is None and fl.combine().server is None


class Notes(NamedTuple):
    """Memory of `recording`: steps taken, and the sum of what the penalty handed over."""

    steps: jax.Array
    total: jax.Array


def recording(mu, scale=1.0):
    """Every hook once: targets that move with each step, a growing penalty whose aux is summed and sent."""

    def penalty(params, stats, batch, memory, context, key):
        squared = optax.tree.norm(params, squared=True)
        return 0.5 * mu * (1 + memory.steps) * squared, scale * squared

    def prepare(batch, memory, context, key):
        return {**batch, "b": batch["b"] + 0.5 * memory.steps}

    return fl.Method(
        init=lambda variables: jnp.float32(scale),
        begin=lambda state, context: Notes(0 * state, 0 * state),
        prepare=prepare,
        penalty=penalty,
        step=lambda memory, params, batch, evaluation, context, key: Notes(
            memory.steps + 1, memory.total + evaluation.aux
        ),
        finish=lambda result, memory, context: (
            result,
            fl.Message({"total": memory.total}, {"steps": memory.steps}, (memory.total,)),
            context.broadcast + memory.total,
        ),
        server=fl.Exchange(lambda v: jnp.float32(3 * scale), lambda state: state, lambda s, m, c: s),
    )


def sharpness_aware(radius):
    """The gradient a step of length ``radius`` uphill (Foret et al. 2021)."""

    def oracle(value_and_grad):
        def uphill(params, stats, batch, memory, key):
            _, gradient = value_and_grad(params, stats, batch, memory, key)
            length = optax.tree.norm(gradient)
            params = jax.tree.map(lambda p, g: p + radius * g / length, params, gradient)
            return value_and_grad(params, stats, batch, memory, key)

        return uphill

    return fl.Method(oracle=oracle)


def test_every_hook_reaches_the_step_in_order(fx):
    """Two that record around a sharpness-aware step, against the same steps in NumPy."""
    mus, scales, radius, steps = (0.3, 0.2), (1.0, -2.0), 0.1, 4
    first, second = (recording(mu, scale) for mu, scale in zip(mus, scales, strict=True))
    method = fl.combine(first, sharpness_aware(radius), second)
    client = fl.local_training(fx.quad.loss, optax.sgd(RATE), method)
    broadcast = method.server.broadcast(method.server.init(start()))
    assert broadcast[1] == () and [float(broadcast[i]) for i in (0, 2)] == [3.0, -6.0]
    result = fx.alone(client, fx.quad_data(), start(), steps=steps, broadcast=broadcast)
    y, total, loss = np.tile(START, (4, 1)).astype(np.float64), np.zeros(4), np.zeros(4)
    for step in range(steps):
        b = fx.b + 2 * 0.5 * step
        mu = sum(mus) * (1 + step)
        gradient = fx.a[:, None] * (y - b) + mu * y
        up = y + radius * gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
        total += (up**2).sum(1)
        loss += 0.5 * fx.a * ((up - b) ** 2).sum(1)
        y = y - RATE * (fx.a[:, None] * (up - b) + mu * up)
    np.testing.assert_allclose(result.variables.params["w"], y, rtol=1e-5)
    np.testing.assert_allclose(result.metrics["loss"][0], loss, rtol=1e-5)
    message, state = result.message, result.client_state.method
    assert message.summed[1] == message.scalars[1] == message.gathered[1] == state[1] == ()
    for number, scale in ((0, scales[0]), (2, scales[1])):
        np.testing.assert_allclose(message.summed[number]["total"], scale * total, rtol=1e-5)
        np.testing.assert_array_equal(message.scalars[number]["steps"], steps)
        np.testing.assert_allclose(message.gathered[number][0], scale * total, rtol=1e-5)
        np.testing.assert_allclose(state[number], 3 * scale + scale * total, rtol=1e-5)


def test_transforms_see_their_own_messages(fx):
    """FedNova's closed form on linear objectives, times what another method's clients send."""

    def update(gradient, state, params=None, *, message, participants, clients):
        factor = message.scalars["factor"] * participants / clients
        return jax.tree.map(lambda g: factor * g, gradient), state

    other = fl.Method(
        finish=lambda result, memory, context: (
            result._replace(delta=jax.tree.map(lambda d: 2 * d, result.delta)),
            fl.Message(scalars={"factor": 1.0 * context.batches.client}),
            memory,
        ),
        transform=optax.GradientTransformationExtraArgs(lambda params: (), update),
    )
    algorithm = fl.fednova(fx.linear, RATE, method=other, weighting=fx.fixed_weights)
    states, infos = fx.trajectory(fx.linear, algorithm, 1)(fx.quad_data(), start())
    moved = np.asarray(states.variables.params["w"][0]) - START
    factor = 2 * (fx.p * np.arange(4)).sum()
    expected = -RATE * factor * (fx.p * fx.tau).sum() * (fx.p[:, None] * fx.b).sum(0)
    np.testing.assert_allclose(moved, expected, rtol=1e-5)
    # The model, two scalars and the weight.
    np.testing.assert_array_equal(infos.bytes_up[0], 8 + 8 + 4)


def test_proximal_steps_of_the_head_and_then_of_the_body(fx):
    """FedRep's phases with FedProx's gradients: w and h of 0.5 a (|w + h - b|^2 + |h|^2) in turn."""
    mu, steps, data = 2.0, 5, fx.quad_data()
    head = Variables({"w": False, "h": True}, False)
    algorithm = fl.fedrep(fx.pair, optax.sgd(RATE), head=head, head_steps=2, method=fl.proximal(mu))
    received = {"w": START, "h": np.array([0.5, 0.2], np.float32)}
    result = fx.alone(algorithm.client, data, Variables(received, {}), steps=steps)
    w, h = (np.tile(received[name], (4, 1)) for name in ("w", "h"))
    for step in range(steps):
        residual = fx.a[:, None] * (w + h - fx.b)
        if step < 2:
            h = h - RATE * (residual + fx.a[:, None] * h + mu * (h - received["h"]))
        else:
            w = w - RATE * (residual + mu * (w - received["w"]))
    np.testing.assert_allclose(result.variables.params["h"], h, rtol=1e-5)
    np.testing.assert_allclose(result.variables.params["w"], w, rtol=1e-5)


def private(**changes):
    options = {"clipping_norm": 0.5, "noise_multiplier": 0.0, "steps": 2}
    options |= {"expected_batch_size": 4.0, "padded_batch_size": 8}
    return fl.private_gradients(Mechanism(**(options | changes)))


@pytest.mark.slow
def test_norm_leaves_stay_private_next_to_noise(fx):
    """FedBN and DP-SGD: only w is sent, and both leaves together move by no more than the bound."""
    task = fx.pair._replace(normalization=Variables({"w": False, "h": True}, {}))
    data = fx.quad_data(1e6 * fx.a, fx.b, np.full(4, 8))
    for noise in (0.0, 3.0):
        method = private(noise_multiplier=noise, expected_batch_size=8.0)
        algorithm = fl.fedbn(task, optax.sgd(1.0), method=method)
        variables = Variables({"w": jnp.zeros(2), "h": jnp.zeros(2)}, {})
        state = fl.init_state(algorithm, variables, data)
        state, info = fl.make_round(algorithm, donate=False)(state, data, jax.random.key(1))
        np.testing.assert_array_equal(info.bytes_up, 8 + 4)
        moved = np.hypot(info.delta_norm, np.linalg.norm(state.private.params["h"], axis=1))
        assert (state.private.params["h"] != 0).all() and state.private.params["w"] is None
        assert set(info.metrics) == {"steps"}
        if noise == 0:
            assert (moved <= 2 * 0.5 * (1 + 1e-5)).all() and (moved > 0.25).all()
        else:
            assert len(np.unique(state.private.params["h"])) == 8


def test_what_discloses_or_contradicts_is_refused(fx):
    hidden = private()
    for other in (
        fl.control_variates(RATE, option=1),
        fair_averaging(RATE),
        worst_mixture(4),
        moreau_envelope(),
    ):
        with pytest.raises(ValueError, match="together with differential privacy"):
            fl.combine(other, hidden)
    with pytest.raises(ValueError, match="together with differential privacy"):
        options = {"clipping_norm": 1.0, "noise_multiplier": 1.0, "steps": 1}
        options |= {"expected_batch_size": 2.0, "padded_batch_size": 2}
        fl.dp_fedavg(
            fx.quad, optax.sgd(RATE), method=fl.combine(fl.proximal(1.0), worst_mixture(4)), **options
        )
    with pytest.raises(ValueError, match="at most one that defines the batches"):
        fl.combine(hidden, hidden)
    mixing = fl.Method(prepare=lambda batch, memory, context, key: batch)
    with pytest.raises(ValueError, match="expected none that prepares batches"):
        fl.combine(mixing, hidden)
    twice = fl.Method(oracle=lambda value_and_grad: value_and_grad)
    with pytest.raises(ValueError, match="after all methods with an oracle"):
        fl.combine(hidden, twice)
    assert fl.combine(twice, hidden).hides
    fl.combine(VARIATES, hidden, personal_model(optax.sgd(RATE)), normalized_averaging(RATE))
