"""Predictions for new files: where masks lie, what tables say, and what is said of strange images.

The networks are functions whose predictions are known: a pixel is marked where it is bright, an image is of
the class by its mean.
"""

import csv
import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import predict
from fedrecon import Variables, ood
from fedrecon.data import DataError, write_dicom
from fedrecon.data.folders import Preparation, read_images, to_native_grid
from fedrecon.data.folders.manifest import Intensity
from fedrecon.exports import export_model
from fedrecon.training import FlagError

WINDOW = Intensity("window", 0.0, 200.0)
TURNED = np.array([[0, -0.7, 0.0, 10], [0.8, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])
# Network of segmentation: bright pixels. Of classification: the mean and what is left.
BRIGHT = {
    "segmentation": lambda x: jnp.concatenate([1 - x, x], -1),
    "classification": lambda x: jnp.stack([1 - x.mean((1, 2, 3)), x.mean((1, 2, 3))], -1),
}


def export(folder, task, matrix=(16, 16), classes=(), reference=None, channels=1, **changes):
    card = {
        "task": task,
        "scores": {"methods": {"threshold": 0.5}},
        "preparation": Preparation(matrix, channels, WINDOW, classes).as_document(),
    }
    if reference is not None:
        card["images"] = ood.as_document(reference)
    card = {key: value for key, value in (card | changes).items() if value is not None}
    example = {"image": np.zeros((1, *matrix, channels), np.float32)}
    variables = Variables({"one": np.ones(1, np.float32)}, {})

    def network(params, stats, batch):
        return BRIGHT[task](batch["image"][..., :1] * params["one"])

    export_model(folder, network, variables, example, card)
    return str(folder)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    pytest.importorskip("safetensors")
    return export(tmp_path_factory.mktemp("models") / "segmenter", "segmentation")


@pytest.fixture(scope="module")
def volume():
    """Values 20 with a bright box of 180: whole pixels of the grid of 16 x 16 of a volume of 32 x 48."""
    values = np.full((3, 32, 48), 20.0, np.float32)
    values[1, 6:18, 12:30] = 180
    return values


def box(volume):
    return (volume > 100).astype(np.uint8)


def test_images_are_prepared_as_in_training_and_masks_come_back(tmp_path, volume):
    nibabel = pytest.importorskip("nibabel")
    # (columns, rows, slices) with x to the left and y to the back, in DICOM's sense.
    stored = nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.diag([-1.0, -1, 1, 1]))
    nibabel.save(stored, tmp_path / "scan.nii.gz")
    found = read_images(tmp_path / "scan.nii.gz", Preparation((16, 16), 1, WINDOW))
    # 32 x 48 fits as 11 x 16, between 2 and 3 rows of zeros.
    assert found.images.shape == (3, 16, 16, 1) and found.native_shape == (32, 48)
    assert np.all(found.images[:, [0, 1, 13, 14, 15]] == 0) and np.all(
        abs(found.images[0, 2:13] - 0.1) < 1e-6
    )
    assert found.images[1].max() == pytest.approx(0.9)
    back = to_native_grid(found.images, found.native_shape)
    assert back.shape == (3, 32, 48, 1)
    assert ((back[..., 0] > 0.5) != (volume > 100)).mean() < 0.01


def test_nifti_gets_a_mask_in_its_place(tmp_path, segmenter, volume):
    nibabel = pytest.importorskip("nibabel")
    affine = np.diag([-1.0, -1, 1, 1]) @ TURNED
    nibabel.save(nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine), tmp_path / "scan.nii")
    (record,) = predict.run(segmenter, str(tmp_path / "scan.nii"), str(tmp_path / "mask.nii.gz"))
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    assert mask.get_data_dtype() == np.uint8
    # Both in one orientation, since readers put axes in the patient's order.
    same = nibabel.as_closest_canonical(nibabel.load(tmp_path / "scan.nii"))
    again = nibabel.as_closest_canonical(mask)
    assert again.affine == pytest.approx(same.affine, abs=1e-5)
    wrong = np.asarray(again.dataobj) != (np.asarray(same.dataobj) > 100)
    assert wrong.mean() < 0.02 and np.asarray(mask.dataobj).sum() == sum(record["marked_pixels"])
    assert record["marked_ml"] == pytest.approx(sum(record["marked_pixels"]) * 0.7 * 0.8 * 3 / 1000)
    beside = json.loads((tmp_path / "mask.nii.gz.json").read_text())
    assert beside["marked_pixels"] == record["marked_pixels"] and beside["source"] == "scan.nii"


def test_a_dicom_series_gets_a_segmentation_that_refers_to_it(tmp_path, segmenter, volume):
    pydicom, highdicom = pytest.importorskip("pydicom"), pytest.importorskip("highdicom")
    volume = np.roll(volume, 1, 0)
    write_dicom(tmp_path / "series", volume, TURNED, "MR", placed=True)
    predict.run(segmenter, str(tmp_path / "series"), str(tmp_path / "mask.dcm"), threshold=0.5)
    files = sorted((tmp_path / "series").iterdir())
    images = [pydicom.dcmread(file) for file in files]
    found = highdicom.seg.segread(tmp_path / "mask.dcm")
    assert found.SOPClassUID == pydicom.uid.SegmentationStorage
    assert found.StudyInstanceUID == images[0].StudyInstanceUID
    assert found.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    assert found.get_segment_description(1).segment_label == "structure"
    pixels = found.get_pixels_by_source_instance(
        [image.SOPInstanceUID for image in images], combine_segments=True, ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )  # fmt: skip
    assert (pixels != box(volume)).mean() < 0.01 and pixels[2].any() and not pixels[:2].any()


