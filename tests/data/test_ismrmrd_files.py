"""ISMRMRD files: arrays come back, acquisitions are sorted as stated, and other content is refused."""

import os
import sys

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrecon.data import DataError, RawMeasurement, read_ismrmrd, write_ismrmrd

ismrmrd = pytest.importorskip("ismrmrd")

in_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
HEADER = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<experimentalConditions><H1resonanceFrequency_Hz>1</H1resonanceFrequency_Hz></experimentalConditions><encoding>
<encodedSpace><matrixSize><x>{readout}</x><y>{columns}</y><z>{depth}</z></matrixSize>
<fieldOfView_mm><x>{encoded_view}</x><y>220</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{rows}</x><y>{columns}</y><z>{depth}</z></matrixSize>
<fieldOfView_mm><x>{view}</x><y>220</y><z>5</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{columns}</maximum><center>{center}</center>
</kspace_encoding_step_1></encodingLimits><trajectory>{trajectory}</trajectory></encoding></ismrmrdHeader>"""


def header(**changes):
    values = dict(
        readout=8, rows=8, columns=6, depth=1, encoded_view=200, view=200, center=3, trajectory="cartesian"
    )
    return HEADER.format(**(values | changes))


def values(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def acquisition(data, step=0, flags=(), trajectory=None, step_2=0, **changes):
    counters = {k: changes.pop(k) for k in tuple(changes) if hasattr(ismrmrd.EncodingCounters, k)}
    result = ismrmrd.Acquisition.from_array(data, trajectory, center_sample=data.shape[1] // 2)
    result.idx.kspace_encode_step_1, result.idx.kspace_encode_step_2 = step, step_2
    for name, value in counters.items():
        setattr(result.idx, name, value)
    for name, value in changes.items():
        setattr(result, name, value)
    for flag in flags:
        result.set_flag(flag)
    return result


def write(path, acquisitions, xml=None):
    with ismrmrd.Dataset(str(path), "dataset", mode="w") as file:
        file.write_xml_header((xml or header()).encode())
        for one in acquisitions:
            file.append_acquisition(one)
    return path


@in_folder
@given(st.tuples(*[st.integers(1, 5)] * 5), st.booleans(), st.booleans(), st.booleans())
def test_cartesian_arrays_come_back(tmp_path, shape, volume, calibrated, noisy):
    slices, coils, nz, ny, nx = shape
    nz += 1
    image_shape = (nz, ny, nx) if volume else (ny, nx)
    rng = np.random.default_rng(0)
    mask = rng.random((slices, *image_shape[:-2], nx)) < 0.5
    mask[..., nx // 2] = True
    written = RawMeasurement(
        kspace=values((slices, coils, *image_shape)) * mask[:, None, ..., None, :],
        image_shape=image_shape,
        mask=mask,
        calibration=values((slices, coils, *image_shape), 1) if calibrated else None,
        noise=values((coils, 7), 2) if noisy else None,
        field_of_view=(5.0, 200.0, 100.0),
    )
    write_ismrmrd(tmp_path / "m.h5", written)
    read = read_ismrmrd(tmp_path / "m.h5")
    for name in ("kspace", "mask", "calibration", "noise"):
        a, b = getattr(written, name), getattr(read, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype
            a = np.broadcast_to(a[..., None, :], b.shape) if name == "mask" else a
            np.testing.assert_array_equal(a, b)
    assert read.image_shape == image_shape and read.field_of_view == written.field_of_view
    assert read.trajectory is None and "ismrmrdHeader" in read.header_xml
    assert os.listdir(tmp_path) == ["m.h5"]


@in_folder
@given(st.tuples(*[st.integers(1, 5)] * 4), st.sampled_from([(6, 8), (4, 6, 8)]))
def test_spokes_and_their_trajectory_come_back(tmp_path, shape, image_shape):
    trajectory = (
        np.random.default_rng(0).uniform(-0.5, 0.5, (*shape[2:], len(image_shape))).astype(np.float32)
    )
    written = RawMeasurement(values(shape), image_shape, trajectory=trajectory)
    write_ismrmrd(tmp_path / "m.h5", written)
    read = read_ismrmrd(tmp_path / "m.h5")
    np.testing.assert_array_equal(read.kspace, written.kspace)
    np.testing.assert_array_equal(read.trajectory, trajectory)
    assert read.image_shape == image_shape and read.mask is None


def test_the_components_of_a_trajectory_belong_to_the_axes_of_the_image(tmp_path):
    """The header's x runs along rows, y along columns, z along slices."""
    xyz = np.array([[0.1, 0.2, 0.3]], np.float32)
    data = values((2, 1))
    xml = header(rows=10, columns=12, depth=14, trajectory="radial")
    read = read_ismrmrd(write(tmp_path / "a.h5", [acquisition(data, trajectory=xyz)], xml))
    np.testing.assert_array_equal(read.trajectory[0, 0], xyz[0][[2, 0, 1]])
    assert read.image_shape == (14, 10, 12)
    flat = xyz * np.float32([1, 1, 0])
    for trajectory in (flat, flat[:, :2]):
        one = acquisition(data, trajectory=trajectory)
        read = read_ismrmrd(write(tmp_path / "a.h5", [one], header(trajectory="spiral", rows=10)))
        np.testing.assert_array_equal(read.trajectory[0, 0], xyz[0][:2])
        assert read.image_shape == (10, 6)


