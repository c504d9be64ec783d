"""The page on trained models: its commands and blocks run in order and print what is stated."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "use_a_model.md").read_text()


@pytest.mark.slow
def test_the_page_does_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    commands = re.search(r"```bash\n(.*?)```", PAGE, re.S)[1].splitlines()
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "python"
        subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True, timeout=900)
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.S)
    assert len(blocks) == PAGE.count("```python") == 2
    for code, stated in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, {})
        assert printed.getvalue() == stated


def test_links_lead_somewhere():
    assert all((ROOT / "docs" / link).exists() for link in re.findall(r"\]\(([^):#]+)\)", PAGE))