def test_pictures_of_a_folder_get_masks_in_a_folder(tmp_path, segmenter):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "eyes").mkdir()
    values = np.full((32, 32), 20, np.uint8)
    values[8:16, 4:12] = 180
    for name in ("a", "b"):
        image.fromarray(values).save(tmp_path / "eyes" / f"{name}.png")
        values = values.T
    records = predict.run(segmenter, str(tmp_path / "eyes"), str(tmp_path / "masks"))
    assert [record["source"] for record in records] == ["a.png", "b.png"]
    for name in ("a", "b"):
        found = np.asarray(image.open(tmp_path / "masks" / f"{name}.png").convert("L"))
        assert np.array_equal(found, np.where(values > 100, 255, 0))
        values = values.T


def test_a_table_has_a_row_for_each_slice_with_the_names_of_the_classes(tmp_path, volume):
    nibabel = pytest.importorskip("nibabel")
    pytest.importorskip("safetensors")
    folder = export(tmp_path / "model", "classification", (32, 48), ("healthy", "ill"))
    volume = volume.copy()
    volume[2] = 200
    nibabel.save(
        nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.diag([-1.0, -1, 1, 1])), tmp_path / "a.nii"
    )
    predict.run(folder, str(tmp_path / "a.nii"), str(tmp_path / "table.csv"))
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    means = volume.mean((1, 2)) / 200
    assert [float(row["ill"]) for row in rows] == pytest.approx(means, abs=1e-5)
    assert [row["predicted"] for row in rows] == ["healthy", "healthy", "ill"]
    assert [(row["file"], row["slice"]) for row in rows] == [("a.nii", "0"), ("a.nii", "1"), ("a.nii", "2")]
    predict.run(folder, str(tmp_path / "a.nii"), str(tmp_path / "table.json"))
    assert json.loads((tmp_path / "table.json").read_text())[2]["predicted"] == "ill"


def test_images_unlike_those_of_validation_are_called_so(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("safetensors")
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.normal(size=(30, 16, 16)), 2) * 10 + 100
    known = np.clip(smooth / 200, 0, 1).astype(np.float32)[..., None]
    reference = ood.reference_of(*(ood.image_statistics(x) for x in (known[:20], known[20:])))
    folder = export(tmp_path / "model", "segmentation", reference=reference)
    image.fromarray(np.clip(smooth[25], 0, 200).astype(np.uint8)).save(tmp_path / "known.png")
    image.fromarray(rng.integers(0, 200, (16, 16)).astype(np.uint8)).save(tmp_path / "noise.png")
    (record,) = predict.run(folder, str(tmp_path / "known.png"), str(tmp_path / "mask.png"))
    assert record["strangeness"][0] < 1 and record["out_of_distribution"] == []
    (record,) = predict.run(folder, str(tmp_path / "noise.png"), str(tmp_path / "mask.png"))
    assert (
        record["strangeness"][0] > 1
        and "notice: noise.png: 1 of 1 images are unlike" in capsys.readouterr().out
    )


def test_what_does_not_fit_is_refused_by_name(tmp_path, segmenter, volume):
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.eye(4)), tmp_path / "a.nii")
    scan, out = str(tmp_path / "a.nii"), str(tmp_path / "mask.nii")
    (tmp_path / "text.txt").write_text("nothing")
    for source, target, text in (
        (str(tmp_path / "none"), out, "--input: expected a file, a DICOM series"),
        (scan, str(tmp_path / "mask.txt"), "--output: expected a name ending in .nii.gz"),
        (scan, str(tmp_path / "no" / "mask.nii"), "--output: expected a file or folder in an existing"),
        (scan, str(tmp_path / "mask.dcm"), "--output: expected DICOM of DICOM images alone"),
        (scan, str(tmp_path / "mask.png"), "--output: expected NIfTI, DICOM or HDF5"),
        (str(tmp_path / "text.txt"), out, "text.txt: expected images"),
    ):
        with pytest.raises((FlagError, DataError)) as raised:
            predict.run(segmenter, source, target)
        assert text in str(raised.value)
    with pytest.raises(FlagError, match=r"--weights: expected a folder of experiments\.export"):
        predict.run(str(tmp_path), scan, out)
    for name, changes, text in (
        ("a", {"task": "reconstruction"}, "experiments.reconstruct takes it"),
        ("b", {"preparation": None}, "or --reconstruction of the measurements"),
    ):
        if name == "a":
            folder = export(tmp_path / name, "segmentation", **{})
            card = json.loads((tmp_path / name / "card.json").read_text()) | changes
            (tmp_path / name / "card.json").write_text(json.dumps(card))
        else:
            folder = export(tmp_path / name, "segmentation", **changes)
        with pytest.raises(FlagError, match=text):
            predict.run(folder, scan, out)
    assert not list(tmp_path.glob("mask*"))


def test_logits_and_masks_of_one_name_are_refused(tmp_path, segmenter, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "eyes").mkdir()
    for name in ("a.png", "a.bmp"):
        image.fromarray(np.full((16, 16), 180, np.uint8)).save(tmp_path / "eyes" / name)
    with pytest.raises(FlagError, match=r"--input: expected files of distinct names.*found 'a' twice"):
        predict.run(segmenter, str(tmp_path / "eyes"), str(tmp_path / "masks"))
    monkeypatch.setitem(BRIGHT, "segmentation", lambda x: jnp.concatenate([x, 8 * x], -1))
    logits = export(tmp_path / "logits", "segmentation")
    with pytest.raises(FlagError, match="--weights: expected a network whose predictions are probabilities"):
        predict.run(logits, str(tmp_path / "eyes" / "a.png"), str(tmp_path / "mask.png"))
    assert not list(tmp_path.glob("mask*"))
