"""Dice, the distance transform and HD95 against scipy, with their rules for empty masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fedrecon.tasks import dice, distance_transform, hausdorff95, segmentation_metrics, surface_dice

SHAPE = (11, 14)
edt, hd95 = jax.jit(distance_transform), jax.jit(hausdorff95)


def masks(count, density, seed):
    return np.random.default_rng(seed).random((count, *SHAPE)) < density


def hd95_by_scipy(a, b, spacing=None):
    """As MONAI computes it: the larger of two directed 95th percentiles, between borders."""
    borders = [m & ~ndimage.binary_erosion(m) for m in (a, b)]
    directed = [
        np.percentile(ndimage.distance_transform_edt(~to, sampling=spacing)[of], 95)
        for of, to in (borders, borders[::-1])
    ]
    return max(directed)


@given(st.integers(0, 10**6), st.floats(0.01, 0.9))
def test_distance_transform_equals_scipy(seed, density):
    mask = masks(1, density, seed)[0]
    mask[seed % SHAPE[0], seed % SHAPE[1]] = True
    np.testing.assert_allclose(edt(mask), ndimage.distance_transform_edt(~mask), rtol=1e-6)


def test_distance_to_nothing_is_infinite():
    assert np.isinf(edt(np.zeros(SHAPE, bool))).all()


@given(st.integers(0, 10**6), st.floats(0.05, 0.8), st.integers(0, 2))
def test_hd95_equals_scipy(seed, density, smoothing):
    a, b = masks(2, density, seed)
    a, b = (ndimage.binary_closing(m, iterations=smoothing) if smoothing else m for m in (a, b))
    a[3, 4] = b[7, 2] = True
    np.testing.assert_allclose(hd95(a, b), hd95_by_scipy(a, b), rtol=1e-5)


def test_hd95_takes_the_spacing_of_the_pixels():
    a, b = masks(2, 0.1, 3)
    spacings = np.array([[0.5, 2.0], [3.0, 0.7]], np.float32)
    for spacing in spacings:
        np.testing.assert_allclose(hd95(a, b, spacing), hd95_by_scipy(a, b, spacing), rtol=1e-5)
    pair = {"segmentation": np.stack([b, b]), "valid": np.ones(2, bool), "spacing": spacings}
    total, count = jax.jit(segmentation_metrics)(jnp.asarray(np.stack([a, a])), pair)["hd95"]
    np.testing.assert_allclose(total, sum(hd95_by_scipy(a, b, s) for s in spacings), rtol=1e-5)
    alone = hd95(a, np.zeros_like(a), spacings[0])
    np.testing.assert_allclose(alone, np.hypot(0.5 * SHAPE[0], 2.0 * SHAPE[1]), rtol=1e-6)
    assert count == 2


def test_hd95_of_shifted_squares_and_empty_masks():
    square, empty = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    square[2:6, 2:6] = True
    assert hd95(square, square) == 0
    assert hd95(square, np.roll(square, 3, 1)) == 3
    assert hd95(empty, empty) == 0
    diagonal = np.hypot(*SHAPE)
    np.testing.assert_allclose([hd95(square, empty), hd95(empty, square)], diagonal, rtol=1e-6)


def test_dice_of_identical_disjoint_and_empty_masks():
    square, empty = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    square[2:6, 2:6] = True
    pairs = [(square, square), (square, np.roll(square, 4, 1)), (empty, empty), (square, empty)]
    got = dice(*(jnp.asarray(np.stack(m)) for m in zip(*pairs, strict=True)))
    np.testing.assert_array_equal(got, [1, 0, 1, 0])
    np.testing.assert_allclose(dice(square, np.roll(square, 1, 1)), 0.75)


@settings(max_examples=5)
@given(st.integers(0, 10**6))
def test_segmentation_metrics_sum_cases_and_skip_padding(seed):
    rng = np.random.default_rng(seed)
    labels, reference = rng.integers(0, 3, (2, 4, *SHAPE)) * (rng.random((2, 4, 1, 1)) < 0.7)
    valid = np.array([True, True, True, False])
    batch = {"segmentation": reference.astype(np.float32), "valid": valid}
    got = jax.jit(segmentation_metrics, static_argnames="classes")(labels, batch, classes=3)
    cases = [(labels[i] == c, reference[i] == c) for i in range(3) for c in (1, 2)]
    want = [2 * (a & b).sum() / (a.sum() + b.sum()) if (a | b).any() else 1 for a, b in cases]
    np.testing.assert_allclose(got["dice"], (np.sum(want), 6), rtol=1e-6)
    present = [(a, b) for a, b in cases if (a | b).any()]
    want = [hd95_by_scipy(a, b) if a.any() and b.any() else np.hypot(*SHAPE) for a, b in present]
    np.testing.assert_allclose(got["hd95"], (np.sum(want), len(present)), rtol=1e-5)


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_labels_of_any_integer_dtype(dtype):
    mask = masks(2, 0.5, 0).astype(dtype)
    batch = {"segmentation": mask.astype(np.float32), "valid": np.ones(2, bool)}
    assert segmentation_metrics(jnp.asarray(mask), batch)["dice"] == (2, 2)


def test_distances_of_surfaces_of_volumes_are_those_of_monai():
    """Recorded with MONAI 1.6.1: ``compute_hausdorff_distance`` and ``compute_surface_dice``."""
    z, y, x = np.indices((12, 14, 15))
    sphere = (z - 5) ** 2 + (y - 6) ** 2 + (x - 6) ** 2 <= 16
    ellipsoid = (z - 6) ** 2 / 9 + (y - 7) ** 2 / 16 + (x - 8) ** 2 / 20 <= 1

    @jax.jit
    def scores(a, b, spacing):
        shares = [surface_dice(a, b, tolerance, spacing) for tolerance in (0.5, 1, 2)]
        return jnp.stack([hausdorff95(a, b, spacing), *shares])

    recorded = {
        (1.0, 1.0, 1.0): [2.4494898, 0.21875, 0.56640625, 0.84375],
        (2.5, 0.8, 0.7): [3.5706730, 0.21875, 0.51171875, 0.80078125],
    }
    for spacing, expected in recorded.items():
        np.testing.assert_allclose(
            scores(sphere, ellipsoid, np.array(spacing, np.float32)), expected, rtol=1e-6
        )
    cube = np.zeros_like(sphere)
    cube[2:8, 2:8, 2:8] = True
    unit = np.ones(3, np.float32)
    # Faces across the shift are off by 2, and make up a third of the border.
    assert scores(cube, np.roll(cube, 2, 0), unit)[0] == 2
    np.testing.assert_array_equal(scores(cube, np.roll(cube, 1, 2), unit)[2:], 1)
    assert (scores(cube, cube & False, unit)[1:] == 0).all() and (
        scores(cube & False, cube & False, unit)[1:] == 1
    ).all()
    with pytest.raises(
        ValueError, match="spacing: expected 3 distances, one for each axis of the mask, found 2"
    ):
        hausdorff95(cube, cube, (1.0, 2.0))
