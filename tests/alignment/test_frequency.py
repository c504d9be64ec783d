"""Amplitudes and phases, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.alignment import amplitude, frequency_window, shared_amplitudes, with_amplitude


def images(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) + 2


def spectrum(x):
    return np.fft.fft2(np.asarray(x, np.float64), axes=(-3, -2))


@pytest.mark.parametrize("shape", [(8, 8), (7, 10)])
def test_the_amplitude_is_the_target_and_the_phase_stays(shape):
    x, other = images(0, 3, *shape, 2), images(1, *shape, 2)
    found = with_amplitude(x, amplitude(other))
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        np.abs(spectrum(found)), np.broadcast_to(np.abs(spectrum(other)), x.shape), atol=1e-3
    )
    before, after = spectrum(x), spectrum(found)
    large = (np.abs(before) > 1) & (np.abs(after) > 1)
    np.testing.assert_allclose((after / before)[large].imag, 0, atol=1e-3)
    assert ((after / before)[large].real > 0).all()


def test_windows_are_symmetric_and_of_the_stated_width():
    window = frequency_window((9, 12), 0.25)
    half = 2
    rows, columns = (np.abs(np.fft.fftfreq(n, 1 / n)) <= half for n in (9, 12))
    np.testing.assert_array_equal(window, rows[:, None] & columns)
    assert window.sum() == (2 * half + 1) ** 2
    flipped = np.roll(window[::-1, ::-1], (1, 1), (0, 1))
    np.testing.assert_array_equal(window, flipped)
    assert frequency_window((8, 6), 0.5).all() and frequency_window((8, 6), 0.0).sum() == 1


def test_swapping_the_mean_alone_shifts_the_intensity():
    x, other = images(0, 2, 8, 8, 1), images(1, 8, 8, 1) + 5
    found = with_amplitude(x, amplitude(other), frequency_window((8, 8), 0.0))
    moved = np.asarray(found) - x
    np.testing.assert_allclose(moved, np.broadcast_to(moved[:, :1, :1], x.shape), atol=1e-4)
    np.testing.assert_allclose(found.mean((1, 2)), np.broadcast_to(other.mean((0, 1)), (2, 1)), rtol=1e-4)


def test_nothing_changes_without_a_mix_or_with_its_own_amplitude():
    x, other = images(0, 2, 8, 6, 1), images(1, 8, 6, 1)
    np.testing.assert_allclose(with_amplitude(x, amplitude(other), mix=0.0), x, atol=1e-5)
    np.testing.assert_allclose(with_amplitude(x, amplitude(x)), x, atol=1e-5)
    half = with_amplitude(x, amplitude(other), mix=0.5)
    expected = 0.5 * (np.abs(spectrum(x)) + np.abs(spectrum(other)))
    np.testing.assert_allclose(np.abs(spectrum(half)), expected, atol=1e-3)


def test_gain_and_offset_of_an_image_are_taken_away():
    """Of x and 3 x + 2 the phases are the same but for the mean, which is positive in both."""
    x, other = np.abs(images(0, 1, 8, 8, 1)), images(1, 8, 8, 1)
    found = [with_amplitude(y, amplitude(other)) for y in (x, 3 * x + 2)]
    np.testing.assert_allclose(*found, atol=1e-3)


def test_gradients_of_images_without_contrast_are_finite():
    gradient = jax.grad(lambda x: with_amplitude(x, jnp.ones((4, 4, 1))).sum())(jnp.ones((4, 4, 1)))
    assert np.isfinite(gradient).all()


def test_parts_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"part: expected a number in \[0, 0.5\], found 0.6"):
        frequency_window((4, 4), 0.6)
    with pytest.raises(ValueError, match="window: expected one that is symmetric"):
        with_amplitude(jnp.ones((4, 4, 1)), jnp.ones((4, 4, 1)), np.eye(4, k=1, dtype=bool))
    with pytest.raises(ValueError, match="kernels: expected"):
        shared_amplitudes(jnp.ones((2, 3)), 0.5)


@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (6, 7)])
def test_kernels_share_amplitudes_and_keep_phases(shape):
    kernels = images(0, 4, *shape) - 2

    def matrices(x):
        x = np.asarray(x, np.float64)
        if x.ndim == 5:
            x = x.transpose(0, 3, 1, 2, 4).reshape(4, shape[2] * shape[0], shape[1] * shape[3])
        return np.fft.fft2(x)

    before = matrices(kernels)
    after = matrices(shared_amplitudes(kernels, 1.0))
    mean = np.abs(before).mean(0)
    np.testing.assert_allclose(np.abs(after), np.broadcast_to(mean, after.shape), atol=1e-3)
    np.testing.assert_allclose(np.angle(after / before), 0, atol=2e-3)
    # Outside of the window nothing changes, and equal clients stay as they are.
    partly = matrices(shared_amplitudes(kernels, 0.4))
    far = [np.abs(np.fft.fftfreq(n, 1 / n)) > 0.2 * n for n in before.shape[1:]]
    outside = far[0][:, None] | far[1]
    np.testing.assert_allclose(partly[:, outside], before[:, outside], atol=1e-4)
    np.testing.assert_allclose(np.abs(partly[0, ~outside]), mean[~outside], atol=1e-3)
    same = np.tile(kernels[:1], (4,) + (1,) * len(shape))
    np.testing.assert_allclose(shared_amplitudes(same, 0.7), same, atol=1e-5)
