"""Massive training: patches, least squares, dense inference, thresholds, components; and what Yang sends."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage

from fedrecon.federated.methods.yang import yang
from fedrecon.federated.traffic import round_bytes
from fedrecon.models import UNet
from fedrecon.tasks import massive_training_task, segmentation_task
from fedrecon.tasks.massive_training import (
    GROUP,
    balanced_centers,
    largest_component,
    likelihood,
    otsu_threshold,
    patches_at,
    teacher,
)


class Clients(NamedTuple):
    """Shapes of clients' data."""

    examples: dict
    valid: jax.ShapeDtypeStruct


RNG = np.random.default_rng(0)
LARGEST = jax.jit(largest_component)
SHAPE = (12, 9)
IMAGES = RNG.normal(size=(4, *SHAPE, 2)).astype(np.float32)
MASKS = (RNG.uniform(size=(4, *SHAPE)) < 0.2).astype(np.float32)
EXAMPLE = {
    "image": jax.ShapeDtypeStruct((1, *SHAPE, 2), jnp.float32),
    "segmentation": jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32),
}


def batch(**changes):
    found = {"image": IMAGES, "segmentation": MASKS, "valid": np.arange(4) < 3}
    return {name: jnp.asarray(x) for name, x in {**found, **changes}.items()}


def make(**options):
    return massive_training_task(None, EXAMPLE, **{"patch": 5, "hidden": 3, "samples": 8} | options)


def test_centers_of_patches_are_the_image():
    everywhere = jnp.arange(SHAPE[0] * SHAPE[1])
    found = patches_at(jnp.asarray(IMAGES[0]), everywhere, 5)
    np.testing.assert_array_equal(found[:, 2, 2], IMAGES[0].reshape(-1, 2))
    # At the first corner the edge is repeated.
    np.testing.assert_array_equal(found[0, :3, :3], np.broadcast_to(IMAGES[0][0, 0], (3, 3, 2)))


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_network_at_every_pixel_is_that_of_each_patch(layers):
    task = make(layers=layers)
    params = task.init(jax.random.key(1)).params[GROUP]
    params = jax.tree.map(lambda x: x + 0.1, params)
    dense = np.asarray(likelihood(params, jnp.asarray(IMAGES), 5))
    edges = np.pad(IMAGES, [(0, 0), (2, 2), (2, 2), (0, 0)], mode="edge")
    for n, y, x in np.ndindex(*dense.shape):
        value = edges[n, y : y + 5, x : x + 5].ravel()
        for i in range(layers + 1):
            kernel, bias = (np.asarray(params[f"layer{i}"][name]) for name in ("kernel", "bias"))
            value = (np.maximum(value, 0) if i else value) @ kernel + bias
        np.testing.assert_allclose(dense[n, y, x], value[0], rtol=1e-4, atol=1e-5)


def test_a_linear_network_recovers_a_convolution(x64):
    """By least squares of all patches of an image, whose targets are the filtered image."""
    image, kernel = RNG.normal(size=(*SHAPE, 1)), RNG.normal(size=(5, 5))
    target = ndimage.correlate(image[..., 0], kernel, mode="nearest")
    patches = np.asarray(patches_at(jnp.asarray(image), jnp.arange(target.size), 5))
    design = np.column_stack([patches.reshape(target.size, -1), np.ones(target.size)])
    found = np.linalg.lstsq(design, target.ravel(), rcond=None)[0]
    np.testing.assert_allclose(found[:-1].reshape(5, 5), kernel, atol=1e-10)
    params = {"layer0": {"kernel": jnp.asarray(found[:-1, None]), "bias": jnp.asarray(found[-1:])}}
    np.testing.assert_allclose(likelihood(params, jnp.asarray(image)[None], 5)[0], target, atol=1e-10)


