"""What of a scan the reconstruct command shows: padding, selected images, delays of spokes, orientation."""

import h5py
import numpy as np
import pytest

import operators
from experiments.reconstruct import ReconstructOptions, run
from fedrecon.classical import measured_part, prepare, undersample
from fedrecon.data import (
    FastMRIVolume,
    RawMeasurement,
    read_measurement,
    read_radial,
    write_fastmri,
    write_ismrmrd,
)
from fedrecon.data.formats import to_bart, write_cfl
from tests.experiments.scans import MAPS, PHANTOM, SHAPE, error, images, write_phantom, write_spokes


def test_padding_is_neither_measured_nor_counted(tmp_path):
    """Exactly a quarter of the columns that the scanner measured, of 20 in a grid of 32."""
    inside = np.abs(np.arange(32) - 15.5) < 10
    kspace = np.asarray(operators.fft2c(MAPS * PHANTOM)) * inside
    kspace[0, 3, 16] = 0
    write_fastmri(tmp_path / "k.h5", FastMRIVolume(kspace[None].astype(np.complex64)))
    prepared = prepare(read_measurement(tmp_path / "k.h5"))
    assert measured_part(prepared.measurement) == (slice(0, 32), slice(6, 26))
    kept = undersample(prepared, np.arange(32) % 2 == 0).measurement
    np.testing.assert_array_equal(kept.mask[0], [inside & (np.arange(32) % 2 == 0)] * 32)
    for mask, options in (("random", {}), ("poisson-disc", {})):
        _, record = images(tmp_path / "k.h5", method="rss", acceleration=4.0, mask=mask, **options)
        assert record["acceleration"] == pytest.approx(4.0, rel=1e-6 if mask == "random" else 0.1)


def test_a_center_too_small_for_coil_maps_is_refused_or_named(tmp_path, capsys):
    def source(width):
        center = np.abs(np.arange(32) - 16 + (0 if width % 2 else 0.5)) < width / 2
        return write_phantom(tmp_path / "k.h5", mask=center | (np.arange(32) % 2 == width % 2))

    for width in (0, 2, 4):
        source(width)
        with pytest.raises(ValueError, match=r"--coil_maps: .*6 x 6 or more.*nlinv.* found 24 x \d$"):
            images(tmp_path / "k.h5", method="cg-sense")
    assert "notice" not in capsys.readouterr().out
    for width, noted in ((7, True), (12, False)):
        source(width)
        image, _ = images(tmp_path / "k.h5", method="cg-sense", coil_maps="calibration")
        assert ("notice: coil maps come from 24 x 7" in capsys.readouterr().out) == noted
        assert error(image[0], PHANTOM) < 0.2
    for width, method, words in (
        (7, "grappa", "notice: interpolation kernels come from 24 x 7"),
        (12, "grappa", ""),
        (0, "nlinv", "notice: the center has 24 x 1"),
        (7, "nlinv", ""),
        (0, "rss", ""),
    ):
        source(width)
        images(tmp_path / "k.h5", method=method)
        out = capsys.readouterr().out
        assert words in out and ("notice" in out) == bool(words)


def test_one_of_several_images_and_slices_is_reconstructed_when_selected(tmp_path):
    kspace = np.asarray(operators.fft2c(MAPS * PHANTOM)) * np.arange(1, 7).reshape(3, 2, 1, 1, 1)
    write_cfl(tmp_path / "k", to_bart(kspace, ("TE", "SLICE", "COIL", "READ", "PHS1")))
    image, _ = images(tmp_path / "k.cfl", method="rss", select=["contrast=1"], slices=["1"])
    np.testing.assert_allclose(image, [4 * PHANTOM], atol=1e-4)
    image, _ = images(tmp_path / "k.cfl", method="rss", select=["contrast=0"], slices=["0-1"])
    np.testing.assert_allclose(image, [PHANTOM, 2 * PHANTOM], atol=1e-4)
    for options, found in (
        ({}, r"a single contrast, or one selected \(select contrast=N\), found 3"),
        ({"select": ["contrast"]}, "--select: expected NAME=NUMBER,... as contrast=0, found contrast"),
        ({"select": ["echo=1"]}, "--select: expected some of"),
        ({"select": ["contrast=7"]}, "contrast from 0 to 2, found 7"),
        (
            {"select": ["contrast=0"], "slices": ["x"]},
            "--slices: expected numbers and ranges, as 0,4-6, found 'x'",
        ),
        ({"select": ["contrast=0"], "slices": ["2"]}, "--slices: expected distinct numbers from 0 to 1"),
        ({"group": "a"}, "--group: expected none"),
    ):
        with pytest.raises(ValueError, match=found):
            images(tmp_path / "k.cfl", method="rss", **options)


