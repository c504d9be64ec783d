"""Plug-and-play and posterior samples of linear problems with Gaussian priors, whose answers are known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.priors import diffpir, noise_levels, plug_and_play
from operators import Diagonal, FiniteDifferences

once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
NOISE = 0.2


def correlated():
    """(covariance of six neighbors, their differences, measurement, posterior mean, covariance)."""
    place = np.arange(6)
    covariance = np.exp(-abs(place[:, None] - place) / 2)
    A = FiniteDifferences((6,), jnp.float64)
    matrix = np.asarray(A(jnp.eye(6)))[:, 0].T
    y = np.random.default_rng(0).normal(size=6)
    y[-1] = 0
    posterior = np.linalg.inv(np.linalg.inv(covariance) + matrix.T @ matrix / NOISE**2)
    return covariance, A, jnp.asarray(y)[None], posterior @ matrix.T @ y / NOISE**2, posterior


def gaussian_denoiser(covariance):
    values, vectors = np.linalg.eigh(covariance)
    return lambda v, s: vectors @ (values / (values + s**2) * (vectors.T @ v))


@pytest.mark.parametrize("levels", [np.geomspace(3, 0.5, 80), np.full(200, 0.5)], ids=["falling", "equal"])
def test_plug_and_play_ends_at_the_maximum_of_the_posterior(levels, x64):
    covariance, A, y, mean, _ = correlated()
    D = gaussian_denoiser(covariance)
    got = once(lambda y: plug_and_play(A, y, D, levels, noise=NOISE, cg_iterations=12))(y)
    np.testing.assert_allclose(got, mean, atol=1e-5 * abs(mean).max())


def moments(count, *arguments, **options):
    def samples(keys):
        x = jax.vmap(lambda key: diffpir(*arguments[:3], key, arguments[3], noise=NOISE, **options))(keys)
        return x.mean(0), jnp.cov(x.T)

    return map(np.asarray, once(samples)(jax.random.split(jax.random.key(0), count)))


def white():
    """Of unit variance; three pixels are measured, one badly, and one is not."""
    weights = jnp.array([1.0, 0.5, 2.0, 0.0])
    y = jnp.array([0.5, -1.0, 2.0, 0.0])
    variance = 1 / (1 + weights**2 / NOISE**2)
    return Diagonal(weights), y, np.asarray(variance * weights * y / NOISE**2), np.asarray(variance)


def test_samples_have_the_mean_and_the_variance_of_the_posterior(x64):
    """Of white priors exactly in short steps: 400 samples are within 5 deviations of their moments."""
    A, y, mean, variance = white()
    D = gaussian_denoiser(np.eye(4))
    found, covariance = moments(400, A, y, D, noise_levels(20, 0.01, 150), spread=1.0, cg_iterations=4)
    assert (abs(found - mean) < 5 * np.sqrt(variance / 400)).all()
    # Steps are not infinitely short: variances are up to a twentieth too small.
    np.testing.assert_allclose(np.diag(covariance), variance, rtol=0.05 + 5 * np.sqrt(2 / 400))


@pytest.mark.slow
def test_samples_of_correlated_priors_are_nearly_those_of_the_posterior(x64):
    """A tenth of the deviation of the mean, a tenth of the covariance; half of it with all noise renewed."""
    covariance, A, y, mean, posterior = correlated()
    D = gaussian_denoiser(covariance)
    arguments = 2000, A, y, D, noise_levels(20, 0.01, 150)
    found, spread = moments(*arguments, cg_iterations=8)
    assert np.linalg.norm(found - mean) < 0.1 * np.sqrt(np.trace(posterior))
    assert np.linalg.norm(spread - posterior) < 0.15 * np.linalg.norm(posterior)
    assert abs(np.trace(spread) / np.trace(posterior) - 1) < 0.1
    _, narrow = moments(*arguments, cg_iterations=8, renewal=1.0)
    assert abs(np.trace(narrow) / np.trace(posterior) - 0.5) < 0.1


def test_complex_noise_is_of_unit_variance_in_each_part(x64):
    """Where nothing is known samples are those of the prior."""
    A = Diagonal(jnp.zeros(300, complex))

    def D(v, s):
        return v / (1 + s**2)

    levels = noise_levels(20, 0.01, 150)
    x = once(lambda key: diffpir(A, jnp.zeros(300, complex), D, key, levels, noise=1.0))(jax.random.key(1))
    for part in (x.real, x.imag):
        assert abs(part.var() - 0.97) < 5 * np.sqrt(2 / 300)


def test_refusals():
    with pytest.raises(ValueError, match="smallest: expected a number between 0 and largest"):
        noise_levels(1.0, 2.0, 3)
    with pytest.raises(ValueError, match="count: expected 2 or more"):
        noise_levels(1.0, 0.1, 1)
    with pytest.raises(ValueError, match=r"renewal: expected a number in \[0, 1\]"):
        A = Diagonal(jnp.ones(2))
        diffpir(A, jnp.ones(2), lambda v, s: v, jax.random.key(0), jnp.ones(2), noise=1.0, renewal=2.0)
