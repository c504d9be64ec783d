"""Contrastive pre-training: views, the loss within a batch, and that labels are not read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.models import Classifier
from fedrecon.tasks import contrastive_task

SHAPES = {"image": jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)}


def make(**options):
    return contrastive_task(Classifier(2, 1, classes=6), SHAPES, features=4, **options)


def batch(count=5, padding=3, seed=0, filled=1e3):
    image = np.random.default_rng(seed).normal(size=(count + padding, 8, 8, 1)).astype(np.float32)
    image[count:] = filled
    return {"image": jnp.asarray(image), "valid": jnp.arange(count + padding) < count}


@pytest.fixture(scope="module")
def task():
    return make()


@pytest.fixture(scope="module")
def variables(task):
    return task[0].init(jax.random.key(0))


@pytest.fixture(scope="module")
def found(task, variables):
    """``found(batch) -> (loss, metrics, projections of both views)``, compiled once."""
    task, contrast = task

    @jax.jit
    def found(batch):
        keys = jax.random.split(jax.random.key(1), 3)
        views = contrast.views(batch, keys[0])
        seen = [contrast.train(*variables, view, keys[1])[0] for view in views]
        loss, _ = task.loss(*variables, batch, jax.random.key(1))
        return loss, task.metrics(*variables, batch)["loss"], seen

    return found


class Secret:
    """What nobody may look at."""

    def __getattribute__(self, name):
        raise AssertionError(name)


@pytest.mark.slow
def test_labels_are_not_read_and_need_not_be_there(task, variables):
    task, contrast = task
    key = jax.random.key(1)
    for extra in ({}, {"label": Secret()}):
        given = {**batch(), **extra}

        def seen(params, image, given=given):
            given = {**given, "image": image}
            views = [view["image"] for view in contrast.views(given, key)]
            gradient = jax.grad(lambda p: task.loss(p, {}, given, key)[0])(params)
            return gradient, views, task.metrics(params, {}, given)

        jax.eval_shape(seen, variables.params, given["image"])


@pytest.mark.slow
def test_padding_changes_nothing(found):
    jax.tree.map(np.testing.assert_array_equal, found(batch(filled=7.0))[:2], found(batch())[:2])
    assert np.isfinite(found(batch())[0])


def test_the_loss_is_that_of_both_views_within_the_batch(found):
    loss, _, z = found(batch())
    z = np.concatenate([x[:5] for x in z]).astype(float)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    scores = np.exp(z @ z.T / 0.2)
    pairs = [(i, (i + 5) % 10) for i in range(10)]
    each = [-np.log(scores[i, j] / (scores[i].sum() - scores[i, i])) for i, j in pairs]
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-5)


def test_views_are_parts_with_another_gain_and_differ():
    _, plain = make(crop=1.0, jitter=0.0, noise=0.0, flip=False)
    given = batch(5, 0)
    for view in jax.jit(plain.views)(given, jax.random.key(0)):
        x = np.asarray(given["image"])
        standard = (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)
        np.testing.assert_allclose(view["image"], standard, atol=1e-5)
    _, gained = make(crop=1.0, jitter=0.3, noise=0.0, flip=False)
    view = np.asarray(jax.jit(gained.views)(given, jax.random.key(0))[0]["image"])
    gains, offsets = view.std((1, 2)), view.mean((1, 2))
    assert (np.abs(gains - 1) <= 0.3 + 1e-5).all() and (np.abs(offsets) <= 0.3 + 1e-5).all()
    np.testing.assert_allclose((view - offsets[:, None, None]) / gains[:, None, None], standard, atol=1e-5)
    # A ramp shows which part was taken: it goes on rising, more slowly, within its range.
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, None, :, None], (64, 8, 8, 1))
    _, cropped = make(crop=0.5, jitter=0.0, noise=0.0, flip=False)
    one, other = (v["image"] for v in jax.jit(cropped.views)({"image": ramp}, jax.random.key(1)))
    slopes = np.diff(np.asarray(one), axis=2)[:, 0, 3, 0] * ramp.std((1, 2))[:, 0]
    assert slopes.min() >= 0.49 and slopes.max() <= 1.01 and slopes.std() > 0.1
    # Parts begin anywhere up to where they end with the image.
    places = np.asarray(one)[:, 0, 3, 0] * ramp.std((1, 2))[:, 0] + 3.5
    begin = ((places - 3.5 * slopes + 0.5) / (8 * (1 - slopes)))[slopes < 0.7]
    assert -1e-3 < begin.min() < 0.2 and 0.8 < begin.max() < 1 + 1e-3
    assert np.abs(one - other).max() > 0.1 and np.abs(np.asarray(one[0] - one[1])).max() > 0.01


def test_volumes_and_parameters_by_name(task, variables):
    assert set(variables.params) == {"network", "projection"}
    assert jax.eval_shape(task[0].predict, *variables, batch()).shape == (8, 4)
    same = jax.tree.structure(task[0].normalization.params)
    assert same == jax.tree.structure(variables.params)
    shapes = {"image": jax.ShapeDtypeStruct((1, 4, 4, 4, 1), jnp.float32)}
    other, contrast = contrastive_task(Classifier(2, 1, classes=6), shapes, features=4)
    given = {"image": jnp.ones((2, 4, 4, 4, 1)) * jnp.arange(4.0)[:, None], "valid": jnp.ones(2, bool)}
    view = jax.jit(contrast.views)(given, jax.random.key(0))[0]["image"]
    assert view.shape == (2, 4, 4, 4, 1) and np.isfinite(np.asarray(view)).all()
    shapes = jax.eval_shape(other.init, jax.random.key(0))
    assert jax.eval_shape(other.loss, *shapes, given, jax.random.key(0))[0].shape == ()


@pytest.mark.parametrize("name", ["crop", "jitter", "noise", "temperature", "features"])
def test_what_is_out_of_range_is_refused(name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        contrastive_task(Classifier(2, 1, classes=6), SHAPES, **{name: -1})
