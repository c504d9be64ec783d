"""LoDoPaB-CT as it is published becomes files of patients: all slices, once, also after an interruption."""

import json
import zipfile

import h5py
import numpy as np
import pytest

from data_scripts import convert_lodopab
from data_scripts.convert_lodopab import STATE, convert
from fedrecon.data import DataError, read_lodopab
from fedrecon.data.folders import Faults, list_items, read_manifest

# Patients of eleven slices in blocks of four.
IDS = ["3", "1", "3", "2", "1", "1", "4", "3", "2", "5", "3"]


def publish(folder, zipped=False, ids=IDS):
    folder.mkdir(exist_ok=True)
    values = np.random.default_rng(0).random((len(IDS), 6, 5)).astype(np.float32)
    (folder / "patient_ids_rand_train.csv").write_text("\n".join(ids) + "\n")
    paths = []
    for number, start in enumerate(range(0, len(IDS), 4)):
        paths.append(folder / f"observation_train_{number:03d}.hdf5")
        with h5py.File(paths[-1], "w") as file:
            file["data"] = values[start : start + 4]
    if zipped:
        with zipfile.ZipFile(folder / "observation_train.zip", "w") as archive:
            for path in paths:
                archive.write(path, path.name)
                path.unlink()
    return values


def check(output, values, state):
    where = {patient: site for site, members in state["hospitals"].items() for patient in members}
    for patient in "12345":
        expected = values[[i for i, name in enumerate(IDS) if name == patient]]
        with h5py.File(output / where[f"p{patient}"] / f"p{patient}.hdf5") as file:
            np.testing.assert_array_equal(file["data"], expected)
    manifest = read_manifest(output / "cohort.json", output)
    assert len(list_items(manifest, Faults(False))) == 5 and "simulated" in manifest.notes
    assert not (output / ".staging").exists()


@pytest.mark.parametrize("zipped", [False, True])
def test_every_slice_is_in_the_file_of_its_patient(tmp_path, zipped):
    values = publish(tmp_path / "source", zipped)
    state = convert(tmp_path / "source", tmp_path / "out", sites=2)
    assert sorted(len(members) for members in state["hospitals"].values()) == [2, 3]
    check(tmp_path / "out", values, state)
    site = next(site for site, members in state["hospitals"].items() if "p3" in members)
    scan = read_lodopab(tmp_path / "out" / site / "p3.hdf5")
    assert scan.values.shape == (4, 6, 5) and scan.unit == "mm"
    assert not [p for p in (tmp_path / "source").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("place", ["_scatter", "_finish"])
def test_an_interrupted_conversion_is_continued(tmp_path, monkeypatch, after, place):
    values, calls = publish(tmp_path / "source"), []
    original = getattr(convert_lodopab, place)

    def interrupted(*arguments):
        if len(calls) == after:
            # Half of the work is there, and not noted.
            original(*arguments)
            raise KeyboardInterrupt
        calls.append(0)
        return original(*arguments)

    monkeypatch.setattr(convert_lodopab, place, interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "source", tmp_path / "out", sites=2)
    monkeypatch.undo()
    check(tmp_path / "out", values, convert(tmp_path / "source", tmp_path / "out", sites=2))
    before = (tmp_path / "out" / STATE).read_text()
    convert(tmp_path / "source", tmp_path / "out", sites=2)
    assert (tmp_path / "out" / STATE).read_text() == before


def test_the_first_patients_alone_are_converted(tmp_path):
    publish(tmp_path / "source")
    state = convert(tmp_path / "source", tmp_path / "out", sites=1, patients=2)
    assert state["hospitals"] == {"site0": ["p1", "p3"]}


def test_what_does_not_fit_is_refused(tmp_path):
    source, output = tmp_path / "source", tmp_path / "out"
    with pytest.raises(DataError, match="a table of the patient of each slice"):
        convert(source, output)
    publish(source, ids=IDS[:-1])
    with pytest.raises(DataError, match="at least 11 lines, found 10"):
        convert(source, output, sites=2)
    publish(source, ids=[*IDS, "9"])
    with pytest.raises(DataError, match="11 lines, as many as slices in the blocks, found 12"):
        convert(source, tmp_path / "more", sites=2)
    publish(source)
    with pytest.raises(DataError, match="at least 9 patients for as many hospitals"):
        convert(source, tmp_path / "few", sites=9)
    convert(source, tmp_path / "right", sites=2)
    with pytest.raises(DataError, match="another folder"):
        convert(source, tmp_path / "right", sites=3)
    (tmp_path / "right" / STATE).write_text(json.dumps([]))
    with pytest.raises(DataError, match="what a conversion has written"):
        convert(source, tmp_path / "right", sites=2)
    for path in source.glob("*.hdf5"):
        path.unlink()
    with pytest.raises(DataError, match=r"observation_train\.zip"):
        convert(source, tmp_path / "none", sites=2)
    (source / "observation_train.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="a zip file"):
        convert(source, tmp_path / "none", sites=2)
