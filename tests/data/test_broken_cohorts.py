"""Cohorts with a fault: one line that names the file, what was expected and found; skipped where asked."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fedrecon.data import DataError, read_cohort, write_dicom
from fedrecon.data.formats import centered_affine
from tests.data.hospital_files import save_nifti, write_manifest, write_mri, write_nifti, write_pictures

ROOT = Path(__file__).resolve().parents[2]
TASKS = {
    "pictures": "segmentation",
    "nifti": "classification",
    "mri": "reconstruction",
    "dicom": "classification",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small sound cohort of each kind, to be copied and broken."""
    folder = tmp_path_factory.mktemp("sound")
    sites = {"a": (8, 8), "b": (10, 8)}
    write_pictures(folder / "pictures", sites)
    write_nifti(folder / "nifti", sites)
    write_mri(folder / "mri", {"a": (2, 8, 8), "b": (1, 8, 10)})
    rng = np.random.default_rng(0)
    rows = ["patient,label"]
    for site in sites:
        for patient in range(4):
            series = folder / "dicom" / site / f"p{patient}"
            series.parent.mkdir(parents=True, exist_ok=True)
            values = rng.normal(0, 100, (2, 8, 8)).astype(np.float32)
            write_dicom(series, values, centered_affine((2, 8, 8), (3, 1, 1)), "CT", rescale_type="HU")
            rows.append(f"{site}/p{patient},{patient % 2}")
    (folder / "dicom" / "labels.csv").write_text("\n".join(rows))
    return folder


def content(name, value):
    def change(folder):
        (folder / name).write_bytes(value if isinstance(value, bytes) else value.encode())

    return change


def cut(name, part=0.5):
    def change(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * part)])

    return change


def swapped(name, before, after):
    def change(folder):
        data = (folder / name).read_bytes()
        assert before in data
        (folder / name).write_bytes(data.replace(before, after))

    return change


def picture(name, values):
    return lambda folder: Image.fromarray(np.asarray(values, np.uint8)).save(folder / name)


def removed(*names):
    def change(folder):
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def copied(source, target):
    def change(folder):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / source, folder / target)

    return change


def table(change):
    def edit(folder):
        path = folder / "labels.csv"
        path.write_text(change(path.read_text()))

    return edit


def hdf5(name, key, change):
    def edit(folder):
        with h5py.File(folder / name, "r+") as file:
            value = change(file[key][()]) if key in file else change(None)
            if key in file:
                del file[key]
            if value is not None:
                file[key] = value

    return edit


def nifti(name, values):
    return lambda folder: save_nifti(folder / name, np.asarray(values, float))


def dicom(name, **elements):
    def edit(folder):
        dataset = pydicom.dcmread(folder / name)
        for key, value in elements.items():
            setattr(dataset, key, value)
        dataset.save_as(folder / name)

    return edit


def manifest(sites, **members):
    return lambda folder: write_manifest(folder, sites, **members)


def site(name="a", files=("a/*.png",), reader="picture", **members):
    return {"name": name, "reader": reader, "files": list(files)} | members


def nan(kspace):
    kspace[0, 0, 3, 3] = np.nan
    return kspace


def holes(kspace):
    kspace[..., 1::2] = 0
    return kspace


def both(*changes):
    def edit(folder):
        for change in changes:
            change(folder)

    return edit


