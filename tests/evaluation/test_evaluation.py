"""Fairness, contribution, calibration, agreement and significance against definitions and other libraries."""

import itertools
import math

import numpy as np
import pytest
from sklearn import metrics

from fedrecon import evaluation as ev

RNG = np.random.default_rng(0)


def test_equal_scores_are_fair_and_one_winner_is_not():
    even = ev.performance_fairness([0.5, 0.5, 0.5], [0.4, 0.6, 0.5])
    assert even.jain == 1 and even.gini == 0 and even.spread == 0
    assert even.regret == pytest.approx(0.1)
    one = ev.performance_fairness([0, 0, 0, 1.0])
    assert one.jain == pytest.approx(0.25) and one.gini == pytest.approx(0.75) and math.isnan(one.regret)
    scores = RNG.random(25)
    found = ev.performance_fairness([*scores, np.nan])
    ordered = np.sort(scores)
    assert found.unscored == 1 and found.worst_tenth == pytest.approx(ordered[:2].mean())
    expected = sum(abs(a - b) for a in scores for b in scores) / (2 * 25**2 * scores.mean())
    assert found.gini == pytest.approx(expected)
    assert ev.performance_fairness([0.3, 0.4], [0.1, 0.2]).regret == 0
    with pytest.raises(ValueError, match="scores: expected at least one"):
        ev.performance_fairness([np.nan])


def test_scores_that_mean_nothing_are_said():
    below = ev.performance_fairness([-0.1, 0.5])
    assert math.isnan(below.jain) and math.isnan(below.gini) and below.worst == -0.1
    for score in (ev.delong_interval, lambda s, t: ev.operating_point(s, t, 0.9)):
        with pytest.raises(ValueError, match="scores: expected a number for each of 4 labels"):
            score([0.1, np.nan, 0.3, 0.4], [0, 0, 1, 1])
    with pytest.raises(ValueError, match="second: expected 2 classes"):
        ev.kappa([1, 2], [1])


def test_those_who_give_more_gain_more_or_not():
    given, alone = [1.0, 2, 3, 4], [0.5, 0.5, 0.6, 0.5]
    found = ev.collaboration(given, np.add(alone, [0.1, 0.2, 0.3, 0.4]), alone)
    assert found["benefit_pearson"] == pytest.approx(1) and found["benefit_spearman"] == pytest.approx(1)
    assert math.isnan(ev.collaboration(given, np.add(alone, 0.1), [0.5] * 4)["alone_pearson"])


WEIGHTS = np.array([0.1, 0.4, 0.0, 0.3, 0.3])


def value(members):
    """Additive, with a bonus that the last two share."""
    return float(WEIGHTS @ members + 0.2 * (members[3] & members[4]) + 0.05)


def test_shapley_values_are_means_over_all_orders():
    found = ev.shapley(value, 5)
    gains = np.zeros(5)
    for order in itertools.permutations(range(5)):
        members = np.zeros(5, bool)
        for client in order:
            before = value(members)
            members[client] = True
            gains[client] += value(members) - before
    np.testing.assert_allclose(found.values, gains / math.factorial(5), atol=1e-12)
    everybody, nobody = value(np.ones(5, bool)), value(np.zeros(5, bool))
    assert found.values.sum() == pytest.approx(everybody - nobody, abs=1e-9)
    assert found.values[2] == 0 and found.values[3] == pytest.approx(found.values[4]) == pytest.approx(0.4)
    np.testing.assert_allclose(ev.leave_one_out(value, 5).values, WEIGHTS + [0, 0, 0, 0.2, 0.2])
    with pytest.raises(ValueError, match="clients: expected from 1 to 10"):
        ev.shapley(value, 11)


def test_sampled_values_are_within_three_standard_errors():
    exact = ev.shapley(value, 5).values
    found = ev.sampled_shapley(value, 5, seed=1, truncation=0)
    assert (np.abs(found.values - exact) <= 3 * found.errors + 1e-12).all()
    assert found.errors.max() <= 0.05 * np.ptp(found.values) and found.evaluations <= 32
    short = ev.sampled_shapley(value, 5, seed=1, truncation=0.5)
    assert short.values.sum() < exact.sum() - 0.1  # what is cut off counts nothing


