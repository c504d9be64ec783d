"""Examples recovered from updates, beside closed forms and guesses."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from skimage.metrics import peak_signal_noise_ratio

from fedrecon import attacks
from fedrecon.errors import ArgumentError
from fedrecon.tasks import classification_task, segmentation_task
from fedrecon.types import Task, Variables
from operators.phantoms import shepp_logan


class Smooth(nn.Module):
    """An untrained convolutional network with smooth activations, as in the paper on DLG."""

    strides: tuple = (2, 1)
    features: int = 8

    @nn.compact
    def __call__(self, x):
        for stride in self.strides:
            x = nn.Conv(self.features, (5, 5), (stride, stride), kernel_init=nn.initializers.normal(0.3))(x)
            x = nn.sigmoid(x)
        return nn.Dense(4, name="head")(x.reshape(len(x), -1))


def batch_of(images, labels=(1,)):
    return {"image": jnp.asarray(images), "label": jnp.asarray(labels), "valid": jnp.ones(len(images), bool)}


def phantoms(count, size, seed=0):
    """Ellipses at random places, in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    images = np.zeros((count, size, size, 1), np.float32)
    for image in images[..., 0]:
        for _ in range(4):
            cy, cx, a, b = *rng.uniform(-0.5, 0.5, 2), *rng.uniform(0.2, 0.5, 2)
            image[((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1] = rng.uniform(0.2, 1)
    return images


def victim(batch, **sizes):
    task = classification_task(Smooth(**sizes), batch)
    return task, task.init(jax.random.key(0)), attacks.gradient_update(task)


@pytest.mark.slow
def test_leakage_from_one_update_and_none_from_noise():
    images = phantoms(1, 10)
    batch = batch_of(images)
    _, variables, update = victim(batch, strides=(2,))
    sent = update(variables, batch)
    assert attacks.labels_of(sent["head"]) == (1,)
    noised = attacks.clipped_and_noised(sent, jax.random.key(9), norm=1.0, noise_multiplier=0.5)
    unknown = attacks.images(batch)
    attack = jax.jit(
        lambda sent: attacks.deep_leakage(
            update, sent, variables, unknown, jax.random.key(1), iterations=80
        ).batch["image"]
    )
    open_, hidden = (attacks.match(attack(x), images) for x in (sent, noised))
    assert open_.psnr[0] > 20 > open_.random_psnr
    assert hidden.psnr[0] < open_.psnr[0] - 8


def test_labels_are_read_off_the_last_layer():
    rng = np.random.default_rng(0)
    for labels in ((2,), (0, 3), (1, 1, 3)):
        probabilities = rng.dirichlet(np.full(5, 50.0), len(labels))
        bias = (probabilities - np.eye(5)[list(labels)]).mean(0)
        assert attacks.labels_of({"bias": bias}, count=len(labels)) == labels
        assert attacks.labels_of({"bias": -0.01 * bias}, count=1, gradient=False)[0] in labels
    kernel = rng.uniform(size=(7, 1)) * (rng.dirichlet(np.ones(5)) - np.eye(5)[3])
    assert attacks.labels_of({"kernel": kernel}) == (3,)


def test_recovered_images_are_assigned_as_well_as_can_be():
    rng = np.random.default_rng(1)
    true = rng.uniform(size=(3, 8, 8))
    found = true[[2, 0, 1]] + 0.1 * rng.normal(size=(3, 8, 8))
    match = attacks.match(found, true)
    assert match.order.tolist() == [1, 2, 0]
    expected = [
        peak_signal_noise_ratio(t, f, data_range=np.ptp(t))
        for t, f in zip(true, found[match.order], strict=True)
    ]
    np.testing.assert_allclose(match.psnr, expected, rtol=1e-6)
    best = max(
        sum(peak_signal_noise_ratio(true[i], found[p[i]], data_range=np.ptp(true[i])) for i in range(3))
        for p in itertools.permutations(range(3))
    )
    assert match.psnr.sum() == pytest.approx(best)
    with pytest.raises(ArgumentError, match="recovered: expected at least 3"):
        attacks.match(found[:2], true)


def test_distances_are_those_of_one_vector():
    a, b = (
        {"a": jnp.array(x[:3]), "b": jnp.array(x[3:])} for x in np.random.default_rng(0).normal(size=(2, 7))
    )
    va, vb = (np.concatenate([x["a"], x["b"]]) for x in (a, b))
    cosine = va @ vb / np.linalg.norm(va) / np.linalg.norm(vb)
    assert float(attacks.update_distance(a, b, "cosine")) == pytest.approx(1 - cosine, rel=1e-5)
    assert float(attacks.update_distance(a, b, "squared")) == pytest.approx(((va - vb) ** 2).sum(), rel=1e-5)
    zero = jax.tree.map(jnp.zeros_like, a)
    assert jnp.isfinite(jax.grad(lambda x: attacks.update_distance(a, x, "cosine"))(zero)["a"]).all()


def test_local_steps_are_those_of_the_optimizer():
    x = np.array([1.0, 3.0, 5.0, 9.0])

    def loss(params, stats, batch, key):
        return ((params - batch["image"]) ** 2).mean() / 2, (stats, {})

    own = Task(None, loss, None, None, None)
    update = attacks.local_update(own, optax.sgd(0.1), batch_size=2, steps=3)
    found = update(Variables(jnp.float32(0), {}), {"image": jnp.asarray(x), "valid": jnp.ones(4, bool)})
    w = 0.0
    for part in (x[:2], x[2:], x[:2]):
        w -= 0.1 * (w - part.mean())
    assert float(found) == pytest.approx(w, rel=1e-6)


def inversion(update, variables, batch):
    """Images from an update, compiled once."""

    def run(sent):
        found = attacks.invert(
            update,
            sent,
            variables,
            attacks.images(batch),
            jax.random.key(1),
            prior_weight=1e-4,
            iterations=600,
        )
        return found.batch["image"]

    return jax.jit(run)


@pytest.mark.slow
def test_a_phantom_is_seen_in_its_gradient_and_hidden_by_sums_and_noise():
    images = phantoms(8, 16)
    image = np.asarray(shepp_logan().rasterize((16, 16)), np.float32)[None, ..., None]
    images[0] = (image - image.min()) / np.ptp(image)
    single = batch_of(images[:1])
    _, variables, update = victim(single, strides=(2, 2, 1), features=8)
    sent = [jax.jit(update)(variables, batch_of(images[i : i + 1], (i % 4,))) for i in range(8)]
    sent[0] = jax.jit(update)(variables, single)
    noised = attacks.clipped_and_noised(sent[0], jax.random.key(9), norm=1.0, noise_multiplier=0.5)
    attack = inversion(update, variables, single)
    seen = {"open": sent[0], "secure sum": attacks.mean_update(sent), "noise": noised}
    found = {name: attacks.match(attack(x), images[:1], public=images[1:]) for name, x in seen.items()}
    assert found["open"].psnr[0] > 20 > found["open"].mean_psnr
    for name in ("secure sum", "noise"):
        assert found[name].psnr[0] < found["open"].psnr[0] - 8


@pytest.mark.slow
def test_local_steps_and_segmentations_are_inverted_too():
    images = phantoms(2, 10)
    batch = batch_of(images, (1, 2))
    task, variables, _ = victim(batch, strides=(1,))
    update = attacks.local_update(task, optax.sgd(0.05), batch_size=1, steps=4)
    sent = jax.jit(update)(variables, batch)
    match = attacks.match(inversion(update, variables, batch)(sent), images)
    assert match.psnr.mean() > match.mean_psnr + 5

    class Masks(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.sigmoid(nn.Conv(8, (5, 5), kernel_init=nn.initializers.normal(0.3))(x))
            return nn.Conv(1, (3, 3))(x)

    single = {**batch_of(images[:1]), "segmentation": jnp.asarray(images[:1, ..., 0] > 0.5, jnp.float32)}
    task = segmentation_task(Masks(), single)
    variables, update = task.init(jax.random.key(0)), attacks.gradient_update(task)
    sent = jax.jit(update)(variables, single)
    match = attacks.match(inversion(update, variables, single)(sent), images[:1])
    assert match.psnr[0] > match.mean_psnr + 3


@pytest.fixture
def masked_upload(monkeypatch):
    """One client's update, and what a server that decodes its masked upload takes it for."""
    pytest.importorskip("cryptography")
    from fedrecon import secure_aggregation as secure

    batch = batch_of(phantoms(1, 8))
    _, variables, update = victim(batch, strides=(2,), features=4)
    sent = update(variables, batch)
    flat, restore = ravel_pytree(sent)
    encoding, rng = secure.FixedPoint.finest(8.0, 4), np.random.default_rng(0)
    words = [encoding.encode(x) for x in (flat, *rng.normal(size=(3, len(flat))))]
    setup = secure.SecAggSetup("test", 1, clients=4, threshold=3, size=len(flat))
    seen, receive = [], secure.SecAggServer.receive

    def record(server, data):
        if server.stage == "masked":
            seen.append(bytes(data))
        return receive(server, data)

    monkeypatch.setattr(secure.SecAggServer, "receive", record)
    outcome = secure.simulate_round(setup, lambda i: words[i])
    np.testing.assert_array_equal(outcome.total, np.sum(words, 0, dtype=np.uint32))
    leaked = encoding.decode(np.frombuffer(seen[0][secure.HEADER :], "<u4"))
    return batch, variables, update, np.asarray(flat, float), leaked, restore


def test_one_masked_upload_points_nowhere(masked_upload):
    *_, flat, leaked, _ = masked_upload
    # Of uniform words the cosine with anything has a deviation of one over the root of their number.
    cosine = leaked @ flat / np.linalg.norm(leaked) / np.linalg.norm(flat)
    assert len(leaked) == len(flat) and abs(cosine) < 4.5 / np.sqrt(len(leaked))


@pytest.mark.slow
def test_one_masked_upload_is_worth_no_more_than_a_guess(masked_upload):
    batch, variables, update, _, leaked, restore = masked_upload
    seen = restore(jnp.asarray(leaked, jnp.float32))
    found = inversion(update, variables, batch)(seen)
    match = attacks.match(found, batch["image"])
    assert match.psnr[0] <= match.mean_psnr + 1
