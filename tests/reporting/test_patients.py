"""Scores of diagnosis by patient, against loops over patients and closed forms."""

import numpy as np
import pytest

from fedrecon.reporting import auc, best_threshold, bootstrap_interval, patient_masks


def test_dice_of_patients_is_that_of_their_volumes():
    rng = np.random.default_rng(0)
    patient = np.array([5, 2, 5, 2, 9])
    marked, lesion = rng.random((2, 5, 6, 7)) < 0.4
    lesion[patient == 9] = False
    found = patient_masks(marked, 3 * lesion, patient)
    for row, name in enumerate((2, 5)):
        p, r = marked[patient == name], lesion[patient == name]
        assert found.dice[row] == pytest.approx(2 * (p & r).sum() / (p.sum() + r.sum()))
    assert np.isnan(found.dice[2]) and found.marked[2] == marked[4].sum()


def test_marking_nothing_scores_nothing_where_there_is_a_lesion():
    lesion = np.zeros((4, 8, 8))
    lesion[0, 2:4, 2:4] = 1
    found = patient_masks(np.zeros_like(lesion), lesion, np.arange(4))
    np.testing.assert_array_equal(found.dice, [0, np.nan, np.nan, np.nan])


def test_auc_counts_pairs_within_groups():
    scores = np.array([0.1, 0.4, 0.4, 0.9, 0.2, 0.3])
    labels = np.array([0, 0, 1, 1, 1, 0])
    groups = np.array([0, 0, 0, 0, 1, 1])
    # Group 0: of the four pairs three are won and one is tied; group 1: one is lost.
    assert auc(scores, labels, groups) == pytest.approx(3.5 / 5)
    assert auc(scores, labels) == pytest.approx(6.5 / 9)
    assert np.isnan(auc(scores, np.ones(6)))


def test_bootstrap_of_a_mean_is_as_wide_as_its_standard_error_says():
    values = np.random.default_rng(1).normal(3, 2, 200)
    low, high = bootstrap_interval(lambda drawn: values[drawn].mean(), 200, resamples=2000)
    error = values.std() / np.sqrt(200)
    np.testing.assert_allclose([low, high], values.mean() + np.array([-1.96, 1.96]) * error, atol=0.1 * error)
    assert all(np.isnan(bootstrap_interval(lambda drawn: 1.0, 1)))
    assert all(np.isnan(bootstrap_interval(lambda drawn: float("nan"), 9)))


def test_the_best_threshold_is_the_middle_of_the_best():
    thresholds = [0.1, 0.2, 0.3, 0.4, 0.5]
    scores = dict(zip(thresholds, [0.0, 1.0, 1.0, 1.0, float("nan")], strict=True))
    assert best_threshold(scores.__getitem__, thresholds) == 0.3
    assert best_threshold(lambda threshold: float("nan"), thresholds) == 0.3
