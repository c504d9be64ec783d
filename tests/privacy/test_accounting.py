"""Accounting against independent computations, and calibration against its own definition."""

import dataclasses

import dp_accounting
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from jax_privacy.experimental import accounting as jax_privacy_accounting

from fedrecon.federated.mechanism import Mechanism
from fedrecon.privacy import calibrate_noise_multiplier, composed, default_delta, epsilon_of, training_event

BASE = Mechanism(1.0, 1.1, 10, 200, steps=60)


def epsilon(units=200, rounds=1, delta=1e-5, **changes):
    event = training_event(dataclasses.replace(BASE, **changes), rounds=rounds, units=units)
    return epsilon_of(event, delta)


def pld(event, delta=1e-5):
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    return dp_accounting.pld.PLDAccountant(relation).compose(event).get_epsilon(delta)


def gaussian_epsilon(shift, delta=1e-5):
    """Of one Gaussian mechanism whose mean moves by ``shift`` standard deviations (Balle and Wang 2018)."""

    def excess(epsilon):
        normal = scipy.stats.norm.cdf
        return (
            normal(shift / 2 - epsilon / shift)
            - np.exp(epsilon) * normal(-shift / 2 - epsilon / shift)
            - delta
        )

    return scipy.optimize.brentq(excess, 0, 50)


def test_untruncated_equals_the_poisson_subsampled_gaussian():
    step = dp_accounting.PoissonSampledDpEvent(10 / 200, dp_accounting.GaussianDpEvent(1.1))
    expected = pld(dp_accounting.SelfComposedDpEvent(step, 60))
    np.testing.assert_allclose(epsilon(), expected, rtol=5e-3)
    # Twenty rounds of three steps are one of sixty.
    np.testing.assert_allclose(epsilon(steps=3, rounds=20), expected, rtol=5e-3)
    rdp = dp_accounting.rdp.RdpAccountant()
    assert expected < rdp.compose(dp_accounting.SelfComposedDpEvent(step, 60)).get_epsilon(1e-5)


def test_full_batches_equal_the_analytic_gaussian():
    """T steps of noise z on everything are one of z / sqrt(T)."""
    expected = gaussian_epsilon(np.sqrt(9) / 2.0)
    found = epsilon(expected_batch_size=500, noise_multiplier=2.0, steps=9)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert found >= expected * (1 - 1e-9)


def test_batches_that_are_no_poisson_samples_are_not_accounted_as_such():
    """Each unit is in one sum of each pass: fixed batches are a Gaussian each pass."""
    fixed = {"sampling": "fixed", "padded_batch_size": 10, "epochs": 4}
    expected = gaussian_epsilon(np.sqrt(4 * 3) / 1.1)
    np.testing.assert_allclose(epsilon(rounds=3, **fixed), expected, rtol=1e-3)
    assert epsilon(rounds=3, **fixed) > 3 * epsilon(rounds=3, steps=4 * 20)
    # One release of the whole training, however long.
    correlated = {**fixed, "strategy": (1.0,), "factors": (1.0,)}
    np.testing.assert_allclose(epsilon(rounds=3, **correlated), gaussian_epsilon(1 / 1.1), rtol=1e-3)


def test_sites_are_sampled_by_rounds():
    sites = {"unit": "site", "padded_batch_size": 100, "steps": 1, "expected_batch_size": 10.0}
    step = dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(1.1))
    expected = pld(dp_accounting.SelfComposedDpEvent(step, 7))
    np.testing.assert_allclose(epsilon(units=100, rounds=7, **sites), expected, rtol=1e-3)
    everybody = sites | {"sampling": "fixed", "padded_batch_size": 10}
    found = epsilon(units=10, rounds=7, **everybody)
    np.testing.assert_allclose(found, gaussian_epsilon(np.sqrt(7) / 1.1), rtol=1e-3)


def test_event_is_that_of_jax_privacy():
    mechanism = dataclasses.replace(BASE, padded_batch_size=16)
    assert training_event(mechanism, rounds=1, units=200) == jax_privacy_accounting.truncated_dpsgd_event(
        1.1, 60, sampling_prob=0.05, num_examples=200, truncated_batch_size=16
    )


def test_halves_compose_to_the_whole():
    parts = [(dataclasses.replace(BASE, steps=20), 1), (dataclasses.replace(BASE, steps=10), 4)]
    np.testing.assert_allclose(epsilon_of(composed(parts, 200), 1e-5), epsilon(), rtol=1e-3)


