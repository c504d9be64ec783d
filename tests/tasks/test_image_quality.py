"""Image quality against scikit-image, per volume and under padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fedrecon.tasks import reconstruction_metrics, ssim

metrics = jax.jit(reconstruction_metrics)


def volumes(slices, ny=13, nx=10, seed=0, noise=0.1):
    """Volumes of smooth positive images, their noisy copies and the batch that describes them."""
    rng = np.random.default_rng(seed)
    target = rng.random((sum(slices), ny, nx)).cumsum(1).cumsum(2)
    target /= target.max()
    target *= rng.uniform(0.5, 2, (sum(slices), 1, 1))
    images = target + noise * rng.normal(size=target.shape)
    volume = np.repeat(np.arange(len(slices)), slices)
    data_range = np.array([target[volume == v].max() for v in volume])
    valid = np.ones(sum(slices), bool)
    return images, {"target": target, "volume": volume, "data_range": data_range, "valid": valid}


def by_skimage(images, batch):
    """fastMRI's evaluation: one number per volume."""
    scores = []
    for v in np.unique(batch["volume"]):
        x, t = images[batch["volume"] == v], batch["target"][batch["volume"] == v]
        top = t.max()
        similarity = np.mean([structural_similarity(a, b, data_range=top) for a, b in zip(t, x, strict=True)])
        nmse = np.linalg.norm(x - t) ** 2 / np.linalg.norm(t) ** 2
        scores.append((nmse, peak_signal_noise_ratio(t, x, data_range=top), similarity))
    return dict(zip(("nmse", "psnr", "ssim"), np.sum(scores, 0), strict=True)), len(scores)


@settings(max_examples=10)
@given(st.sampled_from([[4], [1, 3], [2, 2], [1, 2, 1], [1, 1, 1, 1]]), st.integers(0, 99))
@pytest.mark.usefixtures("x64")
def test_metrics_equal_skimage_per_volume(slices, seed):
    images, batch = volumes(slices, seed=seed)
    want, count = by_skimage(images, batch)
    for name, (got, n) in metrics(images, batch).items():
        assert n == count
        np.testing.assert_allclose(got, want[name], rtol=1e-9)


def test_order_and_identifiers_of_volumes_do_not_matter():
    images, batch = volumes([2, 3, 1])
    order = np.random.default_rng(1).permutation(6)
    other = {name: value[order] for name, value in batch.items()}
    other["volume"] = np.array([7, -1, 1000])[other["volume"]]
    got, want = (metrics(*a) for a in ((images[order], other), (images, batch)))
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-5), got, want)


def test_padding_does_not_count():
    images, batch = volumes([2, 1])
    padded = {name: np.concatenate([value, np.zeros_like(value[:2])]) for name, value in batch.items()}
    junk = np.concatenate([images, np.ones_like(images[:2])])
    got, want = metrics(junk, padded), metrics(images, batch)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-6), got, want)
    nothing = {**batch, "valid": np.zeros(3, bool)}
    assert all(a == 0 for a in jax.tree.leaves(metrics(images, nothing)))


def test_psnr_of_known_noise_and_metrics_of_a_perfect_image(x64):
    images, batch = volumes([3], noise=0.0)
    shifted = metrics(images + 0.01 * batch["data_range"][0], batch)
    np.testing.assert_allclose(shifted["psnr"][0], 40.0)
    perfect = metrics(images * np.exp(0.3j), batch)
    np.testing.assert_allclose([perfect[m][0] for m in ("nmse", "ssim")], [0, 1], atol=1e-12)


def test_ssim_is_symmetric_bounded_and_differentiable():
    images, batch = volumes([3])
    x, t, r = (jnp.asarray(a, jnp.float32) for a in (images, batch["target"], batch["data_range"]))
    similarity = jax.jit(ssim)
    np.testing.assert_allclose(similarity(x, t, r), similarity(t, x, r), rtol=1e-5)
    np.testing.assert_allclose(similarity(t, t, r), 1, rtol=1e-6)
    grad = jax.jit(jax.grad(lambda x: ssim(x, t, r).sum()))(x)
    assert (similarity(x + 1e-2 * grad / jnp.abs(grad).max(), t, r) > similarity(x, t, r)).all()
    with pytest.raises(ValueError, match="7 x 7"):
        ssim(x[:, :6], t[:, :6], r)
