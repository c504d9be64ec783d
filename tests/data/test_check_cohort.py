"""The survey of cohorts of files, and the command that prints it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedrecon.data import read_cohort
from fedrecon.data.folders import estimate_memory, survey_cohort
from tests.data.hospital_files import write_mri, write_nifti, write_pictures

ROOT = Path(__file__).resolve().parents[2]


def test_the_survey_counts_what_the_files_hold(tmp_path):
    write_nifti(tmp_path, {"a": (8, 10), "b": (12, 12)}, patients=5, slices=3, masks=True)
    (tmp_path / "a" / "p4.nii.gz").unlink()
    survey = survey_cohort(tmp_path)
    assert len(survey.faults) == 2 and all("p4" in str(fault) for fault in survey.faults)
    (tmp_path / "a" / "p4_mask.nii.gz").unlink()
    table = (tmp_path / "labels.csv").read_text().replace("a/p4.nii.gz,cyst\n", "")
    (tmp_path / "labels.csv").write_text(table)
    survey = survey_cohort(tmp_path)
    first, second = survey.sites
    assert survey.tasks == ("segmentation", "classification") and not survey.faults
    assert "images" in survey.obstacles["reconstruction"]
    assert (first.patients, first.files, first.slices) == (4, 4, 12) and first.matrices == {(8, 10): 4}
    assert second.labels == {"cyst": 3, "normal": 2} and second.spacings == ((4.0, 1.0, 1.0),)
    assert second.masks[0] == 5 and 0.1 < second.masks[1] < 0.3 and first.channels == (1,)
    low, high = first.intensity
    assert 60 < low < 100 < 150 < high < 190


def test_odd_files_and_sites_are_named(tmp_path):
    write_pictures(tmp_path, {"a": (8, 8), "b": (8, 8)})
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "b" / "masks" / "p1.png")
    Image.fromarray(np.full((9, 8), 9, np.uint8)).save(tmp_path / "b" / "images" / "p2.png")
    Image.fromarray(np.ones((9, 8), np.uint8)).save(tmp_path / "b" / "masks" / "p2.png")
    odd = survey_cohort(tmp_path, "segmentation").odd
    assert "b/images/p1.png: an empty mask" in odd
    assert "b/images/p2.png: matrix 9 x 8, others of b 8 x 8" in odd and len(odd) == 2


def test_memory_counts_the_arrays_of_all_parts(tmp_path):
    write_pictures(tmp_path, {"a": (8, 8), "b": (8, 8)})
    memory = estimate_memory(read_cohort(tmp_path, "segmentation"), "segmentation")
    # Two pictures of a site for training, one each for validation and test: image, mask, number.
    assert memory.data == 2 * (2 + 1 + 1) * (2 * 8 * 8 * 4 + 4)
    assert memory.total > memory.process > 100 * memory.data


@pytest.mark.slow
def test_the_command_says_whether_the_cohort_can_train(tmp_path):
    data = write_mri(tmp_path / "data", {"a": (2, 16, 16), "b": (1, 16, 18)})

    def run(*arguments):
        command = [sys.executable, "-m", "data_scripts.check_cohort", str(data), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    found = run("--write", f"--figure={tmp_path / 'x.png'}")
    assert found.returncode == 0 and "can train: reconstruction" in found.stdout, found.stderr
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size[0] > 300
    written = json.loads((data / "cohort.json").read_text())
    assert [site["name"] for site in written["sites"]] == ["a", "b"] and len(
        written["sites"][0]["files"]
    ) == 4
    assert "expected a folder without cohort.json" in run("--write").stderr
    found = run("--json")
    document = json.loads(found.stdout)
    assert document["can_train"] and document["cohort"]["image_shape"] == [16, 18]
    found = run("--task=segmentation")
    assert found.returncode == 1 and "a/p0.h5: expected a mask" in found.stderr
    (data / "a" / "p0.h5").write_bytes(b"")
    assert run().returncode == 1
    found = run("--skip_bad")
    assert found.returncode == 0 and "found an empty file (skipped)" in found.stderr
