"""The data scripts as a person runs them: output, files, errors and exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from fedrecon.data import (
    DataError,
    FastMRIVolume,
    RawMeasurement,
    describe_file,
    read_fastmri,
    simulate_mri_cohort,
    simulated_mri_sites,
    write_fastmri,
    write_ismrmrd,
    write_mri_cohort,
)
from fedrecon.data.formats import write_cfl
from fedrecon.data.simulation import brain_hospitals
from tests.data.twix_files import readout, write_twix

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_written_cohorts_read_back_and_are_not_overwritten(tmp_path):
    sites = simulated_mri_sites(2, 3, size_skew=0.0)
    document = write_mri_cohort(tmp_path / "out", sites, 2, (32, 32), 0)
    assert json.loads((tmp_path / "out" / "cohort.json").read_text()) == json.loads(json.dumps(document))
    cohort = simulate_mri_cohort(sites, slices=2, image_shape=(32, 32))
    for client, (site, entry) in enumerate(zip(sites, document["sites"], strict=True)):
        assert entry["name"] == site.name and len(entry["volumes"]) == site.patients
        for part in ("train", "validation", "test"):
            written = [v["patient"] for v in entry["volumes"] if v["part"] == part]
            assert tuple(written) == cohort.patients[part][client]
        for volume in entry["volumes"]:
            read = read_fastmri(tmp_path / "out" / volume["file"], require_header=True)
            assert read.kspace.shape == (2, site.coils, 32, 32)
            assert read.segmentation.any(axis=(1, 2)).astype(int).tolist() == volume["labels"]
            assert read.header.encoded.field_of_view[0] == site.field_of_view
            assert not read.kspace[..., ~read.mask].any()
            assert read.attributes["patient_id"] == volume["patient"]
    with pytest.raises(ValueError, match="cohort"):
        write_mri_cohort(tmp_path / "out", sites, 2, (32, 32), 0)


@pytest.mark.slow
def test_simulate_cohort_writes_what_its_flags_say_or_names_the_wrong_one(tmp_path):
    result = run("data_scripts.simulate_cohort", f"--output={tmp_path}", "--size_skew=2")
    assert result.returncode == 1 and "size_skew" in result.stderr and "Traceback" not in result.stderr
    assert not os.listdir(tmp_path)
    flags = ["--sites=1", "--patients_per_site=3", "--slices=1", "--size=32"]
    result = run("data_scripts.simulate_cohort", f"--output={tmp_path}", *flags)
    assert result.returncode == 0 and "3 patients" in result.stdout
    assert json.loads((tmp_path / "cohort.json").read_text())["image_shape"] == [32, 32]


@pytest.mark.slow
def test_simulate_cohort_writes_the_hospitals_of_the_first_command(tmp_path):
    flags = ["--scanners=hospitals", "--sites=1", "--slices=1", "--size=32"]
    result = run("data_scripts.simulate_cohort", f"--output={tmp_path}", "--label_skew=0.1", *flags)
    assert result.returncode == 1 and "--label_skew: expected --scanners=mixed with it" in result.stderr
    result = run("data_scripts.simulate_cohort", f"--output={tmp_path}", *flags)
    assert result.returncode == 0 and "PD-3T (unseen): 4 patients" in result.stdout
    document = json.loads((tmp_path / "cohort.json").read_text())
    _, unseen = brain_hospitals(1)
    assert document["unseen"] == unseen.name
    assert [site["patients"] for site in document["sites"]] == [4, 4]
    parts = [volume["part"] for volume in document["sites"][0]["volumes"]]
    assert sorted(parts) == ["test", "test", "train", "validation"]
    result = run("data_scripts.check_cohort", tmp_path, f"--figure={tmp_path}/x.png")
    assert result.returncode == 1 and "--figure: expected none" in result.stderr


@pytest.mark.slow
def test_inspect_file_describes_sound_files_and_names_what_is_wrong(tmp_path):
    kspace = np.ones((2, 3, 8, 10), np.complex64)
    write_fastmri(tmp_path / "good.h5", FastMRIVolume(kspace, np.arange(10) % 2 == 0))
    (tmp_path / "bad.h5").write_bytes((tmp_path / "good.h5").read_bytes()[:-100])
    result = run("data_scripts.inspect_file", tmp_path / "bad.h5", tmp_path / "good.h5")
    assert result.returncode == 1
    assert "bad.h5: expected a readable HDF5 file" in result.stderr and "Traceback" not in result.stderr
    assert "2 slices, 3 coils, 8 x 10" in result.stdout and "5 of 10 columns, acceleration 2" in result.stdout
    assert run("data_scripts.inspect_file", tmp_path / "good.h5").returncode == 0


def test_other_hdf5_files_are_listed(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["group/values"] = np.zeros((2, 3))
        file.attrs["units"] = "mm"
    assert describe_file(tmp_path / "other.h5") == ["group/values: (2, 3) float64", "units: mm"]
    with h5py.File(tmp_path / "other.h5", "a") as file:
        file["kspace"] = np.zeros((2, 3))
    with pytest.raises(DataError, match="kspace"):
        describe_file(tmp_path / "other.h5")


def test_measurements_of_all_formats_are_described(tmp_path):
    """What the reconstruction reads, several images and all, is sound here, too."""
    pytest.importorskip("ismrmrd")
    kspace = np.ones((2, 3, 8, 10), np.complex64)
    write_cfl(tmp_path / "k", kspace[0].transpose(1, 2, 0)[:, :, None])
    assert describe_file(tmp_path / "k.cfl") == ["BART array: READ 8, PHS1 10, COIL 3, largest 1"]
    with h5py.File(tmp_path / "single.h5", "w") as file:
        file["kspace"] = kspace[0]
    assert "3 slices, 1 coils, 8 x 10" in describe_file(tmp_path / "single.h5")[0]
    noise = np.ones((3, 5), np.complex64)
    raw = RawMeasurement(kspace, (8, 10), noise=noise, field_of_view=(5.0, 80.0, 50.0))
    write_ismrmrd(tmp_path / "m.mrd", raw)
    assert describe_file(tmp_path / "m.mrd") == [
        "21 acquisitions: 20 of imaging, 1 of noise",
        "ISMRMRD dataset: 2 slices, 3 coils, 8 x 10, 100.0% measured, voxels of 5 x 10 x 5 mm",
    ]
    write_twix(tmp_path / "m.dat", [readout(kspace[0, :, :, 0], e, eco=e % 2) for e in range(10)])
    assert describe_file(tmp_path / "m.dat")[:2] == ["10 acquisitions: 10 of imaging", "contrast: 0, 1"]
    (tmp_path / "m.dat").write_bytes((tmp_path / "m.dat").read_bytes()[:-300])
    with pytest.raises(DataError, match=r"m\.dat"):
        describe_file(tmp_path / "m.dat")


@pytest.mark.slow
def test_all_measured_files_are_sound(measured_data):
    folder = measured_data("mri/epi_trio.h5").parents[1]
    files = [path for path in folder.rglob("*") if path.suffix in (".dat", ".dcm", ".h5")]
    assert len(files) > 20
    for path in files:
        assert describe_file(path), path
