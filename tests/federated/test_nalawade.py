"""Nalawade: weights by scores, against the equations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.nalawade import nalawade
from fedrecon.types import Variables

RATE = 0.05
START = Variables({"w": jnp.array([0.3, -0.7])}, {})


def score(params, stats, batch):
    """Higher the nearer to the client's target."""
    away = ((params["w"] - batch["b"]) ** 2).sum(-1)
    return 1 / (1 + jnp.where(batch["valid"], away, 0).sum() / jnp.maximum(batch["valid"].sum(), 1))


def told(params, stats, batch):
    """A score that examples bring along."""
    return batch["score"][0]


@functools.cache
def program(fx, name):
    own = {
        "scores": lambda: nalawade(fx.quad, optax.sgd(RATE), score=score),
        "powers": lambda: nalawade(fx.quad, optax.sgd(RATE), score=score, power=2.5, size_power=0.5),
        "sizes": lambda: nalawade(fx.quad, optax.sgd(RATE), score=score, power=0.0, size_power=1.0),
        "told": lambda: nalawade(fx.quad, optax.sgd(RATE), score=told, method=fl.proximal(0.0)),
        "fedavg": lambda: fl.fedavg(fx.quad, optax.sgd(RATE)),
    }[name]()
    return own, fl.make_round(own, batch_size=1, epochs=1, donate=False)


def one_round(fx, name, data=None, validation=None, scores=None):
    data = fx.quad_data() if data is None else data
    if scores is not None:
        column = jnp.broadcast_to(jnp.asarray(scores, jnp.float32)[:, None], data.valid.shape)
        data = data._replace(examples={**data.examples, "score": column})
    own, round = program(fx, name)
    placed = fl.place(data, validation=validation)
    return round(fl.init_state(own, START, placed), placed, jax.random.key(3))


def trained(fx):
    """What each client trains, (4, 2)."""
    return fx.b + ((1 - RATE * fx.a) ** fx.tau)[:, None] * (np.asarray(START.params["w"]) - fx.b)


@pytest.mark.parametrize(("name", "power", "size_power"), [("scores", 1.0, 0.0), ("powers", 2.5, 0.5)])
def test_the_mean_is_that_of_the_equations(fx, name, power, size_power):
    state, info = one_round(fx, name)
    models = trained(fx)
    alpha = (1 / (1 + ((models - fx.b) ** 2).sum(1))) ** power * fx.tau**size_power
    np.testing.assert_allclose(state.variables.params["w"], alpha @ models / alpha.sum(), rtol=1e-5)
    # The model and one number; the model alone.
    np.testing.assert_array_equal(info.bytes_up, 4 * (2 + 1))
    np.testing.assert_array_equal(info.bytes_down, 4 * 2)


@pytest.mark.parametrize(
    ("scores", "alpha"),
    [
        ([0.6, 0.6, 0.6, 0.6], [0.25, 0.25, 0.25, 0.25]),
        ([0.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]),
        ([0.5, 0.0, 0.2, 0.1], [0.625, 0.0, 0.25, 0.125]),
    ],
)
def test_equal_scores_weigh_the_same_and_none_weighs_nothing(fx, scores, alpha):
    state, info = one_round(fx, "told", scores=scores)
    np.testing.assert_allclose(state.variables.params["w"], np.asarray(alpha) @ trained(fx), rtol=1e-5)
    assert info.applied and info.participated.all() and not info.excluded.any()


def test_who_scores_nothing_leaves_no_trace(fx):
    """Exactly, however far away its model is."""
    far = fx.b.copy()
    far[1] = [0.5, 1e4]
    states = [one_round(fx, "told", fx.quad_data(b=b), scores=[0.5, 0, 0.2, 0.1])[0] for b in (fx.b, far)]
    found = [state.variables.params["w"] for state in states]
    np.testing.assert_allclose(found[0], found[1], atol=1e-7)


def test_scores_are_of_the_trained_model_on_the_validation_split(fx):
    seen = fx.quad_data(b=fx.b + 2)
    state, _ = one_round(fx, "scores", validation=seen)
    models = trained(fx)
    alpha = 1 / (1 + ((models - fx.b - 2) ** 2).sum(1))
    np.testing.assert_allclose(state.variables.params["w"], alpha @ models / alpha.sum(), rtol=1e-5)


def test_by_sizes_alone_it_is_fedavg_bit_for_bit(fx):
    ours, theirs = (one_round(fx, name)[0] for name in ("sizes", "fedavg"))
    fx.assert_equal(ours.variables, theirs.variables)


def test_clients_without_examples_have_no_weight_and_further_methods_go_along(fx):
    data = fx.quad_data(counts=np.array([1, 0, 3, 8]))
    state, _ = one_round(fx, "told", data, scores=[0.5] * 4)
    steps = np.array([1, 3, 8])
    keep = [0, 2, 3]
    models = fx.b[keep] + ((1 - RATE * fx.a[keep]) ** steps)[:, None] * (
        np.asarray(START.params["w"]) - fx.b[keep]
    )
    np.testing.assert_allclose(state.variables.params["w"], models.mean(0), rtol=1e-5)
    with pytest.raises(ValueError, match=r"^power: expected a number of 0 or more, found -1"):
        nalawade(fx.quad, optax.sgd(RATE), score=score, power=-1)


def test_a_client_with_false_targets_weighs_least_and_the_mean_is_nearer_to_the_truth(fx):
    """Its training examples are wrong; what it validates on is not."""
    truth = np.tile(np.float32([1.0, -2.0]), (4, 1))
    false = truth.copy()
    false[3] = [-6.0, 5.0]
    a = np.full(4, 2.0, np.float32)
    data, seen = (fx.quad_data(a=a, b=b, counts=np.array([4, 4, 4, 8])) for b in (false, truth))
    models = [one_round(fx, x, data, seen)[0].variables.params["w"] for x in ("scores", "fedavg")]
    ours, theirs = (np.linalg.norm(np.asarray(w) - truth[0]) for w in models)
    assert ours < theirs
    after = false + 0.9 ** np.array([4, 4, 4, 8])[:, None] * (np.asarray(START.params["w"]) - false)
    weights = 1 / (1 + ((after - truth) ** 2).sum(1))
    assert weights.argmin() == 3
    np.testing.assert_allclose(models[0], weights @ after / weights.sum(), rtol=1e-5)
