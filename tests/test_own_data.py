"""The page on own files: its example, commands and manifests do what it says."""

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fedrecon.data import read_cohort
from fedrecon.data.folders import read_manifest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "own_data.md").read_text()
MANIFESTS = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.S)]


def save(folder, document):
    (folder / "cohort.json").write_text(json.dumps(document))
    return folder / "cohort.json"


def example(folder, monkeypatch):
    """Writes the files of the page's example."""
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, {})


def test_the_manifest_of_the_page_reads_the_files_of_its_example(tmp_path, monkeypatch):
    example(tmp_path, monkeypatch)
    save(tmp_path / "eyes", MANIFESTS[0])
    cohort = read_cohort("eyes", "segmentation")
    north, south = cohort.sites
    assert (north.patients, south.patients, south.files) == (6, 3, 4)
    assert [patients[1] for patients in cohort.patients.values()] == [("A",), ("B",), ("C",)]
    assert cohort.notes == "Two hospitals; small. south, new camera: Camera of 2024."


def test_every_member_of_the_format_is_on_the_page(tmp_path):
    for document in MANIFESTS:
        read_manifest(save(tmp_path, document))
    source = (ROOT / "fedrecon" / "data" / "folders" / "manifest.py").read_text()
    members = set(re.findall(r'(?:top|entry|table)\.\w+\(\s*"(\w+)"', source))
    assert len(members) > 25
    assert all(f"`{name}`" in PAGE or f'"{name}"' in PAGE for name in members), members
    assert all((ROOT / "docs" / link).exists() for link in re.findall(r"\]\(([^):#]+)\)", PAGE))


@pytest.mark.slow
def test_the_commands_of_the_page_do_what_it_says(tmp_path, monkeypatch):
    example(tmp_path, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    commands = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
    assert len(commands) == 3
    printed = []
    for command in commands:
        words = shlex.split(command)
        found = subprocess.run(
            [sys.executable, *words[1:]], check=True, capture_output=True, text=True, timeout=300
        )
        printed.append(found.stdout)
    (stated,) = re.findall(r"```text\n(.*?)```", PAGE, re.S)
    assert printed[0] == stated and (tmp_path / "eyes.png").stat().st_size > 1000
    assert list(json.loads(printed[1])["sites"]) == ["north", "south"]
    assert "dice" in printed[2] and (tmp_path / "runs" / "eyes" / "results.json").exists()


@pytest.mark.slow
def test_public_files_enter_by_the_manifests_of_the_page(measured_data, tmp_path):
    folder = measured_data("multisite/sunnybrook_cardiac.h5").parents[1]
    cardiac = read_cohort(folder, "segmentation", manifest=save(tmp_path, MANIFESTS[1]))
    assert cardiac.sites[0].patients == 30 and cardiac.sites[0].slices == 526
    heads = read_cohort(folder, "reconstruction", manifest=save(tmp_path, MANIFESTS[2]))
    assert [site.slices for site in heads.sites] == [40, 15, 36] and "one subject each" in heads.notes
