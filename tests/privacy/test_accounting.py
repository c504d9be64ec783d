"""Accounting against independent computations, and calibration against its own definition."""

import dp_accounting
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from jax_privacy.experimental import accounting as jax_privacy_accounting

from fedrecon.privacy import calibrate_noise_multiplier, example_level_epsilon
from fedrecon.privacy.accounting import training_event

BASE = {
    "noise_multiplier": 1.1,
    "steps": 60,
    "examples": 200,
    "expected_batch_size": 10,
    "padded_batch_size": 200,
    "delta": 1e-5,
}


def test_untruncated_equals_the_poisson_subsampled_gaussian():
    step = dp_accounting.PoissonSampledDpEvent(10 / 200, dp_accounting.GaussianDpEvent(1.1))
    accountant = dp_accounting.pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    expected = accountant.compose(dp_accounting.SelfComposedDpEvent(step, 60)).get_epsilon(1e-5)
    np.testing.assert_allclose(example_level_epsilon(**BASE), expected, rtol=1e-6)
    rdp = dp_accounting.rdp.RdpAccountant()
    assert expected < rdp.compose(dp_accounting.SelfComposedDpEvent(step, 60)).get_epsilon(1e-5)


def test_full_batches_equal_the_analytic_gaussian():
    """T steps of noise z on everything are one of z / sqrt(T) (Balle and Wang 2018)."""

    def excess(epsilon, shift):
        normal = scipy.stats.norm.cdf
        return (
            normal(shift / 2 - epsilon / shift)
            - np.exp(epsilon) * normal(-shift / 2 - epsilon / shift)
            - 1e-5
        )

    expected = scipy.optimize.brentq(excess, 0, 50, args=(np.sqrt(9) / 2.0,))
    found = example_level_epsilon(
        **(BASE | {"expected_batch_size": 500, "noise_multiplier": 2.0, "steps": 9, "padded_batch_size": 200})
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert found >= expected * (1 - 1e-9)


def test_event_is_that_of_jax_privacy():
    event = training_event(**{k: v for k, v in BASE.items() if k != "delta"} | {"padded_batch_size": 16})
    assert event == jax_privacy_accounting.truncated_dpsgd_event(
        1.1, 60, sampling_prob=0.05, num_examples=200, truncated_batch_size=16
    )


def test_epsilon_moves_the_right_way():
    fast = BASE | {"discretization": 1e-3}
    base = example_level_epsilon(**fast)
    for change in ({"steps": 120}, {"noise_multiplier": 0.9}, {"examples": 100}, {"padded_batch_size": 12}):
        assert example_level_epsilon(**(fast | change)) > base * 1.001, change
    assert example_level_epsilon(**(fast | {"noise_multiplier": 0.0})) == np.inf
    assert example_level_epsilon(**(fast | {"steps": 0})) == 0.0


def test_delta_defaults_to_little_and_to_less_at_large_sites():
    explicit = example_level_epsilon(**(BASE | {"delta": 1e-5}))
    assert example_level_epsilon(**(BASE | {"delta": None})) == explicit
    options = {"steps": 1, "expected_batch_size": 4, "padded_batch_size": 12, "discretization": 0.05}
    found = calibrate_noise_multiplier(8.0, examples=(1, 2, 200, 10**6), tolerance=1.0, **options).deltas
    # 1e6^-1.1 = 10^-6.6
    np.testing.assert_allclose(found, [1e-5, 1e-5, 1e-5, 10**-6.6])


def test_calibration_returns_the_accepted_end_of_the_last_interval():
    options = {"steps": 4, "expected_batch_size": 8, "padded_batch_size": 60, "delta": 1e-4}
    coarse = options | {"discretization": 0.01}
    result = calibrate_noise_multiplier(3.0, examples=(60,), tolerance=0.1, **coarse)
    found = example_level_epsilon(noise_multiplier=result.noise_multiplier, examples=60, **coarse)
    assert found == result.epsilons[0] <= 3.0
    less = example_level_epsilon(noise_multiplier=result.noise_multiplier - 0.1, examples=60, **coarse)
    assert less > 3.0


@pytest.mark.slow
def test_calibration_meets_the_target_at_every_site_and_no_more():
    options = {"steps": 30, "expected_batch_size": 8, "padded_batch_size": 400, "delta": 1e-4}
    sizes = (400, 60, 150)
    result = calibrate_noise_multiplier(3.0, examples=sizes, tolerance=0.02, **options)
    assert max(result.epsilons) <= 3.0
    assert np.argmax(result.epsilons) == 1 and result.epsilons[0] < result.epsilons[2]
    assert result.deltas == (1e-4,) * 3
    less = example_level_epsilon(noise_multiplier=result.noise_multiplier - 0.02, examples=60, **options)
    assert less > 3.0 * 0.99
    own = example_level_epsilon(noise_multiplier=result.noise_multiplier, examples=150, **options)
    np.testing.assert_allclose(result.epsilons[2], own, rtol=1e-2)
    loose = calibrate_noise_multiplier(10.0, examples=sizes[1:2], tolerance=0.02, **options)
    assert loose.noise_multiplier < result.noise_multiplier


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_multiplier", -1.0),
        ("steps", -1),
        ("examples", 0),
        ("expected_batch_size", 0),
        ("padded_batch_size", 0),
        ("delta", 1.0),
    ],
)
def test_errors_name_the_argument(name, value):
    with pytest.raises(ValueError, match=name):
        example_level_epsilon(**(BASE | {name: value}))


def test_calibration_errors_name_the_argument():
    options = {"steps": 3, "expected_batch_size": 8, "padded_batch_size": 40}
    with pytest.raises(ValueError, match="target_epsilon"):
        calibrate_noise_multiplier(0.0, examples=[10], **options)
    with pytest.raises(ValueError, match="examples"):
        calibrate_noise_multiplier(1.0, examples=[], **options)
