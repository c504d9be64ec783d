"""FedVSS: virtual samples and the objective, against numpy."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.fedvss import fedvss, least_smooth, most_certain, virtual_samples
from fedrecon.types import Task, Variables

RNG = np.random.default_rng(2)
SHAPE, CLASSES = (4, 3, 1), 3
IMAGES = RNG.normal(size=(3, 5, *SHAPE)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, (3, 5))
VALID = np.arange(5)[None] < np.array([5, 3, 4])[:, None]
IMAGES[~VALID], LABELS[~VALID] = 1e3, -1
W, OWN = (RNG.normal(size=(12, CLASSES)).astype(np.float32) for _ in range(2))


def predict(params, stats, batch):
    return jax.nn.softmax(batch["image"].reshape(len(batch["image"]), -1) @ params["w"])


def loss(params, stats, batch, key):
    log_p = jnp.log(predict(params, stats, batch))
    each = -jnp.take_along_axis(log_p, jnp.maximum(batch["label"], 0)[:, None], -1)[:, 0]
    return jnp.where(batch["valid"], each, 0).sum() / jnp.maximum(batch["valid"].sum(), 1), (stats, {})


TASK = Task(
    init=lambda key: Variables({"w": jnp.asarray(W)}, {}),
    loss=loss,
    metrics=lambda params, stats, batch: {},
    predict=predict,
    normalization=Variables({"w": False}, {}),
)
BATCH = {"image": jnp.asarray(IMAGES[1]), "label": jnp.asarray(LABELS[1]), "valid": jnp.asarray(VALID[1])}
MODEL = Variables({"w": jnp.asarray(OWN)}, {})


def term(params, received, key=None, batch=BATCH, **options):
    """The penalty, in a context of which it needs the received model alone."""
    context = SimpleNamespace(received=Variables(received, {}), complete=lambda variables: variables)
    default = {"smoothness": 1.0, "alignment": 1.0, "local_radius": 1.0, "global_radius": 1.0, "probe": 0.1}
    method = virtual_samples(TASK, **default | options)
    return method.penalty(params, {}, batch, (), context, jax.random.key(3) if key is None else key)[0]


def probabilities(x, w):
    z = x @ w
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def length(x):
    return np.linalg.norm(np.asarray(x).reshape(len(x), -1), axis=-1)


def divergence(model, image):
    p, q = (predict(*model, {**BATCH, "image": x}) for x in (BATCH["image"], image))
    return np.asarray((p * (jnp.log(p) - jnp.log(q))).sum(-1))[VALID[1]]


def test_the_objective_is_that_of_the_equations():
    """Of a linear classifier: grad_r KL(p || q(r)) = W (q - p), and grad_x CE = W (p - y)."""
    options = {"smoothness": 0.7, "alignment": 0.4, "local_radius": 0.9, "global_radius": 0.5, "probe": 0.2}
    found = term({"w": jnp.asarray(OWN)}, {"w": jnp.asarray(W)}, **options)
    start = jax.random.normal(jax.random.fold_in(jax.random.key(3), 16), BATCH["image"].shape)
    n = int(VALID[1].sum())
    x, own, w = (a.astype(float) for a in (IMAGES[1][:n].reshape(n, -1), OWN, W))
    u = unit(np.asarray(start, float).reshape(5, -1)[:n])
    p, y = probabilities(x, own), np.eye(CLASSES)[LABELS[1][:n]]
    local = x + 0.9 * unit((probabilities(x + 0.2 * u, own) - p) @ own.T)
    sure = x - 0.5 * unit((probabilities(x, w) - y) @ w.T)
    smooth = (p * (np.log(p) - np.log(probabilities(local, own)))).sum(-1)
    aligned = -(y * np.log(probabilities(sure, own))).sum(-1)
    np.testing.assert_allclose(found, (0.7 * smooth + 0.4 * aligned).mean(), rtol=2e-4)


def test_samples_lie_at_their_radii():
    local = least_smooth(TASK, MODEL, BATCH, jax.random.key(0), 0.8, 0.1)
    np.testing.assert_allclose(length(local - BATCH["image"])[VALID[1]], 0.8, rtol=1e-5)
    sure = most_certain(TASK, MODEL, BATCH, 0.3)
    np.testing.assert_allclose(length(sure - BATCH["image"])[VALID[1]], 0.3, rtol=1e-5)
    # Of a constant model there is no direction: a random one, and none.
    constant = Variables({"w": jnp.zeros((12, CLASSES))}, {})
    local = least_smooth(TASK, constant, BATCH, jax.random.key(0), 0.8, 0.1)
    np.testing.assert_allclose(length(local - BATCH["image"])[VALID[1]], 0.8, rtol=1e-5)
    np.testing.assert_array_equal(most_certain(TASK, constant, BATCH, 0.3), BATCH["image"])


def test_predictions_change_more_than_in_a_random_direction():
    key, own = jax.random.key(1), jax.random.key(2)
    found = divergence(MODEL, least_smooth(TASK, MODEL, BATCH, key, 0.5, 0.1)).mean()
    for number in range(5):
        drawn = jax.random.normal(jax.random.fold_in(own, number), BATCH["image"].shape)
        drawn = 0.5 * drawn / length(drawn)[:, None, None, None]
        assert found > divergence(MODEL, BATCH["image"] + drawn).mean()


def test_the_received_model_is_surer_of_its_samples():
    received = Variables({"w": jnp.asarray(W)}, {})
    sure = {**BATCH, "image": most_certain(TASK, received, BATCH, 0.05)}
    label = LABELS[1][VALID[1]][:, None]
    before, after = (
        np.take_along_axis(np.asarray(predict(*received, batch))[VALID[1]], label, -1)
        for batch in (BATCH, sure)
    )
    assert (after > before).all()


def test_no_gradient_reaches_the_received_model():
    gradient = jax.grad(term, argnums=1)({"w": jnp.asarray(OWN)}, {"w": jnp.asarray(W)})
    np.testing.assert_array_equal(gradient["w"], 0)


def test_the_client_s_first_predictions_have_no_gradient():
    """The gradient is that of virtual samples, and of what they are compared with, held fixed."""
    own = {"w": jnp.asarray(OWN)}
    drawn = jax.random.fold_in(jax.random.key(3), 16)
    image = least_smooth(TASK, MODEL, BATCH, drawn, 1.0, 0.1)
    before, valid = predict(*MODEL, BATCH)[VALID[1]], {"image": image[VALID[1]]}

    def expected(params):
        return (before * -jnp.log(predict(params, {}, valid))).sum(-1).mean()

    found = jax.grad(term)(own, {"w": jnp.asarray(W)}, alignment=0.0)
    np.testing.assert_allclose(found["w"], jax.grad(expected)(own)["w"], atol=1e-5)


def trained(fx, algorithm, rounds=2):
    data = fx.clients({"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)}, jnp.asarray(VALID))
    return fx.trajectory(TASK, algorithm, rounds, batch_size=2, epochs=1)(data)


def test_without_weights_it_is_fedavg_bit_for_bit(fx):
    plain = trained(fx, fl.fedavg(TASK, optax.sgd(0.1)))
    fx.assert_equal(trained(fx, fedvss(TASK, optax.sgd(0.1), smoothness=0.0, alignment=0.0)), plain)


def test_one_of_the_weights_is_enough(fx):
    own, received = {"w": jnp.asarray(OWN)}, {"w": jnp.asarray(W)}
    both = term(own, received)
    np.testing.assert_allclose(
        term(own, received, smoothness=0.0) + term(own, received, alignment=0.0), both, rtol=1e-5
    )
    states, infos = trained(fx, fedvss(TASK, optax.sgd(0.1)))
    assert infos.applied.all() and np.isfinite(states.variables.params["w"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothness": -1.0}, "smoothness: expected a number of at least 0, found -1.0"),
        ({"alignment": float("nan")}, "alignment: expected"),
        ({"local_radius": 0.0}, "local_radius: expected a positive number"),
        ({"probe": 0.0}, "probe: expected a positive number"),
    ],
)
def test_arguments_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        fedvss(TASK, optax.sgd(0.1), **options)
