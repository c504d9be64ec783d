"""Simulators of labeled images: each loss in closed form, and what reaches which part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.alignment import PRIVATE_PARTS, SHARED_PARTS, new_simulator, simulated_pairs, simulator_losses
from fedrecon.alignment.simulators import (
    drawn_values,
    material_losses,
    materials,
    rendered,
    shape_losses,
)

RNG = np.random.default_rng(6)
SHAPE, CLASSES = (9, 8, 1), 3
IMAGE = RNG.normal(size=(5, *SHAPE)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, (5, 9, 8))
LABELS[0][LABELS[0] == 2] = 0
Y = np.eye(CLASSES, dtype=np.float32)[LABELS]


@pytest.fixture(scope="module")
def params():
    return new_simulator(jax.random.key(0), SHAPE, CLASSES, latent=3, hidden=4)


def test_the_bound_of_shapes_is_that_of_the_definition(params):
    """Of a network whose z does not depend on labels, and whose decoder says the same of all pixels."""
    still = jax.tree.map(jnp.zeros_like, params["shapes"])
    mean, deviation = np.array([0.5, -1.0, 0.0]), np.array([1.0, 2.0, 0.5])
    still["encoder"][-1]["bias"] = jnp.asarray(np.concatenate([mean, 2 * np.log(deviation)]))
    said = RNG.normal(size=CLASSES)
    still["decoder"][-1]["bias"] = jnp.asarray(np.tile(said, 72))
    found = shape_losses(still, jnp.asarray(Y), jnp.zeros((5, 3)))
    entropy = -(said - np.log(np.exp(said).sum()))[LABELS].sum((1, 2))
    divergence = (np.log(1 / deviation) + (deviation**2 + mean**2) / 2 - 0.5).sum()
    np.testing.assert_allclose(found, (entropy + divergence) / 72, rtol=1e-5)


def test_materials_are_free_of_gain_and_offset_and_have_a_normal_prior():
    values, present = materials(jnp.asarray(IMAGE), jnp.asarray(Y))
    normal = (IMAGE - IMAGE.mean((1, 2, 3), keepdims=True)) / IMAGE.std((1, 2, 3), keepdims=True)
    shown = lambda x, y: [x[y == k].mean() if (y == k).any() else 0 for k in range(3)]  # noqa: E731
    expected = [shown(x, y) for x, y in zip(normal, LABELS, strict=True)]
    np.testing.assert_allclose(values[..., 0], expected, atol=1e-5)
    np.testing.assert_array_equal(present, [[True, True, False]] + [[True] * 3] * 4)
    np.testing.assert_allclose(materials(3 * jnp.asarray(IMAGE) - 2, jnp.asarray(Y))[0], values, atol=1e-5)
    # The maximum of the likelihood are mean and deviation of the values that there are.
    here = [np.asarray(values)[np.asarray(present)[:, k], k] for k in range(3)]
    best = {
        "mean": jnp.asarray([x.mean(0) for x in here]),
        "log_deviation": jnp.log(jnp.asarray([x.std(0) for x in here])),
    }
    gradient = jax.grad(lambda p: material_losses(p, values, present).sum())(best)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) < 1e-4
    drawn = np.asarray(drawn_values(jax.random.key(1), best, 4000))
    np.testing.assert_allclose(drawn.mean(0), best["mean"], atol=0.05)
    np.testing.assert_allclose(drawn.std(0), jnp.exp(best["log_deviation"]), rtol=0.06)


def test_at_first_renderers_show_the_material(params):
    values = jnp.asarray(RNG.normal(size=(5, CLASSES, 1)))
    found = rendered(params["renderer"], jnp.asarray(Y), values, jnp.ones((5, 9, 8, 1)))
    chosen = np.take_along_axis(np.asarray(values[..., 0]), LABELS.reshape(5, -1), 1)
    np.testing.assert_allclose(found[..., 0], chosen.reshape(5, 9, 8), atol=1e-6)


def constant(params, score):
    """A discriminator that says the same of all."""
    judge = jax.tree.map(jnp.zeros_like, params["discriminator"])
    judge[-1]["bias"] = jnp.full(1, score)
    return {**params, "discriminator": judge}


def test_the_game_is_that_of_least_squares(params):
    """With a discriminator that says c: (c - 1)^2 of the renderer, (c - 1)^2 + c^2 of the discriminator."""
    key = jax.random.key(3)
    losses = jax.jit(simulator_losses)
    found = [np.asarray(losses(constant(params, c), IMAGE, Y, key)) for c in (0.0, 1.0, 3.0)]
    np.testing.assert_allclose(found[0] - found[1], 2 - 1, atol=1e-4)
    np.testing.assert_allclose(found[2] - found[1], 4 + 4 + 9 - 1, atol=1e-4)
    # What else there is.
    values, present = materials(jnp.asarray(IMAGE), jnp.asarray(Y))
    noise = jax.random.normal(jax.random.split(key, 3)[0], (5, 3))
    rest = shape_losses(params["shapes"], jnp.asarray(Y), noise)
    rest += material_losses(params["material"], values, present)
    noise = jax.random.normal(jax.random.split(key, 3)[2], (5, 9, 8, 1))
    again = rendered(params["renderer"], jnp.asarray(Y), values, noise)
    rest += 10 * np.abs(IMAGE - again).mean((1, 2, 3))
    np.testing.assert_allclose(found[1], rest + 1, rtol=1e-5)


def test_each_loss_reaches_its_own_part_alone(params):
    key = jax.random.key(3)
    gradient = jax.jit(jax.grad(lambda p, x: simulator_losses(p, x, Y, key).sum()))
    mine, scaled = gradient(params, IMAGE), gradient(params, IMAGE[::-1] ** 2)
    noise = jax.random.normal(jax.random.split(key, 3)[0], (5, 3))
    shapes = jax.grad(lambda s: shape_losses(s, jnp.asarray(Y), noise).sum())(params["shapes"])
    for found in (mine, scaled):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found["shapes"], shapes)
    values, present = materials(jnp.asarray(IMAGE), jnp.asarray(Y))
    material = jax.grad(lambda m: material_losses(m, values, present).sum())(params["material"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), mine["material"], material)
    # The discriminator's sign is not the renderer's: at the constant 1/2 neither wants to move it.
    even = gradient(constant(params, 0.5), IMAGE)["discriminator"][-1]["bias"]
    np.testing.assert_allclose(even, 0, atol=1e-4)
    assert set(SHARED_PARTS) | set(PRIVATE_PARTS) == set(params)


def test_pairs_are_rendered_from_their_labels(params):
    draw = jax.jit(lambda p, key: simulated_pairs(p, key, 6, SHAPE[:2]))
    images, labels = draw(params, jax.random.key(1))
    assert images.shape == (6, *SHAPE) and labels.shape == (6, 9, 8)
    assert labels.dtype == jnp.int32 and set(np.unique(labels)) <= {0, 1, 2}
    # The renderer is the identity: an image has one value for each class that it shows.
    for image, label in zip(np.asarray(images), np.asarray(labels), strict=True):
        for number in np.unique(label):
            assert np.ptp(image[label == number]) < 1e-6
    assert np.abs(np.asarray(draw(params, jax.random.key(2))[0]) - images).max() > 0.1


def test_labels_are_the_likeliest(params):
    said = jax.tree.map(jnp.zeros_like, params["shapes"]["decoder"])
    said[-1]["bias"] = jnp.asarray(np.tile([0.0, 3.0, -1.0], 72))
    sure = {**params, "shapes": {**params["shapes"], "decoder": said}}
    assert (simulated_pairs(sure, jax.random.key(0), 2, SHAPE[:2])[1] == 1).all()
