"""Fed-Sim: what is shared of a simulator, what its renderers learn, and training on its pairs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.alignment import PRIVATE_PARTS, SHARED_PARTS, simulated_pairs
from fedrecon.federated.methods.fedsim import PAIRS, augmented_task, fedsim, simulate
from fedrecon.federated.methods.simulators import shared_simulator, simulator_task
from fedrecon.federated.traffic import round_bytes
from fedrecon.types import Task, Variables
from tests.federated.payloads import sent, shows

SIZE, COUNT = 16, 12
GAINS, OFFSETS = (1.0, 3.0), (0.0, 2.0)


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


def bodies(count, gain, offset, rng):
    """Disks in disks: intensities 0, 1 and 2 with some spread, and noise, seen with a gain and an offset."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    labels = np.zeros((count, SIZE, SIZE), np.int32)
    for label in labels:
        center = rng.normal(0, 0.7, 2)
        away = np.hypot(y - center[0], x - center[1])
        label[away < rng.normal(6, 0.4)] = 1
        label[away < rng.normal(3, 0.3)] = 2
    values = np.arange(3) + 0.05 * rng.normal(size=(count, 3))
    image = np.take_along_axis(values, labels.reshape(count, -1), 1).reshape(labels.shape)
    image = gain * (image + 0.05 * rng.normal(size=image.shape)) + offset
    return image[..., None].astype(np.float32), labels


def data(count=COUNT, padding=2):
    rng = np.random.default_rng(0)
    images, labels = zip(*(bodies(count, *of, rng) for of in zip(GAINS, OFFSETS, strict=True)), strict=True)
    images, labels = np.array(images), np.array(labels)
    images[:, count - padding :] = 1e3
    valid = np.broadcast_to(np.arange(count) < count - padding, (2, count))
    return Clients({"image": jnp.asarray(images), "segmentation": jnp.asarray(labels)}, jnp.asarray(valid))


DATA = data()
EXAMPLE = {name: jax.ShapeDtypeStruct((1, *x.shape[2:]), x.dtype) for name, x in DATA.examples.items()}
SIMULATOR = simulator_task(EXAMPLE, 3, latent=4, hidden=16)


def loss(params, stats, batch, key):
    each = batch["image"].mean((1, 2, 3)) * params["w"] + batch["segmentation"].mean((1, 2), dtype=float)
    value = jnp.where(batch["valid"], each, 0).sum() / jnp.maximum(batch["valid"].sum(), 1)
    return value, (stats, {"loss": (value, jnp.float32(1))})


PLAIN = Task(
    init=lambda key: Variables({"w": jnp.float32(2)}, {}),
    loss=loss,
    metrics=lambda params, stats, batch: {"stats": (jnp.float32(len(stats)), jnp.float32(1))},
    predict=lambda params, stats, batch: jnp.zeros((*batch["segmentation"].shape, 3)),
    normalization=Variables({"w": False}, {}),
)


