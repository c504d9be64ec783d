"""Statistical shape models: signed distances, modes, and what they draw."""

import numpy as np
import pytest

from fedrecon.alignment import shape_model, signed_distances

Y, X = np.mgrid[:24, :20]


def disks(radii, centers=None):
    centers = [(11.5, 9.5)] * len(radii) if centers is None else centers
    return np.stack(
        [(np.hypot(Y - cy, X - cx) < r).astype(int) for r, (cy, cx) in zip(radii, centers, strict=True)]
    )


def test_distances_are_those_to_the_nearest_pixel_on_the_other_side():
    labels = np.random.default_rng(0).integers(0, 3, (2, 6, 5))
    labels[1][labels[1] == 2] = 0
    found = signed_distances(labels, 3)
    for n, k, y, x in np.ndindex(*found.shape):
        mask = labels[n] == k + 1
        other = np.argwhere(mask != mask[y, x])
        if not len(other):
            assert found[n, k, y, x] == np.hypot(6, 5)
            continue
        away = np.hypot(*(other - (y, x)).T).min() - 0.5
        assert found[n, k, y, x] == pytest.approx(-away if mask[y, x] else away)


def test_all_modes_give_back_the_shapes_and_few_their_best_subspace():
    labels = disks([4, 6, 7, 8.5]) + (disks([2, 3, 3, 4]) > 0)
    model = shape_model(labels, 3)
    assert model.modes.shape == (3, 2 * 24 * 20)
    np.testing.assert_allclose(model.modes @ model.modes.T, np.eye(3), atol=1e-10)
    flat = signed_distances(labels, 3).reshape(4, -1)
    coefficients = (flat - model.mean) @ model.modes.T
    np.testing.assert_array_equal(model.labels(coefficients), labels)
    np.testing.assert_allclose(coefficients.std(0, ddof=1), model.deviations, rtol=1e-8)
    assert shape_model(labels, 3, modes=1).deviations[0] == pytest.approx(model.deviations.max())


def test_drawn_sizes_are_those_of_a_normal_family():
    rng = np.random.default_rng(1)
    model = shape_model(disks(rng.normal(7, 1, 40)), 2)
    areas = model.drawn(rng, 400).sum((1, 2))
    radii = np.sqrt(areas / np.pi)
    assert abs(radii.mean() - 7) < 0.4 and abs(radii.std() - 1) < 0.3


def test_between_two_kinds_of_shape_it_draws_what_is_neither():
    """A disk is left or right, never both and never absent: what a normal law does not know."""
    rng = np.random.default_rng(2)
    left = rng.uniform(size=60) < 0.5
    centers = [(11.5 + rng.normal(0, 0.5), 5.0 if kind else 14.0) for kind in left]
    labels = disks([4.0] * 60, centers)
    drawn = shape_model(labels, 2).drawn(rng, 200)
    halves = np.stack([drawn[:, :, :10].sum((1, 2)), drawn[:, :, 10:].sum((1, 2))])
    neither = ((halves > 10).all(0) | (halves < 10).all(0)).mean()
    assert neither > 0.2
    real = np.stack([labels[:, :, :10].sum((1, 2)), labels[:, :, 10:].sum((1, 2))])
    assert not ((real > 10).all(0) | (real < 10).all(0)).any()


@pytest.mark.parametrize(
    ("labels", "modes", "message"),
    [(disks([4]), 2, "labels: expected"), (disks([4, 5]), 0, "modes: expected at least 1")],
)
def test_bad_arguments_are_named(labels, modes, message):
    with pytest.raises(ValueError, match=message):
        shape_model(labels, 2, modes)