def test_lines_go_where_counters_and_limits_put_them(tmp_path):
    """Partial Fourier: the center of k-space has counter 1 and goes to column 3 of 6; slices in any order."""
    lines = {(s, e): values((2, 8), 10 * s + e) for s in (4, 2) for e in (3, 0, 1)}
    path = write(
        tmp_path / "a.h5", [acquisition(d, e, slice=s) for (s, e), d in lines.items()], header(center=1)
    )
    read = read_ismrmrd(path)
    assert read.kspace.shape == (2, 2, 8, 6)
    expected = np.zeros_like(read.kspace)
    for (s, e), data in lines.items():
        expected[(2, 4).index(s), :, :, e + 2] = data
    np.testing.assert_array_equal(read.kspace, expected)
    np.testing.assert_array_equal(read.mask, np.broadcast_to([0, 0, 1, 1, 0, 1], (2, 8, 6)))


def test_a_short_readout_has_its_center_in_the_middle(tmp_path):
    data = values((1, 5))
    read = read_ismrmrd(write(tmp_path / "a.h5", [acquisition(data, center_sample=1)]))
    np.testing.assert_array_equal(read.kspace[0, 0, 3:8, 0], data[0])
    assert not read.kspace[0, 0, :3].any()
    longer = acquisition(values((1, 8)), center_sample=3, discard_pre=2, discard_post=1)
    read = read_ismrmrd(write(tmp_path / "a.h5", [longer]))
    np.testing.assert_array_equal(read.kspace[0, 0, 3:8, 0], longer.data[0, 2:7])


def test_repeated_lines_are_averaged(tmp_path):
    lines = [values((2, 8), i) for i in range(3)]
    acquisitions = [acquisition(d, 1, average=i, segment=i) for i, d in enumerate(lines)]
    acquisitions += [acquisition(lines[0], 2)]
    read = read_ismrmrd(write(tmp_path / "a.h5", acquisitions))
    np.testing.assert_allclose(read.kspace[0, :, :, 1], np.mean(lines, 0), rtol=1e-6)
    np.testing.assert_array_equal(read.kspace[0, :, :, 2], lines[0])