def test_calibrated_probabilities_have_little_error_and_temperature_mends_others():
    logits = 2 * RNG.normal(size=(20_000, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (probabilities.cumsum(1) > RNG.random((20_000, 1))).argmax(1)
    assert ev.reliability(probabilities, labels).error < 0.02
    sharp = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    found = ev.reliability(sharp, labels)
    assert found.error > 0.1 and found.count.sum() == 20_000
    np.testing.assert_allclose(ev.fit_temperature(3 * logits, labels), 3, rtol=0.05)
    assert ev.reliability(np.array([0.9, 0.1]), np.array([1, 0])).error == pytest.approx(0.1)
    with pytest.raises(ValueError, match="probabilities: expected numbers from 0 to 1"):
        ev.reliability(np.array([1.5]), np.array([1]))


def test_kappa_is_that_of_scikit_learn():
    first, second = RNG.integers(0, 4, 60), RNG.integers(0, 4, 60)
    second[:30] = first[:30]
    for weights in ("none", "linear", "quadratic"):
        expected = metrics.cohen_kappa_score(first, second, weights=None if weights == "none" else weights)
        assert ev.kappa(first, second, weights) == pytest.approx(expected)
    # A class that nobody named lies between others nevertheless.
    rare, often = np.array([0, 1, 3, 3, 0]), np.array([0, 3, 3, 1, 1])
    expected = metrics.cohen_kappa_score(rare, often, weights="linear", labels=[0, 1, 2, 3])
    assert ev.kappa(rare, often, "linear") == pytest.approx(expected)
    assert ev.kappa(first, first) == 1 and math.isnan(ev.kappa([1, 1], [1, 1]))


def test_delong_covers_the_area_and_is_that_of_all_pairs():
    def draw(rng):
        labels = rng.random(80) < 0.4
        return np.round(rng.normal(size=80) + labels, 1), labels

    scores, labels = draw(RNG)
    found = ev.delong_interval(scores, labels)
    assert found.area == pytest.approx(metrics.roc_auc_score(labels, scores))
    truth = 0.76  # of normals one apart: Phi(1 / sqrt 2)
    covered = [ev.delong_interval(*draw(np.random.default_rng(seed))) for seed in range(400)]
    share = np.mean([low <= truth <= high for _, low, high in covered])
    assert 0.92 <= share <= 0.98
    assert ev.delong_interval([0, 0.1, 1, 2], [0, 0, 1, 1]) == (1, 1, 1)
    with pytest.raises(ValueError, match="labels: expected at least two examples of each class"):
        ev.delong_interval([0, 1, 2], [0, 1, 1])


def test_an_operating_point_keeps_the_specificity():
    scores, labels = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), np.array([0, 0, 1, 0, 1, 1])
    assert ev.operating_point(scores, labels, 0.6) == (0.3, 1.0, pytest.approx(2 / 3))
    assert ev.operating_point(scores, labels, 0.9) == (0.5, pytest.approx(2 / 3), 1.0)
    assert ev.at_threshold(scores, labels, 0.45).sensitivity == pytest.approx(2 / 3)
    assert ev.operating_point(1 - scores, labels, 1.0).specificity == 1


def test_limits_of_agreement():
    found = ev.limits_of_agreement([1.0, 2, 3], [0.0, 2, 1])
    assert found.bias == 1 and found.high - found.low == pytest.approx(2 * 1.96)


def test_paired_tests_and_holm():
    base = RNG.normal(size=30)
    better = base + RNG.normal(0.5, 0.5, 30)
    for test in ("wilcoxon", "permutation"):
        found = ev.paired_test([*better, np.nan], [*base, 1.0], test)
        assert (
            found.p_value < 0.01
            and found.patients == 30
            and found.difference == pytest.approx((better - base).mean())
        )
    assert ev.paired_test(base, base).p_value == 1
    null = [ev.paired_test(*np.random.default_rng(s).normal(size=(2, 12))).p_value for s in range(300)]
    assert 0.02 <= np.mean(np.array(null) < 0.05) <= 0.08
    tests = {name: ev.PairedTest(0, 0, p, p, 9) for name, p in {"a": 0.04, "b": 0.01, "c": 0.03}.items()}
    adjusted = {name: test.adjusted for name, test in ev.holm(tests).items()}
    assert adjusted == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    with pytest.raises(ValueError, match="method: expected at least two patients"):
        ev.paired_test([1.0, np.nan], [1.0, 2.0])
