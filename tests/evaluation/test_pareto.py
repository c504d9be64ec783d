"""Fronts and volumes, by hand and by counting random points."""

import itertools

import numpy as np
import pytest

from fedrecon.errors import ArgumentError
from fedrecon.evaluation import dominates, hypervolume, pareto_front

# Accuracy and bytes: a and b are best in one of them, c is beaten by a, d equals b.
POINTS = [[0.9, 100.0], [0.7, 10.0], [0.8, 200.0], [0.7, 10.0]]
BETTER = ("higher", "lower")


def test_a_front_is_what_nothing_beats_and_says_who_beats_the_rest():
    assert pareto_front(POINTS, BETTER).tolist() == [True, True, False, True]
    table = dominates(POINTS, BETTER)
    assert np.argwhere(table).tolist() == [[0, 2]], "equal points do not dominate each other"
    assert pareto_front(POINTS, ("lower", "lower")).tolist() == [False, True, False, True]
    assert pareto_front([[1, 5], [1, 4]], BETTER).tolist() == [False, True], "a tie in one objective"


def test_points_without_a_value_are_on_no_front_and_infinite_ones_are_compared():
    points = [[np.nan, 1.0], [0.5, np.inf], [0.4, np.inf], [0.3, 2.0]]
    assert pareto_front(points, BETTER).tolist() == [False, True, False, True]
    assert not dominates(points, BETTER)[0].any() and not dominates(points, BETTER)[:, 0].any()
    assert pareto_front([], BETTER).shape == (0,)


def test_the_definition_holds_for_random_points_of_three_objectives():
    rng = np.random.default_rng(0)
    points = rng.integers(0, 4, (40, 3)).astype(float)
    found = pareto_front(points, ("lower", "higher", "lower"))
    costs = points * [1, -1, 1]
    for i, point in enumerate(costs):
        beaten = any((other <= point).all() and (other < point).any() for other in costs)
        assert found[i] == (not beaten)


def test_volumes_by_hand():
    # Boxes 0.4 x 100 and 0.2 x 190 from (0.5, 200), whose overlap is 0.2 x 100.
    assert hypervolume(POINTS, BETTER, (0.5, 200.0)) == pytest.approx(0.4 * 100 + 0.2 * 190 - 0.2 * 100)
    beaten = hypervolume([*POINTS, [0.6, 150.0]], BETTER, (0.5, 200.0))
    assert beaten == pytest.approx(hypervolume(POINTS, BETTER, (0.5, 200.0))), "no slice forgets the better"
    assert hypervolume([[1.0, 2.0]], ("lower", "lower"), (3.0, 3.0)) == pytest.approx(2.0)
    assert hypervolume(POINTS, BETTER, (0.95, 5.0)) == 0 and hypervolume([], BETTER, (0, 1)) == 0
    cubes = [[0, 0, 1], [1, 0, 0]]
    assert hypervolume(cubes, ("lower",) * 3, (2, 2, 2)) == pytest.approx(2 * 2 * 1 + 1 * 2 * 2 - 1 * 2 * 1)
    assert hypervolume([[np.nan, 1], [0.6, 100]], BETTER, (0.5, 200)) == pytest.approx(0.1 * 100)


def test_volumes_are_the_share_of_random_points_that_something_beats():
    rng = np.random.default_rng(1)
    points, drawn = rng.uniform(0, 1, (8, 3)), rng.uniform(0, 1, (20_000, 3))
    covered = np.any([(point <= drawn).all(1) for point in points], 0).mean()
    assert hypervolume(points, ("lower",) * 3, (1, 1, 1)) == pytest.approx(covered, abs=0.015)
    for order in itertools.permutations(range(3)):
        assert hypervolume(points[:, order], ("lower",) * 3, (1, 1, 1)) == pytest.approx(
            hypervolume(points, ("lower",) * 3, (1, 1, 1))
        )


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: pareto_front([[1, 2]], ("higher", "best")), 'better: expected "higher" or "lower"'),
        (lambda: pareto_front([[1, 2, 3]], BETTER), r"points: expected an array \(points, 2\)"),
        (lambda: pareto_front([1, 2], BETTER), r"points: expected an array \(points, 2\)"),
        (lambda: pareto_front([[1]], ()), "better: expected at least one"),
        (lambda: hypervolume(POINTS, BETTER, (0.5,)), "reference: expected 2 finite numbers"),
        (lambda: hypervolume(POINTS, BETTER, (0.5, np.inf)), "reference: expected 2 finite numbers"),
        (lambda: hypervolume([[np.inf, 1]], BETTER, (0, 2)), "points: expected finite values"),
    ],
)
def test_what_is_no_set_of_points_is_refused(call, named):
    with pytest.raises(ArgumentError, match=named):
        call()
