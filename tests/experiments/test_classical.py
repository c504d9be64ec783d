"""Reconstruction of slices by the name of a method: compilation, how runs end, units of the maps."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import operators
from fedrecon import classical, classical_maps, classical_methods
from fedrecon.classical import ClassicalSettings, prepare, reconstruct, undersample
from fedrecon.data import Measurement

SHAPE = (32, 32)
PHANTOM = np.asarray(operators.rasterize(operators.shepp_logan(), SHAPE)) * (1 + 0.3 * np.arange(32) / 32)


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def measurement(slices=1, scale=1.0):
    maps = np.asarray(operators.mri.birdcage_maps(SHAPE, 4))
    maps = maps / np.linalg.norm(maps, axis=0)
    rng = np.random.default_rng(0)
    kspace = np.asarray(operators.fft2c(maps * PHANTOM))[None].repeat(slices, 0)
    noise = rng.normal(size=kspace.shape) + 1j * rng.normal(size=kspace.shape)
    kspace = (scale * (kspace + 5e-3 * noise)).astype(np.complex64)
    fields = {field.name: None for field in dataclasses.fields(Measurement)}
    given = {
        "format": "test",
        "kspace": kspace,
        "image_shape": SHAPE,
        "mask": np.ones((slices, *SHAPE), bool),
        "crop_shape": SHAPE,
    }
    return Measurement(**{**fields, **given})


def halved(**changes):
    mask = np.asarray(operators.equispaced_mask(32, 2, 0.4))
    return undersample(prepare(measurement(**changes)), mask)


@pytest.mark.parametrize("method", ["l1-wavelet", "grappa"])
def test_a_sweep_of_weights_compiles_once(method):
    """And another prepared measurement of the same shapes not at all."""
    prepared = halved()
    classical._solve.clear_cache()
    images = []
    for weight in (1e-4, 1e-3, 1e-2):
        settings = ClassicalSettings(method, weight=weight, iterations=None)
        images.append(reconstruct(prepared, settings))
        assert classical._solve._cache_size() == 1
    reconstruct(halved(scale=3.0), settings)
    assert classical._solve._cache_size() == 1
    assert np.abs(images[0] - images[2]).max() > 1e-3


def test_iterative_methods_say_how_they_ended():
    prepared = halved()
    images, infos = reconstruct(prepared, ClassicalSettings("l1-wavelet", weight=4e-4), return_info=True)
    assert images.shape == (1, *SHAPE) and infos[0]["converged"]
    assert infos[0]["change"] <= 1e-3 and 10 < infos[0]["iterations"] < 300
    _, infos = reconstruct(
        prepared, ClassicalSettings("l1-wavelet", weight=4e-4, iterations=4), return_info=True
    )
    assert not infos[0]["converged"] and infos[0]["iterations"] == 4 and infos[0]["change"] > 1e-3
    _, infos = reconstruct(prepared, ClassicalSettings("cg-sense"), return_info=True)
    assert infos[0]["converged"] and infos[0]["change"] <= 1e-4
    assert reconstruct(prepared, ClassicalSettings("rss"), return_info=True)[1] == [{}]


def test_weights_follow_the_noise_of_the_outer_samples():
    """Three coils of an object of low frequencies, one of zeros, a third of the samples."""
    rng = np.random.default_rng(0)
    kspace = 0.02 * (rng.normal(size=(2, 4, 64, 64)) + 1j * rng.normal(size=(2, 4, 64, 64)))
    kspace[:, 3] = 0
    kspace[:, :3, 28:36, 28:36] += 50
    mask = rng.random((2, 64, 64)) < 0.33
    given = dataclasses.replace(
        measurement(), kspace=(kspace * mask[:, None]).astype(np.complex64), mask=mask, image_shape=(64, 64)
    )
    prepared = prepare(given)
    assert prepared.noise * prepared.scale == pytest.approx(0.02, rel=0.1)
    weight = classical.settled(ClassicalSettings("cg-sense"), prepared).weight
    assert weight == pytest.approx(0.5 * prepared.noise)
    assert classical.settled(ClassicalSettings("cg-sense", weight=0.3), prepared).weight == 0.3
    silent = prepared._replace(noise=0.0)
    assert 0 < classical.settled(ClassicalSettings("cg-sense"), silent).weight < 1e-4
    assert classical.settled(ClassicalSettings("l1-wavelet"), prepared).weight is None


def test_the_noise_of_undersampled_measurements_is_that_of_the_samples_kept():
    given = measurement()
    kspace = np.zeros_like(given.kspace)
    rng = np.random.default_rng(0)
    kspace[..., ::2] = rng.normal(size=kspace[..., ::2].shape) + 1j * rng.normal(size=kspace[..., ::2].shape)
    kspace[..., 1::2] = 1e-3 * kspace[..., ::2]
    prepared = prepare(dataclasses.replace(given, kspace=kspace))
    odd = undersample(prepared, np.arange(SHAPE[1]) % 2)
    assert odd.noise * odd.scale == pytest.approx(1e-3, rel=0.2)


def test_weights_are_chosen_by_the_errors_and_the_size_of_the_image():
    """With an image that does not depend on the weight the choice has a closed form, between bounds."""
    image, y = np.full((4, 5), 0.25 + 0j), np.zeros((1, 4, 5), np.complex64)
    problem = classical.ClassicalProblem(
        operators.CartesianFourier((4, 5)), y, np.ones((1, 4, 5)), np.ones(()), None, None, None, 10
    )

    def chosen(errors, size=1.0):
        choose = classical_methods._chooser(
            lambda A, y, weight, iterations: size * jnp.asarray(image),
            lambda x: jnp.sum(jnp.abs(x)),
            0.05,
            0.3,
        )
        return float(choose(problem, jnp.asarray(errors)))

    # The mean size is 0.25: 0.3 * errors ** 2 / 0.25.
    assert chosen(0.1) == pytest.approx(0.012, rel=1e-5)
    assert chosen(0.2) == pytest.approx(0.048, rel=1e-5)
    assert chosen(0.1, 0.5) == pytest.approx(0.024, rel=1e-5)
    assert chosen(0.1, 0.0) == pytest.approx(0.05) and chosen(0.1, 100.0) == pytest.approx(1e-3)
    assert chosen(0.0) == pytest.approx(classical_methods.SMALLEST_WEIGHT)


def test_what_maps_do_not_explain_counts_as_noise():
    """A second coil outside the maps, in a block of the center and elsewhere."""
    rng = np.random.default_rng(1)
    y = (rng.normal(size=(2, 12, 10)) + 1j * rng.normal(size=(2, 12, 10))) * np.array([3, 1])[:, None, None]
    y[..., 7:] = 0
    maps = np.zeros((2, 12, 10), np.complex64)
    maps[0] = 1
    block = y[:, 3:9, 3:7]
    ratio = np.sum(np.abs(block[1]) ** 2) / np.sum(np.abs(block) ** 2)
    # Of the real and the imaginary part, over the 12 x 7 samples that were measured.
    expected = 0.25 * np.sqrt(ratio / 2 * np.sum(np.abs(y) ** 2) / 84)
    assert float(classical_maps.misfit(maps, jnp.asarray(y), (6, 4), y)) == pytest.approx(expected, rel=1e-4)
    maps[:] = y[:, :1, :1] / np.linalg.norm(y[:, 0, 0])
    one = maps * y[:1]
    assert float(classical_maps.misfit(maps, jnp.asarray(one), (6, 4), one)) < 1e-5


@pytest.mark.parametrize("method", ["total-variation", *slow("l1-wavelet", "tgv")])
def test_weights_chosen_follow_the_noise_and_are_reported(method):
    """Those of the image in another unit, larger with more noise, which is all that one coil shows."""
    found = []
    for noise, scale in ((0.0, 1.0), (0.0, 300.0), (0.05, 1.0)):
        given = measurement(scale=scale)
        given = dataclasses.replace(given, kspace=given.kspace[:, :1])
        rng = np.random.default_rng(3)
        more = noise * (rng.normal(size=given.kspace.shape) + 1j * rng.normal(size=given.kspace.shape))
        prepared = prepare(dataclasses.replace(given, kspace=(given.kspace + more).astype(np.complex64)))
        settings = ClassicalSettings(method, "espirit", iterations=2)
        found.append(reconstruct(prepared, settings, return_info=True)[1][0]["weight"])
    assert found[1] == pytest.approx(found[0], rel=1e-2) and found[2] > 2 * found[0] > 1e-3
    _, infos = reconstruct(prepared, dataclasses.replace(settings, weight=1e-3), return_info=True)
    assert "weight" not in infos[0]


def test_the_background_is_weighted_by_the_noise():
    kspace = prepare(measurement()).measurement.kspace[0]
    sizes = [
        np.asarray(operators.rss(classical_maps.coil_maps(kspace, (24, 24), "espirit", s))) for s in (0, 1)
    ]
    assert sizes[0].min() == pytest.approx(0.2, abs=0.01) and sizes[1].min() == pytest.approx(0.5, abs=0.01)
    assert all(size.max() > 0.99 for size in sizes)
    # In between it depends on the ratio of noise and object alone.
    found = [classical_maps.coil_maps(scale * kspace, (24, 24), "espirit", scale * 5e-3) for scale in (1, 20)]
    floors = [float(np.asarray(operators.rss(maps)).min()) for maps in found]
    assert 0.21 < floors[0] < 0.49 and floors[1] == pytest.approx(floors[0], rel=1e-3)


def test_images_do_not_carry_the_weights_of_their_maps():
    """Fully sampled, least squares gives the coil combination by ESPIRiT, background included."""
    prepared = prepare(measurement())
    found = reconstruct(prepared, ClassicalSettings("cg-sense", "espirit", weight=0.0))[0]
    kspace = prepared.measurement.kspace[0]
    maps = operators.espirit_maps(kspace, (24, 24), crop=0.0)[0]
    expected = operators.mri.coil_combine(operators.ifft2c(kspace), maps)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    gridded = reconstruct(prepared, ClassicalSettings("gridding", "espirit"))[0]
    np.testing.assert_allclose(gridded, expected, atol=1e-4)
