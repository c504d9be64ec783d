"""Cohorts with a fault: one line that names the file, what was expected and found; skipped where asked."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrecon.data import DataError, read_cohort, write_dicom
from fedrecon.data.folders.loading import load_volumes
from fedrecon.data.formats import centered_affine
from tests.data.broken_files import (
    ONE_FILE,
    A,
    both,
    content,
    copied,
    manifest,
    removed,
    site,
    table,
)
from tests.data.hospital_files import write_mri, write_nifti, write_pictures
from tests.data.raw_files import coil_images, write_epi, write_parallel, write_radial, write_siemens

ROOT = Path(__file__).resolve().parents[2]
TASKS = {
    "pictures": "segmentation",
    "nifti": "classification",
    "mri": "reconstruction",
    "dicom": "classification",
    "radial": "reconstruction",
    "epi": "reconstruction",
    "twix": "reconstruction",
    "ct": "reconstruction",
}
RAW = {
    "radial": (write_radial, ".h5"),
    "epi": (write_epi, ".h5"),
    "twix": (write_siemens, ".dat"),
    "ct": (write_parallel, ".h5"),
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
    for name in sites:
        for patient in range(4):
            series = folder / "dicom" / name / f"p{patient}"
            series.parent.mkdir(parents=True, exist_ok=True)
            values = rng.normal(0, 100, (2, 8, 8)).astype(np.float32)
            write_dicom(series, values, centered_affine((2, 8, 8), (3, 1, 1)), "CT", rescale_type="HU")
            rows.append(f"{name}/p{patient},{patient % 2}")
    (folder / "dicom" / "labels.csv").write_text("\n".join(rows))
    return folder


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
    if kind in RAW and not (sound / kind).exists():
        (sound / kind / "a").mkdir(parents=True)
        write, end = RAW[kind]
        for patient in range(4):
            scanned = [[(patient, 2, 5, 0.02)]] if kind == "ct" else coil_images(patient)
            write(sound / kind / "a" / f"p{patient}{end}", scanned)
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
    (skipped,) = load_volumes(folder, TASKS[kind], skip_bad=True).skipped
    check_message(skipped, folder, name, pattern)


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
def test_check_cohort_ends_with_one_line_for_faults_of_every_kind_and_status_1(sound, tmp_path):
    calls, expected = [], []
    for number, (kind, change, name, _) in enumerate([*ONE_FILE, *WHOLE][::4]):
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
