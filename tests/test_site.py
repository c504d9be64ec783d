"""The site of docs/: every page is built with all links, and asks no other server for anything."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDED = [
    "index", "start", "own_data", "own_model", "own_method", "operators", "reconstruction", "diagnosis",
    "privacy", "survey", "deployment", "cluster", "benchmarks", "architecture",
]  # fmt: skip


def test_the_navigation_has_every_page_in_order():
    navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    pages = re.findall(r": (\w+)\.md", navigation)
    assert [page for page in pages if page in NEEDED] == NEEDED
    assert sorted(pages) == sorted(
        [*(path.stem for path in (ROOT / "docs").glob("*.md")), "readme", "contributing"]
    )


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs the extra docs")
def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    assert {path.parent.name for path in pages} >= {"start", "readme", "operators.fourier", "fedrecon.data"}
    for path, text in pages.items():
        loaded = re.findall(r'(?:<script[^>]* src|<img[^>]* src|<link[^>]* href)="(https?:[^"]*)"', text)
        assert not loaded, (path, loaded)
    text = (tmp_path / "interface/operators.fourier/index.html").read_text()
    assert 'id="operators.fourier.NUFFT"' in text and "&gt;&gt;&gt;" in text
    assert (tmp_path / "source/fedrecon/federated/methods/fedavg.py.txt").exists()