GRAY = np.arange(64).reshape(8, 8)
A, MASK = "a/images/p0.png", "a/masks/p0.png"
# Kind, fault, what the message names, and the pattern that it has; faults of one file may be skipped.
ONE_FILE = [
    (
        "pictures",
        lambda f: (f / "a" / "x.png").symlink_to("absent"),
        "a/x.png",
        "a file, found a link to nothing",
    ),
    ("pictures", content(A, b""), A, "found an empty file"),
    ("pictures", cut(A), A, "a readable picture .* truncated"),
    ("pictures", content(A, "text"), A, "a readable picture .* cannot identify"),
    ("pictures", removed(MASK), A, r"a mask \(the same name in masks/, or NAME_mask\), found none"),
    (
        "pictures",
        picture(MASK, np.zeros((8, 9))),
        MASK,
        r"shape \(1, 8, 8\), that of p0.png, found \(1, 8, 9\)",
    ),
    ("pictures", picture(MASK, GRAY % 3), MASK, "0 and one other value, .* found 3 values, 0, 1, 2"),
    ("pictures", picture(MASK, GRAY % 2 + 4), MASK, "0 and one other value, .* found 2 values, 4, 5"),
    (
        "pictures",
        picture(MASK, np.stack([GRAY, GRAY, 0 * GRAY], -1)),
        MASK,
        "a gray picture, .* found colors",
    ),
    ("pictures", cut(MASK), MASK, "a readable picture .* truncated"),
    ("pictures", removed(A), MASK, "an image that it is the mask of, found none"),
    (
        "pictures",
        content("a/images/x.xyz", "?"),
        "a/images/x.xyz",
        "a file of measurements or images .*another",
    ),
    (
        "pictures",
        nifti("a/images/x.nii", np.ones((8, 8, 1))),
        "a/images/x.nii",
        "pictures, as the others of a",
    ),
    (
        "pictures",
        picture(A, np.stack([GRAY] * 3, -1)),
        A,
        "1 channels as the most have, .* found 3",
    ),
    (
        "pictures",
        copied(A, "b/images/q.png"),
        "b/images/q.png",
        "a file unlike the others, found the content of",
    ),
    (
        "pictures",
        lambda f: Image.fromarray(np.full((8, 8), 700, np.uint16)).save(f / A),
        A,
        "an image of several values, found the value 700",
    ),
    (
        "nifti",
        table(lambda t: t.replace("a/p0.nii.gz,cyst\n", "")),
        "a/p0.nii.gz",
        "a label in labels.csv, found none",
    ),
    ("nifti", table(lambda t: t + "a/p9.nii.gz,cyst\n"), "labels.csv", "a file .* among those of the cohort"),
    ("nifti", nifti("a/p0.nii.gz", np.full((8, 8, 2), np.nan)), "a/p0.nii.gz", "finite values .* 128 NaN"),
    ("nifti", cut("a/p0.nii.gz"), "a/p0.nii.gz", "a readable NIfTI file"),
    ("nifti", content("a/p0.nii.gz", b""), "a/p0.nii.gz", "a NIfTI file, found an empty file"),
    ("nifti", nifti("a/p0.nii.gz", np.ones((8, 8, 2, 3))), "a/p0.nii.gz", "a volume of three axes"),
    ("nifti", nifti("a/p0.nii.gz", np.ones((8, 8, 2))), "a/p0.nii.gz", "an image of several values"),
    ("nifti", nifti("a/p0_mask.nii", np.ones((8, 8, 3))), "a/p0_mask.nii", r"shape \(2, 8, 8\), that of p0"),
    (
        "nifti",
        lambda f: save_nifti(
            f / "a/p0_seg.nii", np.ones((8, 8, 2)), np.diag([1.0, 1, 4, 1]) + np.eye(4, k=3)[:4] * 9
        ),
        "a/p0_seg.nii",
        "the place in the scanner of p0.nii.gz, found 9.0 mm off",
    ),
    ("mri", hdf5("a/p0.h5", "kspace", nan), "a/p0.h5", "key 'kspace': expected finite values, found 1 NaN"),
    (
        "mri",
        hdf5("a/p0.h5", "kspace", holes),
        "a/p0.h5",
        "fully sampled k-space, .* found .* and no reference",
    ),
    (
        "mri",
        hdf5("a/p0.h5", "kspace", lambda k: 0 * k),
        "a/p0.h5",
        "a signal in every slice, found a slice of zeros",
    ),
    (
        "mri",
        hdf5("a/p0.h5", "kspace", np.real),
        "a/p0.h5",
        "key 'kspace': expected type complex, found float32",
    ),
    ("mri", cut("a/p0.h5"), "a/p0.h5", "a readable HDF5 file"),
    ("mri", content("a/p0.h5", "text"), "a/p0.h5", "an HDF5 file, found a file of another type"),
    ("mri", content("a/p0.h5", b""), "a/p0.h5", "an HDF5 file, found an empty file"),
    ("mri", hdf5("a/p0.h5", "kspace", lambda k: None), "a/p0.h5", "HDF5 of measurements; name the keys"),
    ("mri", picture("a/x.png", GRAY), "a/x.png", "raw MRI, as the others of a, found pictures"),
    ("dicom", content("a/p0/00001.dcm", b""), "a/p0/00001.dcm", "expected"),
    ("dicom", content("a/p0/00001.dcm", "text" * 50), "a/p0/00001.dcm", "expected"),
    (
        "dicom",
        swapped("a/p0/00001.dcm", b"1.2.840.10008.1.2.1", b"1.2.84.10008.1.2.17"),
        "a/p0/00001.dcm",
        "expected",
    ),
    (
        "dicom",
        swapped("a/p0/00001.dcm", b"\x02\x00\x10\x00UI", b"\x02\x00\x11\x00UI"),
        "a/p0/00001.dcm",
        "expected",
    ),
    ("dicom", cut("a/p0/00001.dcm", 0.8), "a/p0/00001.dcm", "expected"),
    ("dicom", dicom("a/p0/00001.dcm", SeriesInstanceUID="1.2.3"), "a/p0/0000", "expected"),
    ("dicom", copied("a/p1/00001.dcm", "a/p0/00009.dcm"), "a/p0/0000", "expected"),
]
WHOLE = [
    (
        "dicom",
        both(
            removed("b", "labels.csv"),
            lambda f: (f / "b").mkdir(),
            *(copied(f"a/p0/0000{i}.dcm", f"b/x{i}.dcm") for i in (1, 2)),
        ),
        "b/x2.dcm",
        "a folder for each series, or its patient in the manifest, found the series of .*b/x1.dcm",
    ),
    (
        "nifti",
        table(
            lambda t: "patient,label\n" + "".join(f"p{p},{'cyst' if p % 2 else 'normal'}\n" for p in range(4))
        ),
        "labels.csv",
        "HOSPITAL/p0, or a column site, since two hospitals have p0, found 'p0', of 'a' and 'b'",
    ),
    (
        "pictures",
        removed("a", "b"),
        "",
        "a sub-folder of files for each hospital, or cohort.json, found neither",
    ),
    (
        "pictures",
        removed("a/images/p0.png", "a/masks/p0.png", "a/images/p1.png", "a/masks/p1.png"),
        "/a",
        "at least 3 patients",
    ),
    (
        "pictures",
        both(removed("b"), lambda f: (f / "b").mkdir()),
        "/b",
        "files of measurements or images, found none",
    ),
    ("pictures", removed("a/images"), "a/masks/p0.png", "an image that it is the mask of, found masks alone"),
    ("nifti", removed("labels.csv"), "a/p0.nii.gz", "a label in labels.csv, found none"),
    (
        "nifti",
        table(lambda t: t.replace("label", "class", 1)),
        "labels.csv",
        "the columns file or patient, and label",
    ),
    ("nifti", table(lambda t: t.replace("normal", "cyst")), "", "two labels or more, found cyst alone"),
    (
        "nifti",
        table(lambda t: t.replace(",cyst", ",", 1)),
        "labels.csv",
        "key 'line 2': expected a label, found none",
    ),
    ("nifti", table(lambda t: ""), "labels.csv", "the columns file or patient, and label"),
    ("nifti", table(lambda t: "file,label\n"), "labels.csv", "at least one row"),
    ("nifti", content("labels.csv", b"file,label\n\xff,1\n"), "labels.csv", "a table in UTF-8"),
    (
        "nifti",
        table(lambda t: t + "a/p0.nii.gz,normal\n"),
        "labels.csv",
        "one label of a file .* 'cyst' and 'normal'",
    ),
    (
        "nifti",
        table(lambda t: t.replace("cyst\n", "cyst,1\n", 1)),
        "labels.csv",
        "key 'line 2': expected 2 cells, found 3",
    ),
    (
        "nifti",
        table(
            lambda t: (
                t.replace("label\n", "label,part\n")
                .replace("cyst\n", "cyst,tests\n")
                .replace("normal\n", "normal,test\n")
            )
        ),
        "labels.csv",
        "train, validation, test",
    ),
    (
        "pictures",
        manifest([site()], tasc=[]),
        "cohort.json",
        "key 'tasc': expected no such member",
    ),
    ("pictures", manifest([site(words="x")]), "cohort.json", r"sites\[0\].words': expected no such member"),
    ("pictures", manifest([site()], format="2"), "cohort.json", "key 'format': expected 'fedrecon-cohort-1'"),
    (
        "pictures",
        manifest([site(files=["a/images/p9.png"])]),
        "a/images/p9.png",
        "the file that the manifest names",
    ),
    ("pictures", manifest([site(files=["a/*.tiff"])]), "cohort.json", "files that match, found 'a/\\*.tiff'"),
    ("pictures", manifest([site(files=["../a.png"])]), "cohort.json", "a file inside the data folder"),
    (
        "pictures",
        manifest([site(reader="png")]),
        "cohort.json",
        "key 'sites\\[0\\].reader': expected 'mri' or",
    ),
    ("pictures", manifest([site(), site()]), "cohort.json", "a name unlike those before, found"),
    (
        "pictures",
        manifest([site()], split={"train": 0.5, "validation": 0.1, "test": 0.1}),
        "cohort.json",
        "fractions that sum to 1",
    ),
    (
        "pictures",
        manifest([site(files=["a/images/*.png"]), site("b", ["b/images/*.png"])]),
        "b/images/p0.png",
        "patient 'p0' at one site",
    ),
    ("pictures", content("cohort.json", "{"), "cohort.json", "a JSON file"),
    (
        "pictures",
        manifest([site(files=["a/images/*.png"]), site("b", ["a/images/p0.png"])]),
        A,
        "a file that is named once",
    ),
    (
        "pictures",
        manifest([site(files=[{"file": A, "part": "train"}, "a/images/p[123].png"])]),
        "a/images/p1.png",
        "a part, one for each patient",
    ),
    (
        "pictures",
        manifest([site(files=["a/images/*.png"], held_out="slices")]),
        "a/images/p",
        "at least 3 slices",
    ),
    (
        "pictures",
        manifest([site(files=["a/images/*.png"], intensity={"rule": "window", "low": 2, "high": 1})]),
        "cohort.json",
        "more than low",
    ),
    (
        "pictures",
        manifest([site(files=["a/images/*.png"])], tasks=["classification"]),
        "cohort.json",
        "segmentation among them",
    ),
    (
        "mri",
        manifest([site(files=["a/p0.h5"], reader="hdf5", keys={"image": "picture"})]),
        "a/p0.h5",
        "key 'picture': expected a dataset",
    ),
    (
        "nifti",
        manifest([site(files=["a/*.nii.gz"], reader="nifti")], labels=["cyst", "tumor"]),
        "a/p1.nii.gz",
        "one of the labels cyst, tumor, found 'normal'",
    ),
    ("pictures", lambda f: shutil.rmtree(f), "", "no such folder"),
]


