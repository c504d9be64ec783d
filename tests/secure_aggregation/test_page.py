"""The section of docs/privacy.md: its code prints what it says, its flags exist, its numbers are right."""

import contextlib
import io
import re
from pathlib import Path

from experiments import secure_aggregation as program
from fedrecon.secure_aggregation import FixedPoint, LightSecAggSetup, SecAggSetup

PAGE = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text()
SECTION = PAGE[PAGE.index("## Secure sums") :].split("\n## ")[0]


def test_the_code_prints_what_its_comment_says():
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, re.S)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue().strip() == code.rpartition("# ")[2].strip()


def test_the_command_has_its_flags():
    (command,) = re.findall(r"```bash\n(.*?)```", SECTION, re.S)
    source = Path(program.__file__).read_text()
    names = re.findall(r"--(\w+)=", command)
    assert len(names) == 5 and all(f'"{name}"' in source for name in names)


def test_the_numbers_of_five_hospitals():
    size = 2_000_000
    setups = (
        SecAggSetup("j", 0, 5, 3, size),
        SecAggSetup("j", 0, 5, 4, size, malicious=True),
        LightSecAggSetup("j", 0, 5, 4, size, 2),
    )
    sent = [sum(setup.bytes_up().values()) + 34 * setup.messages_up() for setup in setups]
    row = next(line for line in SECTION.splitlines() if line.startswith("| sent by a hospital"))
    stated = [float(cell.split(" MB")[0]) for cell in row.split("|")[2:-1]]
    assert [round(count / 1e6, 3 if count < 9e6 else 1) for count in sent] == stated
    assert f"keeps {FixedPoint.finest(1.0, 5).bits} bits" in SECTION
    # Five roundings of half a step.
    assert 5 * 2.0**-29 < 2e-8