@pytest.mark.parametrize(("readout", "rows"), [(16, 8), (16, 7), (15, 7), (12, 9)])
@pytest.mark.parametrize("known", [True, False])
def test_removing_oversampling_crops_the_image(tmp_path, readout, rows, known):
    """Against direct sums: an image of the cropped field of view, seen by the longer readout."""
    image = values((3, rows))
    n, k = np.arange(rows) - rows // 2, np.arange(readout) - readout // 2
    data = image @ np.exp(-2j * np.pi * np.outer(n, k) / readout) / np.sqrt(readout)
    view = dict(encoded_view=readout * 10, view=rows * 10) if known else dict(encoded_view=0, view=0)
    path = write(
        tmp_path / "a.h5",
        [acquisition(data.astype(np.complex64), 3)],
        header(readout=readout, rows=rows, **view),
    )
    read = read_ismrmrd(path)
    assert read.image_shape == (rows, 6) and read.kspace.dtype == np.complex64
    m = np.arange(rows) - rows // 2
    expected = image @ np.exp(-2j * np.pi * np.outer(n, m) / rows) / np.sqrt(rows)
    np.testing.assert_allclose(read.kspace[0, :, :, 3], expected, atol=1e-5)
    assert read.field_of_view == ((5.0, pytest.approx(rows * 10), 220.0) if known else None)
    whole = read_ismrmrd(path, remove_oversampling=False)
    np.testing.assert_allclose(whole.kspace[0, :, :, 3], data, atol=1e-6)
    assert whole.image_shape == (readout, 6)


def test_noise_and_calibration_are_apart_and_other_scans_left_out(tmp_path):
    noise = [values((2, 5), i) for i in range(2)]
    line, both, reference, other = (values((2, 8), i) for i in range(2, 6))
    acquisitions = [acquisition(d, flags=[19]) for d in noise]
    acquisitions += [acquisition(line, 0), acquisition(both, 3, [21]), acquisition(reference, 4, [20])]
    acquisitions += [acquisition(other, 5, [flag]) for flag in (23, 24, 26, 27, 28, 29, 30, 31)]
    read = read_ismrmrd(write(tmp_path / "a.h5", acquisitions))
    np.testing.assert_array_equal(read.noise, np.concatenate(noise, 1))
    np.testing.assert_array_equal(read.mask[0], [[1, 0, 0, 1, 1, 0]] * 8)
    np.testing.assert_array_equal(read.kspace[0][..., [0, 3, 4]], np.stack([line, both, reference], -1))
    assert not read.calibration_separate
    np.testing.assert_array_equal(read.calibration[0][..., [3, 4]], np.stack([both, reference], -1))
    assert np.count_nonzero(read.calibration.any((0, 1, 2))) == 2


