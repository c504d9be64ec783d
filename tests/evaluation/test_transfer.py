"""Transfer over a stream of blocks, and distances of domains, by hand."""

import numpy as np
import pytest
from scipy import linalg

from fedrecon.evaluation import frechet_distance, transfer


def test_figures_by_hand():
    scores = [[0.8, 0.3, 0.1, 0.2], [0.9, 0.7, 0.2, 0.1], [0.7, 0.6, 0.9, 0.3], [0.6, 0.5, 0.8, 0.7]]
    untrained = np.array([0.1, 0.25, 0.25, 0.2])
    found = transfer(scores, untrained)
    assert found.final == pytest.approx((0.6 + 0.5 + 0.8 + 0.7) / 4)
    assert found.learned == pytest.approx((0.8 + 0.7 + 0.9 + 0.7) / 4)
    assert found.backward == pytest.approx((0.6 - 0.8 + 0.5 - 0.7 + 0.8 - 0.9) / 3)
    # The best of block 1 was after block 2.
    assert found.forgetting == pytest.approx((0.9 - 0.6 + 0.7 - 0.5 + 0.9 - 0.8) / 3)
    assert found.forward == pytest.approx((0.3 - 0.25 + 0.2 - 0.25 + 0.3 - 0.2) / 3)
    # Of a loss all differences turn around, scores do not.
    losses = transfer(1 - np.asarray(scores), 1 - untrained, lower_is_better=True)
    np.testing.assert_allclose(losses[2:], found[2:])
    assert losses.final == pytest.approx(1 - found.final)


def test_what_has_no_score_is_left_out():
    scores = [[0.8, np.nan], [0.6, np.nan]]
    found = transfer(scores, [0.1, np.nan])
    assert found.final == pytest.approx(0.6) and found.backward == pytest.approx(-0.2)
    assert np.isnan(found.forward) and np.isnan(transfer(scores).forward)
    alone = transfer([[0.7]], [0.2])
    assert alone.final == alone.learned == 0.7
    assert np.isnan([alone.backward, alone.forgetting, alone.forward]).all()
    for wrong, message in (
        (([[0.1, 0.2]], None), "scores: expected a square matrix"),
        (([[0.1]], [0.1, 0.2]), "untrained: expected 1 scores"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            transfer(*wrong)


def test_distances_of_domains_are_those_of_normal_distributions():
    """Closed forms: a translation, a scaling of independent features, and scipy's root of S T."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 3))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + [1, 2, 2]) == pytest.approx(9)
    # tr(S + 4 S - 2 (4 S S)^(1/2)) = tr(S), and means that are doubled.
    expected = np.trace(np.cov(x, rowvar=False)) + (x.mean(0) ** 2).sum()
    assert frechet_distance(x, 2 * x) == pytest.approx(expected)
    y = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3))
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    plain = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert frechet_distance(x, y) == pytest.approx(plain) == pytest.approx(frechet_distance(y, x))
    with pytest.raises(ValueError, match=r"^second: expected features"):
        frechet_distance(x, y[:, :2])
    with pytest.raises(ValueError, match=r"^second: expected finite features"):
        frechet_distance(x, np.where(y == y.max(), np.nan, y))