def test_delays_of_spokes_are_measured_and_corrected(tmp_path):
    write_spokes(tmp_path / "late.h5", (0.6, -0.4), turns=2)
    write_spokes(tmp_path / "right.h5", turns=2)
    right, record = images(tmp_path / "right.h5", method="gridding", coil_maps="calibration")
    assert "delays" not in record["notes"]
    found, record = images(tmp_path / "late.h5", method="gridding", coil_maps="calibration")
    assert "gradient delays of 0.6" in record["notes"] and "-0.4" in record["notes"]
    late, _ = images(tmp_path / "late.h5", method="gridding", coil_maps="calibration", correct_delays=False)
    assert error(found[0], np.abs(right[0])) < 0.08 < 0.12 < error(late[0], np.abs(right[0]))


def test_slices_with_their_own_spokes_are_reconstructed_with_them(tmp_path):
    """The second slice is measured a quarter of a turn further."""
    pytest.importorskip("ismrmrd")
    write_spokes(tmp_path / "r.h5")
    one = read_radial(tmp_path / "r.h5")
    turned = np.stack([one.trajectory, one.trajectory[..., ::-1] * np.float32([1, -1])])
    kspace = np.concatenate([one.kspace, one.kspace])
    write_ismrmrd(tmp_path / "m.mrd", RawMeasurement(kspace, SHAPE, trajectory=turned))
    image, _ = images(tmp_path / "m.mrd", method="gridding", coil_maps="calibration")
    # k goes to (kx, -ky), so that an image goes from (y, x) to (x, -y), around pixel 16.
    place = np.arange(32) - 16
    expected = image[0][(16 - place[None]) % 32, (16 + place)[:, None]]
    assert error(image[1], np.abs(expected)) < 0.05
    assert error(image[1], np.abs(image[0])) > 0.2


@pytest.mark.parametrize("fills", [True, False])
def test_the_whole_view_is_shown_where_the_object_fills_it(tmp_path, fills):
    """64 samples over an image of 64: of a phantom of 32 pixels in the middle, only those are shown."""
    write_spokes(tmp_path / "r.h5")
    with h5py.File(tmp_path / "r.h5", "a") as file:
        file.attrs["image_size"] = 64
        if fills:
            # Moved by a quarter of the view: half of the phantom is outside of the middle.
            shift = np.exp(2j * np.pi * 16 * file["traj"][..., 0])
            file["kdata"][...] = file["kdata"][()] * shift
    image, record = images(tmp_path / "r.h5", method="rss")
    size = 64 if fills else 32
    assert image.shape == (1, size, size) and ("are shown" in record["notes"]) != fills
    middle = np.roll(image[0], 16, 1)[16:48, 16:48] if fills else image[0]
    k = np.hypot(*np.meshgrid(np.arange(32) - 16, np.arange(32) - 16)) < 16
    disc = np.abs(operators.ifft2c(k * operators.fft2c(PHANTOM)))
    assert error(middle / np.linalg.norm(middle), disc / np.linalg.norm(disc)) < 0.15


READ, PHASE, ACROSS = np.array([[0.0, 0.6, 0.8], [1.0, 0.0, 0.0], [0.0, 0.8, -0.6]])


