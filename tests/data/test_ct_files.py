"""Readers of CT files: small files of each layout everywhere, the measured ones where they are."""

import sys

import h5py
import numpy as np
import pytest

from fedrecon.data import (
    DataError,
    read_dicom_ct_pd,
    read_dicom_slices,
    read_htc,
    read_lodopab,
    read_tomography,
)
from operators.ct import flat_field


def write_lodopab(folder, **changes):
    rng = np.random.default_rng(0)
    content = {"observation": rng.random((2, 10, 7)), "ground_truth": rng.random((2, 6, 6))} | changes
    paths = []
    for name, values in content.items():
        paths.append(folder / f"{name}_train_000.hdf5")
        with h5py.File(paths[-1], "w") as file:
            file["data"] = values.astype(np.float32) if values.dtype.kind == "f" else values
    return paths


def write_tomography(path, without=(), **changes):
    rng = np.random.default_rng(1)
    content = {
        "sinogram": rng.random((2, 6, 9)),
        "angles_deg": np.arange(6) * 30.0,
        "raw_counts": rng.random((2, 6, 9)) + 1,
        "raw_white": rng.random((3, 2, 9)) + 2,
        "raw_dark": rng.random((3, 2, 9)),
        "@detector_pixel": 2.0,
        "@rotation_centre_pixel": 3.25,
    } | changes
    _write(path, {k: v for k, v in content.items() if k not in without})


def write_htc(path, without=(), **changes):
    rng = np.random.default_rng(2)
    content = {
        "mask": (rng.random((8, 8)) < 0.5).astype(np.uint8),
        "@source_to_origin_mm": 410.66,
        "@source_to_detector_mm": 553.74,
        "@detector_pixel_mm": 0.2,
        "@recon_pixel_mm": 0.148,
    }
    for arc, views in (("arc_0_10", 11), ("arc_30_60", 31)):
        content[f"{arc}/sinogram"] = rng.random((views, 12))
        content[f"{arc}/angles_deg"] = np.arange(float(views))
    content |= changes
    _write(path, {k: v for k, v in content.items() if k not in without})


def _write(path, content):
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            if key[0] == "@":
                file.attrs[key[1:]] = value
            else:
                file[key] = value


def test_lodopab(tmp_path):
    observation, truth = write_lodopab(tmp_path)
    scan = read_lodopab(observation, truth)
    with h5py.File(observation) as a, h5py.File(truth) as b:
        np.testing.assert_allclose(scan.values, a["data"][()] * 81.35858, rtol=1e-6)
        stored = b["data"][()]
    assert scan.values.dtype == scan.image.dtype == np.float32
    # Stored (x, y), y upwards; read with y downwards and x to the right, in 1/mm.
    np.testing.assert_allclose(scan.image[1, 0, 2], stored[1, 2, 5] * 0.08135858, rtol=1e-6)
    np.testing.assert_allclose(scan.angles, (np.arange(10) + 0.5) * np.pi / 10)
    assert scan.pixel_size == pytest.approx(260 / 6) and scan.unit == "mm"
    geometry = scan.geometry
    assert geometry.shape == (10, 7)
    # The detector spans the diagonal of the image.
    assert 7 * geometry.detector_spacing == pytest.approx(260 * 2**0.5)
    assert read_lodopab(observation).image is None


def test_tomography(tmp_path):
    write_tomography(tmp_path / "t.h5")
    scan = read_tomography(tmp_path / "t.h5")
    assert scan.values.shape == scan.raw.shape == (2, 6, 9) and scan.white.shape == (3, 2, 9)
    np.testing.assert_allclose(scan.angles, np.arange(6) * np.pi / 6)
    # The ray of the element at the rotation axis passes through it.
    positions = scan.geometry.ray_positions()
    assert np.interp(3.25, np.arange(9), positions) == pytest.approx(0)
    assert np.diff(positions) == pytest.approx(2.0)
    write_tomography(tmp_path / "t.h5", without=("raw_counts", "raw_white", "raw_dark"))
    assert read_tomography(tmp_path / "t.h5").raw is None


def test_htc(tmp_path):
    write_htc(tmp_path / "h.h5")
    arcs = read_htc(tmp_path / "h.h5")
    assert list(arcs) == ["arc_0_10", "arc_30_60"]
    scan = arcs["arc_30_60"]
    assert scan.values.shape == (31, 12) and scan.image.dtype == bool
    np.testing.assert_allclose(np.rad2deg(scan.angles), np.arange(31))
    assert (scan.source_distance, scan.detector_distance) == (410.66, pytest.approx(143.08))
    write_htc(tmp_path / "h.h5", without=("mask",))
    assert read_htc(tmp_path / "h.h5")["arc_0_10"].image is None


