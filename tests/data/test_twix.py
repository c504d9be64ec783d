"""Siemens raw data: a file written field by field, and a measured one."""

import sys

import numpy as np
import pytest

from fedrecon.data import DataError, read_measurement
from fedrecon.data.formats.twix import is_twix, read_twix
from tests.data.twix_files import readout
from tests.data.twix_files import write_twix as write


def values(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


twixtools = pytest.importorskip("twixtools")


def test_lines_noise_and_calibration_go_where_they_belong(tmp_path):
    """Partial Fourier (center of counter 2 of lines 0 to 4), slices out of order, a reflected line."""
    lines = {(s, e): values((2, 8), 10 * s + e) for s in range(3) for e in (0, 2, 4)}
    noise, extra, other = values((2, 6), 50), values((2, 8), 51), values((2, 8), 52)
    parts = [readout(noise, 0, "noise", center=3)]
    for (s, e), data in lines.items():
        flags = ("both",) if e == 2 else ()
        if (s, e) == (1, 4):
            data, flags = data[:, ::-1], ("reflect",)
        place = (0.0, 0.0, (0, 6.5, 13)[(0, 2, 1)[s]])
        parts.append(readout(data, e, *flags, slice=s, centers=(2, 0), position=place))
    parts += [readout(extra, 3, "ref", slice=0, centers=(2, 0)), readout(other, 4, "feedback")]
    read = read_twix(write(tmp_path / "m.dat", parts), remove_oversampling=False)
    assert read.kspace.shape == (3, 2, 8, 6)
    expected = np.zeros_like(read.kspace)
    for (s, e), data in lines.items():
        expected[(0, 2, 1).index(s), :, :, e + 1] = data
    expected[0, :, :, 4] = extra
    np.testing.assert_array_equal(read.kspace, expected)
    np.testing.assert_array_equal(read.mask, expected.any(1))
    np.testing.assert_array_equal(read.noise, noise)
    np.testing.assert_array_equal(read.calibration[0][..., [3, 4]], np.stack([lines[0, 2], extra], -1))
    # Twice the prescribed field of view along the readout; slices as far apart as their positions.
    assert read.field_of_view == (6.5, 160.0, 60.0) and read.crop_shape == (4, 6)
    measured = read_measurement(tmp_path / "m.dat")
    assert measured.format == "Siemens twix" and measured.image_shape == measured.crop_shape == (4, 6)
    assert measured.pixel_size == (6.5, 20.0, 10.0)


def test_samples_cut_off_are_not_measured(tmp_path):
    data = values((1, 8))
    path = write(tmp_path / "m.dat", [readout(data, e, cut=(2, 1)) for e in range(5)])
    read = read_twix(path)
    np.testing.assert_array_equal(read.mask[0, :, 0], [0, 0, 1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(read.kspace[0, 0, 2:7, 0], data[0, 2:7])


def test_one_of_several_echoes_is_read_when_selected(tmp_path):
    data = values((4, 1, 8))
    parts = [readout(data[2 * e + r], 0, eco=e, rep=r, centers=(0, 0)) for e in (0, 1) for r in (0, 1)]
    path = write(tmp_path / "m.dat", parts)
    read = read_twix(path, select={"contrast": 1, "repetition": 0}, remove_oversampling=False)
    np.testing.assert_array_equal(read.kspace[0, :, :, 0], data[2])
    with pytest.raises(DataError, match=r"a single contrast, or one selected .*, found \[0, 1\]"):
        read_measurement(path, select={"repetition": 1})
    with pytest.raises(ValueError, match="counters"):
        read_twix(path, select={"encoding": 0})


def test_a_protocol_of_other_readouts_gives_no_pixel_size(tmp_path):
    path = write(tmp_path / "m.dat", [readout(values((1, 10)), e) for e in range(6)])
    read = read_measurement(path)
    assert read.pixel_size is None and read.image_shape == read.crop_shape == (10, 6)


def test_damaged_and_other_raw_data_are_refused(tmp_path):
    lines = [readout(values((1, 8)), e) for e in range(4)]
    path = write(tmp_path / "m.dat", lines)
    assert is_twix(path) and not is_twix(tmp_path) and not is_twix(tmp_path / "absent")
    whole = path.read_bytes()
    for length in (len(whole) - 200, len(whole) - 330, 12050, 3000):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"m\.dat"):
            read_twix(path)
    with pytest.raises(DataError, match="with its end"):
        read_twix(write(path, lines, end=False))
    with pytest.raises(DataError, match=r"Cartesian trajectory.*found kind 2"):
        read_twix(write(path, lines, **{"sKSpace.ucTrajectory": "0x2"}))
    with pytest.raises(DataError, match="readouts of an image"):
        read_twix(write(path, [readout(values((1, 8)), 0, "noise")]))
    path.write_bytes(b"some text" * 10)
    assert not is_twix(path)


def test_without_the_package_the_error_names_the_extra(tmp_path, monkeypatch):
    path = write(tmp_path / "m.dat", [readout(values((1, 8)))])
    monkeypatch.setitem(sys.modules, "twixtools", None)
    with pytest.raises(ImportError, match=r"pip install 'fedrecon\[twix\]'"):
        read_measurement(path)


def test_a_measured_echo_train_without_marks_is_turned(measured_data):
    """Its delay is 3.00 us of 4 us a sample; the ghost is half a field of view away."""
    read = read_measurement(measured_data("reference/siemens_trio_epi_fatsat.dat"))
    (note,) = read.notes
    delay = float(note.split("delay of ")[1].split()[0])
    assert 4 * delay == pytest.approx(3.00, abs=0.05)
    assert read.kspace.shape == (1, 1, 60, 60) and read.mask.all()
    shifted = np.fft.ifft2(np.fft.ifftshift(read.kspace[0, 0]))
    image = np.abs(np.fft.fftshift(shifted))
    bright = image > 0.3 * image.max()
    ghost = np.roll(bright, 30, 1) & ~bright
    assert image[ghost].mean() < 0.06 * image[bright].mean()
