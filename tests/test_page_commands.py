"""Every command of every page is executed by a test or says why not, and has flags that exist."""

import re
import subprocess

from tests.page_commands import PAGES, ROOT, commands, reference, row_of, rows

ALL = [(path.stem, command) for path in PAGES for command in commands(path.read_text())]


def test_every_command_has_a_row_and_every_row_a_command():
    table = rows()
    found = {(page, command): row_of(page, command, table) for page, command in ALL}
    assert [key for key, row in found.items() if row is None] == [], "add it to tests/page_commands.txt"
    assert [row for row in table if row not in found.values()] == []


def test_rows_name_tests_that_exist():
    for row in rows():
        assert row.reason or row.test
        if row.test:
            file, _, name = row.test.partition("::")
            assert not name or re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.M), row.test
            assert (ROOT / file).exists() and bool(name) == file.startswith("tests/")


def test_the_page_is_current():
    current = (ROOT / "docs/commands.md").read_text()
    assert current == reference(), "run: python -m tests.page_commands > docs/commands.md"


def test_commands_name_flags_that_exist():
    sections = re.split(r"^## ", (ROOT / "docs/flags.md").read_text(), flags=re.M)
    flags = {text.split("\n", 1)[0]: set(re.findall(r"^\| `--([\w.]+)`", text, re.M)) for text in sections}
    missing = []
    for page, text in ALL:
        # A program may be the argument of another one.
        for module, arguments in re.findall(
            r"\b((?:experiments|data_scripts)\.\w+)((?:(?! experiments\.).)*)", text
        ):
            for flag in set(re.findall(r"--([a-z]\w*)(?![\w.])", arguments)) - {"help", "helpfull"}:
                if not flags[module] & {flag, flag.removeprefix("no")}:
                    missing.append((page, module, flag))
    assert not missing


def test_the_shell_reads_every_command():
    script = "\n".join(command for _, command in ALL)
    read = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=60)
    assert read.returncode == 0 and not read.stderr, read.stderr


def test_blocks_are_taken_apart():
    text = "```bash\na b \\\n    c\nd  # e\n```\n\n    ```sh\n    f\n    ```\n"
    text += "\n```bash\n#!/bin/sh\ng\n\nh\n```\n"
    assert commands(text) == ["a b c", "d", "f", "#!/bin/sh\ng\n\nh"]
