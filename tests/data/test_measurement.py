"""One measurement in every file format reads as the same arrays; other files and arguments are refused."""

import h5py
import numpy as np
import pytest

from fedrecon.data import (
    DataError,
    FastMRIVolume,
    RawMeasurement,
    read_measurement,
    read_radial,
    write_fastmri,
    write_ismrmrd,
)
from fedrecon.data.formats import (
    EncodingSpace,
    ISMRMRDHeader,
    format_ismrmrd_header,
    to_bart,
    trajectory_to_bart,
    write_cfl,
)


def values(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


COLUMNS = np.array([1, 0, 1, 1, 0, 1], bool)
KSPACE = values((2, 3, 8, 6)) * COLUMNS
SPOKES = values((2, 3, 5, 8), 1)
TRAJECTORY = np.random.default_rng(2).uniform(-0.5, 0.5, (5, 8, 2)).astype(np.float32)
HEADER = format_ismrmrd_header(
    ISMRMRDHeader(
        EncodingSpace((8, 6, 1), (240.0, 120.0, 5.0)), EncodingSpace((4, 6, 1), (120.0, 120.0, 5.0))
    )
)


def write_radial(path, **changes):
    entries = {"kdata": SPOKES, "traj": TRAJECTORY[..., ::-1], "image_size": 16} | changes
    with h5py.File(path, "w") as file:
        for key, value in entries.items():
            if key == "image_size":
                file.attrs[key] = value
            elif value is not None:
                file[key] = value
    return path


@pytest.mark.parametrize("stored", [True, False])
def test_cartesian_files_of_all_formats_agree(tmp_path, stored):
    pytest.importorskip("ismrmrd")
    mask = COLUMNS if stored else None
    write_fastmri(tmp_path / "one", FastMRIVolume(KSPACE, mask))
    write_ismrmrd(
        tmp_path / "two", RawMeasurement(KSPACE, (8, 6), mask=np.stack([COLUMNS] * 2) if stored else None)
    )
    write_cfl(tmp_path / "three", to_bart(KSPACE, ("SLICE", "COIL", "READ", "PHS1")))
    for name, format in (("one", "fastMRI"), ("two", "ISMRMRD"), ("three", "BART"), ("three.cfl", "BART")):
        read = read_measurement(tmp_path / name)
        assert read.format == format and read.image_shape == read.crop_shape == (8, 6)
        np.testing.assert_array_equal(read.kspace, KSPACE)
        np.testing.assert_array_equal(read.mask, np.broadcast_to(COLUMNS, (2, 8, 6)))
        assert read.trajectory is None and read.noise is None and read.calibration is None


def test_spokes_of_all_formats_agree(tmp_path):
    pytest.importorskip("ismrmrd")
    write_radial(tmp_path / "one")
    write_ismrmrd(tmp_path / "two", RawMeasurement(SPOKES, (16, 16), trajectory=TRAJECTORY))
    write_cfl(tmp_path / "three", to_bart(SPOKES, ("SLICE", "COIL", "PHS2", "PHS1")))
    write_cfl(tmp_path / "traj", trajectory_to_bart(TRAJECTORY, (16, 16)))
    bart = {"trajectory": tmp_path / "traj", "image_shape": (16, 16)}
    for name, more in (("one", {}), ("two", {}), ("three", bart)):
        read = read_measurement(tmp_path / name, **more)
        assert read.image_shape == (16, 16) and read.mask is None
        np.testing.assert_array_equal(read.kspace, SPOKES.reshape(2, 3, 40))
        np.testing.assert_allclose(read.trajectory, TRAJECTORY.reshape(40, 2), rtol=1e-6)
    for unit, factor in (("radians/pixel", 1 / (2 * np.pi)), ("cycles/fov", 1 / 16), ("cycles/pixel", 1)):
        read = read_measurement(tmp_path / "two", trajectory_unit=unit)
        np.testing.assert_allclose(read.trajectory, factor * TRAJECTORY.reshape(40, 2), rtol=1e-6)


def test_a_bart_trajectory_fills_its_image_where_none_is_stated(tmp_path):
    trajectory = np.zeros((3, 8, 5))
    trajectory[0] = np.arange(8)[:, None] - 4
    write_cfl(tmp_path / "k", to_bart(SPOKES, ("SLICE", "COIL", "PHS2", "PHS1")))
    write_cfl(tmp_path / "t", trajectory)
    read = read_measurement(tmp_path / "k.cfl", trajectory=tmp_path / "t.cfl")
    assert read.image_shape == (8, 8)
    np.testing.assert_allclose(read.trajectory[:, 0].reshape(5, 8), [np.arange(-0.5, 0.5, 1 / 8)] * 5)
    write_cfl(tmp_path / "t", trajectory[:, :4])
    with pytest.raises(DataError, match=r"\(spokes, samples\) \(5, 8\)"):
        read_measurement(tmp_path / "k", trajectory=tmp_path / "t")


def test_empty_slices_are_measured_as_the_others(tmp_path):
    write_fastmri(tmp_path / "v", FastMRIVolume(KSPACE * np.array([1, 0], np.float32)[:, None, None, None]))
    read = read_measurement(tmp_path / "v")
    np.testing.assert_array_equal(read.mask, np.broadcast_to(COLUMNS, (2, 8, 6)))


@pytest.mark.parametrize("format", ["ISMRMRD", "BART"])
def test_volumes_become_slices_along_the_readout(tmp_path, format):
    """Against direct sums along the readout."""
    volume = values((1, 2, 4, 6, 5))
    if format == "BART":
        write_cfl(tmp_path / "k", to_bart(volume, ("SLICE", "COIL", "PHS2", "READ", "PHS1")))
    else:
        pytest.importorskip("ismrmrd")
        raw = RawMeasurement(volume, (4, 6, 5), field_of_view=(40.0, 120.0, 200.0))
        write_ismrmrd(tmp_path / "k", raw)
    read = read_measurement(tmp_path / "k")
    n = np.arange(6) - 3
    image = np.einsum("nk,czkx->ncxz", np.exp(2j * np.pi * np.outer(n, n) / 6), volume[0]) / np.sqrt(6)
    np.testing.assert_allclose(read.kspace, image, atol=1e-5)
    assert read.image_shape == (5, 4) and read.mask.shape == (6, 5, 4) and read.mask.all()
    assert read.pixel_size == (None if format == "BART" else (20.0, 40.0, 10.0))
    # A slab with its readout already transformed has none left: phase encodings are its rows and columns.
    if format == "BART":
        write_cfl(tmp_path / "k", to_bart(KSPACE, ("SLICE", "COIL", "PHS1", "PHS2")))
        np.testing.assert_array_equal(read_measurement(tmp_path / "k").kspace, KSPACE)


def test_a_fastmri_header_gives_pixels_and_the_middle_to_show(tmp_path):
    write_fastmri(tmp_path / "v", FastMRIVolume(KSPACE, header_xml=HEADER))
    read = read_measurement(tmp_path / "v")
    assert read.crop_shape == (4, 6) and read.pixel_size == (5.0, 30.0, 20.0)
    with h5py.File(tmp_path / "single", "w") as file:
        file["kspace"] = KSPACE[:, 0]
    np.testing.assert_array_equal(read_measurement(tmp_path / "single").kspace, KSPACE[:, :1])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"kdata": SPOKES[0]}, "kdata"),
        ({"kdata": SPOKES.real}, "kdata"),
        ({"kdata": SPOKES * np.nan}, "kdata"),
        ({"traj": TRAJECTORY[:4]}, "traj"),
        ({"traj": TRAJECTORY * np.inf}, "traj"),
        ({"traj": None}, "traj"),
        ({"image_size": 0}, "@image_size"),
        ({"image_size": "large"}, "@image_size"),
    ],
)
def test_radial_files_with_wrong_entries_are_refused(tmp_path, changes, key):
    with pytest.raises(DataError) as caught:
        read_radial(write_radial(tmp_path / "r", **changes))
    assert caught.value.key == key and caught.value.path == str(tmp_path / "r")


