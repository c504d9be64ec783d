"""Losses of segmentation and of findings against formulas, scipy, scikit-learn and differences."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score

from fedrecon.models import UNet
from fedrecon.models.normalization import InstanceNorm
from fedrecon.models.unet import Block
from fedrecon.tasks import (
    boundary_distances,
    findings_task,
    segmentation_loss,
    segmentation_losses,
    segmentation_task,
)
from fedrecon.tasks.segmentation_losses import signed_distance

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 3, 4, 5, 3))
LABELS = RNG.integers(0, 3, (2, 3, 4, 5))
SPACING = np.array([[2.0, 1.0, 0.5], [1.0, 0.7, 1.5]])
SCORED = RNG.random((2, 3, 4, 5)) < 0.8
WEIGHTS = (0.5, 1.0, 3.0)


def entropy(power=0.0, weights=(1, 1, 1)):
    """Of one example after the other."""
    log_p = np.take_along_axis(log_softmax(LOGITS, -1), LABELS[..., None], -1)[..., 0]
    values = -np.take(weights, LABELS) * (1 - np.exp(log_p)) ** power * log_p
    return np.mean([v[s].mean() for v, s in zip(values, SCORED, strict=True)])


def test_cross_entropy_is_weighted_and_focused_over_scored_pixels(x64):
    for power, weights in ((0, None), (2, None), (1, WEIGHTS)):
        loss = segmentation_loss(cross_entropy=1, overlap=0, class_weights=weights, focus=power)
        run = jax.jit(lambda *arrays, loss=loss: loss(*arrays, None))
        found = run(LOGITS, LABELS, SCORED)
        np.testing.assert_allclose(found, entropy(power, weights or (1, 1, 1)), rtol=1e-10)
        # Of examples of padding alone nothing is seen.
        more = [np.concatenate([x, x]) for x in (LOGITS, LABELS)]
        if power == 1:
            padded = run(*more, np.concatenate([SCORED, np.zeros_like(SCORED)]))
            np.testing.assert_allclose(padded, found, rtol=1e-12)


def by_scipy(mask, spacing):
    if mask.all() or not mask.any():
        return np.zeros(mask.shape)
    outside, inside = (ndimage.distance_transform_edt(m, sampling=spacing) for m in (~mask, mask))
    return outside - inside


def test_boundary_loss_is_the_mean_distance_where_a_class_is_predicted(x64):
    p = np.exp(log_softmax(LOGITS, -1))
    expected = []
    for i, spacing in enumerate(SPACING):
        maps = [by_scipy((LABELS[i] == c) & SCORED[i], spacing) for c in (1, 2)]
        expected.append((p[i, ..., 1:] * np.stack(maps, -1)).mean(-1)[SCORED[i]].mean())
    loss = segmentation_loss(cross_entropy=0, overlap=0, boundary=1)
    found = jax.jit(loss)(LOGITS, LABELS, SCORED, SPACING)
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-10)


def test_signed_distances_of_a_square_and_of_nothing():
    square = np.zeros((5, 7), bool)
    square[1:4, 2:5] = True
    found = jax.jit(signed_distance)(square, np.array((1.0, 2.0)))
    np.testing.assert_allclose(found[2], [4, 2, -2, -2, -2, 2, 4], rtol=1e-6)
    np.testing.assert_allclose(found, by_scipy(square, (1.0, 2.0)), rtol=1e-6)
    for empty in (square & False, square | True):
        assert (jax.jit(signed_distance)(empty, np.array((1.0, 2.0))) == 0).all()


def test_gradients_are_differences_and_finite_without_any_class(x64):
    loss = segmentation_loss(boundary=0.1, class_weights=WEIGHTS, focus=2)
    run = jax.jit(jax.value_and_grad(loss))
    direction = RNG.normal(size=LOGITS.shape)
    arrays = (LABELS, SCORED, SPACING)
    _, gradient = run(LOGITS, *arrays)
    step = 1e-5
    ends = [run(LOGITS + sign * step * direction, *arrays)[0] for sign in (1, -1)]
    np.testing.assert_allclose((gradient * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-6)
    background = np.zeros_like(LABELS)
    for logits in (LOGITS, 1e4 * LOGITS):
        for labels, scored in ((background, SCORED), (LABELS, SCORED), (background, 0 * SCORED > 0)):
            value, gradient = run(logits, labels, scored, SPACING)
            assert np.isfinite(value) and np.isfinite(gradient).all()
    assert (gradient == 0).all()


class Scales(nn.Module):
    """Logits of three scales."""

    @nn.compact
    def __call__(self, x, train=False):
        z = x * self.param("slope", nn.initializers.ones, ())
        return (z, 2 * z, -z) if train else z


def test_supervision_of_scales_has_halving_weights(x64):
    batch = {"image": LOGITS, "segmentation": LABELS, "spacing": SPACING, "valid": np.ones(2, bool)}
    loss = segmentation_loss()
    task = segmentation_task(Scales(), batch, loss=loss)
    losses = [jax.jit(loss)(k * LOGITS, LABELS, SCORED | True, SPACING) for k in (1, 2, -1)]
    params = {"slope": jnp.ones(())}
    found, _ = jax.jit(task.loss)(params, {}, batch, jax.random.key(0))
    np.testing.assert_allclose(found, (4 * losses[0] + 2 * losses[1] + losses[2]) / 7, rtol=1e-10)


class Single(nn.Module):
    @nn.compact
    def __call__(self, x):
        return self.param("slope", nn.initializers.ones, ()) * x


def test_distances_of_boundaries_are_computed_once(x64, monkeypatch):
    loss = segmentation_loss(boundary=0.1)
    spacing = jnp.asarray(SPACING)
    batch = {"image": LOGITS, "segmentation": LABELS, "spacing": SPACING, "valid": np.ones(2, bool)}
    expected = loss(LOGITS, LABELS, SCORED | True, SPACING)
    found = {**batch, "distance": boundary_distances(LABELS, 3, spacing)}
    masked = boundary_distances(np.where(SCORED, LABELS, 255), 3, spacing, ignore=255)
    np.testing.assert_allclose(
        loss(LOGITS, LABELS, SCORED, SPACING, masked), loss(LOGITS, LABELS, SCORED, SPACING), rtol=1e-6
    )
    monkeypatch.setattr(segmentation_losses, "distance_transform", None)
    task = segmentation_task(Single(), found, loss=loss, flip=True)
    value, _ = task.loss({"slope": jnp.ones(())}, {}, found, jax.random.key(0))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    with pytest.raises(TypeError):
        task.loss({"slope": jnp.ones(())}, {}, batch, jax.random.key(0))


@pytest.mark.slow
def test_volumes_are_segmented_and_scored(x64):
    batch = {"image": LOGITS, "segmentation": LABELS, "spacing": SPACING, "valid": np.ones(2, bool)}
    loss = segmentation_loss(boundary=0.1)
    task = segmentation_task(Scales(), batch, loss=loss, tolerance=1.0)
    metrics = jax.jit(task.metrics)({"slope": jnp.ones(())}, {}, batch)
    each = [loss(*(x[i : i + 1] for x in (LOGITS, LABELS, SCORED | True, SPACING))) for i in range(2)]
    np.testing.assert_allclose(metrics["loss"], (sum(each), 2), rtol=1e-10)
    predicted = LOGITS.argmax(-1)
    dice = [
        2 * (p & s).sum() / (p.sum() + s.sum())
        for i in range(2)
        for c in (1, 2)
        for p, s in [(predicted[i] == c, LABELS[i] == c)]
    ]
    np.testing.assert_allclose(metrics["dice"], (sum(dice), 4), rtol=1e-10)
    assert metrics["surface_dice"][1] == metrics["hd95"][1] == 4


@pytest.mark.slow
def test_unet_supervises_its_levels_in_training_alone():
    model = UNet(2, 3, 3, residual=True, deep_supervision=True)
    for shape in ((2, 9, 8, 1), (2, 8, 9, 8, 1)):
        x = jax.ShapeDtypeStruct(shape, np.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), x)
        outputs = jax.eval_shape(lambda v, x: model.apply(v, x, train=True), variables, x)
        assert [y.shape for y in outputs] == 2 * [(*shape[:-1], 3)]
        assert jax.eval_shape(model.apply, variables, x).shape == (*shape[:-1], 3)


def test_residual_blocks_add_what_they_are_given():
    x = jnp.asarray(RNG.normal(size=(1, 4, 4, 2)), jnp.float32)
    block = Block(2, InstanceNorm, True)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x, False, None)
    params = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)
    # The branch is normalized to nothing but its bias.
    params["params"]["norm2"]["bias"] = jnp.array([0.5, -1.0])
    found = jax.jit(lambda p, x: block.apply(p, x, False, None))(params, x)
    moved = np.asarray(x) + [0.5, -1.0]
    np.testing.assert_allclose(found, np.where(moved > 0, moved, 0.2 * moved), rtol=1e-6)


def test_losses_that_make_no_sense_are_refused():
    for options, message in (
        ({"focus": 0.5}, "focus: expected 0, or a number of 1 or more, found 0.5"),
        ({"cross_entropy": -1}, "cross_entropy: expected a weight of 0 or more"),
        ({"cross_entropy": 0, "overlap": 0}, "boundary: expected a weight above 0"),
        ({"class_weights": (1, -1)}, "class_weights: expected numbers of 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            segmentation_loss(**options)
    with pytest.raises(ValueError, match="class_weights: expected 3 numbers, found 2"):
        segmentation_loss(class_weights=(1, 2))(
            *(jnp.asarray(x) for x in (np.float32(LOGITS), LABELS, SCORED)), None
        )


class Slope(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x.mean((1, 2)) * self.param("slope", nn.initializers.ones, ())


def test_findings_are_weighted_and_what_is_uncertain_does_not_count(x64):
    n, findings = 12, 3
    image = RNG.normal(size=(n, 1, 1, findings))
    label = RNG.integers(0, 2, (n, findings))
    label[:, 2] = 0
    label[:4, 0] = label[3] = -1
    valid = np.arange(n) < 10
    batch = {"image": image, "label": label, "valid": valid}
    weights = np.array([2.0, 0.5, 3.0])
    task = findings_task(Slope(), batch, positive_weights=tuple(weights), ignore=-1)
    z = image[:, 0, 0]
    each = np.where(label == 1, weights * np.log1p(np.exp(-z)), np.log1p(np.exp(z)))
    known = (label >= 0) & valid[:, None]
    expected = [each[i][known[i]].mean() for i in range(n) if known[i].any()]
    params = {"slope": jnp.ones(())}
    run = jax.jit(jax.value_and_grad(lambda p: task.loss(p, {}, batch, jax.random.key(0))[0]))
    value, gradient = run(params)
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-10)
    assert np.isfinite(gradient["slope"])
    metrics = jax.jit(task.metrics)(params, {}, batch)
    areas = [roc_auc_score(label[known[:, c], c], z[known[:, c], c]) for c in (0, 1)]
    np.testing.assert_allclose(metrics["auc"], (sum(areas), 2), rtol=1e-10)
    np.testing.assert_allclose(metrics["accuracy"], (((z > 0) == label)[known].sum(), known.sum()))
    np.testing.assert_allclose(metrics["loss"], (sum(expected), len(expected)), rtol=1e-10)
    assert metrics["sensitivity"][1] == (label == 1)[known].sum()
    with pytest.raises(ValueError, match="positive_weights: expected 3 numbers above 0"):
        findings_task(Slope(), batch, positive_weights=(1.0, 2.0))
