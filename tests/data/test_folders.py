"""Cohorts in folders of hospitals: what is read, how it is divided, and on which grid it ends."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from fedrecon.data import (
    DataError,
    RawMeasurement,
    load_measured_chest_xray,
    load_measured_retina,
    read_cohort,
    read_fastmri,
    to_native,
    write_ismrmrd,
)
from fedrecon.data.folders import division, identify_cohort, volume
from fedrecon.data.folders.manifest import Manifest
from fedrecon.data.formats import write_cfl
from fedrecon.data.measured import manifest
from tests.data.hospital_files import (
    centered_fft,
    disc,
    save_nifti,
    write_manifest,
    write_mri,
    write_nifti,
    write_pictures,
)

PARTS = ("train", "validation", "test")


def examples(cohort, site):
    """Patient -> examples of a site, of all parts."""
    found = {}
    for part in PARTS:
        data = getattr(cohort, part)
        index = data.names.index(site)
        valid = np.asarray(data.valid[index])
        for number, patient in enumerate(cohort.patients[part][index]):
            here = valid & (np.asarray(data.examples["volume"][index]) == number)
            assert patient not in found, "a patient is in one part"
            found[patient] = {name: value[index][here] for name, value in data.examples.items()}
    return found


@pytest.mark.slow
def test_kspace_of_different_scanners_becomes_examples_on_one_grid(tmp_path):
    sites = {"north": (3, 16, 16), "south": (1, 20, 18)}
    write_mri(tmp_path, sites, slices=2)
    cohort = read_cohort(tmp_path, "reconstruction", seed=3)
    assert cohort.image_shape == (20, 18) and cohort.train.names == ("north", "south")
    assert [site.coils for site in cohort.sites] == [(3,), (1,)]
    for site, (coils, ny, nx) in sites.items():
        patients = examples(cohort, site)
        assert sorted(patients) == ["p0", "p1", "p2", "p3"]
        for patient, found in patients.items():
            kspace = read_fastmri(tmp_path / site / f"{patient}.h5").kspace
            assert found["kspace"].shape == (2, 3, 20, 18) and not found["kspace"][:, coils:].any()
            # Where the mask is 1 the measurement is the file's, around the center of a larger grid.
            top, left = 10 - ny // 2, 9 - nx // 2
            rows, columns = slice(top, top + ny), slice(left, left + nx)
            mask = found["mask"][:, rows, columns]
            measured = (found["kspace"] * found["scale"][:, None, None, None])[:, :coils, rows, columns]
            np.testing.assert_allclose(measured, kspace * mask[:, None], rtol=1e-5, atol=1e-6)
            assert 0 < mask.mean() < 0.7 and found["mask"].sum() == mask.sum()
            # The reference is the root of the sum of squares of the whole, by NumPy in double precision.
            padded = np.zeros((2, coils, 20, 18), complex)
            padded[:, :, top : top + ny, left : left + nx] = kspace
            images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(padded, (-2, -1)), norm="ortho"), (-2, -1))
            reference = np.sqrt((np.abs(images) ** 2).sum(1))
            target = found["target"] * found["scale"][:, None, None]
            np.testing.assert_allclose(target, reference, rtol=1e-4, atol=1e-5)
            assert to_native(found["target"][0], (ny, nx), found["scale"][0]).shape == (ny, nx)
    again = read_cohort(tmp_path, "reconstruction", seed=3).train.examples["mask"]
    np.testing.assert_array_equal(again, cohort.train.examples["mask"])
    other = read_cohort(tmp_path, "reconstruction", seed=4)
    assert (other.patients != cohort.patients) or (other.train.examples["mask"] != again).any()


def test_pictures_and_masks_are_scaled_by_area_into_one_frame(tmp_path):
    write_pictures(tmp_path, {"a": (8, 16), "b": (32, 16)})
    cohort = read_cohort(tmp_path, "segmentation", matrix=(16, 16))
    found = examples(cohort, "a")["p1"]
    stored = np.asarray(Image.open(tmp_path / "a" / "images" / "p1.png"))
    np.testing.assert_allclose(found["image"][0, 4:12, :, 0], stored / 255, atol=1e-6)
    assert not found["image"][0, :4].any() and not found["image"][0, 12:].any()
    np.testing.assert_array_equal(found["segmentation"][0, 4:12], disc(8, 16, 0.1))
    # Half the size: a pixel is the mean of four, and of the structure where more than half of it is.
    found = examples(cohort, "b")["p2"]
    stored = np.asarray(Image.open(tmp_path / "b" / "images" / "p2.png")) / 255
    means = stored.reshape(16, 2, 8, 2).mean((1, 3))
    np.testing.assert_allclose(found["image"][0, :, 4:12, 0], means, atol=1e-6)
    area = disc(32, 16, 0.2).reshape(16, 2, 8, 2).mean((1, 3))
    np.testing.assert_array_equal(found["segmentation"][0, :, 4:12], area > 0.5)
    assert not found["segmentation"][0, :, :4].any()


def test_masks_of_several_structures_are_named_by_the_manifest(tmp_path):
    write_pictures(tmp_path, {"a": (8, 8), "b": (16, 16)})
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 3, (8, 8)).astype(np.uint8)
    coarse = rng.integers(0, 3, (16, 16)).astype(np.uint8)
    for site, mask in (("a", drawn), ("b", coarse)):
        for patient in range(4):
            Image.fromarray(mask).save(tmp_path / site / "masks" / f"p{patient}.png")
    with pytest.raises(DataError, match="found 3 values, 0, 1, 2"):
        read_cohort(tmp_path, "segmentation")
    sites = [{"name": name, "reader": "picture", "files": [f"{name}/images/*.png"]} for name in "ab"]
    common = {"patients_numbered_by_site": True, "matrix": [8, 8]}
    for labels in (["Background", "cup", "disc"], ["cup", "disc"]):
        write_manifest(tmp_path, sites, labels=labels, **common)
        assert identify_cohort(tmp_path).structures == ("cup", "disc")
        cohort = read_cohort(tmp_path, "segmentation")
        assert cohort.preparation["classes"] == ("background", "cup", "disc")
        np.testing.assert_array_equal(cohort.train.examples["segmentation"][0, 0], drawn)
    # Of four pixels: a structure where more than two show any, and then the one that most of them show.
    blocks = coarse.reshape(8, 2, 8, 2).transpose(0, 2, 1, 3).reshape(8, 8, 4)
    counts = np.stack([(blocks == k).sum(-1) for k in (1, 2)])
    right = np.where(counts.sum(0) > 2, counts.argmax(0) + 1, 0)
    np.testing.assert_array_equal(cohort.train.examples["segmentation"][1, 0], right)
    Image.fromarray(np.full((8, 8), 3, np.uint8)).save(tmp_path / "a" / "masks" / "p1.png")
    expected = r"a/masks/p1.png.* whole numbers from 0 to 2 \(cup, disc\), found 3"
    with pytest.raises(DataError, match=expected):
        read_cohort(tmp_path, "segmentation")


def test_an_unseen_site_is_for_the_test_alone(tmp_path):
    write_pictures(tmp_path, {"a": (8, 8), "b": (8, 8), "c": (8, 8)})
    sites = [{"name": name, "reader": "picture", "files": [f"{name}/images/*.png"]} for name in "abc"]
    write_manifest(tmp_path, [sites[0] | {"unseen": True}, *sites[1:]], patients_numbered_by_site=True)
    cohort = read_cohort(tmp_path, "segmentation")
    assert cohort.train.names == cohort.validation.names == cohort.test.names == ("b", "c")
    assert cohort.unseen.names == ("a",) and cohort.patients["unseen"] == (("p0", "p1", "p2", "p3"),)
    assert [site.name for site in cohort.sites] == ["b", "c", "a"] and "a takes no part" in cohort.notes
    assert cohort.sites[2].held_out == "the whole site"
    for number, image in enumerate(cohort.unseen.examples["image"][0]):
        stored = np.asarray(Image.open(tmp_path / "a" / "images" / f"p{number}.png"))
        np.testing.assert_allclose(image[..., 0], stored / 255, atol=1e-6)
    # The others are what they are without it.
    write_manifest(tmp_path, sites[1:], patients_numbered_by_site=True)
    alone = read_cohort(tmp_path, "segmentation")
    assert alone.unseen is None and alone.patients == {p: cohort.patients[p] for p in PARTS}
    np.testing.assert_array_equal(alone.train.examples["image"], cohort.train.examples["image"])
    write_manifest(tmp_path, [site | {"unseen": True} for site in sites])
    with pytest.raises(DataError, match=r"cohort.json.* a site that trains, found .unseen ones alone"):
        read_cohort(tmp_path, "segmentation")


def test_labels_become_classes_in_their_order(tmp_path):
    write_nifti(tmp_path, {"a": (12, 16), "b": (16, 12)}, labels=("normal", "cyst"))
    cohort = read_cohort(tmp_path, "classification")
    assert cohort.labels == ("cyst", "normal") and cohort.image_shape == (16, 16)
    for site in ("a", "b"):
        for patient, found in examples(cohort, site).items():
            expected = 1 - int(patient[1:]) % 2
            assert found["label"].tolist() == [expected] * 2 and found["image"].shape == (2, 16, 16, 1)
    table = (tmp_path / "labels.csv").read_text()
    (tmp_path / "labels.csv").write_text(table.replace("file", "patient").replace(".nii.gz", ""))
    named = read_cohort(tmp_path, "classification")
    assert named.patients == cohort.patients
    np.testing.assert_array_equal(named.train.examples["label"], cohort.train.examples["label"])
    (tmp_path / "labels.csv").unlink()
    for site in "ab":
        rows = [
            line.replace(f"{site}/", "") for line in table.splitlines() if line.startswith((site, "file"))
        ]
        (tmp_path / site / "labels.csv").write_text("\n".join(rows).replace(",", ";"))
    again = read_cohort(tmp_path, "classification")
    np.testing.assert_array_equal(again.train.examples["label"], cohort.train.examples["label"])


def test_files_of_a_patient_stay_together_and_parts_may_be_named(tmp_path):
    rng = np.random.default_rng(0)
    for patient in range(5):
        folder = tmp_path / "a" / f"case{patient}"
        folder.mkdir(parents=True)
        for number in range(1 + patient):
            Image.fromarray(rng.integers(0, 255, (8, 8)).astype(np.uint8)).save(folder / f"{number}.png")
    rows = ["patient,label,part"]
    parts = ("test", "train", "train", "validation", "train")
    rows += [f"case{p},{p % 2},{part}" for p, part in enumerate(parts)]
    (tmp_path / "a" / "labels.csv").write_text("\n".join(rows))
    cohort = read_cohort(tmp_path, "classification")
    assert cohort.patients == {
        "train": (("case1", "case2", "case4"),),
        "validation": (("case3",),),
        "test": (("case0",),),
    }
    assert [int(getattr(cohort, part).counts[0]) for part in PARTS] == [10, 4, 1] and cohort.labels == (
        "0",
        "1",
    )


def test_slices_of_nifti_lie_as_in_the_scanner(tmp_path):
    # Values are the place in mm to the left, back and head: rows go to the back, columns to the left.
    affine = np.array([[0, -2.0, 0, 7], [3, 0, 0, -5], [0, 0, 4, 1], [0, 0, 0, 1]])
    index = np.moveaxis(np.indices((5, 6, 4)), 0, -1)
    place = index @ affine[:3, :3].T + affine[:3, 3]
    for axis, sign in ((0, -1), (1, -1), (2, 1)):
        folder = tmp_path / str(axis) / "a"
        folder.mkdir(parents=True)
        for patient in range(3):
            save_nifti(folder / f"{patient}.nii", sign * place[..., axis] + 0.001 * patient, affine)
        window = {"rule": "window", "low": -100, "high": 100}
        write_manifest(
            tmp_path / str(axis),
            [{"name": "a", "reader": "nifti", "files": ["a/*.nii"]}],
            intensity=window,
        )
        (folder / "labels.csv").write_text("file,label\n0.nii,x\n1.nii,y\n2.nii,x")
        found = examples(read_cohort(tmp_path / str(axis), "classification"), "a")["0"]["image"][..., 0]
        assert found.shape == (4, 5, 6), "slices, rows to the back, columns to the left"
        steps = [np.diff(200 * found.astype(float), axis=k) for k in (2, 1, 0)]
        size = (2.0, 3.0, 4.0)[axis]
        np.testing.assert_allclose(steps[axis], size, atol=1e-3)


@pytest.mark.slow
def test_multisite_files_enter_by_a_manifest_alone(measured_data, tmp_path):
    folder = measured_data("multisite/sunnybrook_cardiac.h5").parents[1]
    cardiac = {
        "name": "Sunnybrook",
        "reader": "hdf5",
        "files": ["multisite/sunnybrook_cardiac.h5"],
        "keys": {"image": "image", "mask": "mask", "patient": "patient_id", "label": "group"},
    }
    write_manifest(tmp_path, [cardiac], matrix=[64, 64])
    cohort = read_cohort(folder, "segmentation", manifest=tmp_path / "cohort.json")
    assert cohort.sites[0].patients == 30
    assert sum(int(getattr(cohort, part).counts.sum()) for part in PARTS) == 526
    assert not set(cohort.patients["train"][0]) & set(cohort.patients["test"][0])


@pytest.mark.slow
def test_heads_of_seven_scanners_are_measured_by_simulated_coils(measured_data, tmp_path):
    folder = measured_data("mri/heads_multivendor.h5").parents[1]
    names = ("canon_galan_ghu", "ge_mr750_nih", "siemens_trio_usc")
    sites = [
        {
            "name": name,
            "reader": "hdf5",
            "files": ["mri/heads_multivendor.h5"],
            "keys": {"image": f"{name}/image"},
            "held_out": "slices",
            "coils": 4,
            "field_of_view": 240,
            "slices": 10,
        }
        for name in names
    ]
    write_manifest(tmp_path, sites, patients_numbered_by_site=True)
    cohort = read_cohort(folder, "reconstruction", manifest=tmp_path / "cohort.json")
    assert cohort.train.names == names and cohort.image_shape == (86, 86)
    assert np.asarray(cohort.train.counts).tolist() == [7] * 3 and "same patients" in cohort.notes


@pytest.mark.slow
def test_the_manifests_of_measured_cohorts_are_read_like_any_other(measured_data):
    """By area or by blocks, with the same split; and the scanners under masks of the same kind."""
    folder = measured_data("multisite/retina_vessels.h5").parents[1]
    shipped = Path(manifest.__file__).with_name("manifests")
    cohort = read_cohort(folder, "segmentation", manifest=shipped / "retina.json", matrix=(64, 64), seed=2)
    expected = load_measured_retina(folder, size=64, seed=2)
    assert sorted(cohort.train.names) == sorted(expected.train.names)
    for site in cohort.train.names:
        found, wanted = examples(cohort, site), examples(expected, site)
        assert sorted(found) == sorted(name.removeprefix(f"{site}/") for name in wanted)
        for name, value in wanted.items():
            one = found[name.removeprefix(f"{site}/")]
            np.testing.assert_allclose(one["image"], value["image"], atol=1e-5)
            assert np.mean(one["segmentation"] != value["segmentation"]) < 1e-4
    chest = read_cohort(folder, "classification", manifest=shipped / "chest_xray.json", matrix=(28, 28))
    assert chest.train.names == load_measured_chest_xray(folder, size=28).train.names
    mri = read_cohort(folder, "reconstruction", manifest=shipped / "mri.json", matrix=(64, 64))
    assert mri.train.names == ("CimaX-3T", "Prisma-3T", "Skyra-3T", "NIH-1.5T")
    assert [site.held_out for site in mri.sites] == ["masks"] * 3 + ["patients"]


@pytest.mark.slow
def test_raw_files_of_several_formats_are_one_cohort(tmp_path):
    write_mri(tmp_path, {"fastmri": (2, 24, 24)})
    rng = np.random.default_rng(1)
    for name in ("bart", "ismrmrd"):
        (tmp_path / name).mkdir()
    for patient in range(3):
        image = disc(20, 24, 0.1 * patient) + 0.05 * rng.normal(size=(2, 3, 20, 24))
        kspace = centered_fft(image).astype(np.complex64)
        write_ismrmrd(tmp_path / "ismrmrd" / f"s{patient}.h5", RawMeasurement(kspace, (20, 24)))
        write_cfl(tmp_path / "bart" / f"s{patient}", kspace[0].transpose(1, 2, 0)[:, :, None])
    cohort = read_cohort(tmp_path, "reconstruction")
    assert cohort.train.names == ("bart", "fastmri", "ismrmrd") and cohort.image_shape == (24, 24)
    assert [(site.patients, site.slices, site.coils) for site in cohort.sites] == [
        (3, 3, (3,)),
        (4, 4, (2,)),
        (3, 6, (3,)),
    ]
    # The same slice, in both formats.
    first, second = (examples(cohort, site)["s1"]["target"][0] for site in ("bart", "ismrmrd"))
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.999


@pytest.mark.slow
def test_sinograms_become_images_of_attenuation(tmp_path):
    """A disc of 0.02 per element, whose chords are known."""
    u = np.arange(48) - 23.5
    for site, shift in (("a", 0), ("b", 1)):
        (tmp_path / site).mkdir()
        for patient in range(3):
            radius = 10 + 2 * patient + shift
            chords = 2 * np.sqrt(np.maximum(radius**2 - u**2, 0))
            with h5py.File(tmp_path / site / f"t{patient}.h5", "w") as file:
                file["sinogram"] = np.broadcast_to(0.02 * chords, (2, 90, 48)).astype(np.float32)
                file["angles_deg"] = 2.0 * np.arange(90)
                file.attrs["rotation_centre_pixel"], file.attrs["detector_pixel"] = 23.5, 1.0
    window = {"rule": "window", "low": 0.0, "high": 0.04}
    rows = [f"{site}/t{p},{'large' if p == 2 else 'small'}" for site in "ab" for p in range(3)]
    (tmp_path / "labels.csv").write_text("patient,label\n" + "\n".join(rows))
    sites = [{"name": site, "reader": "ct", "files": [f"{site}/*.h5"]} for site in "ab"]
    write_manifest(tmp_path, sites, intensity=window, patients_numbered_by_site=True)
    image = examples(read_cohort(tmp_path, "classification"), "b")["t1"]["image"][0, ..., 0]
    middle = image.shape[0] // 2
    assert abs(image[middle - 6 : middle + 6, middle - 6 : middle + 6].mean() - 0.5) < 0.01
    assert image[:4].max() < 0.1


def test_slices_of_one_patient_are_divided_without_any_in_two_parts():
    image = np.arange(10.0)[:, None, None, None] * np.ones((1, 4, 4, 1))
    labels = tuple("abcdefghij")
    whole = volume.Volume("site", "p", None, "f", Path("f"), image=image, labels=labels)
    found = division.divide("site", [whole], "slices", Manifest(Path(), ()), 0)
    kept = {part: [v for _, v, _ in entries] for part, entries in found.items()}
    assert list(kept) == list(PARTS) and all(len(volumes) == 1 for volumes in kept.values())
    assert "".join("".join(volumes[0].labels) for volumes in kept.values()) == "abcdefghij"
    for (part,) in kept.values():
        assert [labels[int(x)] for x in part.image[:, 0, 0, 0]] == list(part.labels)
