"""MediSecFed: what is agreed on in spite of false answers, what travels, and training alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import attacks
from fedrecon import federated as fl
from fedrecon.federated.methods.agreement import agree
from fedrecon.federated.methods.medisecfed import answered_images, medisecfed
from fedrecon.federated.methods.synthetic_images import (
    distill,
    feature_moments,
    invert,
    logits_of,
    smooth_noise,
)
from fedrecon.types import Task, Variables

SIZE = 4
EXAMPLE = {"image": jax.ShapeDtypeStruct((1, SIZE, SIZE, 1), jnp.float32)}


def predict(params, stats, batch):
    x = batch["image"].reshape(len(batch["image"]), -1)
    for name in sorted(params)[:-1]:
        x = jnp.tanh(x @ params[name])
    return jax.nn.softmax(x @ params[sorted(params)[-1]])


def loss(params, stats, batch, key):
    each = -jnp.log(predict(params, stats, batch)[jnp.arange(len(batch["label"])), batch["label"]] + 1e-9)
    value = jnp.where(batch["valid"], each, 0).sum() / jnp.maximum(batch["valid"].sum(), 1)
    return value, (stats, {})


def task(*widths):
    """A classifier with two classes and hidden layers of some widths."""
    sizes = [SIZE * SIZE, *widths, 2]

    def init(key):
        keys = jax.random.split(key, len(sizes))
        pairs = zip(keys, sizes[:-1], sizes[1:], strict=False)
        return Variables(
            {f"w{i}": 0.3 * jax.random.normal(k, (a, b)) for i, (k, a, b) in enumerate(pairs)}, {}
        )

    return Task(init, loss, lambda p, s, b: {}, predict, Variables(False, False))


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


def data(clients=2, count=8, flipped=()):
    """Images that are brighter above or below; the labels of some clients are false."""
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=(clients, count)).astype(np.int32)
    slope = np.linspace(-1, 1, SIZE)[:, None, None] * np.ones((SIZE, SIZE, 1))
    image = (2 * label - 1)[..., None, None, None] * slope + 0.3 * rng.normal(
        size=(clients, count, SIZE, SIZE, 1)
    )
    for client in flipped:
        label[client] = 1 - label[client]
    examples = {"image": jnp.asarray(image, jnp.float32), "label": jnp.asarray(label)}
    return Clients(examples, jnp.ones((clients, count), bool))


def rounds(algorithm, clients, count, model):
    round = fl.make_round(algorithm, batch_size=4, epochs=1, donate=False)
    state = fl.init_state(algorithm, model.init(jax.random.key(1)), clients)
    for _ in range(count):
        state, info = round(state, clients, jax.random.key(0))
    return state, info


SMALL = {"images": 6, "batch": 3, "distill_steps": 2, "inversion_steps": 2}


def test_what_travels_does_not_depend_on_the_model():
    found = []
    for model in (task(), task(7)):
        algorithm = medisecfed(model, optax.sgd(0.1), example=EXAMPLE, clients=2, **SMALL)
        rows = data()
        found.append(fl.traffic.round_bytes(algorithm, model.init(jax.random.key(0)), rows))
        # No leaf of the client's model is in what it sends.
        assert not any(jax.tree.leaves(algorithm.share_mask))
    # Logits up; images of two bytes, the consensus and a number down.
    assert found[0] == found[1] == (6 * 2 * 4 + 4, 6 * SIZE * SIZE * 2 + 6 * 2 * 4 + 4, 6 * 2 * 4)


@pytest.mark.slow
def test_without_strength_clients_train_alone_bit_for_bit():
    model = task()
    options = {**SMALL, "distill_steps": 0, "inversion_steps": 0}
    algorithm = medisecfed(model, optax.sgd(0.1), example=EXAMPLE, clients=2, strength=0.0, **options)
    state, info = rounds(algorithm, data(), 2, model)
    alone, _ = rounds(fl.local_only(model, optax.sgd(0.1), keep_optimizer=False), data(), 2, model)
    np.testing.assert_array_equal(state.private.params["w0"], alone.private.params["w0"])
    # The server's model did not move, and is the one that is handed out.
    start = model.init(jax.random.key(1)).params["w0"]
    np.testing.assert_array_equal(fl.average_variables(algorithm, state).params["w0"], start)
    assert info.applied and int(state.exchange.asked) == 2


def test_false_answers_are_left_out():
    """Two of five invert their answers: the median is close to the honest ones, the mean is not."""
    rng = np.random.default_rng(3)
    truth = np.where(rng.random((40, 1)) < 0.5, [[0.9, 0.1]], [[0.1, 0.9]])
    honest = np.clip(truth[None] + 0.03 * rng.normal(size=(3, 40, 1)) * [1, -1], 0.01, 0.99)
    answers = jnp.asarray(np.concatenate([honest, 1 - honest[:2]]), jnp.float32)
    everybody = jnp.ones(5, bool)
    for aggregate in ("median", "trimmed_mean"):
        found, accepted = agree(answers, everybody, aggregate)
        assert np.abs(found - truth).max() < 0.1
        np.testing.assert_array_equal(accepted, [True, True, True, False, False])
    found, accepted = agree(answers, everybody, "mean")
    assert np.abs(found - truth).min() > 0.2 and accepted.all()
    # Who is not there does not count: of three, one of whom is false.
    found, accepted = agree(answers, jnp.array([True, True, False, True, False]), "median")
    assert np.abs(found - truth).max() < 0.15 and not accepted[2] and not accepted[4]
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)


def test_medians_are_those_of_numpy():
    answers = jnp.asarray(np.random.default_rng(4).dirichlet([2, 2, 2], (4, 5)), jnp.float32)
    found, accepted = agree(answers, jnp.ones(4, bool), "median")
    expected = np.median(np.asarray(answers)[np.asarray(accepted)], axis=0)
    np.testing.assert_allclose(found, expected / expected.sum(-1, keepdims=True), rtol=1e-5)


@pytest.mark.slow
def test_images_become_what_the_model_takes_for_their_classes():
    model = task()
    slope = np.linspace(-1, 1, SIZE)[:, None, None] * np.ones((SIZE, SIZE, 1))
    variables = Variables({"w0": jnp.asarray(np.stack([-slope.ravel(), slope.ravel()], 1), jnp.float32)}, {})
    images = invert(model, variables, (8, SIZE, SIZE, 1), jax.random.key(0), steps=60)
    label = np.argmax(logits_of(model, variables, images), -1)
    np.testing.assert_array_equal(label, np.arange(8) % 2)
    noise = smooth_noise(jax.random.key(1), (3, 16, 16, 1))
    np.testing.assert_allclose(noise.std((1, 2, 3)), 1, rtol=1e-4)


@pytest.mark.slow
def test_distillation_reaches_the_consensus():
    model, key = task(), jax.random.key(0)
    images = smooth_noise(key, (12, SIZE, SIZE, 1))
    # Symmetric under mirroring, as the images are augmented.
    images = images + images[:, :, ::-1]
    teacher = model.init(jax.random.key(7))
    consensus = jax.nn.softmax(logits_of(model, teacher, images) / 3)
    start = model.init(jax.random.key(8))

    def away(variables):
        return float(jnp.abs(jax.nn.softmax(logits_of(model, variables, images) / 3) - consensus).mean())

    trained, _ = distill(model, start, images, consensus, key, temperature=3.0, steps=600, size=6)
    assert away(trained) < 0.3 * away(start)


def pixels(params, stats, batch):
    """What a layer sees that shows the image, and twice the image."""
    return {"layer": jnp.concatenate([batch["image"], 2 * batch["image"]], -1)}


def test_moments_are_those_of_the_batches_of_distillation():
    model, rng = task(), np.random.default_rng(5)
    images = jnp.asarray(rng.normal(1, 2, (6, SIZE, SIZE, 1)), jnp.float32)
    variables, consensus = model.init(jax.random.key(1)), jnp.full((6, 2), 0.5)
    mean, variance = feature_moments(pixels, variables, images)["layer"]
    np.testing.assert_allclose(mean, np.array([1, 2]) * np.mean(images), rtol=1e-4)
    np.testing.assert_allclose(variance, np.array([1, 4]) * np.var(images), rtol=1e-4)
    # Batches of all images, some of them mirrored: their running means are these, after few steps, too.
    options = {"temperature": 3.0, "size": 6, "features": pixels}
    _, found = distill(model, variables, images, consensus, jax.random.key(0), steps=3, **options)
    np.testing.assert_allclose(found["layer"], [mean, variance], rtol=1e-4)
    same, nothing = distill(model, variables, images, consensus, jax.random.key(0), steps=0, **options)
    assert same is variables and nothing == {}


@pytest.mark.slow
def test_drawn_images_get_the_moments_of_the_layers():
    model = task()
    variables = model.init(jax.random.key(1))
    moments = {"layer": (jnp.array([2.0, 4.0]), jnp.array([0.25, 1.0]))}

    def drawn(moments):
        shape, key = (8, SIZE, SIZE, 1), jax.random.key(0)
        return invert(model, variables, shape, key, features=pixels, moments=moments, steps=150)

    images = drawn(moments)
    assert abs(images.mean() - 2) < 0.2 and abs(images.var() - 0.25) < 0.1
    plain = drawn(None)
    assert plain.mean() < 1 and plain.var() > 0.5


def test_the_penalty_is_of_the_images_that_were_answered():
    """Before there is a consensus, or after a missed round, it is zero; else T^2 KL(own || consensus)."""
    model = task()
    method = answered_images(model, EXAMPLE, 2, images=3, batch=3, strength=2.0, temperature=3.0)
    variables = model.init(jax.random.key(1))
    images = jnp.asarray(smooth_noise(jax.random.key(2), (3, SIZE, SIZE, 1)), jnp.float16)
    consensus = jnp.asarray(np.random.default_rng(0).dirichlet([1, 1], 3), jnp.float32)

    class Context:
        broadcast = {"consensus": consensus, "asked": jnp.int32(4), "images": images}  # noqa: RUF012

    @jax.jit
    def value(asked):
        state = {"images": images, "asked": asked}
        return method.penalty(*variables, {}, state, Context, jax.random.key(0))[0]

    own = np.asarray(jax.nn.softmax(logits_of(model, variables, images.astype(jnp.float32)) / 3), float)
    expected = 2 * 9 * (own * np.log(own / np.asarray(consensus, float))).sum(-1).mean()
    np.testing.assert_allclose(value(3), expected, rtol=1e-3)
    assert value(-1) == value(2) == value(4) == 0


@pytest.mark.slow
def test_the_server_learns_in_spite_of_false_clients():
    """Two of five trained on false labels: with the median the server loses less than 5 points."""
    model = task(8)
    options = {"images": 32, "distill_steps": 100, "inversion_steps": 30}
    held = data(1, 200)
    batch = {name: x[0] for name, x in held.examples.items()}

    def accuracy(aggregate, flipped):
        algorithm = medisecfed(
            model, optax.adam(0.02), example=EXAMPLE, clients=5, aggregate=aggregate, strength=0.0, **options
        )
        state, _ = rounds(algorithm, data(5, 24, flipped), 25, model)
        released = fl.average_variables(algorithm, state)
        return float((jnp.argmax(predict(*released, batch), -1) == batch["label"]).mean()), state

    clean, _ = accuracy("median", ())
    robust, state = accuracy("median", (1, 4))
    assert clean > 0.9 and robust > clean - 0.05
    np.testing.assert_array_equal(state.exchange.rejected, [False, True, False, False, True])


@pytest.mark.slow
def test_inverted_answers_move_the_mean_and_not_the_median():
    """Two of five send minus ten times their logits, which are surer than the honest then."""
    model = task(8)
    options = {"images": 32, "distill_steps": 100, "inversion_steps": 30, "strength": 0.0}
    held = data(1, 200)
    batch = {name: x[0] for name, x in held.examples.items()}

    def accuracy(aggregate, attack):
        algorithm = medisecfed(
            model, optax.adam(0.001), example=EXAMPLE, clients=5, aggregate=aggregate, **options
        )
        algorithm = attacks.poison(algorithm, attacks.answer_flip(10.0), attack)
        released = fl.average_variables(algorithm, rounds(algorithm, data(5, 24), 25, model)[0])
        return float((jnp.argmax(predict(*released, batch), -1) == batch["label"]).mean())

    clean = {aggregate: accuracy(aggregate, ()) for aggregate in ("median", "mean")}
    assert accuracy("median", (1, 4)) > clean["median"] - 0.05 > 0.85
    assert accuracy("mean", (1, 4)) < clean["mean"] - 0.15


def test_attacks_on_what_is_not_sent_are_refused():
    algorithm = medisecfed(task(), optax.sgd(0.1), example=EXAMPLE, clients=2, **SMALL)
    with pytest.raises(ValueError, match=r"^attack: expected one on examples or answers, .*, found one on"):
        attacks.poison(algorithm, attacks.sign_flip(), (0,))
    plain = attacks.poison(fl.fedavg(task(), optax.sgd(0.1)), attacks.answer_flip(), (0,))
    with pytest.raises(ValueError, match=r"^attack: expected a method whose clients send answers"):
        rounds(plain, data(), 1, task())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"images": 0}, r"^images: expected a number of at least 1, found 0"),
        ({"temperature": 0}, r"^temperature: expected a positive number"),
        ({"aggregate": "vote"}, r"^aggregate: expected one of median, trimmed_mean, mean, found 'vote'"),
    ],
)
def test_options_out_of_range_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        medisecfed(task(), optax.sgd(0.1), example=EXAMPLE, clients=2, **option)
