"""docs/programs.md: its codes are those that programs end with, and its rows those with --json."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/programs.md").read_text()
CODES, JSON = (section.split("\n## ")[0] for section in PAGE.split("\n## ")[1:])
# What JAX and the operating system end a process with.
OF_OTHERS = {134, 137, 143}


def sources(*folders):
    return {path: path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py")}


def test_every_code_is_in_the_table():
    stated = {int(code) for cell in re.findall(r"^\| ([\d, ]+) \|", CODES, re.M) for code in cell.split(",")}
    found = set()
    for text in sources("experiments", "data_scripts", "benchmarks", "fedrecon/runtime").values():
        ended = r"(?:sys\.exit|SystemExit|leave|\b_?exit|self\._end)\((\d+)[,)]|^_INTERRUPTED = (\d+)$"
        found |= {int(a or b) for a, b in re.findall(ended, text, re.M)}
    # A text in the place of a number is printed, and the code is 1.
    assert stated == found | OF_OTHERS and {0, 1, 2, 130} == found


def test_every_program_with_json_has_its_row_and_its_keys_are_in_the_code():
    sections = (ROOT / "docs/flags.md").read_text().split("\n## ")[1:]
    kinds = {
        text.split("\n", 1)[0]: "prints" if row[1] != "–" else "file"
        for text in sections
        if (row := re.search(r"^\| `--json` \| (\S+) \|", text, re.M))
    }
    rows = [line.split(" | ") for line in JSON.splitlines() if line.startswith("| `")]
    stated = {name: how.split(",")[0] for names, how, _ in rows for name in re.findall(r"`([\w.]+)`", names)}
    assert stated == kinds
    words = {
        word for text in sources("experiments", "data_scripts").values() for word in re.findall(r"\w+", text)
    }
    assert {key for _, _, cell in rows for key in re.findall(r"`(\w+)`", cell)} <= words
