"""Loaders of measured data: the public files where they are, small ones of the same layout everywhere."""

import h5py
import numpy as np
import pytest

from fedrecon.data import (
    DataError,
    FastMRIVolume,
    load_measured_chest_xray,
    load_measured_mri_cohort,
    load_measured_retina,
    read_fastmri,
    to_native,
    write_fastmri,
)
from fedrecon.data.clients.cohort import PARTS
from fedrecon.data.measured.manifest import read_mri_manifest
from operators import ifft2c

SCANNERS = {site.name: site.files for site in read_mri_manifest("absent").sites if site.prefix is None}
CARDIAC_FILE = "cardiac_complex_multiecho.h5"


def measured(shape, rng):
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


@pytest.fixture
def folder(tmp_path):
    """Small files of the public layout: scanners of different matrices, odd and even, and scales."""
    rng = np.random.default_rng(0)
    (tmp_path / "mri").mkdir()
    (tmp_path / "multisite").mkdir()
    shapes = iter([(1, 3, 16, 16), (1, 2, 16, 16), (1, 1, 24, 24), (1, 2, 17, 21)])
    for scale, file in zip((1e-5, 1e-6, 1.0, 1e2), sum(SCANNERS.values(), ()), strict=True):
        kspace = (scale * measured(next(shapes), rng)).astype(np.complex64)
        write_fastmri(tmp_path / file, FastMRIVolume(kspace))
    with h5py.File(tmp_path / "mri" / CARDIAC_FILE, "w") as file:
        for index, shape in enumerate([(2, 20, 24), (2, 24, 20), (2, 20, 24), (2, 24, 24)]):
            file[f"set{index:02d}"] = measured(shape, rng)
    with h5py.File(tmp_path / "multisite" / "retina_vessels.h5", "w") as file:
        file["image"] = rng.integers(0, 256, (10, 8, 8, 3)).astype(np.uint8)
        file["mask"] = rng.integers(0, 2, (10, 8, 8)).astype(np.uint8)
        file["site"] = np.asarray([b"A"] * 4 + [b"B"] * 6)
        file["patient_id"] = np.asarray([b"1", b"2", b"3", b"4", b"1", b"1", b"2", b"2", b"3", b"3"])
    with h5py.File(tmp_path / "multisite" / "chest_xray_covid.h5", "w") as file:
        file["image"] = rng.integers(0, 256, (20, 8, 8)).astype(np.uint8)
        file["label"] = rng.integers(0, 2, 20).astype(np.int8)
        file["site"] = np.asarray([b"A"] * 10 + [b"B"] * 5 + [b"C"] * 2 + [b"D"] * 3)
        file["patient_id"] = np.asarray([str(i // 2 if i < 10 else i).encode() for i in range(20)])
    return tmp_path


def check_mri(cohort):
    for part in PARTS:
        data = getattr(cohort, part)
        e = data.examples
        assert e["kspace"].shape[3:] == e["target"].shape[2:] == cohort.image_shape
        assert all(np.isfinite(value).all() for value in e.values())
        assert not e["kspace"][np.broadcast_to(e["mask"][:, :, None] == 0, e["kspace"].shape)].any()
        for client, valid in enumerate(data.valid):
            assert valid.sum() == len(cohort.patients[part][client])
            for index in np.flatnonzero(valid):
                ny, nx = e["native_shape"][client, index]
                rows, columns = np.nonzero(e["mask"][client, index])
                top, left = (m // 2 - n // 2 for m, n in zip(cohort.image_shape, (ny, nx), strict=True))
                assert top <= rows.min() and rows.max() < top + ny
                assert left <= columns.min() and columns.max() < left + nx
                assert len(set(rows.tolist())) == min(ny, cohort.image_shape[0]), "readouts are whole"
    for client in range(cohort.train.clients):
        names = [set(cohort.patients[part][client]) for part in PARTS]
        if cohort.sites[client].unseen_objects:
            assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]


@pytest.mark.slow
def test_scanners_of_different_matrices_share_a_grid(folder):
    cohort = load_measured_mri_cohort(folder, center_fraction=0.15, train_masks=3, evaluation_masks=1)
    assert cohort.image_shape == (24, 24)
    assert cohort.train.examples["kspace"].shape[2] == 4
    assert cohort.train.names == (*SCANNERS, "NIH-1.5T")
    np.testing.assert_array_equal(cohort.train.counts[:3], [6, 3, 3])
    assert cohort.sites[0].coils == (2, 3) and all(site.single_subject for site in cohort.sites)
    assert [site.unseen_objects for site in cohort.sites] == [False, False, False, True]
    check_mri(cohort)


@pytest.mark.slow
def test_measured_samples_come_back_exactly(folder):
    """With every sample measured, to_native returns the scanner's own coil images, odd matrices included."""
    cohort = load_measured_mri_cohort(
        folder, acceleration=1.0, center_fraction=1.0, train_masks=1, evaluation_masks=1
    )
    for client, files in enumerate(SCANNERS.values()):
        for index, file in enumerate(files):
            truth = read_fastmri(folder / file).kspace[0]
            e = {key: value[client, index] for key, value in cohort.train.examples.items()}
            images = to_native(ifft2c(e["kspace"]), e["native_shape"], e["scale"])
            expected = np.asarray(ifft2c(truth))
            np.testing.assert_allclose(images[: len(truth)], expected, atol=1e-5 * np.abs(expected).max())
            assert not np.any(images[len(truth) :])
            np.testing.assert_allclose(
                np.sqrt(np.sum(np.abs(ifft2c(e["kspace"])) ** 2, 0)), e["target"], rtol=1e-3, atol=1e-4
            )


@pytest.mark.slow
def test_masks_of_all_parts_differ_and_repeat_with_the_seed(folder):
    options = {"center_fraction": 0.1, "train_masks": 4, "evaluation_masks": 2}
    one, two, other = (load_measured_mri_cohort(folder, seed=s, **options) for s in (0, 0, 1))
    masks = np.concatenate(
        [getattr(one, part).examples["mask"][1][getattr(one, part).valid[1]] for part in PARTS]
    )
    assert len({mask.tobytes() for mask in masks}) == len(masks) == 8
    for key, value in one.train.examples.items():
        np.testing.assert_array_equal(value, two.train.examples[key])
    assert not np.array_equal(one.train.examples["mask"], other.train.examples["mask"])


def test_a_smaller_grid_is_taken_only_when_asked_for_and_crops_kspace(folder):
    cohort = load_measured_mri_cohort(folder, matrix=(16, 18), center_fraction=0.2)
    assert cohort.image_shape == (16, 18)
    check_mri_shape = cohort.test.examples["target"].shape[2:]
    assert check_mri_shape == (16, 18)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_masks": 0}, "train_masks"),
        ({"evaluation_masks": 0}, "evaluation_masks"),
        ({"simulated_coils": 0}, "simulated_coils"),
        ({"echoes": 0}, "echoes"),
        ({"echoes": 3}, "set00.*at least 3 echoes"),
        ({"acceleration": 0.5}, "acceleration"),
    ],
)
def test_arguments_out_of_range_are_refused(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_measured_mri_cohort(folder, **arguments)


def replace(path, key, value):
    with h5py.File(path, "a") as file:
        del file[key]
        if value is not None:
            file[key] = value


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("phantom_skyra3t_2ch.h5", "kspace", np.ones((1, 2, 8, 8), np.float32)),
        ("phantom_skyra3t_2ch.h5", "kspace", np.zeros((1, 2, 8, 8), np.complex64)),
        (CARDIAC_FILE, "set01", np.ones((2, 8, 8), np.float32)),
        (CARDIAC_FILE, "set01", np.full((2, 8, 8), np.nan, np.complex64)),
        (CARDIAC_FILE, "set01", np.ones((0, 8, 8), np.complex64)),
        (CARDIAC_FILE, "set01", np.ones((8, 8), np.complex64)),
    ],
)
def test_wrong_mri_files_are_refused(folder, file, key, value):
    replace(folder / "mri" / file, key, value)
    with pytest.raises(DataError, match=f"{file}.*{key}"):
        load_measured_mri_cohort(folder)