def write_points(path, points, volume, center=(12.0, -7.0, 30.0), gap=6.0):
    """Points at places of the patient in mm, seen by gradients along oblique directions.

    Twofold oversampled readout of 32 x 2 mm, 16 x 3 mm of phase encoding, of which 12 are prescribed, and
    three slices 6 mm apart, counted from the last, or 8 partitions of 4 mm.
    """
    ismrmrd = pytest.importorskip("ismrmrd")
    depth, thick = (8, 32.0) if volume else (1, 5.0)

    def space(name, x, y, fx, fy):
        return (
            f"<{name}><matrixSize><x>{x}</x><y>{y}</y><z>{depth}</z></matrixSize><fieldOfView_mm><x>{fx}</x>"
            f"<y>{fy}</y><z>{thick}</z></fieldOfView_mm></{name}>"
        )

    xml = (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><experimentalConditions>'
        "<H1resonanceFrequency_Hz>1</H1resonanceFrequency_Hz></experimentalConditions><encoding>"
        + space("encodedSpace", 32, 16, 64, 48)
        + space("reconSpace", 16, 12, 32, 36)
        + "<encodingLimits/><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    )
    with ismrmrd.Dataset(str(path), "dataset", mode="w") as file:
        file.write_xml_header(xml.encode())
        for s in range(1 if volume else 3):
            middle = np.array(center) + (0 if volume else (1 - s) * gap) * ACROSS
            apart = [p - middle for p in points]
            for ky in range(16):
                for kz in range(depth):
                    data = np.zeros(32, complex)
                    for d in apart:
                        if not volume and abs(d @ ACROSS) > gap / 2:
                            continue
                        k = (np.arange(32) - 16) / 64 * (d @ READ) + (ky - 8) / 48 * (d @ PHASE)
                        data += np.exp(-2j * np.pi * (k + ((kz - 4) / 32 * (d @ ACROSS) if volume else 0)))
                    one = ismrmrd.Acquisition.from_array(data[None].astype(np.complex64), center_sample=16)
                    one.idx.kspace_encode_step_1, one.idx.kspace_encode_step_2, one.idx.slice = ky, kz, s
                    one.position[:], one.slice_dir[:] = middle, ACROSS
                    one.read_dir[:], one.phase_dir[:] = READ, PHASE
                    file.append_acquisition(one)


@pytest.mark.parametrize("volume", [False, True])
def test_nifti_images_lie_in_the_patient_as_the_scanner_says(tmp_path, volume):
    """The brightest voxel of each point is where the point is: to the right, to the front, to the head."""
    nibabel = pytest.importorskip("nibabel")
    center = np.array([12.0, -7.0, 30.0])
    for along in ((4, -9, 6), (-8, 6, -6), (0, 0, 0)):
        across = along[2] * (2 / 3 if volume else 1)
        point = center + along[0] * READ + along[1] * PHASE + across * ACROSS
        write_points(tmp_path / "p.mrd", [point], volume)
        run(ReconstructOptions(str(tmp_path / "p.mrd"), str(tmp_path / "p.nii"), method="rss"))
        image = nibabel.load(tmp_path / "p.nii")
        assert image.shape == ((8, 12, 16) if volume else (12, 16, 3))
        brightest = np.unravel_index(np.argmax(image.get_fdata()), image.shape)
        found = image.affine @ [*brightest, 1]
        np.testing.assert_allclose(found[:3] * [-1, -1, 1], point, atol=1e-4)
        np.testing.assert_allclose(image.get_qform(), image.affine, atol=1e-4)
    if not volume:
        slices = ["2", "1"]
        run(ReconstructOptions(str(tmp_path / "p.mrd"), str(tmp_path / "q.nii"), method="rss", slices=slices))
        other = nibabel.load(tmp_path / "q.nii")
        np.testing.assert_allclose(other.get_fdata(), image.get_fdata()[..., [2, 1]], atol=1e-3)
        for i, j in ((0, 2), (1, 1)):
            np.testing.assert_allclose(other.affine @ [3, 4, i, 1], image.affine @ [3, 4, j, 1], atol=1e-4)
