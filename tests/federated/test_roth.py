"""Roth: weights by iterations, the best local model, and agreement at other sites."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.evaluation import cross_site_kappa
from fedrecon.federated.methods.roth import best_local, by_iterations, roth
from fedrecon.tasks import ordered_task
from fedrecon.types import Task, Variables


def loss(params, stats, batch, key):
    log_p = jax.nn.log_softmax(batch["x"] @ params["w"])
    each = -jnp.take_along_axis(log_p, batch["label"][:, None], 1)[:, 0]
    return jnp.where(batch["valid"], each, 0).sum() / jnp.maximum(batch["valid"].sum(), 1), (stats, {})


PLAIN = Task(
    init=lambda key: Variables({"w": jnp.zeros((4, 4))}, {}),
    loss=loss,
    metrics=lambda params, stats, batch: {},
    predict=lambda params, stats, batch: jax.nn.softmax(batch["x"] @ params["w"]),
    normalization=Variables({"w": False}, {}),
)
TASK = ordered_task(PLAIN, {})


def draw(seed, sites=4, count=60):
    """Classes by a latent number, seen with noise; every site sees two or three of them for the most part."""
    rng = np.random.default_rng(seed)
    label = np.stack(
        [rng.choice(4, count, p=np.roll([0.55, 0.35, 0.05, 0.05], site)) for site in range(sites)]
    )
    t = (label + rng.uniform(0, 1, label.shape)) / 4 + 0.08 * rng.normal(size=label.shape)
    x = np.stack([np.ones_like(t), 4 * t, 8 * t**2, rng.normal(size=t.shape)], -1).astype(np.float32)
    return x, label.astype(np.int32)


def clients(fx, x, label, counts=None):
    valid = np.arange(x.shape[1])[None] < np.asarray(counts or [x.shape[1]] * len(x))[:, None]
    return fx.clients({"x": jnp.asarray(x), "label": jnp.asarray(label)}, jnp.asarray(valid))


def test_models_are_averaged_by_iterations():
    """Of 5 and 9 examples in batches of 4 these are 2 and 3."""
    method, message = by_iterations(), None
    for weight, steps, expected in ((5.0, 2.0, 2.0), (9.0, 3.0, 3.0), (0.0, 1.0, 0.0)):
        result = fl.ClientResult({}, jnp.float32(weight), (), message, {}, {})
        found, _, _ = method.finish(result, (), SimpleNamespace(steps=jnp.float32(steps)))
        assert found.weight == expected


def kept(scores):
    """Which round's model there is after each round, of models with these scores."""
    values = jnp.asarray(scores, jnp.float32)
    task = TASK._replace(metrics=lambda params, stats, batch: {"kappa": (values[params["round"]], 1.0)})
    method = best_local(task)
    start = Variables({"round": jnp.int32(-5)}, {})
    state, states = method.init(start), []
    nothing = jnp.zeros(0, jnp.int32)
    batches = fl.Batches({}, nothing, jnp.int32(0), nothing > 0, jnp.int32(0))
    context = SimpleNamespace(batches=batches, complete=lambda variables: variables)
    for number in range(len(scores)):
        trained = Variables({"round": jnp.int32(number)}, {})
        _, message, state = method.finish(SimpleNamespace(variables=trained), state, context)
        assert not jax.tree.leaves(message)
        shared = Variables({"round": jnp.int32(-7)}, {})
        states.append(int(method.personalize(shared, state, None).params["round"]))
    return states


def test_clients_keep_the_round_with_the_best_score():
    assert kept([0.1, 0.4, 0.3, 0.4, 0.5]) == [0, 1, 1, 1, 4]
    # Without a score the last model.
    assert kept([np.nan, np.nan, -0.2, np.nan]) == [0, 1, 2, 2]


def test_scores_are_of_the_trained_model_on_the_validation_split():
    x, label = draw(0)
    w = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    split = {"x": jnp.asarray(x[1]), "label": jnp.asarray(label[1]), "valid": jnp.arange(60) < 50}
    nothing = jnp.zeros(0, jnp.int32)
    batches = fl.Batches({}, nothing, jnp.int32(0), nothing > 0, jnp.int32(0), validation=split)
    context = SimpleNamespace(batches=batches, complete=lambda variables: variables)
    method, model = best_local(TASK), Variables({"w": jnp.asarray(w)}, {})
    _, _, state = method.finish(SimpleNamespace(variables=model), method.init(model), context)
    total, count = TASK.metrics(*model, split)["kappa"]
    np.testing.assert_allclose(state["score"], total / count, rtol=1e-6)
    with pytest.raises(ValueError, match=r"^selection: expected one of kappa, found 'area'$"):
        best_local(TASK, "area").finish(SimpleNamespace(variables=model), state, context)


@pytest.mark.slow
def test_a_round_weighs_by_iterations(fx):
    x, label = draw(2, sites=2, count=9)
    data = clients(fx, x, label, [5, 9])
    states, _ = fx.trajectory(TASK, roth(TASK, optax.sgd(0.1)), 1, batch_size=4, epochs=1)(data)
    plain = fl.fedavg(TASK, optax.sgd(0.1), weighting=lambda weight, context: jnp.ceil(weight / 4))
    expected, _ = fx.trajectory(TASK, plain, 1, batch_size=4, epochs=1)(data)
    fx.assert_close(states.variables, expected.variables, 1e-6)
    assert jnp.isfinite(states.client.method[1]["score"]).all()


@pytest.mark.slow
def test_federated_models_agree_better_at_other_sites_than_local_ones(fx):
    """Means over five draws of four sites with other frequencies of the classes."""
    recipes = (roth, fl.local_only)
    runs = [fx.trajectory(TASK, r(TASK, optax.adam(0.05)), 30, batch_size=20, epochs=1) for r in recipes]
    others = []
    for seed in range(5):
        data, (x, label) = clients(fx, *draw(seed)), draw(100 + seed)
        found = []
        for recipe, run in zip(recipes, runs, strict=True):
            last = jax.tree.map(lambda leaf: leaf[-1], run(data)[0])
            algorithm = recipe(TASK, optax.adam(0.05))
            models = [np.asarray(last.variables.params["w"])] * 4
            if recipe is fl.local_only:
                models = [np.asarray(fl.client_variables(algorithm, last, i).params["w"]) for i in range(4)]
            found.append(cross_site_kappa([[(s @ w).argmax(1) for s in x] for w in models], label).others)
        others.append(found)
    federated, local = np.mean(others, 0)
    assert federated > local + 0.05, others
