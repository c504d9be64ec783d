"""docs/flags.md lists the flags of every program as they are defined."""

import re
from pathlib import Path

from experiments import flag_reference

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "flags.md"


def test_the_page_is_current():
    current = flag_reference.reference()
    assert PAGE.read_text() == current, "run: python -m experiments.flag_reference > docs/flags.md"


def test_every_program_that_defines_flags_is_on_the_page():
    programs = set()
    for folder in ("experiments", "data_scripts", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            if "pipeline" not in path.parts and re.search(r"^def define_flags", path.read_text(), re.M):
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                programs.add(name.removesuffix(".__main__"))
    assert programs == set(flag_reference.PROGRAMS)


def test_rows_say_default_range_and_need():
    page = PAGE.read_text()
    reconstruct = page[page.index("## experiments.reconstruct") :]
    for row in (
        "| `--input` | required | text | File of the measurement |",
        "| `--acceleration` | `1.0` | number from 1 | Undersample",
        "| `--mask` | `random` | `random`, `equispaced`, `poisson-disc` |",
    ):
        assert row in reconstruct
    stack = page[: page.index("## experiments.train_federated")]
    assert "### privacy" in stack and "| `--rounds` | by `--preset` | integer above 0 |" in stack
    assert "| `--dp.delta` | `0.0` | number from 0 to 1 |" in stack
