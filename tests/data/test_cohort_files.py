"""Cohorts in folders: the arrays of the same cohort in memory, and every fault by the name of its file."""

import dataclasses
import json
import shutil

import h5py
import numpy as np
import pytest

from fedrecon.data import (
    DataError,
    read_mri_cohort,
    simulate_mri_cohort,
    simulated_mri_sites,
    write_mri_cohort,
)
from fedrecon.data.simulation import read_mri_test_site, simulate_mri_test_site
from fedrecon.data.simulation.hospitals import UNSEEN_HOSPITAL

# Scanners of 8 and 6 coils: the second is padded.
SITES = tuple(simulated_mri_sites(3, 3, size_skew=0.0)[index] for index in (0, 2))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort") / "out"
    write_mri_cohort(folder, SITES, 2, (32, 32), 3)
    return folder


def test_a_folder_holds_the_cohort_of_the_same_arguments(written):
    cohort, expected = read_mri_cohort(written), simulate_mri_cohort(SITES, 3, 2, (32, 32), seed=3)
    for part in ("train", "validation", "test"):
        found, wanted = getattr(cohort, part), getattr(expected, part)
        assert found.names == wanted.names and found.examples.keys() == wanted.examples.keys()
        np.testing.assert_array_equal(found.valid, wanted.valid)
        for name, value in wanted.examples.items():
            assert found.examples[name].dtype == value.dtype
            np.testing.assert_array_equal(found.examples[name], value, err_msg=name)
    for name in ("sites", "image_shape", "patients", "notes"):
        assert getattr(cohort, name) == getattr(expected, name)


def test_a_folder_holds_the_hospital_that_takes_no_part(tmp_path):
    """With its coils padded as those of the others: it has more of them here."""
    unseen = dataclasses.replace(UNSEEN_HOSPITAL, coils=9, patients=2)
    fractions = (1 / 3, 1 / 3, 1 / 3)
    write_mri_cohort(tmp_path, SITES[:1], 1, (32, 32), 3, fractions=fractions, unseen=unseen)
    cohort, (site, foreign) = read_mri_cohort(tmp_path), read_mri_test_site(tmp_path)
    expected = simulate_mri_cohort(SITES[:1], 3, 1, (32, 32), fractions=fractions, coils=9, seed=3)
    wanted = simulate_mri_test_site(unseen, 1, (32, 32), 9, 3)
    assert site == unseen and cohort.sites == SITES[:1] and cohort.patients == expected.patients
    assert foreign.names == wanted.names
    for found, right in ((foreign, wanted), (cohort.test, expected.test)):
        for name, value in right.examples.items():
            np.testing.assert_array_equal(found.examples[name], value, err_msg=name)


def test_older_folders_have_no_unseen_hospital(written, tmp_path):
    assert read_mri_test_site(written) is None
    folder = shutil.copytree(written, tmp_path / "copy")
    _edit(lambda d: d.pop("unseen"))(folder)
    assert len(read_mri_cohort(folder).sites) == 2 and read_mri_test_site(folder) is None


def _edit(change):
    """A fault in cohort.json: ``change`` gets its content."""

    def edit(folder):
        document = json.loads((folder / "cohort.json").read_text())
        change(document)
        (folder / "cohort.json").write_text(json.dumps(document))

    return edit


def _volume(**members):
    return _edit(lambda d: d["sites"][0]["volumes"][0].update(members))


def _file(change):
    """A fault in the first patient's file."""

    def edit(folder):
        document = json.loads((folder / "cohort.json").read_text())
        change(folder / document["sites"][0]["volumes"][0]["file"])

    return edit


def _hdf5(change):
    def edit(path):
        with h5py.File(path, "r+") as file:
            change(file)

    return _file(edit)


def _swap(folder):
    first, second = sorted((folder / SITES[0].name).glob("*.h5"))[:2]
    spare = folder / "spare"
    first.rename(spare), second.rename(first), spare.rename(second)


def _again(document):
    document["sites"][1]["volumes"][0]["patient"] = document["sites"][0]["volumes"][0]["patient"]


def _flip(path):
    with h5py.File(path, "r+") as file:
        file["kspace"][0, 0, 16, 16] *= -1


