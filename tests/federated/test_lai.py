"""Lai's class means against sums by hand, and training alone where they have no strength."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.lai import class_means, lai
from fedrecon.types import Task, Variables

CLASSES, FEATURES = 3, 4
EXAMPLE = {"x": jax.ShapeDtypeStruct((1, 5), jnp.float32), "label": jax.ShapeDtypeStruct((1,), jnp.int32)}


def represent(params, stats, batch):
    return jnp.tanh(batch["x"] @ params["body"])


def predict(params, stats, batch):
    return jax.nn.softmax(represent(params, stats, batch) @ params["head"])


def loss(params, stats, batch, key):
    each = -jnp.log(predict(params, stats, batch)[jnp.arange(len(batch["label"])), batch["label"]])
    value = jnp.where(batch["valid"], each, 0).sum() / jnp.maximum(batch["valid"].sum(), 1)
    return value, (stats, {})


def init(key):
    body, head = jax.random.split(key)
    params = {
        "body": jax.random.normal(body, (5, FEATURES)),
        "head": jax.random.normal(head, (FEATURES, CLASSES)),
    }
    return Variables(params, {})


TASK = Task(init, loss, lambda p, s, b: {}, predict, Variables({"body": False, "head": False}, {}))


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


def data():
    """Two clients of 12 and 9 examples; the second has three of class 1 and none of class 2."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 12, 5)).astype(np.float32)
    label = np.array([[0, 1, 2] * 4, [0] * 6 + [1] * 3 + [0] * 3], np.int32)
    valid = np.arange(12)[None] < np.array([12, 9])[:, None]
    x[~valid] = 1e3
    return Clients({"x": jnp.asarray(x), "label": jnp.asarray(label)}, jnp.asarray(valid))


def rounds(algorithm, clients, count=1):
    round = fl.make_round(algorithm, batch_size=4, epochs=1, donate=False)
    state = fl.init_state(algorithm, TASK.init(jax.random.key(1)), clients)
    for _ in range(count):
        state, info = round(state, clients, jax.random.key(0))
    return state, info


def features_by_hand(variables, clients, radius):
    """(client, example, features) of the privacy layer, in numpy."""
    found = np.tanh(np.asarray(clients.examples["x"]) @ np.asarray(variables.params["body"]))
    return radius * found / np.linalg.norm(found, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def frozen():
    """One round in which nobody moves: all clients have one extractor."""
    algorithm = lai(TASK, optax.sgd(0.0), represent=represent, example=EXAMPLE, minimum=4, radius=2.0)
    return rounds(algorithm, data())


def test_means_are_those_of_the_pooled_data_without_small_classes(frozen):
    state, info = frozen
    clients = data()
    found = features_by_hand(TASK.init(jax.random.key(1)), clients, 2.0)
    member = np.asarray(clients.valid)[..., None] & (
        np.asarray(clients.examples["label"])[..., None] == np.arange(3)
    )
    # The three examples of class 1 at the second client stay there.
    member[1, :, 1] = False
    expected = np.einsum("nek,nef->kf", member, found) / member.sum((0, 1))[:, None]
    np.testing.assert_allclose(state.exchange["means"], expected, atol=1e-5)
    np.testing.assert_array_equal(state.exchange["known"], [1, 1, 1])
    # Bytes do not depend on the model: K (4 F + 4), and the weight.
    np.testing.assert_array_equal(info.bytes_up, 4 * CLASSES * (FEATURES + 1) + 4)
    np.testing.assert_array_equal(info.bytes_down, 4 * CLASSES * (FEATURES + 1))


@pytest.mark.slow
def test_the_order_of_examples_changes_nothing(frozen):
    clients = data()
    order = np.concatenate([np.random.default_rng(1).permutation(9), [9, 10, 11]])
    moved = Clients({n: x[:, order] for n, x in clients.examples.items()}, clients.valid[:, order])
    algorithm = lai(TASK, optax.sgd(0.0), represent=represent, example=EXAMPLE, minimum=4, radius=2.0)
    state, _ = rounds(algorithm, moved)
    np.testing.assert_allclose(state.exchange["means"], frozen[0].exchange["means"], atol=1e-5)


@pytest.mark.slow
def test_without_strength_clients_train_alone_bit_for_bit():
    algorithm = lai(TASK, optax.sgd(0.1), represent=represent, example=EXAMPLE, strength=0.0)
    alone = fl.local_only(TASK, optax.sgd(0.1), keep_optimizer=False)
    found, expected = (rounds(a, data(), 2)[0].private for a in (algorithm, alone))
    assert all(
        (np.asarray(a) == np.asarray(b)).all()
        for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True)
    )
    assert not np.array_equal(found.params["head"][0], found.params["head"][1])


