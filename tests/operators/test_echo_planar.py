"""Echo-planar readouts against direct sums over an image, with a known delay and phase."""

import h5py
import numpy as np
import pytest

from operators.mri import (
    ReadoutShift,
    echo_planar_focus,
    echo_planar_matrix,
    echo_planar_shift,
    trapezoid_positions,
)

PIXELS = 24
DELAY, PHASE = 0.71, 0.4


def rows(count=6, coils=2, seed=0):
    """Smooth image lines (count, coils, pixels) that end before the edge."""
    rng = np.random.default_rng(seed)
    x = np.arange(PIXELS) - PIXELS // 2
    values = rng.normal(size=(count, coils, PIXELS)) + 1j * rng.normal(size=(count, coils, PIXELS))
    return (values * 0.2 + 1) * (np.abs(x + 1.5) < PIXELS / 3)


def measure(image, k, polarity, delay=0.0, phase=0.0):
    """Direct sums at the positions that a gradient behind the receiver has then."""
    samples = np.arange(k.shape[1])
    x = np.arange(PIXELS) - PIXELS // 2
    result = []
    for line, nominal, sign in zip(image, k, polarity, strict=True):
        step = nominal[1] - nominal[0]
        # Before the first sample k goes on as at its begin: uniform readouts are uniform there, too.
        later = np.interp(samples - delay, samples, nominal, left=np.nan, right=np.nan)
        missing = np.isnan(later)
        later[missing] = (nominal[0] + step * (samples - delay))[missing]
        encode = np.exp(-2j * np.pi * np.outer(later, x)) / np.sqrt(PIXELS)
        result.append(line @ encode.T * (np.exp(1j * phase) if sign < 0 else 1))
    return np.stack(result)


def grid(count, samples=PIXELS):
    polarity = np.where(np.arange(count) % 2, -1, 1)
    k = (np.arange(samples) - (samples - 1) / 2) / samples
    return polarity[:, None] * k, polarity


@pytest.mark.parametrize("drift", [0.0, 0.9])
def test_delay_and_phase_are_found_in_spite_of_off_resonance(drift):
    """Off-resonance turns every line further; the first step alone could not tell it from a phase."""
    k, polarity = grid(5)
    image = np.repeat(rows(1), 5, 0) * np.exp(1j * drift * np.arange(5))[:, None, None]
    shift = echo_planar_shift(measure(image, k, polarity, DELAY, PHASE), k, polarity)
    assert shift.delay == pytest.approx(DELAY, abs=0.02)
    assert shift.phase == pytest.approx(PHASE, abs=0.02)


def test_the_matrix_undoes_delay_phase_and_direction():
    k, polarity = grid(6)
    image = rows()
    lines = measure(image, k, polarity, DELAY, PHASE)
    x = np.arange(PIXELS) - PIXELS // 2
    uniform = image @ np.exp(-2j * np.pi * np.outer(x, x) / PIXELS) / np.sqrt(PIXELS)
    for line, nominal, sign, right in zip(lines, k, polarity, uniform, strict=True):
        matrix = echo_planar_matrix(nominal, sign, PIXELS, ReadoutShift(DELAY, PHASE))
        np.testing.assert_allclose(line @ matrix.T, right, atol=0.02 * np.abs(right).max())
    plain = lines[1] @ echo_planar_matrix(k[1], -1, PIXELS).T
    assert np.abs(plain - uniform[1]).max() > 0.2 * np.abs(uniform[1]).max()


def test_samples_of_the_ramps_are_put_on_the_grid():
    """More samples than pixels, none of them uniform: exact where they determine the image."""
    times = (np.arange(40) + 0.5) * 10
    k = trapezoid_positions(times, 120.0, 160.0, 120.0)[None]
    image = rows(1)
    x = np.arange(PIXELS) - PIXELS // 2
    encode = np.exp(-2j * np.pi * np.outer(k[0], x)) / np.sqrt(PIXELS)
    found = (image[0] @ encode.T) @ echo_planar_matrix(k[0], 1, PIXELS).T
    right = image[0] @ np.exp(-2j * np.pi * np.outer(x, x) / PIXELS) / np.sqrt(PIXELS)
    np.testing.assert_allclose(found, right, atol=0.02 * np.abs(right).max())


def test_a_trapezoid_is_the_integral_of_its_gradient():
    up, top, down = 3.0, 5.0, 2.0
    fine = np.linspace(0, 10, 100001)
    gradient = np.interp(fine, [0, up, up + top, 10], [0, 1, 1, 0])
    area = np.concatenate([[0], np.cumsum((gradient[1:] + gradient[:-1]) / 2)]) * (fine[1] - fine[0])
    times = np.array([0, 1, 3, 4.5, 8, 9, 10])
    expected = np.interp(times, fine, area) / area[-1] - 0.5
    np.testing.assert_allclose(trapezoid_positions(times, up, top, down), expected, atol=1e-8)
    np.testing.assert_allclose(trapezoid_positions([0, 5], 0, 5, 0), [-0.5, 0.5])
    for durations in ((-1, 5, 1), (0, 0, 0)):
        with pytest.raises(ValueError, match="durations"):
            trapezoid_positions([0], *durations)


def test_the_sharpest_image_has_the_right_delay():
    y = np.arange(PIXELS) - PIXELS // 2
    object_rows = rows(1)[0, :1] * ((np.abs(y) < PIXELS / 4) * (1 + 0.1 * y))[:, None]
    lines = np.exp(-2j * np.pi * np.outer(y, y) / PIXELS) @ object_rows / np.sqrt(PIXELS)
    k, polarity = grid(PIXELS)
    shift, _ = echo_planar_focus(measure(lines[:, None], k, polarity, DELAY, PHASE), k, polarity)
    assert shift.delay == pytest.approx(DELAY, abs=0.05)
    assert shift.phase == pytest.approx(PHASE, abs=0.05)


def test_wrong_arguments_are_refused_by_name():
    k, polarity = grid(4)
    lines = measure(rows(4), k, polarity)
    for found, match in (
        ((lines[:, 0], k, polarity), "lines"),
        ((lines, k[:, :3], polarity), "positions"),
        ((lines, k, polarity * 2), "polarity"),
        ((lines, k, np.ones(4, int)), "opposite"),
    ):
        with pytest.raises(ValueError, match=match):
            echo_planar_shift(*found)
    with pytest.raises(ValueError, match="samples"):
        echo_planar_matrix(k[0], 1, 0)
    with pytest.raises(ValueError, match="at least two"):
        echo_planar_matrix(k[0, :1], 1, 4)


@pytest.mark.parametrize(
    "name", ["02_03_ro_dur_1200_pe0", "02_12_ro_dur_240_pe0", "04_03_ramp_sampling_epi_96x96_pe0"]
)
def test_delays_of_a_measured_phantom(measured_data, name):
    """Against the estimate stored in the file, made in another way: where the slope of the phase vanishes."""
    with h5py.File(measured_data("mri/epi_trio.h5")) as file:
        entry = file[name]
        lines = entry["kspace"][()].transpose(0, 2, 1)
        shift = echo_planar_shift(lines, entry["traj"][..., 0], entry["polarity"][()])
        delay = shift.delay * entry.attrs["dwell_us"]
        assert delay == pytest.approx(entry.attrs["delay_us_estimated"], abs=0.02)
