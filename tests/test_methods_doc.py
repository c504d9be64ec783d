"""docs/methods.md is what the catalog says, and the command prints it as text and JSON."""

import json
import re
from pathlib import Path

import pytest
from absl import flags

from experiments import methods
from fedrecon import catalog

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"


def test_the_page_is_current():
    current = methods.markdown(catalog.entries())
    assert PAGE.read_text() == current, "run: python -m experiments.methods --markdown > docs/methods.md"


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text())
    assert len(links) >= len(catalog.entries())
    assert all((PAGE.parent / link).exists() for link in links)


@pytest.fixture
def printed(monkeypatch, capsys):
    """What the command prints with some of its flags."""

    def run(**given):
        values = flags.FlagValues()
        for name in ("json", "markdown", "survey"):
            flags.DEFINE_bool(name, given.get(name, False), "", flag_values=values)
        flags.DEFINE_string("methods_from", "", "", flag_values=values)
        values(["methods"])
        monkeypatch.setattr(methods.flags, "FLAGS", values)
        methods.main(["methods"])
        return capsys.readouterr().out

    return run


def test_the_json_holds_every_row(printed):
    rows = json.loads(printed(json=True))
    assert [row["name"] for row in rows] == [entry.name for entry in catalog.entries()]
    kinds = {
        "name": str,
        "reference": str,
        "linear": bool,
        "personal": bool,
        "module": str,
        "bytes_up": int,
        "bytes_down": int,
    }
    for row in rows:
        assert all(type(row[name]) is kind for name, kind in kinds.items())
        assert row["survey_row"] is None or row["survey_row"]
    assert rows[0]["bytes_down"] == 4 * 10**6


def test_the_table_has_a_line_for_every_row(printed):
    lines = printed().splitlines()
    assert [line.split()[0] for line in lines] == ["name", *(entry.name for entry in catalog.entries())]
    assert json.loads(printed(json=True, survey=True)) == [
        methods.document(entry) for entry in catalog.entries() if entry.survey_row
    ]
