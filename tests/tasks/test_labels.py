"""Labels that are no class, ignored ones, and scores that are not finite: never counted as something else."""

import warnings
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fedrecon.tasks import (
    check_labels,
    classification_metrics,
    classification_task,
    means,
    reconstruction_metrics,
    segmentation_metrics,
    segmentation_task,
)

LOGITS = np.array([[0, 2.0], [0, 1.0], [0, -1.0], [0, 3.0], [0, -2.0]], np.float32)
LABELS = np.array([1, 0, 0, -1, 1])
ALL = np.ones(5, bool)
N = 8


def rates(metrics):
    return {name: float(value) for name, value in means(metrics).items()}


def segmented():
    """A prediction that is right except in the region that is not to be scored."""
    reference = np.zeros((2, N, N), np.int64)
    reference[0, 2:5, 2:5] = 1
    prediction = reference.copy()
    reference[:, :, 6:] = 255
    prediction[:, :, 6:] = 1
    return prediction, reference


def test_an_ignored_label_joins_valid():
    batch = {"label": LABELS, "valid": ALL}
    found = classification_metrics(LOGITS, batch, ignore=-1)
    assert found == classification_metrics(LOGITS, {"label": np.maximum(LABELS, 0), "valid": LABELS >= 0})
    assert found["accuracy"] == (2, 4)
    prediction, reference = segmented()
    batch = {"segmentation": reference, "valid": np.ones(2, bool)}
    assert rates(segmentation_metrics(prediction, batch, ignore=255)) == {"dice": 1, "hd95": 0}
    reference[1] = 255
    found = segmentation_metrics(prediction, batch, ignore=255)
    assert found["dice"] == (1, 1) and found["hd95"][1] == 1


@pytest.mark.parametrize("label", [-1, 2, 255, 0.5])
def test_labels_that_are_no_class_are_refused_and_never_count_as_another(label):
    labels = np.where(LABELS < 0, label, LABELS)
    batch = {"label": labels, "valid": ALL}
    with pytest.raises(ValueError, match=rf"label: expected .*0 to 1.*found {label}.*example 3"):
        classification_metrics(LOGITS, batch)
    # Compiled functions cannot see them.
    found = rates(jax.jit(classification_metrics)(LOGITS, batch))
    assert found == {"accuracy": -np.inf, "auc": -np.inf, "sensitivity": -np.inf}
    classification_metrics(LOGITS, {"label": labels, "valid": LABELS >= 0})
    segmentation = np.zeros((2, N, N), np.float32)
    segmentation[1, 3, 4] = label
    batch = {"segmentation": segmentation, "valid": np.ones(2, bool)}
    with pytest.raises(ValueError, match=rf"segmentation: expected .*0 to 1.*found {label}.*example 1"):
        segmentation_metrics(np.zeros((2, N, N), int), batch)
    found = jax.jit(segmentation_metrics)(np.zeros((2, N, N), int), batch)
    assert rates(found) == {"dice": -np.inf, "hd95": np.inf}


def test_labels_are_checked_when_data_enter():
    data = SimpleNamespace(
        examples={"label": np.array([[0, 1, 9], [2, 1, 255]])},
        valid=np.array([[True, True, False], [True, True, True]]),
        names=("a", "b"),
    )
    check_labels(data, "label", 3, ignore=255)
    with pytest.raises(ValueError, match=r"label: expected .*0 to 2, found 255 \(client 'b', example 2\)"):
        check_labels(data, "label", 3)
    with pytest.raises(ValueError, match=r"0 to 1 or 255, found 2 \(client 'b', example 0\)"):
        check_labels(data, "label", 2, ignore=255)


class Plain(nn.Module):
    """A network as anybody writes it: neither ``train`` nor ``valid``."""

    pixels: bool = False

    @nn.compact
    def __call__(self, x):
        if self.pixels:
            return nn.Dense(2)(x)
        return nn.Dense(3)(x.mean((1, 2)))