def size_of(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def test_shapes_and_materials_are_sent_and_nothing_else():
    algorithm = shared_simulator(SIMULATOR, optax.adam(1e-3))
    shapes = jax.eval_shape(SIMULATOR.init, jax.random.key(0))
    found = round_bytes(algorithm, shapes, jax.eval_shape(lambda: DATA))
    shared = sum(size_of(shapes.params[name]) for name in SHARED_PARTS)
    assert (found.up, found.down) == (4 * (shared + 1), 4 * shared)
    assert size_of(shapes.params) > shared and found.gathered == 0


def test_padding_has_no_part_in_a_simulator():
    variables, key = SIMULATOR.init(jax.random.key(0)), jax.random.key(1)
    batch = {name: x[0] for name, x in DATA.examples.items()} | {"valid": DATA.valid[0]}
    run = jax.jit(SIMULATOR.loss)
    other = {**batch, "image": jnp.where(batch["valid"][:, None, None, None], batch["image"], -5.0)}
    value = run(*variables, batch, key)[0]
    assert np.isfinite(value) and value == run(*variables, other, key)[0]


def test_half_of_what_is_trained_on_is_simulated():
    task = augmented_task(PLAIN, EXAMPLE, samples=3)
    assert augmented_task(PLAIN, EXAMPLE, samples=0) is PLAIN
    variables = task.init(jax.random.key(0))
    pairs = {"image": jnp.full((3, SIZE, SIZE, 1), 5.0), "segmentation": jnp.full((3, SIZE, SIZE), 2)}
    stats = {PAIRS: pairs}
    assert jax.tree.map(jnp.shape, variables.stats) == jax.tree.map(jnp.shape, stats)
    batch = {name: x[0] for name, x in DATA.examples.items()} | {"valid": DATA.valid[0]}
    value, (new, _) = task.loss(variables.params, stats, batch, jax.random.key(2))
    real = float(loss(variables.params, {}, batch, None)[0])
    np.testing.assert_allclose(value, (real + 2 * 5 + 2) / 2, rtol=1e-5)
    assert new[PAIRS] is pairs
    # The network's own statistics are what it sees elsewhere.
    assert float(task.metrics(variables.params, stats, batch)["stats"][0]) == 0


def test_every_pair_is_drawn():
    """How often, by the gradient with respect to the pairs' images."""
    task = augmented_task(PLAIN, EXAMPLE, samples=4)
    batch = {name: x[0] for name, x in DATA.examples.items()} | {"valid": jnp.ones(COUNT, bool)}
    labels = jnp.zeros((4, SIZE, SIZE), jnp.int32)

    @jax.jit
    def drawn(key):
        def value(image):
            pairs = {"image": image, "segmentation": labels}
            return task.loss({"w": jnp.float32(2 * COUNT)}, {PAIRS: pairs}, batch, key)[0]

        return jax.grad(value)(jnp.zeros((4, SIZE, SIZE, 1))).sum((1, 2, 3))

    counts = np.array([drawn(jax.random.key(i)) for i in range(4)])
    np.testing.assert_allclose(counts.sum(1), COUNT, rtol=1e-5)
    assert (counts.sum(0) > 0).all() and np.ptp(counts, axis=0).max() > 0.5


@pytest.fixture(scope="module")
def trained():
    """The simulator after 300 rounds of one epoch, in two batches."""
    algorithm = shared_simulator(SIMULATOR, optax.adam(optax.cosine_decay_schedule(2e-2, 600)))
    wide = data(34, 2)
    state = fl.init_state(algorithm, SIMULATOR.init(jax.random.key(0)), wide)
    rounds = fl.run_rounds(fl.make_round(algorithm, batch_size=16, epochs=1), 300)
    state, infos = rounds(state, fl.place(wide), jax.random.key(1))
    assert infos.applied.all()
    return wide, [fl.client_variables(algorithm, state, i).params for i in (0, 1)]


@pytest.mark.slow
def test_after_a_round_all_have_the_same_shapes_and_renderers_of_their_own(trained):
    first, second = trained[1]
    for name in SHARED_PARTS:
        jax.tree.map(np.testing.assert_array_equal, first[name], second[name])
    for name in PRIVATE_PARTS:
        same = jax.tree.map(lambda a, b: bool((a == b).all()), first[name], second[name])
        assert not all(jax.tree.leaves(same))


@pytest.mark.slow
def test_renderers_show_their_sites_intensities(trained):
    """Mean intensities of classes are those of the site within two standard errors, and not the other's."""
    wide, params = trained
    means = []
    for site, own in enumerate(params):
        images, labels = simulated_pairs(own, jax.random.key(5), 200, (SIZE, SIZE))
        valid = np.asarray(wide.valid[site])
        real = np.asarray(wide.examples["image"][site])[valid][..., 0]
        given = np.asarray(wide.examples["segmentation"][site])[valid]
        found = []
        for number in range(3):
            here = [x[y == number].mean() for x, y in zip(real, given, strict=True)]
            made = np.asarray(images)[..., 0][np.asarray(labels) == number].mean()
            # And a fiftieth of what lies between classes, for the training.
            error = 2 * np.std(here) / np.sqrt(len(here)) + 0.02 * GAINS[site]
            assert abs(made - np.mean(here)) < error, (site, number)
            found.append(made)
        means.append(found)
    assert (np.abs(np.subtract(*means)) > 1).all()


@pytest.mark.slow
def test_renderers_discriminators_pairs_and_images_are_in_no_message():
    algorithm = shared_simulator(SIMULATOR, optax.adam(1e-3))
    _, found = sent(algorithm, SIMULATOR.init(jax.random.key(0)), DATA, 1, batch_size=8)
    assert found and not [path for path in found for name in PRIVATE_PARTS if name in path]
    assert not shows(found, DATA.examples["image"][0, 0])
    task = augmented_task(PLAIN, EXAMPLE, samples=3)
    before = simulate(
        task, task.init(None), DATA, jax.random.key(4), samples=3, simulator_rounds=2, latent=4, hidden=16
    )
    shapes = jax.eval_shape(SIMULATOR.init, jax.random.key(0)).params
    shared = sum(size_of(shapes[name]) for name in SHARED_PARTS)
    np.testing.assert_array_equal(before.bytes_up, [2 * 4 * (shared + 1)] * 2)
    np.testing.assert_array_equal(before.bytes_down, [2 * 4 * shared] * 2)
    pairs = before.own.stats[PAIRS]
    assert pairs["image"].shape == (2, 3, SIZE, SIZE, 1) and before.own.params == {"w": None}
    assert np.abs(pairs["image"][0] - pairs["image"][1]).max() > 0
    algorithm = fedsim(task, optax.sgd(0.01))
    # The one parameter and the weight.
    assert round_bytes(algorithm, before.variables, DATA).up == 8
    state = fl.phases.with_private(fl.init_state(algorithm, before.variables, DATA), before.own)
    np.testing.assert_array_equal(
        fl.client_variables(algorithm, state, 1).stats[PAIRS]["image"], pairs["image"][1]
    )


@pytest.mark.slow
def test_without_samples_it_is_fedavg_bit_for_bit(fx):
    nothing = simulate(PLAIN, PLAIN.init(None), DATA, jax.random.key(0), samples=0)
    assert nothing.own is None and not np.any(nothing.bytes_up)
    counts = fx.regression_data([5, 3, 4])
    runs = [
        fx.trajectory(fx.regression, recipe(fx.regression, optax.adam(0.05)), 2, batch_size=2, epochs=1)(
            counts
        )
        for recipe in (fedsim, fl.fedavg)
    ]
    fx.assert_equal(*runs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": -1}, "samples: expected at least 0"),
        ({"simulator_rounds": 0}, "simulator_rounds: expected at least 1"),
        ({"simulator_rate": -1.0}, "simulator_rate: expected"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        simulate(PLAIN, PLAIN.init(None), DATA, jax.random.key(0), **options)
    with pytest.raises(ValueError, match="example: expected one with 'image'"):
        augmented_task(PLAIN, {"x": EXAMPLE["image"]})