def test_the_penalty_is_the_distance_to_the_means_that_are_known():
    method = class_means(TASK, represent, EXAMPLE, strength=3.0)
    variables, batch = TASK.init(jax.random.key(1)), data()
    batch = {name: x[1] for name, x in batch.examples.items()} | {"valid": batch.valid[1]}
    means = np.random.default_rng(2).normal(size=(CLASSES, FEATURES)).astype(np.float32)

    class Context:
        broadcast = {"means": jnp.asarray(means), "known": jnp.array([1.0, 0.0, 1.0])}  # noqa: RUF012

    value, _ = method.penalty(*variables, batch, (), Context, None)
    found = features_by_hand(variables, data(), 1.0)[1]
    label = np.asarray(batch["label"])
    away = ((found - means[label]) ** 2).sum(-1)
    expected = 3 * away[np.asarray(batch["valid"]) & (label != 1)].sum() / 9
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    Context.broadcast = {**Context.broadcast, "known": jnp.zeros(3)}
    assert float(method.penalty(*variables, batch, (), Context, None)[0]) == 0


def test_classes_that_nobody_reports_keep_their_means():
    method = class_means(TASK, represent, EXAMPLE)
    server = {"means": jnp.ones((3, 4)), "known": jnp.array([1.0, 1.0, 0.0])}
    message = fl.Message(summed={"sums": 6 * jnp.ones((3, 4)), "counts": jnp.array([3.0, 0, 0])})
    new = method.server.receive(server, message, None)
    np.testing.assert_array_equal(new["means"][:, 0], [2, 1, 1])
    np.testing.assert_array_equal(new["known"], [1, 1, 0])


@pytest.mark.slow
def test_noise_has_the_deviation_of_the_pair():
    """One example moves (sum, R n) by sqrt(2) R; the numbers get the noise over R."""
    method = class_means(TASK, represent, EXAMPLE, minimum=0, radius=2.0, noise=3.0)
    plain = class_means(TASK, represent, EXAMPLE, minimum=0, radius=2.0)
    variables, clients = TASK.init(jax.random.key(1)), data()
    batches = fl.Batches(
        {name: x[0] for name, x in clients.examples.items()},
        jnp.arange(12)[None],
        jnp.int32(1000),
        clients.valid[0],
        jnp.int32(0),
    )
    broadcast = {"means": jnp.zeros((3, 4)), "known": jnp.zeros(3)}
    result = fl.ClientResult(None, jnp.float32(1), (), fl.Message(), {}, variables)

    def sent(method, key):
        context = fl.LocalContext(
            variables, broadcast, batches, key, loss, jnp.float32(1), None, lambda variables: variables
        )
        return method.finish(result, (), context)[1].summed

    exact = sent(plain, jax.random.key(0))
    noisy = jax.vmap(lambda key: sent(method, key))(jax.random.split(jax.random.key(5), 500))
    kept = np.asarray(noisy["counts"]) != 0
    # Of the classes with a number of at least 1, which those of the noise below are not.
    change = np.asarray(noisy["sums"] - exact["sums"])[kept]
    assert abs(change.std() - 3 * np.sqrt(2) * 2) < 0.4
    assert method.discloses == "" and plain.discloses


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"strength": -1}, r"^strength: expected a number of at least 0, found -1"),
        ({"noise": -1}, r"^noise: expected"),
        ({"radius": 0}, r"^radius: expected a positive number, found 0"),
    ],
)
def test_options_out_of_range_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        lai(TASK, optax.sgd(0.1), represent=represent, example=EXAMPLE, **option)
