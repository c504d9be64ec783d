"""Rings around structures, and their contrast, against loops over pixels and pairs."""

import jax.numpy as jnp
import numpy as np

from fedrecon.alignment import boundary_contrast, boundary_rings

RNG = np.random.default_rng(3)


def slow_rings(mask, width):
    ny, nx = mask.shape
    contour, ring = np.zeros_like(mask), np.zeros_like(mask)
    for y in range(ny):
        for x in range(nx):
            near = mask[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            far = mask[max(y - width, 0) : y + width + 1, max(x - width, 0) : x + width + 1]
            contour[y, x] = mask[y, x] and not near.all()
            ring[y, x] = not mask[y, x] and far.any()
    return contour, ring


def test_rings_are_those_of_erosion_and_dilation():
    masks = np.zeros((3, 14, 11), bool)
    masks[0, 3:9, 2:8] = True
    masks[1, 0:4, 6:11] = True
    for width in (1, 5):
        contour, ring = boundary_rings(jnp.asarray(masks), width)
        for i, mask in enumerate(masks):
            expected = slow_rings(mask, width)
            np.testing.assert_array_equal(contour[i], expected[0])
            np.testing.assert_array_equal(ring[i], expected[1])


def test_the_contrast_is_the_published_one():
    """NT-Xent over the means under both rings; an empty ring and an example of padding are left out."""
    maps = RNG.normal(size=(4, 6, 5, 3)).astype(np.float32)
    rings = RNG.random((2, 4, 6, 5)) < 0.3
    rings[1, 2] = False
    valid = np.array([True, True, True, False])
    found = boundary_contrast(jnp.asarray(maps), jnp.asarray(rings), jnp.asarray(valid), 0.05)
    vectors, kinds = [], []
    for kind in range(2):
        for example in range(3):
            if rings[kind, example].any():
                mean = maps[example][rings[kind, example]].mean(0).astype(float)
                vectors.append(mean / np.linalg.norm(mean))
                kinds.append(kind)
    similar = np.exp(np.array(vectors) @ np.array(vectors).T / 0.05)
    total = []
    for i, kind in enumerate(kinds):
        alike = [j for j, other in enumerate(kinds) if other == kind and j != i]
        below = similar[i].sum() - similar[i, i]
        total.append(-np.mean([np.log(similar[i, j] / below) for j in alike]))
    np.testing.assert_allclose(found, np.mean(total), rtol=1e-4)


def test_nothing_to_contrast_is_zero():
    maps, rings = jnp.ones((2, 4, 4, 3)), jnp.zeros((2, 2, 4, 4), bool)
    assert boundary_contrast(maps, rings, jnp.ones(2, bool)) == 0
