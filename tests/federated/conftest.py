"""Tiny models as pure functions: quadratics with closed forms, and a regression with batch normalization."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.types import Task, Variables


class Clients(NamedTuple):
    """Any pytree with these two attributes serves as client data."""

    examples: dict
    valid: jax.Array


def _masked_mean(values, valid):
    return jnp.where(valid, values, 0).sum() / jnp.maximum(valid.sum(), 1)


def _quad_values(params, batch):
    return 0.5 * batch["a"] * ((params["w"] - batch["b"]) ** 2).sum(-1)


def _quad_loss(params, stats, batch, key):
    value = _masked_mean(_quad_values(params, batch), batch["valid"])
    return value, (stats, {})


def _quad_metrics(params, stats, batch):
    values = jnp.where(batch["valid"], _quad_values(params, batch), 0)
    return {"objective": (values.sum(), batch["valid"].sum().astype(jnp.float32))}


QUAD = Task(
    init=lambda key: Variables({"w": jnp.zeros(2)}, {}),
    loss=_quad_loss,
    metrics=_quad_metrics,
    predict=lambda params, stats, batch: jnp.broadcast_to(params["w"], batch["b"].shape),
    normalization=Variables({"w": False}, {}),
)


def _regress(params, stats, batch, train):
    x, valid = batch["x"], batch["valid"]
    mean, var = stats["mean"], stats["var"]
    if train:
        weight = valid[:, None] / jnp.maximum(valid.sum(), 1)
        mean = (weight * x).sum(0)
        var = (weight * (x - mean) ** 2).sum(0)
        stats = {
            "mean": 0.9 * stats["mean"] + 0.1 * mean,
            "var": 0.9 * stats["var"] + 0.1 * var,
            "count": stats["count"] + 1,
        }
    x = (x - mean) / jnp.sqrt(var + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
    return jnp.tanh(x) @ params["dense"], stats


def _regression_init(key):
    params = {
        "dense": 0.5 * jax.random.normal(key, (3,)),
        "norm": {"scale": jnp.ones(3), "bias": jnp.zeros(3)},
    }
    return Variables(params, {"mean": jnp.zeros(3), "var": jnp.ones(3), "count": jnp.int32(0)})


def _regression_loss(params, stats, batch, key):
    prediction, stats = _regress(params, stats, batch, train=True)
    # Noise keyed per step, so that a wrong key shows.
    target = batch["y"] + 0.01 * jax.random.key_data(key)[1] / 2.0**32
    error = (prediction - target) ** 2
    metrics = {"mse": (jnp.where(batch["valid"], error, 0).sum(), batch["valid"].sum().astype(jnp.float32))}
    return _masked_mean(error, batch["valid"]), (stats, metrics)


def _regression_metrics(params, stats, batch):
    prediction, _ = _regress(params, stats, batch, train=False)
    error = jnp.where(batch["valid"], (prediction - batch["y"]) ** 2, 0)
    return {"mse": (error.sum(), batch["valid"].sum().astype(jnp.float32))}


REGRESSION = Task(
    init=_regression_init,
    loss=_regression_loss,
    metrics=_regression_metrics,
    predict=lambda params, stats, batch: _regress(params, stats, batch, train=False)[0],
    normalization=Variables(
        {"dense": False, "norm": {"scale": True, "bias": True}},
        {"mean": True, "var": True, "count": True},
    ),
)


def _linear_loss(params, stats, batch, key):
    value = _masked_mean((params["w"] * batch["b"]).sum(-1), batch["valid"])
    return value, (stats, {})


LINEAR = QUAD._replace(loss=_linear_loss)  # F_i(w) = b_i . w: every step is -rate b_i


def _pair_values(params, batch):
    away = ((params["w"] + params["h"] - batch["b"]) ** 2).sum(-1)
    return 0.5 * batch["a"] * (away + (params["h"] ** 2).sum(-1))


def _pair_loss(params, stats, batch, key):
    return _masked_mean(_pair_values(params, batch), batch["valid"]), (stats, {})


def _pair_metrics(params, stats, batch):
    values = jnp.where(batch["valid"], _pair_values(params, batch), 0)
    return {"objective": (values.sum(), batch["valid"].sum().astype(jnp.float32))}


# Two leaves: F_i(w, h) = a_i / 2 (|w + h - b_i|^2 + |h|^2).
PAIR = QUAD._replace(
    init=lambda key: Variables({"w": jnp.zeros(2), "h": jnp.array([0.5, -0.25])}, {}),
    loss=_pair_loss,
    metrics=_pair_metrics,
    predict=lambda params, stats, batch: jnp.broadcast_to(params["w"] + params["h"], batch["b"].shape),
    normalization=Variables({"w": False, "h": False}, {}),
)

A = np.array([1.0, 2.0, 0.5, 3.0], np.float32)
B = np.array([[1.0, -2.0], [0.5, 3.0], [-4.0, 1.0], [2.0, 2.0]], np.float32)
P = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
TAU = np.array([1, 5, 3, 8])


def quad_data(a=A, b=B, counts=TAU):
    """Client i holds counts[i] equal examples, so one epoch of batch size 1 is counts[i] exact steps."""
    clients, size = len(a), max(counts)
    return Clients(
        {
            "a": jnp.tile(jnp.asarray(a)[:, None], (1, size)),
            "b": jnp.tile(jnp.asarray(b)[:, None], (1, size, 1)),
        },
        jnp.arange(size)[None] < jnp.asarray(counts)[:, None] if clients else jnp.zeros((0, size), bool),
    )


def regression_data(counts, seed=0, padding=0, shift=True):
    """Ragged clients; padding holds large numbers, so that using it shows."""
    rng = np.random.default_rng(seed)
    clients, size = len(counts), max(counts) + padding
    x = np.full((clients, size, 3), 1e3, np.float32)
    y = np.full((clients, size), -1e3, np.float32)
    for i, n in enumerate(counts):
        base = rng.normal(size=(n, 3)).astype(np.float32)
        y[i, :n] = np.tanh(base) @ np.array([1.0, -2.0, 0.5], np.float32)
        x[i, :n] = base * (1 + i) + i if shift else base
    valid = np.arange(size)[None] < np.asarray(counts)[:, None]
    return Clients({"x": jnp.asarray(x), "y": jnp.asarray(y)}, jnp.asarray(valid))


class Fixtures:
    """What the tests of the engine share."""

    quad = QUAD
    linear = LINEAR
    pair = PAIR
    regression = REGRESSION
    a, b, p, tau = A, B, P, TAU
    clients = Clients
    averaging = fl.fedavg(QUAD, optax.sgd(0.05))
    quad_data = staticmethod(quad_data)
    regression_data = staticmethod(regression_data)

    def fixed_weights(self, weight, context):
        """Aggregation weights p of the quadratic fixture, whatever the numbers of examples."""
        return jnp.asarray(self.p)[context.client]

    def trajectory(self, task, algorithm, rounds, *, key=3, mesh=None, parallel="scan", **work):
        """``run(data, variables) -> (states, infos)`` after every round, as one program."""
        work = work or {"batch_size": 1, "epochs": 1}
        round = fl.make_round(algorithm, mesh=mesh, parallel=parallel, **work)

        def body(state, data):
            state, info = round(state, data, jax.random.key(key))
            return state, (state, info)

        @jax.jit
        def run(data, variables):
            state = fl.init_state(algorithm, variables, data, mesh)
            return jax.lax.scan(lambda state, _: body(state, data), state, length=rounds)[1]

        def start(data, variables=None):
            default = {"w": jnp.array([0.3, -0.7])} if task is QUAD else None
            if variables is None:
                variables = Variables(default, {}) if default else task.init(jax.random.key(0))
            return run(data, variables)

        return start

    def alone(self, update, data, variables, *, steps, batch_size=1, broadcast=(), states=None, limit=None):
        """Results (clients, ...) of a client update run at every client; ``limit`` cuts steps off."""
        key = jax.random.key(4)
        if states is None:
            states = jax.tree.map(
                lambda x: jnp.tile(x[None], (len(data.valid),) + (1,) * jnp.ndim(x)), update.init(variables)
            )

        def one(examples, valid, state, number, limit):
            index, mask = fl.batching.shuffled_steps(batch_size, steps)(
                valid, jax.random.fold_in(key, number)
            )
            mask &= (jnp.arange(steps) < limit)[:, None]
            batches = fl.Batches(examples, index, valid.sum(), valid, number)
            return update.update(variables, broadcast, state, batches, mask, key)

        run = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, 0, None)))
        limits = [steps] if limit is None else limit
        numbers = jnp.arange(len(data.valid))
        results = [run(data.examples, data.valid, states, numbers, jnp.int32(n)) for n in limits]
        return results[0] if limit is None else results

    def assert_close(self, x, y, tolerance=1e-5):
        """Compares pytrees leaf by leaf."""
        for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)

    def assert_equal(self, x, y):
        """Compares pytrees bit by bit."""
        for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope="session")
def fx():
    """The fixtures of the engine's tests."""
    return Fixtures()
