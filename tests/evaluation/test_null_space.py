"""What data did not determine of an image, and the contrast of small lesions."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from fedrecon.evaluation import contrast, contrast_recovery, disc, lesion_place, null_space
from operators import SENSE, CartesianFourier, Diagonal, fft2c, ifft2c

once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def image_of(seed, *shape):
    rng = np.random.default_rng(seed)
    return jnp.asarray((rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64))


def test_of_one_coil_it_is_what_was_not_measured():
    """Exactly the projection onto the frequencies outside of the mask."""
    mask = jnp.asarray(np.random.default_rng(0).random((12, 14)) < 0.4, jnp.float32)
    image = image_of(1, 12, 14)
    found = once(lambda mask, x: null_space(CartesianFourier((12, 14), mask), x))(mask, image)
    want = ifft2c(jnp.where(mask == 0, fft2c(image), 0))
    np.testing.assert_allclose(found.part, want, atol=2e-6)
    lost, kept = (np.square(np.abs(np.asarray(x))) for x in (want, image - want))
    np.testing.assert_allclose(found.share, lost / (lost + kept), atol=1e-4)
    np.testing.assert_allclose(found.total, lost.sum() / (lost + kept).sum(), rtol=1e-5)


def test_of_several_coils_it_is_the_projection():
    """Of each of several operators that of its singular vectors, and nothing where all is measured."""
    masks = jnp.asarray(np.random.default_rng(0).random((2, 6, 7)) < 0.25, jnp.float32)
    masks = masks.at[1].set(1.0)
    maps, images = image_of(2, 2, 2, 6, 7), image_of(3, 2, 6, 7)
    maps /= jnp.sqrt(jnp.square(jnp.abs(maps)).sum(1, keepdims=True))

    def one(mask, maps, x):
        A = SENSE(CartesianFourier((6, 7), mask), maps)
        dense = jax.vmap(lambda v: A(v.reshape(6, 7)).ravel())(jnp.eye(42, dtype=jnp.complex64))
        return null_space(A, x, iterations=100, tolerance=1e-5), dense

    found, dense = once(jax.vmap(one))(masks, maps, images)
    for i in range(2):
        matrix, x = np.asarray(dense[i], np.complex128).T, np.asarray(images[i]).ravel()
        want = x - np.linalg.pinv(matrix, 1e-5) @ (matrix @ x)
        np.testing.assert_allclose(np.asarray(found.part[i]).ravel(), want, atol=2e-3)
    assert found.total[0] > 0.05 and found.total[1] < 1e-8


def test_an_image_of_zeros_has_no_null_space():
    find = once(lambda scale, x, cutoff: null_space(Diagonal(scale), x, cutoff))
    found = find(jnp.array([[0.0, 1.0]]), jnp.zeros((1, 2)), 0.0)
    assert not found.total and not found.share.any()
    real = find(jnp.array([[0.0, 1.0]]), jnp.array([[3.0, 4.0]]), 0.0)
    np.testing.assert_allclose(real.part, [[3, 0]])
    np.testing.assert_allclose(real.share, [[1, 0]])
    assert float(real.total) == pytest.approx(9 / 25)
    weak = find(jnp.array([[0.5, 1.0]]), jnp.array([[3.0, 4.0]]), 0.25)
    np.testing.assert_allclose(weak.part, [[3 / 2, 4 * 0.2]], rtol=1e-5)
    with pytest.raises(ValueError, match="tolerance: expected a number of 1e-5 or more"):
        null_space(Diagonal(jnp.ones((1, 2))), jnp.ones((1, 2)), tolerance=1e-7)


def test_contrast_is_recovered_by_the_identity_and_as_computed_by_a_blur():
    rng = np.random.default_rng(0)
    reference = 1 + rng.random((40, 44))
    center, radius = (19, 23), 2.5
    lesion = 0.3 * disc(reference.shape, center, radius)
    pair = reference + lesion, reference
    assert contrast_recovery(pair, pair, center, radius) == pytest.approx(1, abs=1e-12)
    assert contrast_recovery((reference, reference), pair, center, radius) == 0
    blurred = tuple(ndimage.gaussian_filter(x, 1.5, mode="wrap") for x in pair)
    distance = np.hypot(*np.meshgrid(np.arange(40) - 19, np.arange(44) - 23, indexing="ij"))
    spread = ndimage.gaussian_filter(lesion, 1.5, mode="wrap") / 0.3
    want = spread[distance <= 2.5].mean() - spread[(distance > 3.5) & (distance <= 7)].mean()
    found = contrast_recovery(blurred, pair, center, radius)
    assert found == pytest.approx(want, rel=1e-9) and 0.3 < found < 0.7
    assert math.isnan(contrast_recovery(pair, (reference, reference), center, radius))
    with pytest.raises(ValueError, match="center and radius: expected a disc"):
        contrast(np.ones((4, 4)), (1, 1), 9)


def test_lesions_lie_in_tissue():
    """With their rings; where nothing is wide enough there is none."""
    y, x = np.meshgrid(np.arange(40) - 20, np.arange(40) - 14, indexing="ij")
    body = (np.hypot(y, x) < 11).astype(float)
    rng = np.random.default_rng(0)
    places = {lesion_place(rng, body, 2.0) for _ in range(50)}
    assert len(places) > 10 and all(body[disc(body.shape, place, 6.0)].all() for place in places)
    assert lesion_place(rng, body, 6.0) is None