@pytest.mark.slow
def test_training_ends_at_the_least_squares_of_its_patches(x64):
    """The gradient of the loss vanishes at the closed form for the patches that a step draws."""
    task = make(patch=3, layers=0, samples=32)
    key, data = jax.random.key(4), {k: v.astype(float) for k, v in batch(valid=np.ones(4, bool)).items()}
    data["valid"] = jnp.ones(4, bool)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(4))
    rows, targets = [], []
    for k, image, mask in zip(keys, data["image"], MASKS, strict=True):
        centers, _ = balanced_centers(k, jnp.asarray(mask) == 1, 32)
        rows.append(np.asarray(patches_at(image, centers, 3)).reshape(32, -1))
        targets.append(mask.ravel()[np.asarray(centers)])
    design = np.column_stack([np.concatenate(rows), np.ones(128)])
    solution, left, *_ = np.linalg.lstsq(design, np.concatenate(targets), rcond=None)
    best = {"kernel": jnp.asarray(solution[:-1, None]), "bias": jnp.asarray(solution[-1:])}
    loss = lambda params: task.loss(params, {}, data, key)[0]  # noqa: E731
    value, gradient = jax.value_and_grad(loss)({GROUP: {"layer0": best}})
    np.testing.assert_allclose(value, left[0] / 128, rtol=1e-6)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) < 1e-6


def test_half_of_the_patches_are_of_the_structure():
    mask = jnp.asarray(MASKS[0] == 1)
    centers, found = balanced_centers(jax.random.key(0), mask, 400)
    inside = np.asarray(mask).ravel()[np.asarray(centers)]
    assert found.all() and inside[:200].all() and not inside[200:].any()
    # Every pixel of both halves may be drawn.
    assert len(set(np.asarray(centers[:200]).tolist())) == int(mask.sum())
    for uniform, half in ((jnp.zeros(SHAPE, bool), 0), (jnp.ones(SHAPE, bool), 1)):
        found = np.asarray(balanced_centers(jax.random.key(0), uniform, 6)[1])
        np.testing.assert_array_equal(found, np.repeat([half == 1, half == 0], 3))


def test_the_teacher_is_the_mask_or_its_likelihood():
    np.testing.assert_array_equal(teacher(jnp.asarray(MASKS), 0.0), MASKS)
    large = np.zeros((1, 40, 40), np.float32)
    large[0, 15:24, 18:22] = 1
    expected = ndimage.gaussian_filter(large[0].astype(float), 2.0, truncate=8)
    np.testing.assert_allclose(teacher(jnp.asarray(large), 2.0)[0], expected, atol=1e-5)
    np.testing.assert_allclose(teacher(jnp.ones((1, *SHAPE)), 5.0), 1, rtol=1e-5)


def test_the_threshold_is_otsus():
    values = np.concatenate([RNG.normal(0, 1, 300), RNG.normal(6, 0.5, 100)]).astype(np.float32)
    edges = np.linspace(values.min(), values.max(), 257)[1:-1]
    bins = np.clip((256 * (values - values.min()) / np.ptp(values)).astype(int), 0, 255)
    spread = [
        (bins <= k).mean() * (bins > k).mean() * (bins[bins <= k].mean() - bins[bins > k].mean()) ** 2
        for k in range(255)
    ]
    found = float(otsu_threshold(jnp.asarray(values)))
    np.testing.assert_allclose(found, edges[int(np.argmax(spread))], rtol=1e-4)
    assert 2 < found < 5 and np.isinf(otsu_threshold(jnp.full(5, 3.0)))


def test_the_largest_component_is_that_of_scipy():
    # Winding, so that names have far to go.
    snake = np.zeros((13, 13), bool)
    snake[::2] = True
    snake[1::4, -1] = snake[3::4, 0] = True
    snake[6, 3] = False
    for mask in (*(RNG.uniform(size=(20, 13, 13)) < 0.35), snake, np.zeros((13, 13), bool)):
        names, count = ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(names.ravel(), minlength=count + 1)[1:]
        found = np.asarray(LARGEST(jnp.asarray(mask)))
        assert found.sum() == (sizes.max() if count else 0)
        assert count == 0 or (len(set(names[found].tolist())) == 1 and (names[found] > 0).all())


