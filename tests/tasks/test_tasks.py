"""The three tasks as the engine uses them: padding, statistics, chunks, structure, learning."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from skimage.metrics import structural_similarity

from fedrecon.models import BatchNorm, Classifier, UNet, VarNet
from fedrecon.tasks import (
    classification_task,
    ct_measure,
    mri_measure,
    reconstruction_metrics,
    reconstruction_task,
    segmentation_task,
)
from operators import SENSE, CartesianFourier, ParallelBeam
from operators.ct import filtered_radon

N = 12


def mri_batch(examples=3, coils=2, seed=0):
    rng = np.random.default_rng(seed)

    def noise(*shape):
        return (rng.normal(size=(*shape, 2)) @ np.array([1, 1j])).astype(np.complex64)

    maps = noise(examples, coils, N, N)
    maps /= np.linalg.norm(maps, axis=1, keepdims=True)
    mask = (rng.random((examples, N, N)) < 0.6).astype(np.float32)
    target = rng.random((examples, N, N)).astype(np.float32)
    operators = [SENSE(CartesianFourier((N, N), m), s) for m, s in zip(mask, maps, strict=True)]
    return {
        "kspace": np.stack([A(t + 0j) for A, t in zip(operators, target, strict=True)]),
        "mask": mask,
        "coil_maps": maps,
        "target": target,
        "data_range": np.full(examples, target.max()),
        "volume": np.arange(examples, dtype=np.int32) // 2,
        "valid": np.ones(examples, bool),
    }


def ct_batch(examples=3, views=10, detectors=18, seed=0):
    rng = np.random.default_rng(seed)
    mask = (np.arange(views) < 8).astype(np.float32)
    angles = np.where(mask > 0, np.pi * np.arange(views) / 8, 0).astype(np.float32)
    target = rng.random((examples, N, N)).astype(np.float32)
    return {
        "sinogram": mask[:, None] * rng.random((examples, views, detectors), np.float32),
        "angles": np.repeat(angles[None], examples, 0),
        "view_mask": np.repeat(mask[None], examples, 0),
        "target": target,
        "data_range": np.full(examples, target.max()),
        "volume": np.arange(examples, dtype=np.int32) // 2,
        "valid": np.ones(examples, bool),
    }


def image_batch(examples=3, seed=0):
    rng = np.random.default_rng(seed)
    segmentation = np.zeros((examples, N, N), np.float32)
    for i in range(1, examples):
        segmentation[i, i : i + 4, 2:7] = 1
    image = segmentation[..., None] + 0.1 * rng.normal(size=(examples, N, N, 1))
    label = (segmentation.any((1, 2))).astype(np.int32)
    valid = np.ones(examples, bool)
    return {"image": image.astype(np.float32), "segmentation": segmentation, "label": label, "valid": valid}


def mri_task(**options):
    return reconstruction_task(VarNet(1, 2, 0, norm=BatchNorm), mri_measure, mri_batch(), **options)


def ct_task(**options):
    return reconstruction_task(VarNet(1, 2, 0, norm=BatchNorm), ct_measure((N, N), 18), ct_batch(), **options)


def segmentation(classes=1, **options):
    return segmentation_task(UNet(2, 0, classes, norm=BatchNorm), image_batch(), **options)


def classification(**options):
    return classification_task(Classifier(2, 1, norm=BatchNorm), image_batch(), **options)


TASKS = {
    "mri": (mri_task, mri_batch),
    "ct": (ct_task, ct_batch),
    "segmentation": (segmentation, image_batch),
    "classification": (classification, image_batch),
}


def filled(task, seed=0):
    """Random parameters and positive statistics; no initializer to compile."""
    rng, shapes = np.random.default_rng(seed), jax.eval_shape(task.init, jax.random.key(0))
    draw = [
        jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype) * 0.3, part) for part in shapes
    ]
    return draw[0], jax.tree.map(lambda a: 1 + jnp.abs(a), draw[1])


def pad(batch, extra):
    return {name: np.concatenate([a, np.zeros((extra, *a.shape[1:]), a.dtype)]) for name, a in batch.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mri", "segmentation", "classification"])
def test_padding_and_chunks_change_neither_loss_nor_gradients_nor_statistics_nor_metrics(name):
    task, batch = TASKS[name]
    batch, chunked, whole = batch(), task(chunk=2), task(chunk=8)
    params, stats = filled(whole)

    def everything(task, batch):
        loss = jax.value_and_grad(task.loss, has_aux=True)
        value, grads = loss(params, stats, batch, jax.random.key(0))
        return value, grads, task.metrics(params, stats, batch)

    padded, run = pad(batch, 2), jax.jit(partial(everything, chunked))
    got, want = run(padded), jax.jit(partial(everything, whole))(batch)
    assert want[0][0] > 0 and all(np.isfinite(a).all() for a in jax.tree.leaves(want))
    assert max(jnp.abs(g).max() for g in jax.tree.leaves(want[1])) > 1e-3
    assert want[0][1][1]["loss"][1] == want[2]["loss"][1] == 3
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-6), got, want)

    # A batch that is padding altogether, as clients with little data see.
    (value, (new, sums)), grads, metrics = run(jax.tree.map(np.zeros_like, padded))
    assert value == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves((grads, sums, metrics)))
    jax.tree.map(np.testing.assert_array_equal, new, stats)


@pytest.mark.slow
def test_padding_of_ct_has_no_influence():
    task, batch = ct_task(), ct_batch()
    params, stats = filled(task)
    batch["valid"] = np.array([True, True, False])
    keep = np.array([1, 1, 0])
    blank = {name: a * keep.reshape(-1, *[1] * (a.ndim - 1)).astype(a.dtype) for name, a in batch.items()}
    run = jax.jit(jax.value_and_grad(partial(task.loss, stats=stats, key=jax.random.key(0)), has_aux=True))
    got, want = (run(params, batch=b) for b in (blank, batch))
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(got))
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-6), got, want)


@pytest.mark.parametrize("name", TASKS)
def test_structure_of_the_task(name):
    task, batch = TASKS[name]
    task, batch = task(), batch()
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    assert jax.tree.structure(task.normalization) == jax.tree.structure(shapes)
    assert all(jax.tree.leaves(task.normalization.stats)) and jax.tree.leaves(shapes.stats)
    marked = jax.tree.leaves(task.normalization.params)
    assert any(marked) and not all(marked)
    prediction = jax.eval_shape(task.predict, *shapes, batch)
    assert prediction.shape[0] == 3 and prediction.dtype == np.float32
    loss, (stats, _) = jax.eval_shape(task.loss, *shapes, batch, jax.random.key(0))
    assert loss.shape == () and jax.tree.structure(stats) == jax.tree.structure(shapes.stats)
    sums = jax.tree.leaves(jax.eval_shape(task.metrics, *shapes, batch))
    assert all(s.shape == () and s.dtype == np.float32 for s in sums)


def test_missing_keys_are_named():
    batch = image_batch()
    del batch["label"], batch["segmentation"]
    with pytest.raises(ValueError, match="label"):
        classification_task(Classifier(2, 1), batch)
    with pytest.raises(ValueError, match="segmentation"):
        segmentation_task(UNet(2, 1), batch)
    with pytest.raises(ValueError, match="target"):
        reconstruction_task(VarNet(1, 2, 1), mri_measure, batch)
    with pytest.raises(ValueError, match=r"classes >= 2.*\(3, 1\)"):
        task = classification_task(Classifier(2, 1, 1), image_batch())
        jax.eval_shape(task.loss, *filled(task), image_batch(), jax.random.key(0))


def test_statistics_are_empty_without_batch_normalization():
    task = segmentation_task(UNet(2, 1), image_batch())
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    assert shapes.stats == {} and task.normalization.stats == {}
    assert jax.eval_shape(task.loss, *shapes, image_batch(), jax.random.key(0))[1][0] == {}


def test_segmentation_loss_takes_dice_over_the_batch(x64):
    batch = image_batch()
    task = segmentation_task(UNet(2, 0, 1, zero_init=True, output_bias=-2.0), batch)
    variables = task.init(jax.random.key(0))
    p, s = 1 / (1 + np.exp(2.0)), batch["segmentation"]
    cross_entropy = -(s * np.log(p) + (1 - s) * np.log(1 - p))

    def stated(selected):
        dice = (2 * p * s[selected].sum() + 1) / (p * s[selected].size + s[selected].sum() + 1)
        return (cross_entropy[selected].mean() + 1 - dice) / 2

    got = jax.jit(task.loss)(*variables, batch, jax.random.key(0))[0]
    np.testing.assert_allclose(got, stated(slice(None)), rtol=1e-6)
    got = jax.jit(task.loss)(*variables, pad(batch, 2), jax.random.key(0))[0]
    np.testing.assert_allclose(got, stated(slice(None)), rtol=1e-6)
    evaluated = jax.jit(task.metrics)(*variables, batch)["loss"]
    np.testing.assert_allclose(evaluated, (sum(stated([i]) for i in range(3)), 3), rtol=1e-6)


@pytest.mark.parametrize("name", ["segmentation", pytest.param("classification", marks=pytest.mark.slow)])
def test_flips_mirror_training_images_with_their_references(name):
    task, batch = TASKS[name]
    batch, plain, flipping = batch(examples=1), task(), task(flip=True)
    mirrored = {k: v[:, :, ::-1] if v.ndim > 2 else v for k, v in batch.items()}
    batch["segmentation"] = 0 * batch["segmentation"] + (np.arange(N) < 3)
    mirrored["segmentation"] = batch["segmentation"][:, :, ::-1]
    variables = filled(plain)
    either = [float(plain.loss(*variables, b, jax.random.key(0))[0]) for b in (batch, mirrored)]
    loss = jax.jit(lambda key: flipping.loss(*variables, batch, key)[0])
    seen = np.array([loss(jax.random.key(i)) for i in range(12)])
    nearest = np.abs(seen[:, None] - either).argmin(1)
    np.testing.assert_allclose(seen, np.take(either, nearest), rtol=1e-5)
    assert abs(either[0] - either[1]) > 1e-4 and set(nearest) == {0, 1}


def test_init_is_the_same_inside_and_outside_of_a_compiled_function():
    task = segmentation_task(UNet(2, 0), image_batch())
    inside, outside = (init(jax.random.key(3)) for init in (jax.jit(task.init), task.init))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), inside, outside)


def test_one_channel_and_two_classes_are_the_same_segmentation():
    single, double = segmentation(1), segmentation(2)
    params, stats = filled(single)
    head = {name: jnp.concatenate([jnp.zeros_like(a), a], -1) for name, a in params["head"].items()}
    both = ((single, params), (double, {**params, "head": head}))
    got = [jax.jit(task.loss)(p, stats, image_batch(), jax.random.key(0))[0] for task, p in both]
    np.testing.assert_allclose(*got, rtol=1e-5)
    got = [jax.jit(task.predict)(p, stats, image_batch()) for task, p in both]
    np.testing.assert_allclose(*got, atol=1e-6)


def test_untrained_network_without_mask_is_perfect():
    batch = mri_batch()
    batch["mask"] = np.ones_like(batch["mask"])
    operators = [SENSE(CartesianFourier((N, N)), s) for s in batch["coil_maps"]]
    batch["kspace"] = np.stack([A(t + 0j) for A, t in zip(operators, batch["target"], strict=True)])
    task = reconstruction_task(VarNet(1, 2, 0), mri_measure, batch)
    variables = task.init(jax.random.key(0))
    np.testing.assert_allclose(jax.jit(task.predict)(*variables, batch), batch["target"], atol=1e-5)
    assert jax.jit(task.loss)(*variables, batch, jax.random.key(0))[0] < 1e-4


class Given(nn.Module):
    """Returns the starting images, times a parameter."""

    @nn.compact
    def __call__(self, operators, measurements, initial, train=True, valid=None):
        return self.param("scale", nn.initializers.ones, ()) * initial


def test_reconstruction_loss_is_relative_to_the_range_of_each_volume():
    batch = mri_batch()
    batch["data_range"] = np.array([0.7, 2.0, 5.0], np.float32)
    batch["initial"] = batch["target"] + 0.3 * np.random.default_rng(1).random(
        batch["target"].shape, np.float32
    )
    task = reconstruction_task(Given(), lambda batch: (None, None, batch["initial"]), batch, ssim_weight=0.4)
    expected = [
        np.abs(x - t).mean() / r + 0.4 * (1 - structural_similarity(x, t, data_range=r))
        for x, t, r in zip(batch["initial"], batch["target"], batch["data_range"], strict=True)
    ]

    @jax.jit
    def both(variables):
        return task.loss(*variables, batch, jax.random.key(0))[0], task.metrics(*variables, batch)["loss"]

    loss, evaluated = both(task.init(jax.random.key(0)))
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-4)
    np.testing.assert_allclose(evaluated, (sum(expected), 3), rtol=1e-4)


def test_ct_starts_from_filtered_back_projection_of_the_real_views():
    batch = ct_batch(examples=2)
    operators, y, initial = jax.jit(ct_measure((N, N), 18))(batch)
    assert initial is None
    got = jax.jit(jax.vmap(lambda B, y: B.H(y)))(operators, y)
    B = filtered_radon(ParallelBeam(batch["angles"][0, :8], 18), (N, N))
    want = jax.jit(lambda y: B.H(B.prepare(y)))(batch["sinogram"][:, :8])
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("name", ["segmentation", "classification"])
def test_training_learns(name):
    batch = image_batch(8)
    batch["label"] = (batch["segmentation"].sum((1, 2)) > 0).astype(np.int32)
    task = {"segmentation": segmentation, "classification": classification}[name]()
    adam = optax.adam(3e-2)

    def step(carry, _):
        (params, stats), state = carry
        (value, (stats, _)), grads = jax.value_and_grad(task.loss, has_aux=True)(
            params, stats, batch, jax.random.key(0)
        )
        updates, state = adam.update(grads, state)
        return ((optax.apply_updates(params, updates), stats), state), value

    params, stats = filled(task)

    @jax.jit
    def train(params, stats):
        carry = (params, stats), adam.init(params)
        ((params, stats), _), values = jax.lax.scan(step, carry, length=40)
        return values, task.metrics(params, stats, batch)

    values, metrics = train(params, stats)
    assert values[-1] < 0.5 * values[0]
    score = metrics["dice" if name == "segmentation" else "auc"]
    assert score[0] / score[1] > 0.8


def test_metrics_of_given_images_and_of_the_network_are_one_code():
    task, batch = mri_task(), mri_batch()

    @jax.jit
    def both(params, stats):
        images = task.predict(params, stats, batch)
        return task.metrics(params, stats, batch), reconstruction_metrics(images, batch)

    got, want = both(*filled(task))
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4)
