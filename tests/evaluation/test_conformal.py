"""Conformal intervals: quantiles of histograms that add, and their coverage."""

import math

import numpy as np
import pytest

from fedrecon.evaluation.conformal import (
    EDGES,
    conformal_quantile,
    coverage,
    error_scale,
    score_histogram,
)


def histogram(scores, counted=None):
    scores = np.asarray(scores, np.float32)
    return score_histogram(scores, np.ones(scores.shape, bool) if counted is None else counted)


def test_quantiles_are_those_of_all_scores_to_a_bin():
    """Of the pooled scores, by histograms of sites that are added; never below, and at most 1.5 % above."""
    rng = np.random.default_rng(0)
    sites = [rng.gamma(2, scale, size) for scale, size in ((0.1, 300), (1.0, 37), (0.4, 900))]
    summed = sum(histogram(site) for site in sites)
    pooled = np.sort(np.concatenate(sites).astype(np.float32))
    assert summed.sum() == len(pooled)
    for level in (0.5, 0.9, 0.99):
        want = pooled[math.ceil((len(pooled) + 1) * level) - 1]
        got = conformal_quantile(summed, level)
        assert want <= got * (1 + 1e-6) and got <= want * 1.016
        assert (pooled <= got).mean() >= level


def test_new_scores_are_covered_as_often_as_said():
    """Over draws of calibration and test, 90 % to within chance; five scores cannot promise it."""
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(400):
        drawn = np.abs(rng.normal(size=(2, 60)))
        quantile = conformal_quantile(histogram(drawn[0]), 0.9)
        inside.append((drawn[1] <= quantile).mean())
    assert 0.895 < np.mean(inside) < 0.92
    assert conformal_quantile(histogram(np.ones(5)), 0.9) == math.inf


def test_scores_that_do_not_count_and_those_beyond_the_last_edge():
    scores = np.array([[0.5, 2e4, 0.0, 3.0]])
    counted = np.array([[True, True, True, False]])
    found = histogram(scores, counted)
    assert found.sum() == 3 and found[0] == 1 and found[-1] == 1
    assert conformal_quantile(found, 0.4) == EDGES[np.searchsorted(EDGES, np.float32(0.5))]
    assert conformal_quantile(found, 0.7) == math.inf
    assert conformal_quantile(np.zeros(len(EDGES) + 1), 0.9) == math.inf


def test_coverage_counts_pixels():
    errors, scale = np.array([1.0, 2.0, 3.0, 9.0]), np.array([1.0, 1.0, 2.0, 1.0])
    found = coverage(errors, scale, np.array([True, True, True, False]), 1.5)
    assert found.coverage == 2 / 3 and found.pixels == 3 and found.width == pytest.approx(4.0)
    assert math.isnan(coverage(errors, scale, np.zeros(4, bool), 1.5).coverage)


def test_scales_are_larger_where_the_image_was_changed():
    start = np.ones((2, 9, 9))
    images, cornered = start.copy(), start.copy()
    images[0, 4, 4] += 5
    cornered[0, 0, 0] += 9
    scale = error_scale(images, start, 0.1)
    np.testing.assert_allclose(scale[1], 0.1, rtol=1e-6)
    np.testing.assert_allclose(scale[0, 4, 4], 0.1 + 5 / 25, rtol=1e-6)
    np.testing.assert_allclose(scale[0, 0, 0], 0.1, rtol=1e-5)
    np.testing.assert_allclose(error_scale(cornered, start, 0.1)[0, 0, 0], 0.1 + 1, rtol=1e-6)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="level: expected a number between 0 and 1"):
        conformal_quantile(np.zeros(len(EDGES) + 1), 1.0)
    with pytest.raises(ValueError, match="histogram: expected 1242 numbers"):
        conformal_quantile(np.zeros(3), 0.9)
    with pytest.raises(ValueError, match="counted: expected the shape"):
        score_histogram(np.ones(3), np.ones(2, bool))
