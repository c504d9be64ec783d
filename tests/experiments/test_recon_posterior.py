"""Samples of the posterior distribution: their moments of a known prior, and their file."""

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.pipeline.recon_posterior import Drawn, figure, sampler, save
from fedrecon.data import ClientData
from fedrecon.learned import Architecture, CheckedNetwork, Signs
from fedrecon.models.plug_and_play import PlugAndPlay
from fedrecon.tasks import mri_measure
from fedrecon.types import Variables
from operators import Diagonal, fft2c


def untrained(model, operators, y):
    """Weights of the best linear denoiser of white images of deviation 1/2: the prior is known."""
    return model.init(jax.random.key(0), operators, y)


@pytest.mark.slow
def test_samples_of_a_white_prior_have_the_moments_of_the_posterior(x64):
    """600 samples of each of six pixels, of which one is not measured and one is measured well."""
    model, noise = PlugAndPlay(1, 0), 0.2
    weights = jnp.array([[0.0, 0.3, 0.6], [1.0, 2.0, 4.0]])
    y = jnp.array([[0.0, -0.2, 0.3], [0.4, 1.0, -1.0]])
    count = 600
    operators = jax.vmap(Diagonal)(jnp.broadcast_to(weights, (count, 2, 3)))
    measured = jnp.broadcast_to(y, (count, 2, 3))
    variables = untrained(model, operators, measured)
    keys = jax.random.split(jax.random.key(1), count)

    @jax.jit
    def draw(keys):
        levels = {"steps": 150, "largest": 10.0, "smallest": 0.005}
        noises = jnp.full(count, noise)
        return model.apply(variables, operators, measured, keys, noises, method="sample", **levels)

    found = np.asarray(draw(keys))
    variance = 1 / (4 + np.asarray(weights) ** 2 / noise**2)
    mean = variance * np.asarray(weights * y) / noise**2
    assert (abs(found.mean(0) - mean) < 5 * np.sqrt(variance / count)).all()
    np.testing.assert_allclose(found.var(0, ddof=1), variance, rtol=0.05 + 5 * np.sqrt(2 / count))
    assert (np.asarray(draw(jax.random.split(jax.random.key(1), count))) == found).all()


@pytest.mark.slow
def test_samples_differ_where_nothing_was_measured_and_agree_with_what_was():
    """Of columns of k-space; equal seeds draw equal samples, and padding stays black."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(1, 2, 8, 8)).astype(np.float32)
    mask = np.zeros((1, 2, 8, 8), np.float32)
    mask[..., 2:6] = 1
    kspace = np.asarray(fft2c(jnp.asarray(images)))[:, :, None] * mask[:, :, None]
    examples = {"kspace": kspace.astype(np.complex64), "mask": mask, "noise_level": np.full((1, 2), 0.01)}
    examples["coil_maps"] = np.ones((1, 2, 1, 8, 8), np.complex64)
    part = ClientData(examples, np.array([[True, False]]), ["a"])
    architecture = Architecture("plug-and-play", 1, 1, 0)
    stacked, y, _ = mri_measure({n: jnp.asarray(x[0]) for n, x in examples.items()})
    variables = Variables(untrained(architecture.build(), stacked, y)["params"], {})
    network = CheckedNetwork(architecture, variables, Signs(1, 1, 1), "a test")
    found = sampler(network, mri_measure, 3, 7)(part)
    assert found.shape == (3, 1, 2, 8, 8) and (found[:, 0, 1] == 0).all()
    assert abs(found[0] - found[1]).max() > 0.1
    np.testing.assert_array_equal(sampler(network, mri_measure, 3, 7)(part), found)
    assert abs(sampler(network, mri_measure, 3, 8)(part) - found).max() > 0.1


def test_files_have_valid_images_alone(tmp_path):
    rng = np.random.default_rng(0)
    valid = np.array([True, True, False])
    drawn = {"a": Drawn(rng.random((4, 3, 6, 5)), rng.random((3, 6, 5)), valid)}
    save(tmp_path / "posterior.h5", drawn)
    with h5py.File(tmp_path / "posterior.h5") as file:
        samples = np.asarray(file["a/samples"])
        np.testing.assert_array_equal(samples, drawn["a"].samples[:, :2])
        np.testing.assert_allclose(file["a/mean"], samples.mean(0))
        np.testing.assert_allclose(file["a/deviation"], samples.std(0, ddof=1))
        np.testing.assert_array_equal(file["a/reference"], drawn["a"].reference[:2])
    names = {axis.get_title().replace("\n", " ") for axis in figure(drawn).axes}
    assert {"reference", "posterior mean", "sample 1", "sample 3"} <= names
