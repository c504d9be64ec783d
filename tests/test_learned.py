"""Networks with bounds: signs of strange measurements, files, measured slices."""

import dataclasses

import numpy as np
import pytest

import operators
from fedrecon import ood
from fedrecon.data import DataError, Measurement
from fedrecon.learned import (
    MARGIN,
    Architecture,
    CheckedNetwork,
    IntervalBound,
    Signs,
    appearance,
    calibrate,
    load_network,
    make_reconstruct,
    measured_examples,
    notices,
    reconstruct_measurement,
    save_network,
    signs_of,
    strangeness,
)
from fedrecon.tasks import mri_measure, noise_deviation, reconstruction_task

SHAPE = (24, 24)


def measurement(mask=None, slices=1):
    """A disk with a smooth phase seen by two smooth coils, with little noise."""
    rng = np.random.default_rng(0)
    y, x = (np.arange(n) / n - 0.5 for n in SHAPE)
    image = (np.hypot(y[:, None], x) < 0.35) * np.exp(1j * x)
    maps = np.stack([np.exp(-((x - c) ** 2) - (y[:, None] - c) ** 2) for c in (-0.3, 0.3)])
    kspace = np.asarray(operators.fft2c(np.asarray(maps * image, np.complex64)))
    kspace = np.repeat(kspace[None], slices, 0)
    noise = rng.normal(size=(2, *kspace.shape)) * 1e-3
    mask = np.ones(SHAPE, bool) if mask is None else mask
    kspace = ((kspace + noise[0] + 1j * noise[1]) * mask).astype(np.complex64)
    mask = np.repeat(mask[None], slices, 0)
    return Measurement("test", kspace, SHAPE, mask, None, None, None, SHAPE, None)


def network():
    architecture = Architecture("modl", 1, 2, 1)
    batch = measured_examples(measurement())[0]
    variables = reconstruction_task(architecture.build(), mri_measure, batch).init(jax_key())
    return CheckedNetwork(architecture, variables, Signs(0.2, float("nan"), 0.3), "nothing")


def jax_key():
    import jax

    return jax.random.key(0)


def test_signs_are_those_of_their_definitions():
    batch = measured_examples(measurement())[0]
    stacked, y, _ = mri_measure(batch)
    maps = np.asarray(batch["coil_maps"][0])
    exact = (maps.conj() * np.asarray(operators.ifft2c(y[0]))).sum(0) / (abs(maps) ** 2).sum(0).clip(1e-9)
    half = exact * (np.arange(24) < 12)
    found = [signs_of(stacked, y, image[None], batch) for image in (exact, half)]
    for signs, image in zip(found, (exact, half), strict=True):
        left = np.linalg.norm(np.asarray(operators.fft2c((maps * image).astype(np.complex64))) - y[0])
        np.testing.assert_allclose(signs.residual, left / np.linalg.norm(y[0]), rtol=1e-3, atol=1e-6)
        each = left / np.sqrt(y[0].size) / np.asarray(noise_deviation(y))
        np.testing.assert_allclose(signs.noise, each, rtol=1e-3)
    # Half of a disk is half of its energy.
    assert found[1].residual[0] == pytest.approx(np.sqrt(0.5), abs=0.05)
    assert found[1].departure[0] == pytest.approx(np.sqrt(0.5), abs=0.05)
    assert found[0].departure[0] < 0.05


def test_the_noise_is_found_although_most_samples_are_unmeasured():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 3, 2, 64, 64)) * np.array([1, 3, 10])[:, None, None, None] / np.sqrt(2)
    kspace = noise[0] + 1j * noise[1]
    kspace[..., 28:36, 28:36] += 1e4
    kspace[..., ::2] = 0
    np.testing.assert_allclose(noise_deviation(kspace.astype(np.complex64)), [1, 3, 10], rtol=0.06)


def test_bounds_are_the_largest_of_training_with_a_margin():
    one = Signs(np.array([0.1, 0.2]), np.array([np.nan, np.nan]), np.array([0.3]))
    other = Signs(np.array([0.15]), np.array([np.nan]), np.array([0.6, 0.1]))
    bounds = calibrate([one, other])
    assert bounds.residual == pytest.approx(MARGIN * 0.2) and bounds.departure == pytest.approx(MARGIN * 0.6)
    assert np.isnan(bounds.noise)
    assert notices(one, bounds) == [] == notices(other, bounds)


