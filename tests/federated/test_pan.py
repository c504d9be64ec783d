"""Pan: labels that are hidden, what the received model is sure of, and features that it leads."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.pan import coarsest, guided, pan
from fedrecon.federated.methods.unlabeled import (
    against_background,
    drawn_by_pixels,
    hidden_labels,
    pseudo_loss,
    ramp,
)
from fedrecon.types import Task, Variables

RNG = np.random.default_rng(3)
# Three sites of 5, 3 and 4 images of two channels, of three classes; padding is large.
IMAGES = RNG.normal(size=(3, 5, 6, 4, 2)).astype(np.float32)
LABELS = RNG.integers(0, 3, (3, 5, 6, 4))
VALID = np.arange(5)[None] < np.array([5, 3, 4])[:, None]
IMAGES[~VALID] = 1e3
W, OWN = (3 * RNG.normal(size=(2, 3)).astype(np.float32) for _ in range(2))


def predict(params, stats, batch):
    return jax.nn.softmax(batch["image"] @ params["w"])


def loss(params, stats, batch, key):
    log_p = jnp.log(predict(params, stats, batch) + 1e-6)
    each = -jnp.take_along_axis(log_p, batch["segmentation"][..., None], -1).mean((1, 2, 3))
    value = jnp.where(batch["valid"], each, 0).sum() / jnp.maximum(batch["valid"].sum(), 1)
    return value, (stats, {"loss": (value, jnp.float32(1))})


def seen(params, stats, batch):
    """What layers see: images, halved once and twice."""
    x = batch["image"] @ params["w"]
    return {"a": x, "b": x[:, ::2, ::2], "c": jnp.sin(x[:, ::2, ::2])}


TASK = Task(
    init=lambda key: Variables({"w": jnp.asarray(W)}, {}),
    loss=loss,
    metrics=lambda params, stats, batch: {},
    predict=predict,
    normalization=Variables({"w": False}, {}),
)
UNLABELED = np.array([True, False, True, False, False])
BATCH = {
    "image": jnp.asarray(IMAGES[2]),
    "segmentation": jnp.asarray(LABELS[2]),
    "unlabeled": jnp.asarray(UNLABELED),
    "valid": jnp.asarray(VALID[2] & ~UNLABELED),
}


def term(own=OWN, received=W, round=4.0, batch=BATCH, features=seen, rounds=10, **options):
    """The penalty in round ``round``, in a context of what it needs."""
    method = guided(TASK, features, rounds, **{"noise": 0.0} | options)

    @jax.jit
    def penalty(own, received, round, batch):
        context = SimpleNamespace(
            received=Variables({"w": received}, {}), complete=lambda variables: variables, broadcast=round
        )
        return method.penalty({"w": own}, {}, batch, (), context, jax.random.key(1))[0]

    return penalty(own, received, jnp.float32(round), batch)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def expected_pseudo(z, received, unlabeled, confidence):
    """Dice and binary cross-entropy of sure pixels, pixel by pixel."""
    total = 0.0
    for k in range(z.shape[-1]):
        own, label = [], []
        for place in np.ndindex(*z.shape[:-1]):
            p = sigmoid(received[(*place, k)])
            if unlabeled[place[0]] and max(p, 1 - p) >= confidence:
                own.append(sigmoid(z[(*place, k)]))
                label.append(float(p > 0.5))
        if own:
            p, y = np.array(own), np.array(label)
            entropy = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
            total += entropy + 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    return total / z.shape[-1]


def test_the_objective_is_that_of_the_equations():
    x = np.where(VALID[2][:, None, None, None], IMAGES[2], 0).astype(float)
    z, received = ((x @ w)[..., 1:] - (x @ w)[..., :1] for w in (OWN, W))
    pseudo = expected_pseudo(z, received, UNLABELED, 0.8)
    np.testing.assert_allclose(term(guidance=0.0, rounds=4), 0.1 * pseudo, rtol=1e-5)
    halved = IMAGES[2][UNLABELED][:, ::2, ::2].astype(float)
    apart = np.square(np.sin(halved @ OWN) - np.sin(halved @ W)).mean()
    expected = 0.3 * np.exp(-5 * 0.6**2) * (pseudo + 0.7 * apart)
    np.testing.assert_allclose(term(guidance=0.7, strength=0.3), expected, rtol=1e-5)
    # With noise it is another image.
    assert abs(term(guidance=0.0, noise=0.5) - term(guidance=0.0)) > 1e-4


def test_the_ramp_rises_to_one_and_stays():
    found = [float(ramp(jnp.float32(t), 10)) for t in (0, 5, 10, 20)]
    np.testing.assert_allclose(found, [np.exp(-5), np.exp(-1.25), 1, 1], rtol=1e-6)


def test_without_a_sure_pixel_there_is_nothing_to_learn():
    z = jnp.asarray(RNG.normal(size=(5, 6, 4, 2)))
    for received, unlabeled in ((jnp.full_like(z, 1.3), UNLABELED), (10 * z, np.zeros(5, bool))):
        value, gradient = jax.value_and_grad(pseudo_loss)(z, received, jnp.asarray(unlabeled), 0.8)
        assert float(value) == 0 and not np.any(gradient)
    # A logit of 1.3 is a probability of .786; 1.4 one of .802.
    assert pseudo_loss(z, jnp.full_like(z, 1.4), jnp.asarray(UNLABELED), 0.8) > 0


def test_no_gradient_reaches_the_received_model():
    assert not np.any(jax.grad(lambda w: term(received=w))(jnp.asarray(W)))
    assert np.any(jax.grad(lambda w: term(own=w))(jnp.asarray(OWN)))


def test_labels_and_padding_have_no_part_in_it():
    other = {
        **BATCH,
        "segmentation": BATCH["segmentation"] * 0,
        "image": jnp.where(BATCH["image"] == 1e3, -7.0, BATCH["image"]),
    }
    assert float(term(batch=other, noise=0.1)) == float(term(noise=0.1))


def test_structures_are_compared_with_the_background():
    z = jnp.asarray(RNG.normal(size=(7, 3)))
    np.testing.assert_allclose(
        against_background(jax.nn.softmax(z)), z[:, 1:] - z[:, :1], rtol=1e-5, atol=1e-6
    )
    assert np.isfinite(against_background(jnp.array([[1.0, 0.0]]))).all()


def test_the_coarsest_features_are_the_last_of_those_with_the_fewest_pixels():
    assert coarsest(seen({"w": W}, {}, BATCH)).shape == (5, 3, 2, 3)
    x = jnp.zeros((1, 2, 2, 3))
    assert coarsest({"a": x, "b": x + 1, "c": jnp.zeros((1, 4, 4, 1))})[0, 0, 0, 0] == 1
    assert coarsest({}) is None


def test_hidden_labels_are_a_part_and_always_the_same():
    images = jnp.asarray(RNG.normal(size=(2000, 3, 3)))
    kept = np.asarray(drawn_by_pixels(images, 0.3))
    assert abs(kept.mean() - 0.3) < 4 * np.sqrt(0.21 / 2000)
    order = RNG.permutation(2000)
    np.testing.assert_array_equal(drawn_by_pixels(images[order], 0.3), kept[order])
    assert not drawn_by_pixels(images, 0.0).any() and drawn_by_pixels(images, 1.0).all()
    assert (kept <= np.asarray(drawn_by_pixels(images, 0.6))).all()


def context_of(client, **examples):
    batches = SimpleNamespace(
        client=jnp.int32(client),
        present=jnp.asarray(VALID[1]),
        examples={"image": jnp.asarray(IMAGES[0]), **examples},
    )
    return SimpleNamespace(batches=batches)


def test_examples_without_labels_are_marked_and_clients_without_any_weigh_less():
    method = hidden_labels(3, unlabeled_clients=1, weight=0.25)
    batch = {"image": BATCH["image"], "valid": jnp.asarray(VALID[2])}
    result = fl.ClientResult(None, jnp.float32(5), None, None, None, None)
    known = jnp.asarray([0, 1, 1, 0, 0])
    for client, given, marked, weight in ((1, {}, 0, 5), (2, {}, 4, 1.25), (0, {"labeled": known}, 2, 5)):
        found = method.prepare({**batch, **given}, (), context_of(client), None)
        np.testing.assert_array_equal(found["valid"] | found["unlabeled"], VALID[2])
        assert not (found["valid"] & found["unlabeled"]).any() and found["unlabeled"].sum() == marked
        changed, _, _ = method.finish(result, (), context_of(client, **given))
        assert float(changed.weight) == weight
    # Of the labeled ones, those that are there count.
    there = jnp.asarray(~VALID[1])
    assert float(method.finish(result, (), context_of(0, labeled=there))[0].weight) == 1.25


@pytest.fixture(scope="module")
def averaged(fx):
    """Two rounds of two algorithms on the same data."""
    examples = {"image": jnp.asarray(IMAGES), "segmentation": jnp.asarray(LABELS)}
    data = fx.clients(examples, jnp.asarray(VALID))

    def run(algorithm):
        return fx.trajectory(TASK, algorithm, 2, batch_size=2, epochs=1)(data)[0].variables

    return run


@pytest.mark.slow
def test_without_strength_it_is_supervised_fedavg_bit_for_bit(fx, averaged):
    """With all labels that on all examples, with some that on these."""

    def masked(params, stats, batch, key):
        kept = drawn_by_pixels(batch["image"], 0.5)
        return loss(params, stats, {**batch, "valid": batch["valid"] & kept}, key)

    optimizer, common = optax.adam(0.05), {"clients": 3, "rounds": 2, "strength": 0.0}
    fx.assert_equal(averaged(pan(TASK, optimizer, **common)), averaged(fl.fedavg(TASK, optimizer)))
    weights = {"labeled": 0.5, "unlabeled_weight": 1.0}
    some = averaged(pan(TASK, optimizer, **common, **weights))
    fx.assert_equal(some, averaged(fl.fedavg(TASK._replace(loss=masked), optimizer)))


@pytest.mark.slow
def test_a_round_is_that_of_numpy(fx, x64):
    """One full-batch step of gradient descent at each site, the last without labels, with half the weight."""
    examples = {"image": jnp.asarray(IMAGES, float), "segmentation": jnp.asarray(LABELS)}
    data = fx.clients(examples, jnp.asarray(VALID))
    rate = 0.2
    options = {"clients": 3, "rounds": 1, "unlabeled_clients": 1, "noise": 0.0, "strength": 0.4}
    algorithm = pan(TASK, optax.sgd(rate), features=seen, **options)
    start = Variables({"w": jnp.asarray(W, float)}, {})
    state = fl.init_state(algorithm, start, data)
    state, _ = jax.jit(fl.make_round(algorithm, batch_size=5, epochs=1))(state, data, jax.random.key(0))

    def objective(w, site):
        x, y = IMAGES[site][VALID[site]].astype(float), LABELS[site][VALID[site]]
        if site == 2:
            z, received = ((x @ v)[..., 1:] - (x @ v)[..., :1] for v in (w, W.astype(float)))
            return 0.4 * np.exp(-5) * expected_pseudo(z, received, np.ones(len(x), bool), 0.8)
        e = np.exp(x @ w)
        p = np.take_along_axis(e / e.sum(-1, keepdims=True), y[..., None], -1)
        return -np.log(p + 1e-6).mean()

    def gradient(site, step=1e-5):
        found = np.zeros(W.shape)
        for place in np.ndindex(*W.shape):
            e = np.zeros(W.shape)
            e[place] = step
            found[place] = (objective(W + e, site) - objective(W - e, site)) / (2 * step)
        return found

    weights = np.array([5, 3, 2.0])
    moved = sum(n * (W - rate * gradient(i)) for i, n in enumerate(weights)) / weights.sum()
    np.testing.assert_allclose(state.variables.params["w"], moved, atol=1e-6)


def test_rounds_are_counted():
    server = guided(TASK, None, 10).server
    state = server.receive(server.receive(server.init(None), None, None), None, None)
    assert float(server.broadcast(state)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1.0}, "strength: expected"),
        ({"guidance": -1.0}, "guidance: expected"),
        ({"noise": -1.0}, "noise: expected"),
        ({"confidence": 0.4}, "confidence: expected a number in"),
        ({"labeled": 1.5}, "labeled: expected a number in"),
        ({"unlabeled_clients": 4}, "unlabeled_clients: expected 0 to 3"),
        ({"unlabeled_weight": -1.0}, "unlabeled_weight: expected"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        pan(TASK, optax.sgd(0.1), clients=3, rounds=2, **options)