def test_a_plain_network_trains_and_its_labels_are_watched():
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(4, N, N, 3)).astype(np.float32),
        "label": np.array([0, 1, 2, -1]),
        "valid": np.ones(4, bool),
    }
    with warnings.catch_warnings():
        # Also of labels in 64 bits.
        warnings.simplefilter("error")
        task = classification_task(Plain(), batch, ignore=-1)
        variables = task.init(jax.random.key(0))
    step = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    (value, (_, metrics)), gradient = step(*variables, batch, jax.random.key(0))
    kept = {name: x[:3] for name, x in batch.items()}
    (expected, _), other = step(*variables, kept, jax.random.key(0))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), gradient, other)
    assert metrics["loss"][1] == 3 and task.metrics(*variables, batch)["accuracy"][1] == 3
    # Without the name of the label, neither the loss nor the update is a number.
    strict = classification_task(Plain(), batch)
    (value, _), gradient = jax.jit(jax.value_and_grad(strict.loss, has_aux=True))(
        *variables, batch, jax.random.key(0)
    )
    assert np.isnan(value) and all(np.isnan(g).all() for g in jax.tree.leaves(gradient))
    padded = {**batch, "valid": np.arange(4) < 3}
    (value, _), gradient = jax.jit(jax.value_and_grad(strict.loss, has_aux=True))(
        *variables, padded, jax.random.key(0)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_what_is_no_network_is_named():
    with pytest.raises(ValueError, match=r"model: expected a flax\.linen\.Module, found function"):
        classification_task(lambda x: x, {"image": np.zeros((1, N, N, 1)), "label": np.zeros(1, int)})


@pytest.mark.slow
def test_ignored_pixels_change_neither_loss_nor_gradient():
    rng = np.random.default_rng(0)
    _, reference = segmented()
    batch = {
        "image": rng.normal(size=(2, N, N, 1)).astype(np.float32),
        "segmentation": reference,
        "valid": np.ones(2, bool),
    }
    task = segmentation_task(Plain(pixels=True), batch, ignore=255)
    variables = task.init(jax.random.key(0))
    step = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    (value, _), gradient = step(*variables, batch, jax.random.key(0))
    # The same as of images without those columns.
    cut = {"image": batch["image"][:, :, :6], "segmentation": reference[:, :, :6], "valid": batch["valid"]}
    plain = segmentation_task(Plain(pixels=True), cut)
    (expected, _), other = jax.jit(jax.value_and_grad(plain.loss, has_aux=True))(
        *variables, cut, jax.random.key(0)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), gradient, other)
    _, gradient = jax.jit(
        jax.value_and_grad(segmentation_task(Plain(pixels=True), batch).loss, has_aux=True)
    )(*variables, batch, jax.random.key(0))
    assert all(np.isnan(g).all() for g in jax.tree.leaves(gradient))
    found, wanted = task.metrics(*variables, batch), plain.metrics(*variables, cut)
    np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=1e-6)
    np.testing.assert_allclose(found["dice"], wanted["dice"], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_told_from_nothing_to_score(bad):
    logits = LOGITS.copy()
    logits[2] = bad
    batch = {"label": np.maximum(LABELS, 0), "valid": ALL}
    found = rates(classification_metrics(logits, batch))
    assert found == {"accuracy": -np.inf, "auc": -np.inf, "sensitivity": -np.inf}
    # One that does not count spoils nothing, and without positive examples there is nothing to score.
    others = classification_metrics(logits, {**batch, "valid": np.arange(5) != 2})
    assert all(np.isfinite(score) for score in rates(others).values())
    nothing = rates(classification_metrics(LOGITS, {"label": np.zeros(5, int), "valid": ALL}))
    assert np.isnan(nothing["auc"]) and np.isnan(nothing["sensitivity"]) and nothing["accuracy"] == 0.4
    # An image without a lesion is not segmented well by a network that diverged.
    task = segmentation_task(
        Plain(pixels=True), {"image": np.zeros((1, N, N, 1)), "segmentation": np.zeros((1, N, N))}
    )
    params, stats = task.init(jax.random.key(0))
    images = np.zeros((2, N, N, 1), np.float32)
    images[1, 0, 0] = bad
    empty = {"image": images, "segmentation": np.zeros((2, N, N), np.uint8), "valid": np.ones(2, bool)}
    assert rates(task.metrics(params, stats, empty)) == {"loss": np.inf, "dice": -np.inf, "hd95": np.inf}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.slow
def test_blank_volumes_are_nothing_to_score(bad):
    rng = np.random.default_rng(0)
    target = rng.random((4, 9, 9)).astype(np.float32)
    target[1:3] = 0
    batch = {
        "target": target,
        "data_range": np.array([1, 0, 0, 1], np.float32),
        "volume": np.array([0, 1, 1, 2]),
        "valid": np.ones(4, bool),
    }
    images = target + 0.1
    found = reconstruction_metrics(jnp.asarray(images), batch)
    kept = {name: x[[0, 3]] for name, x in batch.items()}
    expected = reconstruction_metrics(jnp.asarray(images[[0, 3]]), kept)
    for name, sums in expected.items():
        np.testing.assert_allclose(found[name], sums, rtol=1e-6)
    images[3, 2, 2] = bad
    found = rates(reconstruction_metrics(jnp.asarray(images), batch))
    assert found["nmse"] == np.inf and found["psnr"] == found["ssim"] == -np.inf


def test_areas_of_many_classes_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(60, 4)).astype(np.float32), rng.choice(4, 60, p=[0.5, 0.3, 0.15, 0.05])
    logits[np.arange(60), labels] += 0.5
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = rates(classification_metrics(logits, {"label": labels, "valid": np.ones(60, bool)}))
    for name, average in (("auc", "macro"), ("auc_weighted", "weighted")):
        expected = roc_auc_score(labels, probabilities, multi_class="ovr", average=average)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)
    # A class that nobody has is left out.
    few = labels < 3
    found = classification_metrics(logits, {"label": labels, "valid": few})
    areas = [roc_auc_score(labels[few] == c, probabilities[few, c]) for c in range(3)]
    np.testing.assert_allclose(found["auc"], (sum(areas), 3), rtol=1e-5)