def test_what_exceeds_a_bound_is_told():
    bounds = Signs(0.3, 3.0, 0.6)
    strange = Signs(np.array([0.1, 0.5]), np.array([1.0, np.nan]), np.array([0.1, np.nan]))
    residual, departure = notices(strange, bounds)
    assert residual.startswith("1 of 2 images") and "0.5 of the measured samples" in residual
    assert "in validation at most 0.2" in residual
    assert departure.startswith("1 of 2 images") and "inf" in departure


@pytest.mark.slow
def test_a_network_comes_back_from_its_file(tmp_path):
    saved = network()
    save_network(tmp_path / "network.npz", saved)
    loaded = load_network(tmp_path / "network.npz")
    assert loaded.architecture == saved.architecture and loaded.origin == saved.origin
    assert loaded.physics == "mri" and loaded.interval is None
    save_network(tmp_path / "network.npz", saved._replace(interval=IntervalBound(0.9, 1.25)))
    assert load_network(tmp_path / "network.npz").interval == IntervalBound(0.9, 1.25)
    assert loaded.bounds.residual == 0.2 and np.isnan(loaded.bounds.noise)
    batch = measured_examples(measurement())[0]
    images = [
        np.asarray(make_reconstruct(n.architecture.build(), mri_measure)(n.variables, batch)[0])
        for n in (saved, loaded)
    ]
    np.testing.assert_array_equal(*images)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", None])
def test_files_that_hold_no_network_are_named(tmp_path, content):
    path = tmp_path / "other.npz"
    if content is None:
        np.savez(path, about=np.array({"format": "fedrecon network 2"}, object))
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"other\.npz: expected a network"):
        load_network(path)
    with pytest.raises(DataError, match=r"absent\.npz"):
        load_network(tmp_path / "absent.npz")


def test_a_measurement_is_reconstructed_in_its_own_unit():
    once, loud = measurement(slices=2), measurement(slices=2)
    loud = dataclasses.replace(loud, kspace=100 * loud.kspace)
    done = []
    images, signs = reconstruct_measurement(network(), once, done.append)
    assert images.shape == (2, *SHAPE) and signs.residual.shape == (2,) and done == [1, 1]
    np.testing.assert_allclose(
        reconstruct_measurement(network(), loud)[0], 100 * images, rtol=1e-3, atol=1e-2
    )


def test_measurements_that_networks_are_not_for_are_refused():
    hollow = np.ones(SHAPE, bool)
    hollow[12, 12] = False
    with pytest.raises(ValueError, match="measurement: expected a fully sampled center"):
        measured_examples(measurement(hollow))
    spiral = dataclasses.replace(
        measurement(),
        kspace=np.ones((1, 2, 5), np.complex64),
        mask=None,
        trajectory=np.zeros((5, 2), np.float32),
    )
    with pytest.raises(ValueError, match="measurement: expected Cartesian"):
        measured_examples(spiral)
    volume = dataclasses.replace(
        measurement(),
        kspace=np.ones((1, 2, 4, 6, 8), np.complex64),
        mask=np.ones((1, 4, 6, 8), bool),
        image_shape=(4, 6, 8),
    )
    with pytest.raises(ValueError, match=r"measurement: expected slices, .* found a volume of 4 x 6 x 8"):
        measured_examples(volume)
    with pytest.raises(ValueError, match="network: expected one of MRI, found one of CT: nothing"):
        reconstruct_measurement(network()._replace(physics="ct"), measurement())


def test_images_that_look_unlike_those_of_validation_are_strange_in_any_unit(tmp_path):
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.normal(size=(40, 16, 16)), 2) + 1j
    known = ood.reference_of(appearance(smooth[:30]), appearance(smooth[30:]))
    save_network(tmp_path / "network.npz", network()._replace(images=known))
    found = load_network(tmp_path / "network.npz")
    assert (strangeness(found, smooth[30:]) <= 1 / ood.MARGIN + 1e-6).all()
    noise = rng.normal(size=(5, 16, 16))
    assert (strangeness(found, noise) > 1).all()
    assert strangeness(found, 1e-6 * noise) == pytest.approx(strangeness(found, noise), rel=1e-4)
    assert np.isnan(strangeness(found._replace(images=None), noise)).all()