def test_epsilon_moves_the_right_way():
    base = epsilon()
    for change in ({"steps": 120}, {"noise_multiplier": 0.9}, {"units": 100}, {"padded_batch_size": 12}):
        assert epsilon(**change) > base * 1.001, change
    assert epsilon(noise_multiplier=0.0) == np.inf
    assert epsilon(rounds=0) == 0.0


def test_delta_defaults_to_little_and_to_less_at_large_sites():
    found = [default_delta(None, units) for units in (1, 2, 200, 10**6)]
    # 1e6^-1.1 = 10^-6.6
    np.testing.assert_allclose(found, [1e-5, 1e-5, 1e-5, 10**-6.6])
    part = dataclasses.replace(BASE, steps=1, expected_batch_size=4, padded_batch_size=12)
    options = {"tolerance": 1.0}
    calibration = calibrate_noise_multiplier(8.0, [(part, 1)], units=(2, 10**6), **options)
    np.testing.assert_allclose(calibration.deltas, [1e-5, 10**-6.6])


def test_calibration_returns_the_accepted_end_of_the_last_interval():
    part = {"steps": 4, "expected_batch_size": 8, "padded_batch_size": 60}
    common = {"delta": 1e-4}
    parts = [(dataclasses.replace(BASE, **part), 1)]
    result = calibrate_noise_multiplier(3.0, parts, units=(60,), tolerance=0.1, **common)
    found = epsilon(units=60, noise_multiplier=result.noise_multiplier, **part, **common)
    assert found == result.epsilons[0] <= 3.0
    assert epsilon(units=60, noise_multiplier=result.noise_multiplier - 0.1, **part, **common) > 3.0


@pytest.mark.slow
def test_calibration_meets_the_target_at_every_site_and_no_more():
    part = {"steps": 30, "expected_batch_size": 8, "padded_batch_size": 400}
    parts, sizes = [(dataclasses.replace(BASE, **part), 1)], (400, 60, 150)
    result = calibrate_noise_multiplier(3.0, parts, units=sizes, tolerance=0.02, delta=1e-4)
    assert max(result.epsilons) <= 3.0
    assert np.argmax(result.epsilons) == 1 and result.epsilons[0] < result.epsilons[2]
    assert result.deltas == (1e-4,) * 3
    part |= {"delta": 1e-4}
    assert epsilon(units=60, noise_multiplier=result.noise_multiplier - 0.02, **part) > 3.0 * 0.99
    own = epsilon(units=150, noise_multiplier=result.noise_multiplier, **part)
    np.testing.assert_allclose(result.epsilons[2], own, rtol=1e-2)
    loose = calibrate_noise_multiplier(10.0, parts, units=sizes[1:2], tolerance=0.02, delta=1e-4)
    assert loose.noise_multiplier < result.noise_multiplier


def test_errors_name_the_argument():
    for name, value in (("rounds", -1), ("units", 0), ("delta", 1.0), ("noise_multiplier", -1.0)):
        with pytest.raises(ValueError, match=name):
            epsilon(**{name: value})
    with pytest.raises(ValueError, match="target_epsilon"):
        calibrate_noise_multiplier(0.0, [(BASE, 1)], units=[10])
    with pytest.raises(ValueError, match="units"):
        calibrate_noise_multiplier(1.0, [(BASE, 1)], units=[])
    with pytest.raises(ValueError, match="parts"):
        calibrate_noise_multiplier(1.0, [(BASE, 0)], units=[10])


@pytest.mark.parametrize(
    ("multiplier", "batch", "examples", "steps", "delta", "expected"),
    [
        (1.1, 10, 200, 60, 1e-5, 2.346108),
        (0.8, 16, 1000, 2000, 1e-5, 7.148522),
        (2.0, 8, 60, 300, 1e-4, 5.047573),
    ],
)
def test_untruncated_equals_opacus(multiplier, batch, examples, steps, delta, expected):
    """``PRVAccountant`` of Opacus 1.6.0, whose error is 0.01 and whose epsilon is above."""
    mechanism = Mechanism(1.0, multiplier, float(batch), examples, steps=steps)
    found = epsilon_of(training_event(mechanism, rounds=1, units=examples), delta=delta)
    np.testing.assert_allclose(found, expected, rtol=0.006)
