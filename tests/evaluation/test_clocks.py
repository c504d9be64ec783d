"""Times to scores, and the convergence score of FeTS, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon.errors import ArgumentError
from fedrecon.evaluation import convergence_score, target_score, time_to

nan = float("nan")


def test_targets_are_parts_of_the_best_score_and_of_the_fall_of_a_loss():
    assert target_score([0.2, nan, 0.8, 0.6], 0.95) == pytest.approx(0.76)
    assert target_score([nan, 2.0, 1.0, 1.5], 0.9, lower=True) == pytest.approx(1.1)
    assert target_score([0.5], 1.0) == 0.5
    for curve, part in (([nan], 0.95), ([1.0], 0.0), ([1.0], 1.5)):
        with pytest.raises(ArgumentError):
            target_score(curve, part)


def test_the_first_evaluation_that_reaches_the_target_counts():
    clock = [1.0, 2.5, 4.0, 9.0]
    assert time_to(clock, [0.1, nan, 0.8, 0.7], 0.75) == 4
    assert time_to(clock, [3.0, 1.0, 2.0, 0.5], 1.0, lower=True) == 2.5
    assert time_to(clock, [0.1, 0.2, 0.3, 0.4], 0.5) == np.inf
    with pytest.raises(ArgumentError):
        time_to(clock, [1.0], 0.5)


def test_the_convergence_score_is_the_area_under_the_best_so_far():
    # 2 s of 0.4, 3 s of 0.6, 1 s of 0.6 though it fell, and 4 s of 0.6 to the end.
    assert convergence_score([2, 5, 6], [0.4, 0.6, 0.5], 10) == pytest.approx(0.1 * (0.8 + 1.8 + 0.6 + 2.4))
    # The span ends within the second round: one second of it counts, and none of the third.
    assert convergence_score([2, 5, 6], [0.4, 0.6, 0.9], 3) == pytest.approx((0.8 + 0.6) / 3)
    for clock, curve, span in (([], [], 1), ([1], [1, 2], 1), ([1], [1], 0), ([2, 1], [1, 1], 3)):
        with pytest.raises(ArgumentError):
            convergence_score(clock, curve, span)


scores = st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 1)), min_size=1, max_size=8)


@given(scores, st.floats(0.1, 1))
def test_the_convergence_score_of_a_constant_is_itself_and_faster_is_no_worse(rounds, speed):
    clock, curve = np.cumsum([seconds for seconds, _ in rounds]), np.array([score for _, score in rounds])
    longest = float(clock[-1]) + 1
    assert convergence_score(clock, np.full(len(rounds), 0.7), longest) == pytest.approx(0.7)
    slow, fast = (convergence_score(factor * clock, curve, longest) for factor in (1.0, speed))
    assert fast >= slow - 1e-9
