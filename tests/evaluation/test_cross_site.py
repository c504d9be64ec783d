"""Models of sites at other sites, and the costs of ordered classes."""

import numpy as np
import pytest

from fedrecon.evaluation import cross_site, cross_site_kappa, kappa

RNG = np.random.default_rng(0)


def test_perfect_agreement_is_one_and_a_constant_is_zero():
    label = RNG.integers(0, 4, 50)
    for weights in ("none", "linear", "quadratic"):
        assert kappa(label, label, weights) == 1
        assert abs(kappa(np.full(50, 2), label, weights)) < 1e-12


def test_distances_of_classes_cost_linearly():
    """A third is lost by one step of what is lost by three, with the same classes on both sides."""
    label = np.tile([0, 3], 60)
    true = np.concatenate([label, np.tile([1, 2], 60)])

    def loss(first, second, count=20):
        said = true.copy()
        # As many of one class take the other's place, so that frequencies stay.
        for a, b in ((first, second), (second, first)):
            said[np.flatnonzero(true == a)[:count]] = b
        return 1 - kappa(said, true, "linear")

    np.testing.assert_allclose(loss(0, 1) / loss(0, 3), 1 / 3)
    np.testing.assert_allclose(loss(1, 3) / loss(0, 3), 2 / 3)


def test_the_matrix_is_of_models_and_sites():
    labels = [RNG.integers(0, 4, n) for n in (30, 40, 50)]
    predicted = [[np.where(RNG.random(y.size) < 0.6, y, RNG.integers(0, 4, y.size)) for y in labels]
                 for _ in labels]  # fmt: skip
    predicted[1][1] = labels[1]
    found = cross_site_kappa(predicted, labels)
    assert found.scores.shape == (3, 3) and found.scores[1, 1] == 1
    for i in range(3):
        for j in range(3):
            assert found.scores[i, j] == kappa(predicted[i][j], labels[j], "linear")
    np.testing.assert_allclose(found.own, np.diag(found.scores).mean())
    np.testing.assert_allclose(found.others, (found.scores.sum() - np.trace(found.scores)) / 6)


def test_what_cannot_be_scored_is_left_out():
    found = cross_site(np.asarray([[np.nan, 0.5], [0.1, 0.9]]))
    assert (found.own, found.others) == (0.9, 0.3)
    assert np.isnan(cross_site(np.full((2, 2), np.nan)).own)
    with pytest.raises(ValueError, match=r"^scores: expected a model for each site"):
        cross_site(np.zeros((2, 3)))
