"""Units of trajectories against each other and against the Fourier transform they mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.fourier import (
    check_trajectory,
    from_per_fov,
    from_per_meter,
    from_radians,
    gradient_waveform,
    to_per_fov,
    to_per_meter,
    to_radians,
)

SHAPE = (12, 20)
FOV = (0.3, 0.25)


@settings(max_examples=10)
@given(seed=st.integers(0, 99))
def test_every_unit_is_the_same_plane_wave(seed):
    """A wave exp(2 pi i k x) is the same on the pixels whatever the unit of k and x."""
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        k = rng.uniform(-0.5, 0.5, (7, 2))
        pixel = rng.integers(-9, 9, 2)
        wave = np.exp(2j * np.pi * k @ pixel)
        position = pixel * np.array(FOV) / SHAPE
        np.testing.assert_allclose(np.exp(1j * np.asarray(to_radians(k)) @ pixel), wave)
        np.testing.assert_allclose(
            np.exp(2j * np.pi * np.asarray(to_per_fov(k, SHAPE)) @ (pixel / SHAPE)), wave
        )
        np.testing.assert_allclose(
            np.exp(2j * np.pi * np.asarray(to_per_meter(k, SHAPE, FOV)) @ position), wave
        )
        np.testing.assert_allclose(from_radians(to_radians(k)), k)
        np.testing.assert_allclose(from_per_fov(to_per_fov(k, SHAPE), SHAPE), k)
        np.testing.assert_allclose(from_per_meter(to_per_meter(k, SHAPE, FOV), SHAPE, FOV), k)


def test_indices_of_the_dft_are_cycles_per_fov():
    frequencies = np.fft.fftfreq(12)
    indices = np.fft.fftfreq(12, 1 / 12)
    np.testing.assert_allclose(from_per_fov(indices[:, None], (12,))[:, 0], frequencies, rtol=1e-6)
    assert from_per_fov(np.arange(3)[:, None], (12,)).dtype == jnp.float32


def test_gradient_of_a_constant_readout():
    """A readout of N samples in time T over a field of view L needs G = N / (gamma L T)."""
    samples, fov, dwell = 64, 0.2, 5e-6
    k = np.zeros((samples, 2))
    k[:, 1] = (np.arange(samples) - 32) / samples
    gradients = np.asarray(gradient_waveform(k, fov / samples, dwell))
    assert gradients.shape == (samples - 1, 2)
    expected = samples / (42.577e6 * fov * samples * dwell)
    np.testing.assert_allclose(gradients[:, 1], expected, rtol=1e-4)
    np.testing.assert_array_equal(gradients[:, 0], 0)


def test_legal_trajectories_pass():
    k = np.linspace(-0.5, 0.5, 10, dtype=np.float32).reshape(5, 2)
    np.testing.assert_array_equal(check_trajectory(k, 2), k)
    check_trajectory(1.19 * k, 2)
    check_trajectory(jnp.broadcast_to(k, (3, 4, 5, 2)), 2)
    np.testing.assert_array_equal(check_trajectory(20 * k, 2, periodic=True), 20 * k)
    assert check_trajectory(np.zeros((3, 2), int), 2).dtype == jnp.float32
    with jax.enable_x64(True):
        assert check_trajectory(np.zeros((3, 2)), 2).dtype == jnp.float64
    # Values of tracers are unknown, shapes are not.
    assert jax.jit(lambda k: check_trajectory(k, 2))(7 * k).shape == k.shape
    with pytest.raises(ValueError, match="samples, 3"):
        jax.jit(lambda k: check_trajectory(k, 3))(k)


ONES = np.ones((5, 2))


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: check_trajectory(ONES[:, :1], 2), ValueError, ["trajectory", "(..., samples, 2)", "(5, 1)"]),
        (lambda: check_trajectory(0.1 * ONES.T, 2), ValueError, ["(2, 5)", "first axis last"]),
        (lambda: check_trajectory(ONES[0], 2), ValueError, ["(2,)"]),
        (lambda: check_trajectory(np.nan * ONES, 2, periodic=True), ValueError, ["finite"]),
        (lambda: check_trajectory(-np.inf * ONES, 2), ValueError, ["finite"]),
        (
            lambda: check_trajectory(-np.pi * ONES, 2),
            ValueError,
            ["radians/pixel", "from_radians", "3.14159"],
        ),
        (lambda: check_trajectory(0.7 * ONES, 2), ValueError, ["from_radians", "0.7", "periodic=True"]),
        (
            lambda: check_trajectory(64 * ONES, 2, name="NUFFT: k"),
            ValueError,
            ["NUFFT: k", "from_per_fov", "64"],
        ),
        (lambda: check_trajectory(1j * ONES, 2), TypeError, ["real", "complex64"]),
        (lambda: from_per_fov(ONES, (4, 4, 4)), ValueError, ["from_per_fov", "(4, 4, 4)", "(5, 2)"]),
        (lambda: to_per_fov(ONES, (4, 0)), ValueError, ["image_shape", "0"]),
        (lambda: to_per_meter(ONES, (4, 4), (0.2, 0.2, 0.2)), ValueError, ["field_of_view", "2 numbers"]),
        (lambda: from_per_meter(ONES, (4, 4), -0.2), ValueError, ["field_of_view", "-0.2"]),
        (lambda: gradient_waveform(ONES, 1e-3, 0.0), ValueError, ["dwell_time", "0"]),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
