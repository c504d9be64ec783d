"""Images written as DICOM and NIfTI: values and places, read back by other packages."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

from fedrecon.data import read_dicom_slices  # noqa: E402
from fedrecon.data.formats import centered_affine, nifti_bytes, write_dicom  # noqa: E402
from fedrecon.errors import ArgumentError  # noqa: E402

IMAGES = np.random.default_rng(0).normal(200, 50, (3, 4, 5)).astype(np.float32)
ROW, COLUMN = np.array([0.8, 0.6, 0]), np.array([-0.48, 0.64, 0.6])
AFFINE = np.eye(4)
AFFINE[:3] = np.stack([0.5 * ROW, 0.75 * COLUMN, 3 * np.cross(ROW, COLUMN), [10, -20, 30]], 1)
SHEARED = AFFINE + 0.4 * np.outer([*COLUMN, 0], [0, 0, 1, 0])


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("affine", [AFFINE, SHEARED], ids=["upright", "sheared"])
@pytest.mark.filterwarnings("ignore:.*gantry tilt")
def test_dicom_holds_values_and_places(modality, affine, tmp_path):
    write_dicom(tmp_path / "a", IMAGES, affine, modality, description="d" * 80, placed=True)
    files = [pydicom.dcmread(path) for path in sorted((tmp_path / "a").iterdir())]
    slope = float(files[0].RescaleSlope)
    assert slope == pytest.approx(np.ptp(IMAGES) / 65535)
    for number, file in enumerate(files):
        found = file.pixel_array * slope + float(file.RescaleIntercept)
        assert np.abs(found - IMAGES[number]).max() <= 0.51 * slope
        # Equation C.7.6.2.1-1 of the standard, for column 4 and row 1.
        down, right = file.PixelSpacing
        x, y = np.reshape(file.ImageOrientationPatient, (2, 3)).astype(float)
        place = np.array(file.ImagePositionPatient, float) + 4 * right * x + 1 * down * y
        np.testing.assert_allclose(place, (affine @ [4, 1, number, 1])[:3], atol=1e-6)
        assert file.ImageType[0] == "DERIVED" and file.Modality == modality and file.PatientID == ""
    for key, count in (("SOPInstanceUID", 3), ("SeriesInstanceUID", 1), ("FrameOfReferenceUID", 1)):
        assert len({file[key].value for file in files}) == count
    if affine is AFFINE:
        volume = highdicom.get_volume_from_series(files)
        steps = volume.affine[:3, :3][:, ::-1]
        # It goes down along the normal where the standard's right-handed order asks for it.
        np.testing.assert_allclose(np.abs(steps.T @ AFFINE[:3, :3]).argmax(0), [0, 1, 2])
    series = read_dicom_slices(tmp_path / "a")
    np.testing.assert_allclose(series.affine, affine, atol=1e-6)
    np.testing.assert_allclose(series.values, IMAGES, atol=slope)
    write_dicom(tmp_path / "a", IMAGES[:1], affine, modality)
    (path,) = (tmp_path / "a").iterdir()
    one = pydicom.dcmread(path)
    assert one.PatientPosition == "" and "not known" in one.ImageComments
    assert one.StudyInstanceUID != files[0].StudyInstanceUID
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match=r"path: .*found notes\.txt"):
        write_dicom(tmp_path / "a", IMAGES, affine, modality)
    assert len(list((tmp_path / "a").iterdir())) == 2


def test_constant_images_and_a_single_file(tmp_path):
    write_dicom(tmp_path / "a.dcm", np.full((1, 4, 5), -7.25), AFFINE, "CT", rescale_type="HU")
    np.testing.assert_array_equal(read_dicom_slices(tmp_path / "a.dcm").values, -7.25)
    assert [path.name for path in tmp_path.iterdir()] == ["a.dcm"]


@pytest.mark.parametrize("affine", [AFFINE, SHEARED], ids=["upright", "sheared"])
def test_nifti_turns_to_the_right_and_to_the_front(affine):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image.from_bytes(nifti_bytes(IMAGES, affine))
    np.testing.assert_array_equal(image.get_fdata()[4, 1, 2], IMAGES[2, 1, 4])
    left, back, head = (affine @ [4, 1, 2, 1])[:3]
    np.testing.assert_allclose((image.affine @ [4, 1, 2, 1])[:3], [-left, -back, head], atol=1e-5)
    assert int(image.header["qform_code"]) == (affine is AFFINE) and image.header["sform_code"] == 1
    upright = nibabel.Nifti1Image.from_bytes(nifti_bytes(IMAGES, centered_affine((3, 4, 5), (2, 1, 1))))
    assert nibabel.aff2axcodes(upright.affine) == ("L", "P", "S")
    np.testing.assert_allclose(upright.affine @ [2, 1.5, 1, 1], [0, 0, 0, 1], atol=1e-6)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"modality": "PT"}, "modality: expected one of CT, MR, found 'PT'"),
        ({"images": IMAGES[0]}, r"images: expected real \(slices, ny, nx\), found \(4, 5\)"),
        ({"images": IMAGES + 1j}, "complex"),
        ({"images": IMAGES * np.nan}, "finite values, found 60"),
        ({"affine": np.eye(3)}, r"affine: expected an invertible \(4, 4\)"),
        ({"affine": AFFINE + 0.4 * np.outer([*COLUMN, 0], [1, 0, 0, 0])}, "right angles"),
    ],
)
def test_what_cannot_be_written(changes, words, tmp_path):
    arguments = {"images": IMAGES, "affine": AFFINE, "modality": "CT"} | changes
    with pytest.raises(ArgumentError, match=words):
        write_dicom(tmp_path / "a", **arguments)
    assert not list(tmp_path.iterdir())