def test_other_files_are_refused_with_what_they_hold(tmp_path):
    with h5py.File(tmp_path / "other", "w") as file:
        file["image"] = np.zeros(3)
    with pytest.raises(DataError, match=r"other: expected .*fastMRI.*ISMRMRD.* found the keys \['image'\]"):
        read_measurement(tmp_path / "other")
    (tmp_path / "text").write_text("some text")
    for name in ("text", "absent"):
        with pytest.raises(DataError, match=f"{name}: expected an HDF5 file"):
            read_measurement(tmp_path / name)
    with pytest.raises(DataError, match=r"absent\.hdr"):
        read_measurement(tmp_path / "absent.cfl")
    for array, found in ((values((4, 4, 1, 2, 1, 3)), "TE"), (np.full((4, 4), np.nan), "finite")):
        write_cfl(tmp_path / "k", array)
        with pytest.raises(DataError, match=found):
            read_measurement(tmp_path / "k")


def test_arguments_of_other_formats_are_refused_by_name(tmp_path):
    path = write_radial(tmp_path / "one")
    for name, value in (("trajectory", "t.cfl"), ("image_shape", (8, 8)), ("trajectory_unit", "cycles/fov")):
        with pytest.raises(ValueError, match=f"{name}: expected none"):
            read_measurement(path, **{name: value})