@pytest.mark.slow
def test_metrics_score_what_is_predicted():
    task = make()
    variables = task.init(jax.random.key(2))
    mask = np.asarray(task.predict(*variables, batch()))[:3, ..., 1]
    found = {name: float(total / count) for name, (total, count) in task.metrics(*variables, batch()).items()}
    dice = [2 * (m * r).sum() / (m.sum() + r.sum()) for m, r in zip(mask, MASKS[:3], strict=True)]
    np.testing.assert_allclose(found["dice"], np.mean(dice), rtol=1e-5)
    dense = np.asarray(likelihood(variables.params[GROUP], jnp.asarray(IMAGES), 5))[:3]
    np.testing.assert_allclose(found["loss"], np.square(dense - MASKS[:3]).mean(), rtol=1e-5)


def test_predictions_are_thresholds_and_components_of_likelihoods():
    variables = make().init(jax.random.key(2))
    dense = np.asarray(likelihood(variables.params[GROUP], jnp.asarray(IMAGES), 5))
    for threshold in (0.0, 0.3):
        least = [threshold or float(otsu_threshold(jnp.asarray(d))) for d in dense]
        expected = [LARGEST(jnp.asarray(d >= cut)) for d, cut in zip(dense, least, strict=True)]
        found = jax.jit(make(threshold=threshold).predict)(*variables, batch())
        np.testing.assert_array_equal(found[..., 1], np.asarray(expected))
        np.testing.assert_array_equal(found.sum(-1), 1)


def test_padding_has_no_part():
    task, key = make(), jax.random.key(3)
    variables, loss = task.init(key), jax.jit(task.loss)
    far = batch(image=np.concatenate([IMAGES[:3], 1e4 * IMAGES[3:]]))
    assert float(loss(*variables, far, key)[0]) == float(loss(*variables, batch(), key)[0])


def test_patches_that_there_are_not_have_no_part():
    """Of an image without the structure only the half outside counts."""
    task, key = make(layers=0), jax.random.key(3)
    params = {GROUP: {"layer0": {"kernel": jnp.zeros((50, 1)), "bias": jnp.full(1, 2.0)}}}
    for mask, expected in ((0.0, 4.0), (1.0, 1.0)):
        data = batch(segmentation=np.full(MASKS.shape, mask))
        value, (_, metrics) = jax.jit(task.loss)(params, {}, data, key)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        assert float(metrics["loss"][1]) == 3 * 4


def test_uploads_are_less_than_a_hundredth_of_a_unets():
    """Of 16 channels and four halvings; 11 x 11 patches, 25 units."""
    example = {
        "image": jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32),
        "segmentation": jax.ShapeDtypeStruct((1, 64, 64), jnp.float32),
    }
    shapes = {name: jax.ShapeDtypeStruct((2, 4, *x.shape[1:]), x.dtype) for name, x in example.items()}
    task = massive_training_task(None, example)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    algorithm = yang(task, optax.sgd(0.1))
    sent = round_bytes(algorithm, variables, Clients(shapes, jax.ShapeDtypeStruct((2, 4), bool))).up
    # 11 x 11 weights and a bias of each unit, those of the output, and the client's weight.
    assert sent == 4 * (122 * 25 + 26 + 1)
    unet = jax.eval_shape(segmentation_task(UNet(16, 4), example).init, jax.random.key(0))
    assert sent < 0.01 * 4 * sum(x.size for x in jax.tree.leaves(unet))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 4}, "patch: expected an odd number"),
        ({"hidden": 0}, "hidden: expected a positive"),
        ({"layers": -1}, "layers: expected"),
        ({"samples": 3}, "samples: expected an even"),
        ({"width": -1.0}, "width: expected"),
        ({"threshold": -1.0}, "threshold: expected"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
    with pytest.raises(ValueError, match="example: expected 'image'"):
        massive_training_task(None, {"image": EXAMPLE["image"]})