nan = np.full((2, 6, 9), np.nan)


@pytest.mark.parametrize(
    "read, write, changes, words",
    [
        (read_tomography, write_tomography, {"without": ("sinogram",)}, ["sinogram", "angles_deg"]),
        (read_tomography, write_tomography, {"sinogram": nan}, ["sinogram", "finite", "108"]),
        (read_tomography, write_tomography, {"sinogram": np.ones((2, 6, 9), int)}, ["float", "int64"]),
        (read_tomography, write_tomography, {"sinogram": np.ones((6, 9))}, ["3 axes", "(6, 9)"]),
        (read_tomography, write_tomography, {"angles_deg": np.arange(7.0)}, ["angles_deg", "(6)", "(7,)"]),
        (read_tomography, write_tomography, {"angles_deg": np.arange(6) / 2}, ["degrees", "radians"]),
        (read_tomography, write_tomography, {"without": ("raw_dark",)}, ["raw_dark"]),
        (read_tomography, write_tomography, {"@rotation_centre_pixel": 9.0}, ["0 to 8", "9"]),
        (read_tomography, write_tomography, {"@detector_pixel": -1.0}, ["@detector_pixel", "positive"]),
        (
            read_tomography,
            write_tomography,
            {"without": ("@detector_pixel",)},
            ["@detector_pixel", "rotation"],
        ),
        (read_htc, write_htc, {"@source_to_detector_mm": 400.0}, ["@source_to_detector_mm", "410.66", "400"]),
        (read_htc, write_htc, {"without": ("arc_0_10/angles_deg",)}, ["arc_0_10/angles_deg"]),
        (read_htc, write_htc, {"mask": np.full((8, 8), 3)}, ["mask", "0 and 1", "3"]),
    ],
)
def test_malformed_files(read, write, changes, words, tmp_path):
    write(tmp_path / "bad.h5", **changes)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "bad.h5")
    for word in ["bad.h5", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("read", [read_lodopab, read_tomography, read_htc])
def test_damaged_files(read, tmp_path):
    path = tmp_path / "bad.h5"
    with pytest.raises(DataError, match="no such file"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty file"):
        read(path)
    write_htc(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"bad\.h5"):
        read(path)
    _write(path, {"other": np.ones(3)})
    with pytest.raises(DataError, match=r"bad\.h5"):
        read(path)


def test_malformed_lodopab(tmp_path):
    paths = write_lodopab(tmp_path, ground_truth=np.ones((3, 6, 6)))
    with pytest.raises(DataError, match=r"ground_truth.*'data'.*\(2, any, any\).*\(3, 6, 6\)"):
        read_lodopab(*paths)
    paths = write_lodopab(tmp_path, ground_truth=np.ones((2, 6, 5)))
    with pytest.raises(DataError, match="square"):
        read_lodopab(*paths)


def test_measured_tooth(measured_data):
    scan = read_tomography(measured_data("ct/tooth_parallel.h5"))
    assert scan.values.shape == (2, 181, 640)
    white, dark = scan.white.mean(0)[:, None], scan.dark.mean(0)[:, None]
    found = flat_field(scan.raw, white, dark)
    assert np.abs(found - scan.values).max() < 1e-3
    # The first and the last view are nearly opposite: mirrored at the rotation axis they agree.
    positions = scan.geometry.ray_positions()
    mirrored = np.interp(-positions, positions, scan.values[0, -1])
    inside = np.abs(positions) < 280
    assert np.corrcoef(mirrored[inside], scan.values[0, 0][inside])[0, 1] > 0.98


@pytest.mark.parametrize("disc", "ab")
def test_measured_discs(disc, measured_data):
    """Every arc sees the disc of the mask: the shadow of its edge lies where the geometry says."""
    for scan in read_htc(measured_data(f"ct/htc2022_disc_t{disc}.h5")).values():
        assert scan.values.shape == (len(scan.angles), 560) and scan.image.shape == (512, 512)
        rows, columns = np.nonzero(scan.image)
        x = (columns - 255.5) * scan.pixel_size
        y = (255.5 - rows) * scan.pixel_size
        elements = (np.arange(560) - 279.5) * scan.detector_spacing
        for view in (0, len(scan.angles) // 2, -1):
            cos, sin = np.cos(scan.angles[view]), np.sin(scan.angles[view])
            depth = scan.source_distance - x * sin + y * cos
            total = scan.source_distance + scan.detector_distance
            shadow = (x * cos + y * sin) * total / depth
            seen = elements[scan.values[view] > 0.15 * scan.values[view].max()]
            assert abs(shadow.min() - seen.min()) < 1.5 and abs(shadow.max() - seen.max()) < 1.5
            # Path lengths of acrylic follow the measured profile, holes and all.
            path, _ = np.histogram(shadow, 140, (-56, 56), weights=total / depth)
            profile = scan.values[view].reshape(140, 4).mean(1)
            assert np.corrcoef(path, profile)[0, 1] > 0.98


def slice_header(pydicom, position, index=0, pixels=None):
    """A minimal CT slice: `position` along z in mm."""
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{index + 1}"
    header.SeriesInstanceUID = "1.2.3"
    header.InstanceNumber = index + 1
    pixels = np.full((3, 4), index, np.int16) if pixels is None else pixels
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, int(pixels.dtype == np.int16)
    header.PixelData = pixels.tobytes()
    header.RescaleSlope, header.RescaleIntercept = 2, -1000
    header.ImagePositionPatient = [-10, -20, position]
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.PixelSpacing, header.SliceThickness = [0.7, 0.6], 5
    return header


def save(header, path):
    header.save_as(path, enforce_file_format=True)


def test_dicom_slices_are_sorted_and_rescaled(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    for index, z in enumerate((7.5, 2.5, 5.0)):
        save(slice_header(pydicom, z, index), tmp_path / f"{index}.dcm")
    series = read_dicom_slices(tmp_path)
    assert series.spacing == (2.5, 0.7, 0.6) and series.hounsfield.shape == (3, 3, 4)
    np.testing.assert_array_equal(series.hounsfield[:, 0, 0], [-998, -996, -1000])
    np.testing.assert_allclose(series.positions[:, 2], [2.5, 5, 7.5])
    assert read_dicom_slices(tmp_path / "0.dcm").spacing[0] == 5


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda h: setattr(h, "ImagePositionPatient", [0, 0, 99]), ["ImagePositionPatient", "mm apart"]),
        (
            lambda h: setattr(h, "ImagePositionPatient", [0, 0, 2.5]),
            ["ImagePositionPatient", "mm apart", "0 mm"],
        ),
        (lambda h: setattr(h, "PixelSpacing", [1, 1]), ["PixelSpacing", "0.7", "1.0"]),
        (lambda h: setattr(h, "SeriesInstanceUID", "1.2.9"), ["SeriesInstanceUID", "another series"]),
        (lambda h: delattr(h, "RescaleSlope"), ["RescaleSlope", "no such element"]),
        (lambda h: delattr(h, "ImageOrientationPatient"), ["ImageOrientationPatient", "6 numbers"]),
        (lambda h: setattr(h, "PixelData", b"\0\0"), ["PixelData", "readable"]),
        (lambda h: delattr(h, "PixelData"), ["PixelData", "no such element"]),
        (lambda h: setattr(h, "NumberOfFrames", 4), ["NumberOfFrames", "4"]),
    ],
)
def test_malformed_dicom(change, words, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    for index in range(4):
        header = slice_header(pydicom, 2.5 * (index + 1), index)
        if index == 2:
            change(header)
        save(header, tmp_path / f"{index}.dcm")
    with pytest.raises(DataError) as caught:
        read_dicom_slices(tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_damaged_dicom(tmp_path):
    pytest.importorskip("pydicom")
    with pytest.raises(DataError, match="no such file"):
        read_dicom_slices(tmp_path / "none")
    with pytest.raises(DataError, match="no file"):
        read_dicom_slices(tmp_path)
    (tmp_path / "a.dcm").write_bytes(b"not dicom" * 40)
    with pytest.raises(DataError, match="a DICOM file"):
        read_dicom_ct_pd(tmp_path)


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImportError, match=r"fedrecon\[dicom\]"):
        read_dicom_slices(tmp_path)


def test_published_dicom_slice(measured_data):
    pytest.importorskip("pydicom")
    series = read_dicom_slices(measured_data("reference/CT_small.dcm"))
    assert series.hounsfield.shape == (1, 128, 128) and series.hounsfield.dtype == np.float32
    assert series.hounsfield.min() >= -1024 and series.hounsfield.max() < 4000
    assert series.spacing[1:] == pytest.approx((0.661468, 0.661468))


def projection(pydicom, index, typed, rows=3, columns=5):
    pixels = np.arange(rows * columns, dtype=np.uint16).reshape(columns, rows) + 100 * index
    header = slice_header(pydicom, 0.0, index, pixels)
    header.RescaleSlope, header.RescaleIntercept = 0.001, -0.5
    values = {
        0x70291002: [1.28],
        0x70291006: [1.09],
        0x70311001: [0.1 * index],
        0x70311002: [-20.0 + index],
        0x70311003: [595.0],
        0x70311031: [1085.6],
        0x70311033: [3.25, 2.0],
        0x7033100B: [0.001],
        0x70331065: [1e5] * columns,
    }
    for tag, value in values.items():
        if typed:
            header.add_new(tag, "FL", value if len(value) > 1 else value[0])
        else:
            header.add_new(tag, "UN", np.asarray(value, "<f4").tobytes())
    for tag, value in ((0x70291010, rows), (0x70291011, columns)):
        header.add_new(tag, *(("US", value) if typed else ("UN", np.uint16(value).tobytes())))
    header.add_new(0x7029100B, *(("CS", "CYLINDRICAL") if typed else ("UN", b"CYLINDRICAL ")))
    return header


@pytest.mark.parametrize("typed", [True, False])
def test_dicom_ct_pd(typed, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    for index in range(3):
        save(projection(pydicom, index, typed), tmp_path / f"{9 - index}.dcm")
    scan = read_dicom_ct_pd(tmp_path)
    assert scan.values.shape == (3, 3, 5) and scan.detector_shape == "CYLINDRICAL"
    # Element (row 2, column 4) of view 1 was written as the last of the picture.
    assert scan.values[1, 2, 4] == pytest.approx(114 * 0.001 - 0.5)
    np.testing.assert_allclose(scan.angles, [0, 0.1, 0.2], rtol=1e-6)
    np.testing.assert_allclose(scan.axial_positions, [-20, -19, -18])
    np.testing.assert_allclose(scan.source_distance, 595)
    np.testing.assert_allclose(scan.shifts, [[0.001, 0, 0]] * 3, rtol=1e-6)
    assert scan.central_element == (1.0, 2.25) and scan.photons.shape == (3, 5)
    assert scan.spacing == (pytest.approx(1.09), pytest.approx(1.28))


@pytest.mark.parametrize(
    "tag, value, words",
    [
        (0x70311001, None, ["(7031,1001)", "DetectorFocalCenterAngularPosition", "no such element"]),
        (0x70291010, np.uint16(4).tobytes(), ["PixelData", "(5, 4)", "(5, 3)"]),
        (0x70311033, np.float32(3).tobytes(), ["DetectorCentralElement", "2 numbers"]),
        (0x70311003, np.float32(np.nan).tobytes(), ["DetectorFocalCenterRadialDistance", "nan"]),
        (0x7029100B, b"ROUND ", ["DetectorShape", "CYLINDRICAL", "ROUND"]),
    ],
)
def test_malformed_dicom_ct_pd(tag, value, words, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    header = projection(pydicom, 0, False)
    if value is None:
        del header[tag]
    else:
        header[tag].value = value
    save(header, tmp_path / "p.dcm")
    with pytest.raises(DataError) as caught:
        read_dicom_ct_pd(tmp_path / "p.dcm")
    for word in ["p.dcm", *words]:
        assert word in str(caught.value)


def test_pictures_are_no_projections(tmp_path):
    """A series of images, as scanners send them, says so; so does a folder in which one lies by mistake."""
    pydicom = pytest.importorskip("pydicom")
    save(projection(pydicom, 0, False), tmp_path / "a.dcm")
    save(slice_header(pydicom, 0.0, 1, np.zeros((4, 4), np.uint16)), tmp_path / "b.dcm")
    for path in (tmp_path, tmp_path / "b.dcm"):
        with pytest.raises(
            DataError, match=r"b\.dcm: expected a view of projections in the DICOM-CT-PD"
        ) as caught:
            read_dicom_ct_pd(path)
        assert "CT Image Storage: pictures already, which fedrecon.data.read_dicom_slices" in str(
            caught.value
        )
