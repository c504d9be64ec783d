"""VAFL: what is chosen and sent, which samples, and how far translation brings sites together."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.alignment.generation import Generator, private_gradient, selected, train_generator
from fedrecon.alignment.translation import new_translator, train_translator, translated, translator_loss
from fedrecon.federated.methods.vafl import TRANSLATOR, complexity, harmonize, harmonized_task, vafl
from fedrecon.tasks import classification_task
from tests.federated.payloads import sent, shows

SIZE = 16
EXAMPLE = {
    "image": jax.ShapeDtypeStruct((1, SIZE, SIZE, 1), jnp.float32),
    "label": jax.ShapeDtypeStruct((1,), jnp.int32),
}


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="head")(x.reshape(len(x), -1)[:, ::8])


PLAIN = classification_task(Network(), EXAMPLE)
TASK = harmonized_task(PLAIN, EXAMPLE)
START = TASK.init(jax.random.key(1))


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


def phantoms(count, size=SIZE, seed=0):
    """Ellipses of random places and intensities in [0, 1], (count, size, size, 1)."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*2 * (np.linspace(-1, 1, size),), indexing="ij")
    images = np.zeros((count, size, size))
    for image in images:
        for _ in range(3):
            cy, cx, a, b = *rng.uniform(-0.4, 0.4, 2), *rng.uniform(0.25, 0.6, 2)
            image[((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1] = rng.uniform(0.2, 0.9)
    return images[..., None].astype(np.float32)


def shifted(images, gamma=0.45, bias=0.4):
    """The same in the manner of a scanner with another contrast and a field of sensitivity."""
    field = 1 + bias * np.linspace(-1, 1, images.shape[2])[None, None, :, None]
    return (images**gamma * field).astype(np.float32)


def data(count=6, size=SIZE):
    images = np.stack([shifted(phantoms(count, size, 1)), phantoms(count, size, 2) * 0.5 + 0.25])
    noisy = images[0] + 0.3 * np.random.default_rng(3).normal(size=images[0].shape)
    images = np.stack([noisy.astype(np.float32), images[1], images[0]])
    label = np.tile(np.arange(count) % 2, (3, 1)).astype(np.int32)
    valid = np.ones((3, count), bool)
    valid[2, -1] = False
    return Clients({"image": jnp.asarray(images), "label": jnp.asarray(label)}, jnp.asarray(valid))


def prepared_with(clients, **options):
    steps = {"samples": 4, "generator_steps": 2, "translator_steps": 3}
    return harmonize(TASK, START, clients, jax.random.key(4), **{**steps, **options})


@pytest.fixture(scope="module")
def before():
    return prepared_with(data())


@pytest.mark.slow
def test_complexity_is_the_entropy_of_256_bins():
    images = np.asarray(data().examples["image"][0, :2])
    expected = []
    for image in images[..., 0]:
        steep = np.hypot(*np.gradient(image))
        counts = np.histogram(steep, 256, (0, steep.max()))[0] / steep.size
        expected.append(-(counts[counts > 0] * np.log2(counts[counts > 0])).sum())
    np.testing.assert_allclose(complexity(jnp.asarray(images)), expected, rtol=1e-2)
    assert float(complexity(jnp.ones((4, 4, 1)))) == 0


def test_the_simplest_client_is_the_target_and_others_send_four_bytes(before):
    """The second client's images have no noise and one contrast; what it sends is half precision."""
    clients = data()
    mean = [
        float(complexity(x[v]).mean()) for x, v in zip(clients.examples["image"], clients.valid, strict=True)
    ]
    target = int(np.argmin(mean))
    assert target != 0
    images = 2 * SIZE * SIZE * np.arange(1, 5)
    assert before.bytes_up[target] - 4 in images
    for other in {0, 1, 2} - {target}:
        assert before.bytes_up[other] == 4
        assert before.bytes_down[other] == before.bytes_up[target] - 4
    assert before.bytes_down[target] == 0
    # The target's translator is the identity, those of others have moved.
    last = np.asarray(before.own.stats[TRANSLATOR][-1]["kernel"])
    assert [bool(x.any()) for x in last] == [client != target for client in range(3)]
    assert all(x is None for x in jax.tree.leaves(before.own.params, is_leaf=lambda x: x is None))


@pytest.mark.slow
def test_without_samples_and_with_identities_it_is_averaging_bit_for_bit():
    clients = data()

    def trained(task, recipe, own=None):
        algorithm = recipe(task, optax.sgd(0.1))
        round = fl.make_round(algorithm, batch_size=3, epochs=1, donate=False)
        state = fl.phases.with_private(fl.init_state(algorithm, task.init(jax.random.key(1)), clients), own)
        for _ in range(2):
            state, _ = round(state, clients, jax.random.key(0))
        return jax.tree.leaves(state.variables.params)

    expected = trained(PLAIN, fl.fedavg)
    none = harmonized_task(PLAIN, EXAMPLE, samples=0)
    nothing = prepared_with(clients, samples=0)
    assert none is PLAIN and nothing.own is None and not nothing.bytes_up.any()
    identities = prepared_with(clients, translator_steps=0)
    for found in (trained(none, vafl), trained(TASK, vafl, identities.own)):
        assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(found, expected, strict=True))


def test_translators_and_images_are_in_no_message(before):
    clients = data()
    algorithm = vafl(TASK, optax.sgd(0.1))
    _, payloads = sent(algorithm, START, clients, 1, batch_size=3)
    assert payloads and not any(TRANSLATOR in path for path in payloads)
    assert shows(payloads, np.asarray(clients.examples["image"][0, 0]).ravel()[:16]) == []


def identity_generator(images):
    """A generator that draws nearly the given images: its last layer's bias is their mean."""
    generator = train_generator(jnp.asarray(images), jax.random.key(0), steps=1, batch=4)
    last = {**generator.generator[-1], "bias": jnp.asarray(images.mean(0)).ravel()}
    return Generator([*generator.generator[:-1], last], generator.critic, images.shape[1:])


def test_no_selected_sample_is_nearer_than_the_threshold():
    """Distances by hand, in the principal components of the real images."""
    real = phantoms(30)
    generator = identity_generator(real)
    found, facts = selected(generator, real, jax.random.key(2), 8)
    flat = real.reshape(30, -1).astype(float)
    axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:64]
    own, other = flat @ axes.T, found.reshape(len(found), -1) @ axes.T
    apart = np.linalg.norm(own[:, None] - own, axis=-1) + np.diag(np.full(30, np.inf))
    threshold = np.quantile(apart.min(1), 0.05)
    np.testing.assert_allclose(facts["threshold"], threshold, rtol=1e-4)
    nearest = np.linalg.norm(other[:, None] - own, axis=-1).min(1)
    assert 0 < len(found) <= 8 and (nearest >= threshold * (1 - 1e-4)).all()
    scores = np.asarray(generator.scores(jnp.asarray(found)))
    low, high = np.quantile(generator.scores(generator.drawn(jax.random.key(2), 80)), (0.1, 0.9))
    assert (scores >= low).all() and (scores <= high).all()
    # Copies of real images are not sent.
    copies = generator._replace(generator=jax.tree.map(jnp.zeros_like, generator.generator))
    copies.generator[-1]["bias"] = jnp.asarray(real[0]).ravel()
    assert len(selected(copies, real, jax.random.key(2), 8)[0]) == 0


