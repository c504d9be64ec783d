"""Patches and windows of images: where they are, and what their blending leaves as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.models import UNet
from fedrecon.tasks import segmentation_task, sliding_window
from fedrecon.tasks.patches import blending_weights, sample_patches, window_starts

RNG = np.random.default_rng(0)


def test_windows_start_evenly_from_end_to_end():
    assert window_starts(10, 4, 0.5) == (0, 2, 4, 6)
    assert window_starts(11, 4, 0.5) == (0, 2, 4, 5, 7)
    assert window_starts(4, 4, 0.5) == (0,)
    assert window_starts(9, 4, 0.0) == (0, 2, 5)
    weights = blending_weights((5, 8))
    np.testing.assert_allclose(weights[2, :4], np.exp(-0.5 * np.array([3.5, 2.5, 1.5, 0.5]) ** 2))


@pytest.mark.parametrize("shape", [(2, 9, 5), (1, 6, 3, 8)])
def test_constants_and_functions_of_pixels_are_what_they_are(shape, x64):
    """Windows of 4, larger than the images along an axis."""
    image = RNG.normal(size=(*shape, 2))
    window = (4,) * (len(shape) - 1)

    def pixels(x):
        return jnp.stack([x[..., 0] * x[..., 1], jnp.ones(x.shape[:-1]), x[..., 0]], -1)

    found = jax.jit(lambda x: sliding_window(pixels, x, window))(image)
    np.testing.assert_allclose(found, pixels(image), rtol=1e-12, atol=1e-12)


def test_windows_are_blended_by_gaussians(x64):
    """Beside a slow sum over windows, of a function that knows where it is in its window."""
    image, window = RNG.normal(size=(1, 11, 6, 1)), (4, 4)
    ramp = np.arange(16.0).reshape(4, 4, 1)
    found = jax.jit(lambda x: sliding_window(lambda part: part * ramp, x, window))(image)
    sums, weights = np.zeros((11, 6)), np.zeros((11, 6))
    gauss = np.exp(-0.5 * ((np.arange(4) - 1.5) / 0.5) ** 2)
    for i in window_starts(11, 4, 0.5):
        for j in window_starts(6, 4, 0.5):
            place = np.s_[i : i + 4, j : j + 4]
            weights[place] += np.outer(gauss, gauss)
            sums[place] += np.outer(gauss, gauss) * image[0][place][..., 0] * ramp[..., 0]
    np.testing.assert_allclose(found[0, ..., 0], sums / weights, rtol=1e-10)


def test_patches_are_cut_alike_and_follow_the_foreground():
    n, sizes = 200, (9, 7)
    place = np.broadcast_to(np.arange(63).reshape(1, *sizes), (n, *sizes))
    mask = np.zeros((n, *sizes), bool)
    mask[:50, 8, 0] = mask[50:100, 4, 3] = True
    image = np.stack([place, 2 * place], -1)
    cut = jax.jit(
        lambda key, share: sample_patches(key, (image, place), mask, (3, 4), share), static_argnums=1
    )
    patches, corner = cut(jax.random.key(0), 0.5)
    assert patches.shape == (n, 3, 4, 2)
    np.testing.assert_array_equal(patches[..., 1], 2 * corner)
    starts = np.stack(np.divmod(np.asarray(corner[:, 0, 0]), 7), -1)
    assert (starts >= 0).all() and (starts <= (6, 3)).all()
    # Half of those with a pixel look at it, as near to the center as edges allow; by chance 1 in 28 does.
    for first, start in ((0, (6, 0)), (50, (3, 1))):
        seen = (starts == start).all(1)
        assert 0.35 < seen[first : first + 50].mean() < 0.7 and seen[100:].mean() < 0.15
    assert len(np.unique(starts[100:], axis=0)) > 20
    for patch in ((10, 3), (3,)):
        with pytest.raises(ValueError, match="patch: expected 2 sizes from 1 to those of the images"):
            sample_patches(jax.random.key(0), (image,), mask, patch)


def test_classes_are_looked_at_alike_however_large():
    """A class of one pixel next to one of 60, and an example without the first."""
    n, sizes = 300, (9, 7)
    labels = np.zeros((n, *sizes), np.float32)
    labels[:200], labels[200:, 4, 3] = 1, 1
    labels[:200, 0, 0], labels[0, 8, 6] = 2, 255
    cut = jax.jit(lambda key: sample_patches(key, (labels,), labels, (1, 1), 1.0, 3)[0])
    seen = np.asarray(cut(jax.random.key(0)))[:, 0, 0]
    assert 0.38 < (seen[:200] == 2).mean() < 0.62 and (seen[200:] == 1).all() and 255 not in seen


@pytest.mark.slow
def test_a_task_of_patches_trains_on_them_and_predicts_whole_images():
    image = RNG.normal(size=(2, 12, 10, 1)).astype(np.float32)
    labels = (image[..., 0] > 0.5).astype(np.int32)
    batch = {"image": image, "segmentation": labels, "valid": np.ones(2, bool)}
    # Without poolings and with windows over everything, a window is the image.
    task = segmentation_task(UNet(2, 0), batch, patch=(4, 6))
    whole = segmentation_task(UNet(2, 0), batch, patch=(12, 10))
    plain = segmentation_task(UNet(2, 0), batch)
    variables = task.init(jax.random.key(0))
    np.testing.assert_allclose(
        jax.jit(whole.predict)(*variables, batch), jax.jit(plain.predict)(*variables, batch), atol=1e-5
    )
    assert jax.jit(task.predict)(*variables, batch).shape == (2, 12, 10, 2)
    losses = {float(jax.jit(task.loss)(*variables, batch, jax.random.key(k))[0]) for k in range(4)}
    assert len(losses) == 4 and np.isfinite(list(losses)).all()
    metrics = jax.jit(task.metrics)(*variables, batch)
    assert metrics["dice"][1] == 2
