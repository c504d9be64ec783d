"""Slices of DICOM series: their order, distance, place and values, in every kind of file."""

import warnings

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from fedrecon.data import DataError, read_dicom_slices  # noqa: E402
from fedrecon.errors import ArgumentError  # noqa: E402
from tests.data.dicom_files import group, header, item, mosaic, placed, save  # noqa: E402

OBLIQUE = (0.8, 0.6, 0, -0.48, 0.64, 0.6)
NORMAL = np.cross(OBLIQUE[:3], OBLIQUE[3:])


def picture(index, shape=(3, 4)):
    return (100 * index + np.arange(np.prod(shape))).reshape(shape).astype(np.int16)


def write_stack(folder, positions, **elements):
    for index, position in enumerate(positions):
        changes = {key: value[index] if isinstance(value, list) else value for key, value in elements.items()}
        save(placed(picture(index), position, index=index, **changes), folder / f"{index:03}.dcm")


def message_of(path, **arguments):
    with pytest.raises(DataError) as caught:
        read_dicom_slices(path, **arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


def decimals(values, count):
    return [f"{value:.{count}f}" for value in values]


@pytest.mark.parametrize("digits", [1, 2])
def test_rounded_positions_keep_the_distance_of_slices(digits, tmp_path):
    write_stack(tmp_path, [decimals((-10, -20, 0.625 * k - 7), digits) for k in range(33)])
    series = read_dicom_slices(tmp_path)
    assert series.spacing[0] == pytest.approx(0.625, abs=10.0**-digits / 32)
    assert series.tilt == 0


def test_rounding_does_not_hide_a_missing_slice(tmp_path):
    write_stack(tmp_path, [decimals((-10, -20, 0.625 * k), 1) for k in range(20) if k != 7])
    assert "0.6 mm apart, found 1.2 mm" in message_of(tmp_path)
    (tmp_path / "few").mkdir()
    write_stack(tmp_path / "few", [(0, 0, z) for z in (0, 0.2, 0.6, 0.8)])
    assert "0.2 mm apart, found 0.4 mm" in message_of(tmp_path / "few")
    (tmp_path / "one").mkdir()
    places = [(-10, -20, 2.5 * k) for k in range(6)]
    places[2] = (-10, -19, 5)
    write_stack(tmp_path / "one", places)
    assert "002.dcm" in (text := message_of(tmp_path / "one")) and "displaced in its plane" in text


def test_a_tilted_gantry_shears_the_stack(tmp_path):
    """The table moves along z; slices lean by 20 degrees, so that corners are not along their normal."""
    lean = np.deg2rad(20)
    orientation = (1, 0, 0, 0, np.cos(lean), -np.sin(lean))
    write_stack(tmp_path, [(-10, -20, 3.0 * k) for k in range(5)], orientation=orientation)
    with pytest.warns(UserWarning, match=r"gantry tilt of 20\.00 degrees.*affine"):
        series = read_dicom_slices(tmp_path)
    assert series.tilt == pytest.approx(20) and series.spacing[0] == pytest.approx(3 * np.cos(lean))
    # Column 2, row 1 of slice 3, from the positions in its file.
    place = np.array([-10, -20, 9]) + 2 * 0.6 * np.eye(3)[0] + 1 * 0.7 * np.array(orientation[3:])
    np.testing.assert_allclose(series.affine @ [2, 1, 3, 1], [*place, 1], atol=1e-9)


@pytest.mark.parametrize("digits", [1, 4])
def test_oblique_upright_slices_are_not_called_tilted(digits, tmp_path):
    places = [np.array([-10.0, 5, 2]) + 2.5 * k * NORMAL for k in (2, 0, 1)]
    write_stack(tmp_path, [decimals(p, digits) for p in places], orientation=OBLIQUE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        series = read_dicom_slices(tmp_path)
    np.testing.assert_allclose(series.affine[:3, 2], 2.5 * NORMAL, atol=10.0**-digits)
    np.testing.assert_array_equal(series.values[:, 0, 0], [-800, -600, -1000])


def test_rounding_of_thin_slices_is_no_tilt(tmp_path):
    """Two slices 0.7 mm apart, the second a tenth of a millimeter beside the normal as written."""
    write_stack(tmp_path, [(0, 0, 0), ("0.1", "0.0", "0.7")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_dicom_slices(tmp_path).tilt > 5
    (tmp_path / "tilted").mkdir()
    write_stack(tmp_path / "tilted", [(0, 0, 0), ("0.3", "0.0", "0.7")])
    with pytest.warns(UserWarning, match="gantry tilt"):
        read_dicom_slices(tmp_path / "tilted")


def test_two_phases_are_told_apart_and_selected(tmp_path):
    places = [(-10, -20, 2.5 * (k % 4)) for k in range(8)]
    write_stack(tmp_path, places, AcquisitionNumber=[1] * 4 + [2] * 4)
    text = message_of(tmp_path)
    assert "one picture at each place, found 2" in text and "AcquisitionNumber is one of 1, 2" in text
    series = read_dicom_slices(tmp_path, {"AcquisitionNumber": 2})
    np.testing.assert_array_equal(series.values[:, 0, 0], [-200, 0, 200, 400])
    with pytest.raises(ArgumentError, match=r"select: expected a value of AcquisitionNumber: 1, 2, found 3"):
        read_dicom_slices(tmp_path, select={"AcquisitionNumber": 3})
    with pytest.raises(ArgumentError, match="EchoTime: absent"):
        read_dicom_slices(tmp_path, select={"EchoTime": 3})


def test_two_phases_beside_each_other_are_told_apart(tmp_path):
    places = [(-10, -20, 5.0 * k + 1.7 * phase) for phase in (0, 1) for k in range(4)]
    write_stack(tmp_path, places, ContrastBolusAgent=["none"] * 4 + ["iodine"] * 4)
    assert "2 stacks, whose ContrastBolusAgent is none, iodine" in message_of(tmp_path)
    assert read_dicom_slices(tmp_path, {"ContrastBolusAgent": "iodine"}).spacing[0] == 5


def test_the_same_slice_twice(tmp_path):
    write_stack(tmp_path, [(0, 0, 0), (0, 0, 5), (0, 0, 5), (0, 0, 10)])
    assert "0 mm: 2 at the same place" in message_of(tmp_path)


def test_one_slice_needs_a_thickness(tmp_path):
    write_stack(tmp_path, [(0, 0, 0)], SliceThickness="")
    assert "'SliceThickness': expected a number, found an empty element" in message_of(tmp_path)
    write_stack(tmp_path, [(0, 0, 0)], SliceThickness=0)
    assert "'SliceThickness': expected a positive number, found 0" in message_of(tmp_path)
    write_stack(tmp_path, [(0, 0, 0), (0, 0, 4)], SliceThickness="")
    assert read_dicom_slices(tmp_path).spacing[0] == 4


def test_only_ct_must_say_how_it_is_rescaled(tmp_path):
    write_stack(tmp_path, [(0, 0, 0)], modality="MR", RescaleSlope=None, RescaleIntercept=None)
    series = read_dicom_slices(tmp_path)
    np.testing.assert_array_equal(series.values[0], picture(0))
    assert series.modality == "MR"
    for missing in ("RescaleSlope", "RescaleIntercept"):
        write_stack(tmp_path, [(0, 0, 0)], modality="MR", **{missing: None})
        assert f"'{missing}'" in message_of(tmp_path)
    write_stack(tmp_path, [(0, 0, 0)], RescaleSlope=None, RescaleIntercept=None)
    assert "'RescaleSlope'" in message_of(tmp_path)


def test_dates_that_are_none_are_no_fault(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_stack(tmp_path, [(0, 0, 0)], StudyDate="***", PatientBirthDate="***", StudyTime="***")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pydicom.config.strict_reading():
            assert read_dicom_slices(tmp_path).values.shape == (1, 3, 4)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_multi_frame_files_state_place_and_rescaling_by_frame(modality, tmp_path):
    pixels = np.stack([picture(k) for k in range(6)])
    data = header(pixels, modality, enhanced=True)
    data.SharedFunctionalGroupsSequence = [group(orientation=OBLIQUE, spacing=(0.7, 0.6))]
    kinds = [["DERIVED", "PRIMARY", "A", "FIELD_MAP" if k % 2 else "M"] for k in range(6)]
    data.PerFrameFunctionalGroupsSequence = [
        group(-4.0 * (k // 2) * NORMAL, rescale=(k + 1, -k), frame_type=kinds[k], modality=modality)
        for k in range(6)
    ]
    save(data, tmp_path / "a.dcm")
    text = message_of(tmp_path)
    assert "FrameType is one of" in text and "(frame 6)" in text
    series = read_dicom_slices(tmp_path / "a.dcm", {"FrameType": "FIELD_MAP"})
    # The last frames are the lowest along the normal.
    expected = np.stack([pixels[k] * (k + 1.0) - k for k in (5, 3, 1)])
    np.testing.assert_array_equal(series.values, expected)
    np.testing.assert_allclose(series.positions, [-8 * NORMAL, -4 * NORMAL, 0 * NORMAL], atol=1e-6)
    assert series.spacing == pytest.approx((4, 0.7, 0.6))
    data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[:5]
    save(data, tmp_path / "a.dcm")
    assert "6 frames, found 5" in message_of(tmp_path)


@pytest.mark.parametrize("second", [True, False])
@pytest.mark.parametrize("sign", [1, -1])
def test_mosaics_of_siemens(second, sign, tmp_path):
    """nibabel reads the same file, with its own reading of the private header."""
    wrappers = pytest.importorskip("nibabel.nicom.dicomwrappers")
    tiles = np.stack([picture(k) for k in range(5)])
    data = mosaic(tiles, np.array([1.0, 2, 3]), OBLIQUE, (0.7, 0.6), 2.5, sign * NORMAL, second)
    save(data, tmp_path / "m.dcm")
    series = read_dicom_slices(tmp_path)
    np.testing.assert_array_equal(series.values, tiles[::sign])
    np.testing.assert_allclose(series.positions[0], [1, 2, 3] if sign > 0 else [1, 2, 3] - 10 * NORMAL)
    if second:
        other = wrappers.wrapper_from_file(tmp_path / "m.dcm")
        assert other.is_mosaic
        first = (0, 0, 0, 1) if sign > 0 else (0, 0, 4, 1)
        np.testing.assert_allclose(other.affine @ first, series.affine[:, 3], atol=1e-4)
        np.testing.assert_array_equal(other.get_unscaled_data().transpose(2, 0, 1), tiles)


def test_a_mosaic_without_its_private_header(tmp_path):
    data = mosaic(np.stack([picture(0)] * 2), np.zeros(3), OBLIQUE, (1, 1), 2, NORMAL)
    data.remove_private_tags()
    save(data, tmp_path / "m.dcm")
    assert "SIEMENS CSA HEADER" in message_of(tmp_path)
    block = data.private_block(0x29, "SIEMENS CSA HEADER", create=True)
    for content in (b"SV10", b"", b"SV10\4\3\2\1" + b"\xff" * 40):
        block.add_new(0x10, "OB", content)
        save(data, tmp_path / "m.dcm")
        assert "(0029,xx10)" in message_of(tmp_path)


def test_tiles_of_united_imaging(tmp_path):
    tiles = np.stack([picture(k) for k in range(5)])
    page = np.zeros((6, 12), np.int16)
    for k, tile in enumerate(tiles):
        page[k // 3 * 3 :, k % 3 * 4 :][:3, :4] = tile
    data = placed(page, (0, 0, 0), modality="MR", ImageType=["ORIGINAL", "PRIMARY", "M", "VFRAME"])
    del data.ImagePositionPatient
    data.add_new(0x00650010, "LO", "Image Private Header")
    data.add_new(0x00651050, "DS", "5")
    slices = [item(ImagePositionPatient=[0, 0, -3.0 * k])[0] for k in range(5)]
    data.add_new(0x00651051, "SQ", slices)
    save(data, tmp_path / "v.dcm")
    series = read_dicom_slices(tmp_path)
    np.testing.assert_array_equal(series.values, tiles[::-1] * 2.0 - 1000)
    assert series.spacing == (3, 0.7, 0.6) and series.positions[0, 2] == -12
    data[0x00651051].value = slices[:4]
    save(data, tmp_path / "v.dcm")
    assert "(0065,1051)" in (text := message_of(tmp_path)) and "found 4 and 5" in text


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEGLSLossless", "JPEG2000Lossless", "JPEGLosslessSV1"])
def test_compressed_pictures(syntax, tmp_path):
    uid = getattr(pydicom.uid, syntax)
    pixels = np.random.default_rng(0).integers(-500, 500, (64, 64)).astype(np.int16)
    data = placed(pixels, (0, 0, 0))
    if syntax == "JPEGLosslessSV1":
        gdcm = pytest.importorskip("gdcm")
        save(data, tmp_path / "plain.dcm")
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(tmp_path / "plain.dcm"))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(tmp_path / "a.dcm"))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    else:
        if not pydicom.pixels.get_encoder(uid).is_available:
            pytest.skip("needs the extra dicom")
        data.compress(uid)
        save(data, tmp_path / "a.dcm")
    assert pydicom.dcmread(tmp_path / "a.dcm").file_meta.TransferSyntaxUID == uid
    np.testing.assert_array_equal(read_dicom_slices(tmp_path / "a.dcm").values[0], pixels * 2.0 - 1000)


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    data = placed(picture(0), (0, 0, 0))
    data.compress(pydicom.uid.RLELossless)
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
    save(data, tmp_path / "a.dcm")
    monkeypatch.setattr(pydicom.pixels.decoders.JPEGLosslessSV1Decoder, "_available", {})
    assert "First-Order Prediction" in (text := message_of(tmp_path)) and "fedrecon[dicom]" in text


def test_several_frames_without_places(tmp_path):
    save(placed(np.stack([picture(0)] * 2), (0, 0, 0)), tmp_path / "a.dcm")
    assert "PerFrameFunctionalGroupsSequence" in message_of(tmp_path)


def test_published_series(measured_data):
    """Places after the standard's equation, values by pydicom alone."""
    series = read_dicom_slices(measured_data("reference/MR_small.dcm"))
    plain = pydicom.dcmread(measured_data("reference/MR_small.dcm"))
    np.testing.assert_array_equal(series.values[0], plain.pixel_array)
    assert series.spacing == (0.8, 0.3125, 0.3125)

    path = measured_data("reference/philips_enhanced_fieldmap.dcm")
    plain = pydicom.dcmread(path)
    for kind, frames, slope, intercept in (
        ("M", slice(0, 32), 1.27985347985347, 0),
        ("FIELD_MAP", slice(32, 64), 0.24420024420024, -500),
    ):
        series = read_dicom_slices(path, {"FrameType": kind})
        np.testing.assert_allclose(series.values, plain.pixel_array[frames] * slope + intercept, rtol=1e-6)
        assert series.spacing == pytest.approx((4, 4, 4))
        groups = plain.PerFrameFunctionalGroupsSequence[frames]
        places = [g.PlanePositionSequence[0].ImagePositionPatient for g in groups]
        np.testing.assert_array_equal(series.positions, places)

    path = measured_data("reference/uih_vframe_dti.dcm")
    series = read_dicom_slices(path)
    page = pydicom.dcmread(path).pixel_array
    for k in (0, 7, 19):
        np.testing.assert_array_equal(series.values[k], page[k // 5 * 64 :, k % 5 * 64 :][:64, :64])
    assert series.spacing == pytest.approx((4.2, 3.5, 3.5)) and series.tilt < 1e-4
    with pytest.raises(DataError, match="NumberOfFrames"):
        read_dicom_slices(measured_data("reference/emri_small.dcm"))
