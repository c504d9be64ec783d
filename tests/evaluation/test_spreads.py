"""Deviations of pixels beside their errors."""

import numpy as np
import pytest

from fedrecon.evaluation import spread


def test_deviations_that_are_those_of_the_errors_have_the_ratio_one():
    rng = np.random.default_rng(0)
    deviations = rng.uniform(0.1, 1, (40, 25, 20))
    errors = deviations * rng.normal(size=deviations.shape)
    found = spread(errors, deviations, np.ones(errors.shape, bool), bins=4)
    assert abs(found.ratio - 1) < 0.02 and found.pixels == 20_000
    np.testing.assert_allclose(found.errors, found.deviations, rtol=0.05)
    assert (np.diff(found.deviations) > 0).all()
    half = spread(errors, deviations / 2, np.ones(errors.shape, bool))
    assert abs(half.ratio - 2 * found.ratio) < 1e-9 and half.correlation == found.correlation
    assert 0.2 < found.correlation < 0.6


def test_ranks_are_correlated_and_what_does_not_count_is_left_out():
    errors, deviations = np.array([1.0, -4, 9, 1e3]), np.array([1.0, 2, 3, 0])
    counted = np.array([True, True, True, False])
    found = spread(errors, deviations, counted)
    assert abs(found.correlation - 1) < 1e-12 and found.pixels == 3 and len(found.errors) == 3
    assert found.errors.tolist() == [1, 4, 9] and found.ratio == pytest.approx((98 / 14) ** 0.5)
    none = spread(errors, deviations, np.zeros(4, bool))
    assert np.isnan([none.correlation, none.ratio]).all() and none.pixels == 0
    assert np.isnan(spread(errors, np.ones(4), counted).correlation)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"deviations, counted: expected the shape \(3,\)"):
        spread(np.ones(3), np.ones(4), np.ones(3, bool))
    with pytest.raises(ValueError, match="bins: expected 1 or more, found 0"):
        spread(np.ones(3), np.ones(3), np.ones(3, bool), 0)
