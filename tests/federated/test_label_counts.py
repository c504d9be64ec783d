"""Weights by numbers of labels (Wei, Priya): balance, exchange, steps, and what they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.label_counts import count_labels, exchange_counts
from fedrecon.federated.methods.priya import opposite_frequency, priya
from fedrecon.federated.methods.wei import balanced, wei
from fedrecon.types import Task, Variables

RNG = np.random.default_rng(7)
X = RNG.normal(size=(3, 9, 4)).astype(np.float32)
VALID = np.arange(9)[None] < np.array([9, 5, 7])[:, None]
CLASS = RNG.integers(0, 3, (3, 9))
FINDINGS = (RNG.random((3, 9, 2)) < 0.3).astype(np.int32)
FINDINGS[0, 0, 1] = -1
CLASS[~VALID], FINDINGS[~VALID], X[~VALID] = 0, 1, 1e3


def make_task(findings):
    def logits(params, batch):
        return batch["x"] @ params["w"]

    def loss(params, stats, batch, key):
        z = logits(params, batch)
        if findings:
            y = batch["label"] == 1
            each = -jnp.where(y, jax.nn.log_sigmoid(z), jax.nn.log_sigmoid(-z))
            each = (each * (batch["label"] >= 0) * batch.get("weight", 1)).mean(1)
        else:
            log_p = jax.nn.log_softmax(z)
            each = -jnp.take_along_axis(log_p, batch["label"][:, None], 1)[:, 0] * batch.get("weight", 1)
        valid = batch["valid"]
        return jnp.where(valid, each, 0).sum() / jnp.maximum(valid.sum(), 1), (stats, {})

    def predict(params, stats, batch):
        z = logits(params, batch)
        return jax.nn.sigmoid(z) if findings else jax.nn.softmax(z)

    width = 2 if findings else 3
    start = 0.1 * jnp.arange(4 * width, dtype=jnp.float32).reshape(4, width)
    return Task(
        init=lambda key: Variables({"w": start}, {}),
        loss=loss,
        metrics=lambda params, stats, batch: {},
        predict=predict,
        normalization=Variables({"w": False}, {}),
    )


CLASSES, SEVERAL = make_task(False), make_task(True)


def clients(fx, label):
    return fx.clients({"x": jnp.asarray(X), "label": jnp.asarray(label)}, jnp.asarray(VALID))


def test_counts_are_those_of_valid_labels():
    np.testing.assert_array_equal(
        count_labels(jnp.asarray([2, 0, 2, 1, -1]), jnp.asarray([1, 1, 1, 0, 1], bool), 3),
        [[1, 0, 2], [3, 3, 3]],
    )
    label, valid = jnp.asarray([[1, 0], [0, -1], [1, 1], [1, 1]]), jnp.asarray([1, 1, 1, 0], bool)
    np.testing.assert_array_equal(count_labels(label, valid, 2), [[2, 1], [3, 2]])


def test_classes_weigh_alike():
    label = jnp.asarray([0] * 8 + [2] * 2 + [3] * 2)
    weight = np.asarray(balanced(label, count_labels(label, jnp.ones(12, bool), 5)))
    sums = [weight[np.asarray(label) == c].sum() for c in (0, 2, 3)]
    np.testing.assert_array_equal(sums, [4, 4, 4])
    assert weight.mean() == 1


def test_positives_weigh_as_much_as_negatives():
    """Exactly: sixteen images have a prior of sixteenths."""
    label = np.zeros((16, 3), np.int32)
    label[:1, 0], label[:5, 1], label[:8, 2] = 1, 1, 1
    counts = count_labels(jnp.asarray(label), jnp.ones(16, bool), 3)
    weight = np.asarray(opposite_frequency(jnp.asarray(label), counts))
    np.testing.assert_array_equal((weight * label).sum(0), (weight * (1 - label)).sum(0))
    assert (weight[:, 2] == 0.5).all() and weight[0, 0] == 15 / 16
    # A classification of two classes is one finding.
    counts = count_labels(jnp.asarray(label[:, 0]), jnp.ones(16, bool), 2)
    np.testing.assert_array_equal(opposite_frequency(jnp.asarray(label[:, 0]), counts), weight[:, 0])


def test_a_prior_of_one_half_is_half_the_plain_loss():
    label = jnp.asarray([[0, 1], [1, 0]])
    weight = opposite_frequency(label, count_labels(label, jnp.ones(2, bool), 2))
    batch = {"x": jnp.asarray(X[0, :2]), "label": label, "valid": jnp.ones(2, bool)}
    params = SEVERAL.init(None).params
    plain, half = (SEVERAL.loss(params, {}, b, None)[0] for b in (batch, {**batch, "weight": weight}))
    assert half == plain / 2


@pytest.mark.parametrize(("task", "label"), [(CLASSES, CLASS), (SEVERAL, FINDINGS)])
def test_counts_are_exchanged_once(fx, task, label):
    variables, data = task.init(None), clients(fx, label)
    found = exchange_counts(task, variables, data, jax.random.key(0), prior="global")
    outputs = variables.params["w"].shape[1]
    each = [count_labels(data.examples["label"][i], data.valid[i], outputs) for i in range(3)]
    np.testing.assert_array_equal(found.exchanged, sum(each))
    np.testing.assert_array_equal(found.bytes_up, [8 * outputs] * 3)
    np.testing.assert_array_equal(found.bytes_down, [8 * outputs] * 3)
    local = exchange_counts(task, variables, data, jax.random.key(0))
    assert local.exchanged is None and not local.bytes_up.any() and not local.bytes_down.any()


def stepped(task, data, weight):
    """One step of every client on all its examples with given weights, averaged by size."""
    start = task.init(None).params
    total = jnp.zeros_like(start["w"])
    for i in range(3):
        batch = {k: x[i] for k, x in data.examples.items()} | {"valid": data.valid[i], "weight": weight[i]}
        gradient = jax.grad(lambda p, b: task.loss(p, {}, b, None)[0])(start, batch)
        total += data.valid[i].sum() / data.valid.sum() * gradient["w"]
    return start["w"] - 0.5 * total


def check_steps(fx, task, label, recipe, weigh, prior):
    data, outputs = clients(fx, label), task.init(None).params["w"].shape[1]
    each = [count_labels(data.examples["label"][i], data.valid[i], outputs) for i in range(3)]
    algorithm = recipe(task, optax.sgd(0.5), exchanged=sum(each), prior=prior)
    states, _ = fx.trajectory(task, algorithm, 1, batch_size=9, epochs=1)(data)
    weight = [weigh(data.examples["label"][i], each[i] if prior == "local" else sum(each)) for i in range(3)]
    expected = stepped(task, data, weight)
    np.testing.assert_allclose(states.variables.params["w"][0], expected, rtol=2e-5, atol=1e-6)


def test_steps_of_wei_are_those_of_the_weighted_loss(fx):
    check_steps(fx, CLASSES, CLASS, wei, balanced, "local")


def test_steps_of_priya_are_those_of_the_weighted_loss(fx):
    check_steps(fx, SEVERAL, FINDINGS, priya, opposite_frequency, "global")


@pytest.mark.slow
def test_equal_numbers_of_classes_are_fedavg(fx):
    label = np.tile(np.arange(3), (3, 3))
    data = clients(fx, label)._replace(valid=jnp.ones((3, 9), bool))
    data = data._replace(examples={**data.examples, "x": jnp.tanh(data.examples["x"])})
    plain = fx.trajectory(CLASSES, fl.fedavg(CLASSES, optax.sgd(0.5)), 2, batch_size=3, epochs=1)(data)
    found = fx.trajectory(CLASSES, wei(CLASSES, optax.sgd(0.5)), 2, batch_size=3, epochs=1)(data)
    fx.assert_equal(found, plain)


@pytest.mark.slow
def test_a_rare_finding_is_recalled_more_often_at_an_equal_area(fx):
    """Of 2 % of the images: means over five draws of training and test."""
    recalls, areas = [], []
    trainings = [
        fx.trajectory(SEVERAL, recipe(SEVERAL, optax.adam(0.1)), 20, batch_size=100, epochs=1)
        for recipe in (fl.fedavg, priya)
    ]
    for seed in range(5):
        rng = np.random.default_rng(seed)

        def draw(rng=rng):
            x = rng.normal(size=(2, 400, 4)).astype(np.float32)
            x[:, :, 3] = 1
            score = x[..., :2] @ np.array([1.0, 0.5]) + 0.5 * rng.normal(size=(2, 400))
            rare, common = score > np.quantile(score, 0.98), x[..., 2] > 0
            return x, np.stack([rare, common], -1).astype(np.int32)

        (x, label), (tested, truth) = draw(), draw()
        data = fx.clients({"x": jnp.asarray(x), "label": jnp.asarray(label)}, jnp.ones((2, 400), bool))
        found = []
        for train in trainings:
            z = (tested @ np.asarray(train(data)[0].variables.params["w"][-1]))[..., 0]
            ill = truth[..., 0] == 1
            found.append(((z[ill] > 0).mean(), (z[ill][:, None] > z[~ill]).mean()))
        recalls.append([recall for recall, _ in found])
        areas.append([area for _, area in found])
    plain, weighted = np.mean(recalls, 0)
    assert weighted > plain + 0.1, recalls
    assert abs(np.subtract(*np.mean(areas, 0))) < 0.02, areas


def test_what_has_no_meaning_is_refused():
    with pytest.raises(ValueError, match=r"^prior: expected local or global, found 'both'$"):
        wei(CLASSES, optax.sgd(0.1), prior="both")
    with pytest.raises(ValueError, match=r"^prior: expected local or global"):
        exchange_counts(CLASSES, None, None, None, prior="both")
    with pytest.raises(ValueError, match=r"^task: expected a classification with one label"):
        balanced(jnp.zeros((2, 2), int), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"^task: expected one of findings"):
        opposite_frequency(jnp.zeros(2, int), jnp.ones((2, 3)))
