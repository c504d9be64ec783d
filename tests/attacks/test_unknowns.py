"""What attackers search: measurements through the network's own operators, and priors."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon import attacks
from fedrecon.errors import ArgumentError
from fedrecon.tasks import mri_measure

N, COILS = 8, 2


@pytest.fixture(scope="module")
def known():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(1, COILS, N, N)) + 1j * rng.normal(size=(1, COILS, N, N))
    return {
        "mask": jnp.asarray(rng.random((1, N, N)) < 0.5, jnp.float32),
        "coil_maps": jnp.asarray(maps, jnp.complex64),
        "kspace": jnp.zeros((1, COILS, N, N), jnp.complex64),
        "target": jnp.zeros((1, N, N)),
        "data_range": jnp.ones(1),
        "valid": jnp.ones(1, bool),
    }


def test_measurements_are_those_of_the_sought_image(known):
    rng = np.random.default_rng(1)
    z = {"image": jnp.asarray(rng.normal(size=(2, 1, N, N)), jnp.float32)}
    z["rest"] = jnp.asarray(rng.normal(size=(2, 1, COILS, N, N)), jnp.float32)
    x = np.asarray(z["image"][0] + 1j * z["image"][1])
    axes = (-2, -1)
    maps, mask = np.asarray(known["coil_maps"]), np.asarray(known["mask"])

    def sampled(x):
        coils = np.fft.ifftshift(maps * x[:, None], axes)
        return mask[:, None] * np.fft.fftshift(np.fft.fft2(coils, norm="ortho"), axes)

    free = attacks.measurements(known, mri_measure, data_range=None).batch(z)
    np.testing.assert_allclose(free["kspace"], sampled(x), atol=1e-5)
    np.testing.assert_allclose(free["target"], np.abs(x), rtol=1e-5)
    np.testing.assert_allclose(free["data_range"], [np.abs(x).max()], rtol=1e-5)
    # Of networks with normalization the scale is fixed; softly tied samples add what was measured alone.
    tied = attacks.measurements(known, mri_measure, data_range=3.0, consistency=2.0)
    scaled = x / np.sqrt((np.abs(x) ** 2).mean())
    rest = mask[:, None] * np.asarray(z["rest"][0] + 1j * z["rest"][1])
    found = tied.batch(z)
    np.testing.assert_allclose(found["kspace"], sampled(scaled) + rest, atol=1e-5)
    assert found["data_range"].tolist() == [3.0]
    share = (np.abs(rest) ** 2).sum() / (np.abs(found["kspace"]) ** 2).sum()
    variation = float(attacks.total_variation(found["target"])) / np.abs(scaled).max()
    assert float(tied.prior(z)) == pytest.approx(variation + 2 * share, rel=1e-4)


def test_total_variation_and_bounds():
    image = jnp.arange(12.0).reshape(1, 3, 4, 1)
    assert float(attacks.total_variation(image)) == 4 + 1
    unknown = attacks.images({"image": image, "label": jnp.array([1])}, 0.0, 10.0)
    assert float(unknown.project(image).max()) == 10
    assert unknown.batch(image)["label"].tolist() == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_range": 0.0}, "data_range, consistency"),
        ({"data_range": 1.0, "consistency": -1}, "consistency"),
    ],
)
def test_wrong_arguments_are_named(known, options, message):
    with pytest.raises(ArgumentError, match=message):
        attacks.measurements(known, mri_measure, **options)
    with pytest.raises(ArgumentError, match="known: expected the keys"):
        attacks.measurements({}, mri_measure, data_range=1.0)