def test_undersampled_files_cannot_be_a_reference(folder):
    path = folder / "mri" / "phantom_prisma3t_1ch.h5"
    kspace = read_fastmri(path).kspace
    write_fastmri(path, FastMRIVolume(kspace, mask=np.arange(kspace.shape[-1]) % 2 == 0))
    with pytest.raises(DataError, match="mask"):
        load_measured_mri_cohort(folder)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        load_measured_mri_cohort(folder)


def test_retina_keeps_patients_together_and_averages_areas(folder):
    whole, half = load_measured_retina(folder), load_measured_retina(folder, size=4)
    assert whole.train.names == ("A", "B") and whole.image_shape == (8, 8) and half.image_shape == (4, 4)
    for part in PARTS:
        a, b = getattr(whole, part), getattr(half, part)
        assert a.examples["image"].dtype == a.examples["segmentation"].dtype == np.float32
        for client, valid in enumerate(a.valid):
            image, mask = (a.examples[k][client][valid] for k in ("image", "segmentation"))
            assert len(set(a.examples["volume"][client][valid].tolist())) == len(whole.patients[part][client])
            blocks = image.reshape(-1, 4, 2, 4, 2, 3).mean((2, 4))
            np.testing.assert_allclose(b.examples["image"][client][valid], blocks, atol=1e-6)
            assert not mask.size or 0 < mask.mean() < 1
            area = mask.reshape(-1, 4, 2, 4, 2).mean((2, 4))
            np.testing.assert_array_equal(b.examples["segmentation"][client][valid], area > 0.35)
    assert sum(getattr(whole, part).valid.sum() for part in PARTS) == 10
    for client in range(2):
        names = [set(whole.patients[part][client]) for part in PARTS]
        assert sum(map(len, names)) == len(set.union(*names)) == (4, 3)[client]