def test_gradients_of_single_examples_are_clipped_and_noised():
    def losses(params, x):
        return x @ params

    x = jnp.array([[3.0, 4.0], [0.3, 0.4]])
    found = private_gradient(losses, jnp.zeros(2), (x,), jax.random.key(0), 1.0, 0.0)
    np.testing.assert_allclose(found, (np.array([0.6, 0.8]) + np.array([0.3, 0.4])) / 2, rtol=1e-5)
    noisy = jax.vmap(lambda key: private_gradient(losses, jnp.zeros(2), (x,), key, 2.0, 3.0))(
        jax.random.split(jax.random.key(1), 4000)
    )
    np.testing.assert_allclose(np.asarray(noisy).std(0), 3.0 * 2.0 / 2, rtol=0.05)


def test_a_translator_is_the_identity_at_first_and_its_loss_is_by_hand():
    x, t = jnp.asarray(phantoms(3)), jnp.asarray(shifted(phantoms(3, seed=5)))
    key = jax.random.key(0)
    identity = new_translator(key, 1)
    np.testing.assert_array_equal(translated(identity, x), x)
    # Discriminators say 1 of everything; F adds 1/4, G nothing: two cycles, one identity, the middle.
    adding = [*identity[:-1], {**identity[-1], "bias": jnp.full(1, 0.25)}]
    judge = [{"kernel": jnp.zeros((64, 1)), "bias": jnp.ones(1)}]
    value = translator_loss((adding, identity), (judge, judge), x, t)
    np.testing.assert_allclose(value, 10 * 0.5 + 5 * 0.25 + 0.25, rtol=1e-5)


def sliced_wasserstein(a, b, seed=0):
    """Mean distance of quantiles along 50 directions of pixels' (intensity, mean of 4 x 4 around)."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(50, 2))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def points(images):
        n, size = images.shape[:2]
        small = images.reshape(n, size // 4, 4, size // 4, 4).mean((2, 4)).repeat(4, 1).repeat(4, 2)
        return np.stack([images.reshape(-1), small.reshape(-1)], -1)

    quantiles = np.linspace(0.005, 0.995, 100)
    ends = [np.quantile(points(np.asarray(x)[..., 0]) @ directions.T, quantiles, axis=0) for x in (a, b)]
    return np.abs(ends[0] - ends[1]).mean()


@pytest.mark.slow
def test_translation_halves_the_distance_of_intensities():
    """Trained on images of the target itself; on samples of a short-trained generator it does not."""
    target, source = phantoms(96, seed=1), shifted(phantoms(96, seed=2))
    params = jax.jit(train_translator, static_argnames=("steps",))(
        jnp.asarray(source), jnp.ones(96, bool), jnp.asarray(target), jax.random.key(0), steps=1500
    )
    unseen, other = shifted(phantoms(64, seed=3)), phantoms(64, seed=4)
    before = sliced_wasserstein(unseen, other)
    after = sliced_wasserstein(np.asarray(translated(params, jnp.asarray(unseen))), other)
    assert after <= 0.5 * before, (before, after)


@pytest.mark.parametrize("option", ["samples", "generator_steps", "translator_steps", "noise"])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(ValueError, match=f"^{option}: expected a number of at least 0, found -1"):
        prepared_with(data(), **{option: -1})