FAULTS = {
    "no manifest": (lambda folder: (folder / "cohort.json").unlink(), "a folder with cohort.json"),
    "half a manifest": (
        lambda folder: (folder / "cohort.json").write_text((folder / "cohort.json").read_text()[:-40]),
        r"cohort\.json: expected a JSON file",
    ),
    "no tasks": (_edit(lambda d: d.pop("tasks")), r"cohort\.json: key 'tasks': expected some of"),
    "unknown task": (_edit(lambda d: d.update(tasks=["cooking"])), r"cohort\.json: key 'tasks'"),
    "no site": (_edit(lambda d: d.update(sites=[])), r"cohort\.json: key 'sites'"),
    "site twice": (_edit(lambda d: d["sites"][1].update(name=d["sites"][0]["name"])), r"sites\[1\]\.name"),
    "other shape": (_edit(lambda d: d.update(image_shape=[32, 30])), r"\.h5: key 'kspace'"),
    "no shape": (_edit(lambda d: d.update(image_shape=[32])), "key 'image_shape': expected two positive"),
    "more slices": (_edit(lambda d: d.update(slices=3)), r"sites\[0\]\.volumes\[0\]\.labels"),
    "coils in words": (_edit(lambda d: d["sites"][0].update(coils="eight")), r"sites\[0\]\.coils"),
    "other coils": (
        _edit(lambda d: d["sites"][0].update(coils=7)),
        r"\.h5: key 'kspace': expected shape \(2, 7",
    ),
    "unknown member": (_edit(lambda d: d["sites"][0].update(color="red")), r"sites\[0\]\.color"),
    "patients": (_edit(lambda d: d["sites"][0].update(patients=9)), "one for each of 9 patients, found 3"),
    "unknown part": (_volume(part="holdout"), r"volumes\[0\]\.part"),
    "outside": (_volume(file="../x.h5"), r"volumes\[0\]\.file"),
    "no part": (
        _edit(lambda d: [v.update(part="train") for v in d["sites"][0]["volumes"]]),
        "a patient in the part 'validation'",
    ),
    "unseen unknown": (_edit(lambda d: d.update(unseen="x")), "key 'unseen': expected the name of one of"),
    "unseen trains": (
        _edit(lambda d: d.update(unseen=d["sites"][1]["name"])),
        r"sites\[1\]\.volumes'?: expected patients in the part 'test' alone",
    ),
    "patient twice": (_edit(_again), r"sites\[1\]\.volumes\[0\]\.patient"),
    "other labels": (_volume(labels=[1, 1]), r"\.h5: key 'segmentation': expected lesions in the slices"),
    "missing file": (_file(lambda path: path.unlink()), r"\.h5: expected the file that .*cohort\.json names"),
    "truncated file": (
        _file(lambda p: p.write_bytes(p.read_bytes()[:-200])),
        r"\.h5: expected a readable HDF5",
    ),
    "empty file": (_file(lambda path: path.write_bytes(b"")), r"\.h5: expected an HDF5 file, found an empty"),
    "unnamed file": (_file(lambda p: shutil.copy(p, p.with_name("x.h5"))), r"x\.h5: expected a file that"),
    "files swapped": (_swap, r"\.h5: key 'patient_id': expected"),
    "no reference": (_hdf5(lambda file: file.pop("reconstruction_rss")), r"\.h5: key 'reconstruction_rss'"),
    "no lesions": (
        _hdf5(lambda file: file.pop("segmentation")),
        r"\.h5: key 'segmentation': expected an array",
    ),
    "other site": (_hdf5(lambda file: file.attrs.update(site="x")), r"\.h5: key 'site'"),
    "one sample": (_file(_flip), r"\.h5: expected SHA-256 .* by cohort\.json"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_folder_name_the_file(written, tmp_path, fault):
    folder = shutil.copytree(written, tmp_path / "copy")
    damage, message = FAULTS[fault]
    damage(folder)
    with pytest.raises(DataError, match=message) as raised:
        read_mri_cohort(folder)
    assert str(folder) in str(raised.value) and "\n" not in str(raised.value)