def broken(sound, tmp_path, kind, change):
    folder = tmp_path / "cohort"
    shutil.copytree(sound / kind, folder)
    change(folder)
    return folder


def check_message(error, folder, name, pattern):
    text = str(error)
    assert "\n" not in text and str(folder) in text and name in text, text
    assert re.search(pattern, text) and "expected" in text and "found" in text, text


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "change", "name", "pattern"), ONE_FILE)
def test_a_faulty_file_is_named_and_left_out_where_asked(sound, tmp_path, kind, change, name, pattern):
    folder = broken(sound, tmp_path, kind, change)
    with pytest.raises(DataError) as caught:
        read_cohort(folder, TASKS[kind])
    check_message(caught.value, folder, name, pattern)
    if kind == "mri":
        return
    cohort = read_cohort(folder, TASKS[kind], skip_bad=True)
    assert "1 skipped" in cohort.notes and name in cohort.notes


@pytest.mark.parametrize(("kind", "change", "name", "pattern"), WHOLE)
def test_a_faulty_cohort_is_refused_by_the_name_of_its_file(sound, tmp_path, kind, change, name, pattern):
    folder = broken(sound, tmp_path, kind, change)
    with pytest.raises(DataError) as caught:
        read_cohort(folder, TASKS[kind])
    check_message(caught.value, folder, name, pattern)


