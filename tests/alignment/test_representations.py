"""Dissimilarities of representations, their rank correlation, powers and draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from fedrecon.alignment import dissimilarities, gaussian_draws, rank_correlation, signed_power


def features(seed=0, count=6, size=5):
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def test_dissimilarities_are_one_minus_correlations():
    found = np.asarray(dissimilarities(jnp.asarray(features())))
    np.testing.assert_allclose(found, 1 - np.corrcoef(features()), atol=1e-6)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(np.diag(found), 0)


def test_dissimilarities_do_not_see_order_gain_and_offset():
    h = features()
    rng = np.random.default_rng(1)
    moved = rng.uniform(0.5, 2, (6, 1)) * h[:, rng.permutation(5)] + rng.normal(size=(6, 1))
    found = dissimilarities(jnp.asarray(moved, jnp.float32))
    np.testing.assert_allclose(found, dissimilarities(jnp.asarray(h)), atol=2e-6)
    flat = dissimilarities(jnp.asarray(h).at[2].set(3.0))
    np.testing.assert_allclose(flat[2], [1, 1, 0, 1, 1, 1])


def test_rank_correlation_is_that_of_spearman_of_the_valid_entries():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=40).round(1).astype(np.float32), rng.normal(size=40).astype(np.float32)
    b = (0.5 * a + b).round(1)
    valid = np.arange(40) < 33
    found = rank_correlation(jnp.asarray(a), jnp.asarray(b), jnp.asarray(valid))
    expected = scipy.stats.spearmanr(a[valid], b[valid]).statistic
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert rank_correlation(jnp.asarray(a), jnp.asarray(a**3), jnp.asarray(valid)) == pytest.approx(1)
    assert rank_correlation(jnp.asarray(a), jnp.asarray(-a), jnp.asarray(valid)) == pytest.approx(-1)
    assert rank_correlation(jnp.zeros(40), jnp.asarray(a), jnp.asarray(valid)) == 1
    assert rank_correlation(jnp.asarray(a), jnp.asarray(b), jnp.zeros(40, bool)) == 1


def test_equal_models_have_the_correlation_one():
    upper = np.triu_indices(6, 1)
    own = dissimilarities(jnp.asarray(features()))[upper]
    assert rank_correlation(own, own, jnp.ones(15, bool)) == 1


def test_powers_keep_signs_and_are_undone():
    x = jnp.asarray([-4.0, 0.0, 9.0])
    np.testing.assert_allclose(signed_power(x, 0.5), [-2, 0, 3], rtol=1e-6)
    np.testing.assert_allclose(signed_power(signed_power(x, 0.5), 2.0), x, rtol=1e-6)
    assert signed_power(x, 1) is x
    with pytest.raises(ValueError, match="exponent: expected a positive number, found 0"):
        signed_power(x, 0)
    assert np.isfinite(np.asarray(jax.jit(signed_power, static_argnums=1)(x, 0.5))).all()


def test_draws_of_a_covariance_without_full_rank_stay_in_its_span():
    """Of rank 2 of 5 features, and of a covariance that is zero."""
    rng = np.random.default_rng(2)
    root = rng.normal(size=(5, 2)).astype(np.float32)
    covariance = jnp.stack([jnp.asarray(root @ root.T), jnp.zeros((5, 5))])
    which = jnp.repeat(jnp.arange(2), 4000)
    draws = np.asarray(gaussian_draws(jax.random.key(0), jnp.zeros((2, 5)), covariance, which), float)
    assert (draws[4000:] == 0).all()
    beyond = draws[:4000] @ (np.eye(5) - root @ np.linalg.pinv(root.astype(float)))
    assert np.abs(beyond).max() < 2e-2
    np.testing.assert_allclose(np.cov(draws[:4000].T), root @ root.T, atol=0.3)
