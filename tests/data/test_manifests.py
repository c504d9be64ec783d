"""Manifests of measured cohorts: those of the package, those of a data folder, and every fault by name."""

import configparser
import copy
import fnmatch
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon.data import (
    DataError,
    FastMRIVolume,
    load_measured_images,
    load_measured_mri_cohort,
    write_fastmri,
)
from fedrecon.data.measured import manifest

ROOT = Path(__file__).resolve().parents[2]
FORMAT = "fedrecon-cohort-1"
SITE = {"name": "A", "reader": "mri", "files": ["a/1.h5"], "held_out": "masks", "single_subject": True}
IMAGES = {
    "name": "B",
    "reader": "hdf5",
    "files": ["b.h5"],
    "keys": {"image": "view*"},
    "coils": 4,
    "held_out": "patients",
    "single_subject": False,
    "field_of_view": 300,
}
MRI = {"format": FORMAT, "sites": [SITE, IMAGES], "notes": "two"}
XRAY = {
    "format": FORMAT,
    "channels": 1,
    "labels": ["0", "1", "2"],
    "intensity": {"rule": "window", "low": 0, "high": 100},
    "patients_numbered_by_site": True,
    "sites": [
        {
            "reader": "hdf5",
            "files": ["x.h5"],
            "keys": {"image": "pixels", "label": "finding", "site": "hospital", "patient": "person"},
        }
    ],
    "notes": "three findings",
}


def write(folder, name, value):
    (folder / "cohorts").mkdir(exist_ok=True)
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / "cohorts" / f"{name}.json").write_text(text)


def test_the_manifests_of_the_package_are_valid_and_installed():
    mri = manifest.read_mri_manifest("absent")
    assert [site.name for site in mri.sites] == ["CimaX-3T", "Prisma-3T", "Skyra-3T", "NIH-1.5T"]
    assert manifest.read_image_manifest("absent", "retina").target == "segmentation"
    assert manifest.read_image_manifest("absent", "chest_xray").target == "label"
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    patterns = settings["options.package_data"]["fedrecon.data.measured"].split()
    for path in (ROOT / "fedrecon" / "data" / "measured" / "manifests").iterdir():
        assert any(fnmatch.fnmatch(f"manifests/{path.name}", pattern) for pattern in patterns), path


def test_the_manifest_of_the_data_folder_comes_first(tmp_path):
    rng = np.random.default_rng(0)

    def signal(shape):
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)

    files = [f"scans/{name}.h5" for name in "pqrs"]
    (tmp_path / "scans").mkdir()
    for file in files:
        write_fastmri(tmp_path / file, FastMRIVolume(signal((2, 2, 16, 16))))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.update({f"view{i}": signal((1, 12, 16)) for i in range(4)} | {"other": np.zeros(3)})
    several = SITE | {"files": files, "held_out": "patients", "single_subject": False}
    write(tmp_path, "mri", MRI | {"sites": [several, IMAGES]})
    cohort = load_measured_mri_cohort(tmp_path, acceleration=2.0, center_fraction=0.25, simulated_coils=3)
    assert cohort.train.names == ("A", "B") and cohort.notes == "two" and cohort.image_shape == (16, 16)
    first, second = cohort.sites
    assert first.files == tuple(files) and first.unseen_objects and not first.single_subject
    assert second.coils == (3,) and second.native_shapes == ((12, 16),) and second.simulated_coils
    parts = [cohort.patients[part][0] for part in ("train", "validation", "test")]
    seen = [{name.split()[0] for name in part} for part in parts]
    assert sum(map(len, parts)) == 8, "every slice has one mask"
    assert sum(map(len, seen)) == 4 and set().union(*seen) == set("pqrs"), "a file is in one part"
    assert all("other" not in name for part in cohort.patients.values() for name in part[1])


def test_a_cohort_of_images_is_read_as_its_manifest_says(tmp_path):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 101, (12, 4, 4)).astype(np.uint8)
    finding = np.tile(np.arange(3), 4).astype(np.int8)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["pixels"], file["finding"] = pixels, finding
        file["hospital"] = np.asarray([b"U"] * 6 + [b"V"] * 6)
        file["person"] = np.asarray([str(i % 6).encode() for i in range(12)])
    write(tmp_path, "xray", XRAY)
    cohort = load_measured_images(tmp_path, "xray")
    assert cohort.train.names == ("U", "V") and cohort.notes == "three findings"
    images = np.concatenate(
        [d.examples["image"][d.valid] for d in (cohort.train, cohort.validation, cohort.test)]
    )
    np.testing.assert_allclose(
        np.sort(images.mean((1, 2, 3))), np.sort(pixels.mean((1, 2)) / 100), rtol=1e-6, atol=0
    )
    labels = np.concatenate(
        [d.examples["label"][d.valid] for d in (cohort.train, cohort.validation, cohort.test)]
    )
    assert sorted(labels.tolist()) == sorted(finding.tolist())
    write(tmp_path, "xray", XRAY | {"labels": ["0", "1"]})
    with pytest.raises(DataError, match=r"x\.h5: key 'finding': expected values 0 and 1, found .* to 2"):
        load_measured_images(tmp_path, "xray")
    # The same number at two sites is then one patient, who is at both.
    write(tmp_path, "xray", XRAY | {"patients_numbered_by_site": False})
    with pytest.raises(ValueError, match="expected one site"):
        load_measured_images(tmp_path, "xray")
    with pytest.raises(DataError, match=r"nobody\.json: expected a JSON file"):
        load_measured_images(tmp_path, "nobody")


