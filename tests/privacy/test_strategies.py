"""Strategies of correlated noise: sensitivities against all ways to take part, and errors of sums."""

import itertools

import numpy as np
import pytest
import scipy.linalg

from fedrecon.federated.mechanism import Mechanism
from fedrecon.privacy import buffered_strategy_of, epsilon_of, strategy_of, training_event
from fedrecon.privacy.strategies import buffered_coefficients, sensitivity


def dense(coefficients, size):
    column = np.zeros(size)
    column[: len(coefficients)] = coefficients[:size]
    return scipy.linalg.toeplitz(column, np.zeros(size))


def error(coefficients, separation, passes):
    """Root mean squared error of all sums so far, of noise at unit sensitivity, from dense matrices."""
    size = separation * passes
    sums = np.tril(np.ones((size, size))) @ np.linalg.inv(dense(coefficients, size))
    return sensitivity(coefficients, separation, passes) * np.sqrt((sums**2).sum(1).mean())


@pytest.mark.parametrize(("separation", "passes"), [(3, 4), (4, 3), (1, 6), (12, 1)])
def test_sensitivity_is_the_largest_of_all_participations(separation, passes):
    """At least ``separation`` apart, at most ``passes`` of them; signs cannot make it larger."""
    size = separation * passes
    scales, decays, factors = buffered_strategy_of([separation], passes, 2)
    column = buffered_coefficients(scales, decays, size)
    np.testing.assert_array_equal(column[1:3], [sum(scales), np.dot(scales, decays)][: size - 1])
    matrix = dense(column, size)
    largest = max(
        np.linalg.norm(matrix[:, list(taken)].sum(1))
        for count in range(1, passes + 1)
        for taken in itertools.combinations(range(size), count)
        if all(b - a >= separation for a, b in itertools.pairwise(taken))
    )
    np.testing.assert_allclose(sensitivity(column, separation, passes), largest, rtol=1e-12)
    # Single precision in the stream is paid for.
    assert largest < factors[separation] < 1.00002 * largest


def test_buffers_have_less_error_than_bands_and_these_less_than_independent_noise():
    """One pass, and four, of 16 steps; optima as jax-privacy's optimizer finds them in 10 s."""
    for passes, optimum in ((4, 4.9168383), (1, 1.7509479)):
        scales, decays, _ = buffered_strategy_of([16, 9], passes, 2)
        found = error(buffered_coefficients(scales, decays, 16 * passes), 16, passes)
        np.testing.assert_allclose(found, optimum, rtol=1e-4)
        # No more buffers than help.
        assert len(scales) == len(decays) == (1 if passes == 4 else 2)
        assert found < 0.7 * error([1.0], 16, passes)
    banded = error(strategy_of([16, 16], 1, 8)[0], 16, 1)
    assert found < banded < 0.7 * error([1.0], 16, 1)
    assert error([1.0], 16, 1) == pytest.approx(np.sqrt(17 / 2))


def test_it_is_accounted_as_one_release_and_says_what_it_is():
    scales, decays, factors = buffered_strategy_of([3], 2, 2)
    mechanism = Mechanism(
        1.0, 2.0, 4, 4, sampling="fixed", strategy=scales, decays=decays, factors=factors, units=12
    )
    once = epsilon_of(training_event(mechanism, rounds=1, units=12), 1e-5)
    assert once == epsilon_of(training_event(mechanism, rounds=2, units=12), 1e-5)
    assert "buffered linear Toeplitz noise" in mechanism.describe()
