"""Classification by the nearest prototype against distances by hand, and in rounds of Lai's method."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.lai import lai
from fedrecon.tasks import classification_task, layer_features, nearest_prototype

RADIUS, KEY = 2.0, jax.random.key(0)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(4, name="body")(x.reshape(len(x), -1))
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(3, name="head")(x)


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


def data():
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=(2, 12)).astype(np.int32)
    image = rng.normal(size=(2, 12, 2, 3, 1)) + rng.normal(size=(3, 2, 3, 1))[label]
    return Clients({"image": jnp.asarray(image, jnp.float32), "label": label}, jnp.ones((2, 12), bool))


EXAMPLE = {name: jax.ShapeDtypeStruct((1, *x.shape[2:]), x.dtype) for name, x in data().examples.items()}
PLAIN = classification_task(Net(), EXAMPLE, chunk=5)
TASK = nearest_prototype(PLAIN, EXAMPLE, radius=RADIUS)


def test_the_nearest_prototype_is_predicted():
    variables, rows = TASK.init(jax.random.key(1)), data()
    batch = {name: x[0] for name, x in rows.examples.items()} | {"valid": jnp.ones(12, bool)}
    plain = PLAIN.init(jax.random.key(1))
    # Without prototypes, the head decides.
    predict = jax.jit(TASK.predict)
    np.testing.assert_array_equal(predict(*variables, batch), jax.jit(PLAIN.predict)(*plain, batch))
    means = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32)
    known = np.array([1, 0, 1], np.float32)
    stats = {**variables.stats, "prototypes": {"means": jnp.asarray(means), "known": jnp.asarray(known)}}
    p = jax.tree.map(np.asarray, plain.params)
    f = np.asarray(batch["image"]).reshape(12, -1) @ p["body"]["kernel"] + p["body"]["bias"]
    f = RADIUS * f / np.linalg.norm(f, axis=1, keepdims=True)
    distance = ((f[:, None] - means) ** 2).sum(-1)
    distance[:, 1] = 4 * RADIUS**2 + 1
    expected = np.exp(-distance) / np.exp(-distance).sum(1, keepdims=True)
    np.testing.assert_allclose(predict(variables.params, stats, batch), expected, atol=1e-5)
    total, count = jax.jit(lambda s: TASK.metrics(variables.params, s, batch)["accuracy"])(stats)
    assert total / count == pytest.approx(np.mean(distance.argmin(1) == np.asarray(batch["label"])[:12]))
    # Training is by the head, and leaves prototypes alone.
    found, expected = jax.jit(
        lambda: (TASK.loss(variables.params, stats, batch, KEY), PLAIN.loss(*plain, batch, KEY))
    )()
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1][0]["prototypes"]["means"], means)
    np.testing.assert_array_equal(found[1][0]["norm"]["mean"], expected[1][0]["norm"]["mean"])


@pytest.mark.slow
def test_clients_keep_the_prototypes_that_they_received_last():
    seen = layer_features(TASK, lambda module: module.path == ("head",))
    options = {"represent": lambda *a: seen(*a)["head"], "example": EXAMPLE, "radius": RADIUS, "minimum": 1}
    found = {}
    for classify in ("head", "prototype"):
        algorithm = lai(TASK, optax.sgd(0.1), classify=classify, **options)
        round = fl.make_round(algorithm, batch_size=4, epochs=1, donate=False)
        state = fl.init_state(algorithm, TASK.init(jax.random.key(1)), data())
        first, _ = round(state, data(), jax.random.key(0))
        second, _ = round(first, data(), jax.random.key(0))
        found[classify] = (first, second)
        assert not first.private.stats["prototypes"]["known"].any()
    (_, head), (before, prototype) = found["head"], found["prototype"]
    assert not head.private.stats["prototypes"]["known"].any()
    for client in range(2):
        np.testing.assert_array_equal(
            prototype.private.stats["prototypes"]["means"][client], before.exchange["means"]
        )
    np.testing.assert_array_equal(
        head.private.params["head"]["kernel"], prototype.private.params["head"]["kernel"]
    )


def test_a_task_without_prototypes_is_refused():
    seen = layer_features(PLAIN, lambda module: module.path == ("head",))
    algorithm = lai(
        PLAIN, optax.sgd(0.1), classify="prototype", represent=lambda *a: seen(*a)["head"], example=EXAMPLE
    )
    with pytest.raises(ValueError, match=r"^task: expected one of .fedrecon.tasks.nearest_prototype"):
        fl.init_state(algorithm, PLAIN.init(jax.random.key(1)), data())
    with pytest.raises(ValueError, match=r"^classify: expected head or prototype, found 'body'"):
        lai(PLAIN, optax.sgd(0.1), classify="body", represent=None, example=EXAMPLE)