def test_images_of_one_site_without_patients_are_patients_of_their_own(tmp_path):
    pixels = np.arange(12, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["pixels"], file["finding"] = pixels, np.tile(np.arange(3), 4).astype(np.int8)
    keys = {"image": "pixels", "label": "finding"}
    source = {"name": "here", "reader": "hdf5", "files": ["x.h5"], "keys": keys}
    write(tmp_path, "xray", {k: v for k, v in XRAY.items() if "patients" not in k} | {"sites": [source]})
    cohort = load_measured_images(tmp_path, "xray")
    parts = (cohort.train, cohort.validation, cohort.test)
    assert cohort.train.names == ("here",) and sum(int(p.counts[0]) for p in parts) == 12
    assert all(p.counts[0] for p in parts)
    assert len(set().union(*(names[0] for names in cohort.patients.values()))) == 12
    seen = [np.round(100 * p.examples["image"][0, p.valid[0], 0, 0, 0]).astype(int) for p in parts]
    assert sorted(np.concatenate(seen)) == list(range(12)), "every image is in one part"


def test_texts_of_a_file_are_classes_or_findings(tmp_path):
    texts = ["a", "a, b", "b", "none"] * 3
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["pixels"] = np.arange(12, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
        file["finding"] = np.asarray([text.encode() for text in texts])
    keys = {"image": "pixels", "label": "finding"}
    source = {"name": "here", "reader": "hdf5", "files": ["x.h5"], "keys": keys}
    plain = {k: v for k, v in XRAY.items() if k not in ("patients_numbered_by_site", "labels")}

    def read(**names):
        write(tmp_path, "xray", plain | {"sites": [source]} | names)
        cohort = load_measured_images(tmp_path, "xray")
        parts = (cohort.train, cohort.validation, cohort.test)
        order = np.concatenate([100 * p.examples["image"][0, p.valid[0], 0, 0, 0] for p in parts])
        label = np.concatenate([p.examples["label"][0, p.valid[0]] for p in parts])
        return cohort.labels, label[np.argsort(order)]

    labels, found = read(findings={"A": ["a", "a, b"], "B": ["b", "a, b"]})
    assert labels == ("A", "B")
    np.testing.assert_array_equal(found, [[1, 0], [1, 1], [0, 1], [0, 0]] * 3)
    classes = {"A": ["a"], "both": ["a, b"], "other": ["b", "none"]}
    assert read(classes=classes)[1].tolist() == [0, 1, 2, 2] * 3
    with pytest.raises(DataError, match="expected texts of A, both, found b"):
        read(classes={"A": ["a", "none"], "both": ["a, b"]})
    with pytest.raises(DataError, match="every text of one class once"):
        read(classes={"A": ["a"], "B": ["a", "b"]})
    with pytest.raises(DataError, match="expected one of labels, classes and findings, found 2 of them"):
        read(classes=classes, labels=["0", "1"])
    with pytest.raises(DataError, match="two names or more"):
        read(findings={"A": ["a"]})
    for kind in ("classes", "findings"):
        rest = {"rest": ["a", "b", "none"]} if kind == "classes" else {"rest": ["b"]}
        with pytest.raises(DataError, match="expected some text of A, found none of ab"):
            read(**{kind: {"A": ["ab"], "both": ["a, b"], **rest}})


def changed(value, path, new):
    value = copy.deepcopy(value)
    *parents, last = path
    place = value
    for key in parents:
        place = place[key]
    if new is KeyError:
        del place[last]
    else:
        place[last] = new
    return value


@pytest.mark.parametrize(
    ("path", "new", "key"),
    [
        (["format"], KeyError, "format"),
        (["format"], "fedrecon-cohort-0", "format"),
        (["notes"], 3, "notes"),
        (["sites"], {}, "sites"),
        (["sites"], [], "sites"),
        (["sites"], ["A"], "sites[0]"),
        (["more"], 1, "more"),
        (["sites", 0, "more"], 1, "sites[0].more"),
        (["sites", 0, "keys"], {"image": "set*"}, "sites[0].keys"),
        (["sites", 0, "name"], "", "sites[0].name"),
        (["sites", 1, "name"], "A", "sites[1].name"),
        (["sites", 0, "reader"], "nifti", "sites[0].reader"),
        (["sites", 0, "reader"], ["mri"], "sites[0].reader"),
        (["sites", 0, "files"], [], "sites[0].files"),
        (["sites", 0, "files"], "a.h5", "sites[0].files"),
        (["sites", 0, "files"], ["/etc/a.h5"], "sites[0].files[0]"),
        (["sites", 0, "files"], ["../a.h5"], "sites[0].files[0]"),
        (["sites", 0, "files"], [{"file": "a.h5", "more": 1}], "sites[0].files[0].more"),
        (["sites", 0, "files"], ["a.h5", "more/a.h5"], "sites[0].files"),
        (["sites", 1, "files"], ["1.h5"], "sites[1].files"),
        (["sites", 1, "files"], ["b.h5", "c.h5"], "sites[1].files"),
        (["sites", 1, "held_out"], "subjects", "sites[1].held_out"),
        (["sites", 1, "held_out"], "slices", "sites[1].held_out"),
        (["sites", 1, "single_subject"], 1, "sites[1].single_subject"),
        (["sites", 1, "keys"], {"image": "view"}, "sites[1].keys"),
        (["sites", 1, "keys"], {"image": None}, "sites[1].keys.image"),
        (["sites", 1, "coils"], KeyError, "sites[1].field_of_view"),
        (["sites", 1, "field_of_view"], 0, "sites[1].field_of_view"),
        (["sites", 1, "field_of_view"], 10**309, "sites[1].field_of_view"),
        (["sites", 1, "field_of_view"], float("nan"), "sites[1].field_of_view"),
        (["sites", 1, "field_of_view"], True, "sites[1].field_of_view"),
    ],
)
def test_faults_of_an_mri_manifest_are_named(tmp_path, path, new, key):
    write(tmp_path, "mri", MRI)
    assert len(manifest.read_mri_manifest(tmp_path).sites) == 2
    write(tmp_path, "mri", changed(MRI, path, new))
    check_fault(lambda: manifest.read_mri_manifest(tmp_path), "mri", key)


@pytest.mark.parametrize(
    ("path", "new", "key"),
    [
        (["sites", 0, "files"], [""], "sites[0].files[0]"),
        (["sites", 0, "files"], ["x.h5", "y.h5"], "sites[0].files"),
        (["sites", 0, "reader"], "nifti", "sites[0].name"),
        (["channels"], 0, "channels"),
        (["channels"], KeyError, "channels"),
        (["intensity"], KeyError, "intensity"),
        (["intensity", "high"], -1, "intensity.high"),
        (["intensity", "low"], 1, "intensity"),
        (["intensity", "rule"], "percentile", "intensity"),
        (["intensity", "more"], -1, "intensity.more"),
        (["sites", 0, "keys", "label"], KeyError, "sites[0].keys"),
        (["sites", 0, "keys", "mask"], "mask", "sites[0].keys"),
        (["sites", 0, "keys", "site"], KeyError, "sites[0].name"),
        (["sites", 0, "keys", "patient"], [], "sites[0].keys.patient"),
        (["labels"], ["0"], "labels"),
        (["labels"], ["no", "yes"], "labels"),
        (["labels"], KeyError, "labels"),
        (["mask_area"], 1, "mask_area"),
        (["patients_numbered_by_site"], "yes", "patients_numbered_by_site"),
    ],
)
def test_faults_of_a_manifest_of_images_are_named(tmp_path, path, new, key):
    write(tmp_path, "xray", XRAY)
    assert manifest.read_image_manifest(tmp_path, "xray").classes == 3
    write(tmp_path, "xray", changed(XRAY, path, new))
    check_fault(lambda: manifest.read_image_manifest(tmp_path, "xray"), "xray", key)


@pytest.mark.parametrize(
    ("text", "key"), [("", None), ("{", None), ("[]", None), ("[" * 10**5, None), ('{"a": 1, "a": 2}', "a")]
)
def test_what_is_no_manifest_is_named(tmp_path, text, key):
    write(tmp_path, "mri", text)
    check_fault(lambda: manifest.read_mri_manifest(tmp_path), "mri", key)


def check_fault(read, name, key):
    with pytest.raises(DataError) as caught:
        read()
    message = str(caught.value)
    assert caught.value.key == key and f"{name}.json" in caught.value.path
    assert "\n" not in message and ": expected " in message and ", found " in message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*MRI, *SITE]), inner),
    max_leaves=8,
)


places = st.sampled_from([["sites"], ["sites", 0], ["notes"], *(["sites", 1, key] for key in IMAGES)])


@given(json_values, places)
def test_any_value_in_any_place_is_read_or_refused(tmp_path_factory, value, path):
    folder = tmp_path_factory.mktemp("manifest")
    write(folder, "mri", changed(MRI, path, value))
    try:
        assert manifest.read_mri_manifest(folder).sites
    except DataError as error:
        assert error.key is not None and "\n" not in str(error)
