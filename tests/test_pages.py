"""Pages of instructions: their commands and blocks run in order, and print what is stated."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Page -> numbers of its blocks of commands and of Python: those that begin with the name of a file are its
# content, and all others print what is stated.
PAGES = {
    "start": (5, 0),
    "use_a_model": (1, 2),
    "own_model": (2, 3),
    "own_method": (1, 3),
    "diagnosis": (3, 1),
    "reconstruction": (3, 2),
    "vertical": (1, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_page_does_what_it_says(name, tmp_path, monkeypatch):
    page = (ROOT / "docs" / f"{name}.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    blocks = re.findall(r"```(bash|python)\n(.*?)```(?:\n\n```text\n(.*?)```)?", page, re.S)
    kinds = [kind for kind, _, _ in blocks]
    assert (kinds.count("bash"), kinds.count("python")) == PAGES[name]
    names: dict = {}
    for kind, text, stated in blocks:
        if kind == "bash":
            for command in text.splitlines():
                words = shlex.split(command)
                assert words[0] == "python"
                done = subprocess.run(
                    [sys.executable, *words[1:]], capture_output=True, text=True, timeout=900
                )
                assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
            continue
        if file := re.match(r"# (\w+\.py)\n", text):
            Path(file[1]).write_text(text)
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(text, names)
        assert printed.getvalue() == stated


@pytest.mark.slow
def test_commands_on_measured_scans_do_what_their_page_says(tmp_path, monkeypatch, measured_data):
    """A block of ``sh`` follows those of ``bash``."""
    page = (ROOT / "docs/reconstruction.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    first, measured = (
        re.search(r"```bash\n(.*?)```", page, re.S)[1],
        re.search(r"```sh\n(.*?)```", page, re.S)[1],
    )
    folder, said = measured_data("mri/brain_cimax3t_16ch.h5").parents[1], ""
    for command in (first + measured).splitlines():
        words = shlex.split(command.replace("$FEDRECON_DATA", str(folder)))
        done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
        said += done.stdout
    assert said.count("intervals that held 90 %") == said.count("do not trust it") == 2
    assert Path("brain.png").exists() and Path("tooth.png").exists()


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_links_lead_somewhere(page):
    text = (ROOT / "docs" / page).read_text()
    links = [link for link in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text) if not link.startswith("http")]
    assert all((ROOT / "docs" / link).exists() for link in links)


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "index.md").read_text()
    missing = [
        p.name for p in (ROOT / "docs").glob("*.md") if p.name != "index.md" and f"]({p.name})" not in index
    ]
    assert not missing