@pytest.mark.slow
@given(
    kind=st.sampled_from(["pictures", "nifti", "mri", "dicom"]),
    number=st.integers(0, 7),
    start=st.floats(0, 1),
    noise=st.binary(min_size=0, max_size=40),
    keep=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_damage_of_any_kind_is_one_line_about_that_file(
    sound, tmp_path_factory, kind, number, start, noise, keep
):
    folder = broken(sound, tmp_path_factory.mktemp("damage"), kind, lambda folder: None)
    endings = (".png", ".gz", ".h5", ".dcm")
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in endings]
    path = files[number % len(files)]
    data = path.read_bytes()
    place = int(start * len(data))
    path.write_bytes(data[:place] + noise + (data[place + len(noise) :] if keep else b""))
    try:
        cohort = read_cohort(folder, TASKS[kind], matrix=(8, 8), skip_bad=kind != "mri")
    except DataError as error:
        assert "\n" not in str(error) and path.name.partition(".")[0] in str(error)
    else:
        # Other pixels, at most: what was left out is named.
        assert "skipped" not in cohort.notes or path.name in cohort.notes or path.parent.name in cohort.notes


@pytest.mark.slow
def test_check_cohort_ends_with_one_line_for_every_fault_and_status_1(sound, tmp_path):
    calls, expected = [], []
    for number, (kind, change, name, _) in enumerate([*ONE_FILE, *WHOLE][::2]):
        folder = broken(sound, tmp_path / str(number), kind, change)
        task = f"--task={TASKS[kind]}"
        calls.append(["data_scripts.check_cohort", [str(folder), task, f"--figure={folder.parent}/x.png"]])
        expected.append((folder, name))
    found = subprocess.run(
        [sys.executable, "-m", "tests.experiments.call_programs"],
        input=json.dumps(calls),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    for (folder, name), (status, output) in zip(expected, json.loads(found.stdout), strict=True):
        lines = [line for line in output.splitlines() if line.startswith("check_cohort: ")]
        assert status == 1 and lines and "Traceback" not in output, (folder, output)
        assert any(str(folder) in line and name in line and "found" in line for line in lines), (name, output)