def test_chest_radiographs_merge_small_sites(folder):
    cohort = load_measured_chest_xray(folder, minimum_patients=4)
    assert cohort.train.names == ("A", "B", "other")
    assert cohort.sites[2].members == ("C", "D") and cohort.sites[2].images == 5
    least = min(site.patients for site in cohort.sites[:2])
    assert load_measured_chest_xray(folder, minimum_patients=least).train.names == ("A", "B", "other")
    assert cohort.train.examples["image"].shape[2:] == (8, 8, 1)
    assert cohort.train.examples["label"].dtype == np.int32
    total = sum(getattr(cohort, part).valid.sum() for part in PARTS)
    assert total == 20
    with h5py.File(folder / "multisite" / "chest_xray_covid.h5") as file:
        labels = file["label"][()].sum()
    assert sum(getattr(cohort, part).examples["label"].sum() for part in PARTS) == labels


@pytest.mark.parametrize("load", [load_measured_retina, load_measured_chest_xray])
def test_sizes_must_divide_the_images(folder, load):
    for size in (3, 0, 16):
        with pytest.raises(ValueError, match="size"):
            load(folder, size=size)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("retina_vessels", "image", np.zeros((10, 8, 8), np.uint8)),
        ("retina_vessels", "image", np.zeros((10, 8, 8, 4), np.uint8)),
        ("retina_vessels", "image", np.full((10, 8, 8, 3), 300, np.int32)),
        ("retina_vessels", "image", np.zeros((10, 8, 8, 3), np.float32)),
        ("retina_vessels", "image", np.zeros((10, 8, 6, 3), np.uint8)),
        ("retina_vessels", "mask", np.zeros((9, 8, 8), np.uint8)),
        ("retina_vessels", "mask", np.full((10, 8, 8), 2, np.uint8)),
        ("retina_vessels", "site", np.arange(10)),
        ("retina_vessels", "patient_id", None),
        ("retina_vessels", "site", np.asarray([b"\xff"] * 10)),
        ("chest_xray_covid", "image", np.zeros((20, 8, 8, 3), np.uint8)),
        ("chest_xray_covid", "label", np.full(20, 2, np.int8)),
        ("chest_xray_covid", "label", np.zeros(20, np.float32)),
        ("chest_xray_covid", "patient_id", np.asarray([b"x"] * 19)),
    ],
)
def test_wrong_image_files_are_refused(folder, file, key, value):
    replace(folder / "multisite" / f"{file}.h5", key, value)
    load = load_measured_retina if file == "retina_vessels" else load_measured_chest_xray
    with pytest.raises(DataError, match=file):
        load(folder)


@pytest.mark.slow
def test_the_scanners_load_and_their_reference_is_the_files_own(measured_data):
    cohort = load_measured_mri_cohort(
        measured_data("mri").parent, matrix=(128, 128), train_masks=1, evaluation_masks=1
    )
    check_mri(cohort)
    assert {site.native_shapes for site in cohort.sites} >= {((128, 128),), ((160, 160),), ((256, 256),)}
    e = {key: value[0, 0] for key, value in cohort.train.examples.items()}
    reference = read_fastmri(measured_data("mri/brain_cimax3t_16ch.h5")).reconstruction_rss[0]
    np.testing.assert_allclose(e["target"] * e["scale"], reference, atol=1e-5 * reference.max())


def test_the_images_load(measured_data):
    folder = measured_data("multisite").parent
    retina, chest = load_measured_retina(folder, size=64), load_measured_chest_xray(folder, size=56)
    assert retina.train.names == ("DRIVE", "STARE", "CHASE_DB1")
    assert chest.train.clients == 4
    for cohort, count in ((retina, 44), (chest, 136)):
        assert sum(getattr(cohort, part).valid.sum() for part in PARTS) == count
        for part in PARTS:
            image = getattr(cohort, part).examples["image"]
            assert image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1
        for client in range(cohort.train.clients):
            names = [set(cohort.patients[part][client]) for part in PARTS]
            assert sum(map(len, names)) == len(set.union(*names)) == cohort.sites[client].patients