def test_one_of_several_contrasts_is_read_when_selected(tmp_path):
    lines = [values((1, 8), i) for i in range(4)]
    acquisitions = [acquisition(d, 0, contrast=i // 2, repetition=i % 2) for i, d in enumerate(lines)]
    path = write(tmp_path / "a.h5", acquisitions)
    read = read_ismrmrd(path, select={"contrast": 1, "repetition": 0})
    np.testing.assert_array_equal(read.kspace[0, 0, :, 0], lines[2][0])
    with pytest.raises(DataError, match=r"a single contrast, or one selected .*, found \[0, 1\]"):
        read_ismrmrd(path)
    with pytest.raises(DataError, match=r"contrast 5, found \[0, 1\]"):
        read_ismrmrd(path, select={"contrast": 5, "repetition": 0})
    with pytest.raises(ValueError, match="echo"):
        read_ismrmrd(path, select={"echo": 0})


LINE = values((2, 8))
PATH2, PATH3 = np.zeros((8, 2), np.float32), np.ones((8, 3), np.float32)
UNSUPPORTED = {
    "nothing": ([acquisition(LINE, flags=[19])], {}, "acquisitions of an image, found none"),
    "compressed": ([acquisition(LINE, flags=[53])], {}, r"data\[0\].*compression"),
    "second encoding": ([acquisition(LINE, encoding_space_ref=1)], {}, r"encoding 1 .*, found 1 of them"),
    "coils": ([acquisition(LINE), acquisition(LINE[:1])], {}, r"data\[1\].*2 coils .* found 1"),
    "not finite": ([acquisition(LINE * np.nan)], {}, r"data\[0\].*finite"),
    "discarded": ([acquisition(LINE, discard_pre=8)], {}, r"data\[0\].*discarded"),
    "column": ([acquisition(LINE, 6)], {}, r"data\[0\].*step_1 from 0 to 5, found 6"),
    "second step": (
        [acquisition(LINE, step_2=i) for i in (0, 2)],
        {"depth": 2},
        r"step_2 from 0 to 1, found 2",
    ),
    "long readout": ([acquisition(LINE)], {"readout": 6}, "6 samples of the encoded matrix, found 8"),
    "off center": ([acquisition(LINE[:, :5], center_sample=5)], {}, "center_sample 5"),
    "no trajectory": ([acquisition(LINE)], {"trajectory": "radial"}, "header calls 'radial'"),
    "some trajectory": ([acquisition(LINE), acquisition(LINE, trajectory=PATH2)], {}, r"\[0, 2\] components"),
    "third component": ([acquisition(LINE, trajectory=PATH3)], {}, "third component of zeros"),
    "samples": (
        [acquisition(LINE, trajectory=PATH2), acquisition(LINE[:, :4], trajectory=PATH2[:4])],
        {},
        r"\[2\] spokes of \[4, 8\] samples",
    ),
    "slices": (
        [acquisition(LINE, trajectory=PATH2, slice=i) for i in (0, 0, 1)],
        {},
        r"\[1, 2\] spokes of \[8\] samples",
    ),
    "limits": ([acquisition(LINE)], {"center": "three"}, "step_1/center.*'three'"),
    "matrix": ([acquisition(LINE)], {"columns": 0}, "matrixSize/y"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_content_is_refused_by_name(tmp_path, name):
    acquisitions, changes, found = UNSUPPORTED[name]
    path = write(tmp_path / "a.h5", acquisitions, header(**changes))
    with pytest.raises(DataError, match=found) as caught:
        read_ismrmrd(path)
    assert caught.value.path == str(path) and "expected" in str(caught.value)


def test_files_of_other_kinds_are_refused(tmp_path):
    for name, content in (("empty", b""), ("text", b"some text\n" * 100)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: expected an HDF5 file"):
            read_ismrmrd(tmp_path / name)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = np.zeros(3)
        file["other/xml"] = np.zeros(3)
    with pytest.raises(DataError, match=r"'dataset': expected .* found the groups {'other': \['xml'\]}"):
        read_ismrmrd(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["dataset/xml"], file["dataset/data"] = np.zeros(3), np.zeros(3)
    with pytest.raises(DataError, match="acquisitions"):
        read_ismrmrd(tmp_path / "a.h5")


@in_folder
@given(st.data())
def test_truncated_files_are_refused(tmp_path, data):
    write(tmp_path / "whole.h5", [acquisition(LINE, i) for i in range(4)])
    content = (tmp_path / "whole.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(DataError, match=r"cut\.h5"):
        read_ismrmrd(tmp_path / "cut.h5")


def test_a_measurement_that_could_not_be_read_is_not_written(tmp_path):
    kspace = values((1, 2, 8, 6))
    good = {"kspace": kspace, "image_shape": (8, 6)}
    for changes, key in (
        ({"kspace": kspace.astype(np.complex128)}, "kspace"),
        ({"kspace": kspace[0]}, "kspace"),
        ({"kspace": kspace * np.nan}, "kspace"),
        ({"image_shape": (6, 8)}, "image_shape"),
        ({"mask": np.ones(6, bool)}, "mask"),
        ({"noise": values((3, 4))}, "noise"),
        ({"calibration": kspace[:, :1]}, "calibration"),
        ({"trajectory": PATH2}, "trajectory"),
        ({"trajectory": np.zeros((8, 6, 2), np.float32), "mask": np.ones((1, 6), bool)}, "mask"),
    ):
        with pytest.raises(DataError) as caught:
            write_ismrmrd(tmp_path / "m.h5", RawMeasurement(**(good | changes)))
        assert caught.value.key == key
    assert not os.listdir(tmp_path)


def test_without_the_package_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ismrmrd", None)
    with pytest.raises(ImportError, match=r"pip install 'fedrecon\[ismrmrd\]'"):
        read_ismrmrd(tmp_path / "a.h5")
