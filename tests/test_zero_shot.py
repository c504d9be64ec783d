"""Networks trained on one measurement: what they may see, when they stop, and the distance that judges."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import operators
from experiments.zero_shot import divide, without
from fedrecon.data import Measurement
from fedrecon.zero_shot import sample_distance, within_band, zero_shot

SHAPE = (16, 12)


@pytest.fixture(scope="module")
def batch():
    """Two coils see a smooth object; half of the samples are measured."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    image = np.exp(-4 * (x**2 + y**2)).astype(np.complex64)
    maps = np.stack([np.exp(1j * x) * (1 + x), 2 - x])
    maps = (maps / np.linalg.norm(maps, axis=0)).astype(np.complex64)
    mask = (rng.random(SHAPE) < 0.5) | (np.hypot(x, y) < 0.4)
    kspace = np.asarray(operators.fft2c(maps * image)) * mask
    return {"kspace": kspace[None], "mask": mask[None].astype(np.float32), "coil_maps": maps[None]}


def held(batch, part, seed=1):
    y, x = (np.arange(n) - n // 2 for n in SHAPE)
    outside = (np.abs(y)[:, None] > 2) | (np.abs(x) > 2)
    draws = np.random.default_rng(seed).random(SHAPE)
    return ((batch["mask"][0] > 0) & outside & (draws < part))[None]


class Scaled(nn.Module):
    """A^H y times a trained number."""

    @nn.compact
    def __call__(self, operators, measurements, initial=None):
        size = self.param("size", nn.initializers.constant(2.0), ())
        return size * jax.vmap(lambda A, y: A.H(y))(operators, measurements)


def test_the_network_is_not_given_what_it_is_validated_by(batch):
    """The first error is that of the other samples' image, by plain sums; training lowers it."""
    validation = held(batch, 0.2)
    found = zero_shot(Scaled(), batch, validation, jax.random.key(0), steps=12, every=4, learning_rate=0.2)
    maps, y = batch["coil_maps"][0], batch["kspace"][0]
    image = 2 * (maps.conj() * np.asarray(operators.ifft2c(np.where(validation, 0, y)))).sum(0)
    apart = (np.asarray(operators.fft2c(maps * image)) - y)[:, validation[0]]
    assert found.errors[0] == pytest.approx(
        np.linalg.norm(apart) / np.linalg.norm(y[:, validation[0]]), rel=1e-4
    )
    assert found.steps == [0, 4, 8, 12]
    assert found.errors[found.best] == min(found.errors) < found.errors[0]
    size = float(found.variables.params["size"])
    whole = (maps.conj() * np.asarray(operators.ifft2c(y))).sum(0)
    np.testing.assert_allclose(found.image[0], size * whole, atol=1e-4)
    assert sample_distance(found.image, batch, jnp.asarray(validation)) < found.errors[found.best]


def test_training_ends_when_the_error_stops_falling(batch):
    found = zero_shot(
        Scaled(), batch, held(batch, 0.2), jax.random.key(0), steps=99, every=1, patience=2, learning_rate=0.0
    )
    assert found.steps == [0, 1, 2] and found.best == 0


def test_frequencies_beyond_the_samples_are_left_out():
    mask = np.zeros((1, 8, 6))
    mask[0, 4, 5] = mask[0, 1, 3] = 1
    kspace = np.asarray(
        operators.fft2c(within_band(jnp.asarray(operators.ifft2c(np.ones((1, 8, 6)) + 0j)), mask))
    )[0]
    y, x = np.mgrid[-4:4, -3:3]
    np.testing.assert_allclose(kspace, np.hypot(y / 4, x / 3) <= 0.76, atol=1e-5)


def test_samples_are_needed_on_both_sides(batch):
    for validation, words in ((np.zeros((1, *SHAPE)), "validation"), (np.ones((1, *SHAPE)), "training")):
        with pytest.raises(ValueError, match=f"samples for {words} in every example"):
            zero_shot(Scaled(), batch, validation, jax.random.key(0))


def test_judged_samples_are_taken_away_and_the_center_stays(batch):
    y = np.random.default_rng(0).normal(size=(1, 2, 32, 30)).astype(np.complex64)
    scan = Measurement("test", y, (32, 30), np.ones((1, 32, 30), bool), None, None, None, (32, 30), None)
    divided = divide(scan, 0, 0.2, 0.3, 0)
    assert not (divided.judged & divided.validation).any()
    assert not (divided.judged | divided.validation)[0, 8:24, 7:23].any()
    free = 32 * 30 - 25 * 25
    assert 0.1 * free < divided.judged.sum() < 0.3 * free
    assert 0.15 * free < divided.validation.sum() < 0.35 * free
    for name in ("kspace", "mask"):
        left = (
            np.moveaxis(np.asarray(divided.batch[name]), 1, -1) if name == "kspace" else divided.batch[name]
        )
        assert not np.asarray(left)[divided.judged].any()
    both = without(divided.batch, divided.validation)
    assert not np.asarray(both["mask"])[divided.validation | divided.judged].any()
    with pytest.raises(ValueError, match="slice: expected a number below 1, found 3"):
        divide(scan, 3, 0.2, 0.3, 0)