def head(shape=(32, 24), coils=2):
    """K-space of an ellipse in smooth coils."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    coil = np.stack([np.exp(-((x - c) ** 2) - (y + c) ** 2) for c in (-0.6, 0.7)][:coils])
    image = (((x / 0.7) ** 2 + (y / 0.8) ** 2 < 1) * coil * np.exp(1j * x)).astype(np.complex64)
    shifted = np.fft.fft2(np.fft.ifftshift(image, (-2, -1)), norm="ortho")
    return np.fft.fftshift(shifted, (-2, -1)).astype(np.complex64)


def columns_kept(kspace):
    return kspace * (np.arange(kspace.shape[-1]) % 3 != 1)


HEAD = head()
PATTERN = np.random.default_rng(3).random(HEAD.shape[-2:]) < 0.4


@pytest.mark.parametrize(
    ("kspace", "mask"),
    [
        (HEAD, 1),
        # One sample of a coil, or of all, that is exactly zero.
        (np.where(np.arange(24) == 5, np.where(np.arange(32)[:, None] == 7, 0, HEAD), HEAD), 1),
        # Rounded to integers: a third of the samples are zero.
        (np.round(HEAD * 20), 1),
        (columns_kept(np.round(HEAD * 20)), np.arange(24) % 3 != 1),
        # Zeros around: not measured.
        (HEAD * (np.abs(np.arange(24) - 12) < 9), np.abs(np.arange(24) - 12) < 9),
        (HEAD * (np.arange(32) > 5)[:, None], (np.arange(32) > 5)[:, None]),
        # Two axes of phase encoding.
        (HEAD * PATTERN, PATTERN),
    ],
    ids=["full", "zero", "integers", "integer columns", "padded columns", "padded rows", "points"],
)
def test_what_was_measured_without_a_mask(tmp_path, kspace, mask):
    write_fastmri(tmp_path / "v", FastMRIVolume(kspace[None].astype(np.complex64)))
    read = read_measurement(tmp_path / "v")
    np.testing.assert_array_equal(read.mask[0], np.broadcast_to(mask, (32, 24)))


def test_padding_is_not_measured_whatever_the_mask_says(tmp_path):
    """fastMRI masks are drawn over all columns, also those that the scanner filled with zeros."""
    inside = np.abs(np.arange(24) - 12) < 9
    mask = np.arange(24) % 2 == 0
    write_fastmri(tmp_path / "v", FastMRIVolume((HEAD * inside * mask)[None], mask))
    np.testing.assert_array_equal(read_measurement(tmp_path / "v").mask[0], [inside & mask] * 32)


def test_a_partial_echo_is_measured_in_part(tmp_path):
    """40 of 64 samples of a twofold oversampled readout: nothing else is, and nothing is interpolated."""
    ismrmrd = pytest.importorskip("ismrmrd")
    full = head((64, 16))
    header = format_ismrmrd_header(
        ISMRMRDHeader(
            EncodingSpace((64, 16, 1), (440.0, 220.0, 5.0)), EncodingSpace((32, 16, 1), (220.0, 220.0, 5.0))
        )
    )
    with ismrmrd.Dataset(str(tmp_path / "p"), "dataset", mode="w") as file:
        file.write_xml_header(header.encode())
        for column in range(16):
            line = np.ascontiguousarray(full[:, 24:, column])
            one = ismrmrd.Acquisition.from_array(line, center_sample=8)
            one.idx.kspace_encode_step_1 = column
            file.append_acquisition(one)
    read = read_measurement(tmp_path / "p")
    np.testing.assert_array_equal(read.mask[0], np.broadcast_to((np.arange(64) >= 24)[:, None], (64, 16)))
    np.testing.assert_array_equal(read.kspace[0], full * read.mask)
    assert read.crop_shape == (32, 16) and read.pixel_size == (5.0, 6.875, 13.75)


def test_the_shown_field_of_view_is_the_prescribed_one_in_every_format(tmp_path):
    """Readout twofold and phase 1.5-fold oversampled, the prescribed matrix interpolated."""
    ismrmrd = pytest.importorskip("ismrmrd")
    header = format_ismrmrd_header(
        ISMRMRDHeader(
            EncodingSpace((64, 48, 1), (440.0, 330.0, 7.5)), EncodingSpace((32, 64, 1), (220.0, 220.0, 5.0))
        )
    )
    kspace = head((64, 48))
    write_fastmri(tmp_path / "one", FastMRIVolume(kspace[None], header_xml=header))
    with ismrmrd.Dataset(str(tmp_path / "two"), "dataset", mode="w") as file:
        file.write_xml_header(header.encode())
        for column in range(48):
            one = ismrmrd.Acquisition.from_array(np.ascontiguousarray(kspace[..., column]), center_sample=32)
            one.idx.kspace_encode_step_1 = column
            file.append_acquisition(one)
    for name in ("one", "two"):
        read = read_measurement(tmp_path / name)
        assert read.crop_shape == (32, 32) and read.pixel_size == (5.0, 6.875, 6.875)


def test_one_of_several_images_is_read_when_selected(tmp_path):
    echoes = values((2, 3, 8, 6, 4, 2))
    names = ("SLICE", "COIL", "READ", "PHS1", "TE", "TIME2")
    write_cfl(tmp_path / "k", to_bart(echoes, names))
    read = read_measurement(tmp_path / "k", select={"contrast": 3, "repetition": 1})
    np.testing.assert_array_equal(read.kspace, echoes[..., 3, 1])
    for select, found in (
        ({"contrast": 3}, "a single repetition, or one selected"),
        ({"contrast": 4, "repetition": 0}, "contrast from 0 to 3"),
        ({"contrast": 0, "repetition": 0, "phase": 1}, "phase 0, the only one"),
        ({"set": 1}, "select"),
    ):
        with pytest.raises(ValueError, match=found):
            read_measurement(tmp_path / "k", select=select)


@pytest.mark.parametrize("format", ["ISMRMRD", "BART"])
def test_slices_may_have_their_own_trajectories(tmp_path, format):
    own = np.random.default_rng(2).uniform(-0.5, 0.5, (2, 5, 8, 2)).astype(np.float32)
    more = {}
    if format == "BART":
        write_cfl(tmp_path / "k", to_bart(SPOKES, ("SLICE", "COIL", "PHS2", "PHS1")))
        parts = [trajectory_to_bart(k, (16, 16)) for k in own]
        write_cfl(tmp_path / "t", np.stack(parts, -1).reshape(*parts[0].shape[:3], *[1] * 10, 2))
        more = {"trajectory": tmp_path / "t", "image_shape": (16, 16)}
    else:
        pytest.importorskip("ismrmrd")
        write_ismrmrd(tmp_path / "k", RawMeasurement(SPOKES, (16, 16), trajectory=own))
    read = read_measurement(tmp_path / "k", **more)
    assert read.readout == 8
    np.testing.assert_allclose(read.trajectory, own.reshape(2, 40, 2), rtol=1e-5)
    one = read_measurement(tmp_path / "k", slices=[1], **more)
    np.testing.assert_array_equal(one.kspace, read.kspace[1:])
    np.testing.assert_array_equal(one.trajectory, read.trajectory[1:])


def test_slices_are_kept_in_the_order_asked_for(tmp_path):
    write_fastmri(tmp_path / "v", FastMRIVolume(values((4, 2, 8, 6)), COLUMNS))
    whole = read_measurement(tmp_path / "v")
    read = read_measurement(tmp_path / "v", slices=[2, 0])
    np.testing.assert_array_equal(read.kspace, whole.kspace[[2, 0]])
    np.testing.assert_array_equal(read.mask, whole.mask[[2, 0]])
    for slices in ([4], [], [1, 1], [-1]):
        with pytest.raises(ValueError, match="slices: expected distinct numbers from 0 to 3"):
            read_measurement(tmp_path / "v", slices=slices)
