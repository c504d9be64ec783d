"""Where each command of the pages is executed, or why not: `python -m tests.page_commands`."""

import itertools
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
TABLE = Path(__file__).with_suffix(".txt")
HEAD = """# Commands

Every command of every page, and what executes it as it stands. The others say why nothing does, and which
test does the same on a smaller problem. `tests/test_page_commands.py` fails on a command without a row in
`tests/page_commands.txt`, and on a flag that its program does not have.
"""


class Row(NamedTuple):
    """Commands of a page, why none is executed as it stands ("" if they are), and a test ("" if none)."""

    page: str
    begin: str
    reason: str
    test: str


def rows() -> list[Row]:
    """The rows of the table."""
    found = []
    for line in TABLE.read_text().splitlines():
        if not line.startswith("# "):
            page, begin, *rest = line.split(" | ")
            reason, test = ("", *rest) if rest[0].startswith(("tests/", ".ci/")) else (rest + [""])[:2]
            found.append(Row(page, begin, reason, test))
    return found


def commands(text: str) -> list[str]:
    """Commands of the blocks of shell in a page; a block that is a script is one."""
    found = []
    for block in re.findall(r"^ *```(?:sh|bash)\n(.*?)^ *```", text, re.S | re.M):
        if block.startswith("#!"):
            found.append(block.strip())
            continue
        lines = re.sub(r" *\\\n\s*", " ", block).splitlines()
        found += [re.sub(r"\s+# .*", "", line).strip() for line in lines if line.strip()]
    return found


def row_of(page: str, command: str, table: list[Row]) -> Row | None:
    """The first row that holds for a command, if any."""
    return next((row for row in table if row.page == page and command.startswith(row.begin)), None)


def said(row: Row | None) -> str:
    """What the page says of commands with this row."""
    if row is None:
        return "No row:"
    if not row.reason:
        return f"Executed by `{row.test}`:"
    smaller = f" Test of the same on a smaller problem: `{row.test}`." if row.test else ""
    return f"Not executed as it stands: {row.reason}.{smaller}"


def reference() -> str:
    """The page of all commands, as Markdown."""
    parts, table = [HEAD], rows()
    for path in PAGES:
        found = [(said(row_of(path.stem, command, table)), command) for command in commands(path.read_text())]
        if found:
            parts.append(f"## {path.stem}\n")
        for what, group in itertools.groupby(found, key=lambda pair: pair[0]):
            parts.append("\n".join([what, "", "```text", *(command for _, command in group), "```", ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    print(reference(), end="")
