"""The README's snippet runs, and its commands name modules and flags that exist."""

import importlib
import re
from pathlib import Path

import numpy as np

from fedrecon.training.options import fields

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_the_operator_snippet_reconstructs_the_phantom():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    names = {}
    exec(code, names)
    operators = names["operators"]
    reference = operators.rasterize(names["phantom"], names["image_shape"])
    image, zero_filled = np.abs(names["image"]), np.abs(names["A"].H(names["kspace"]))

    def error(x):
        return np.linalg.norm(x - reference) / np.linalg.norm(reference)

    assert error(image) < 0.5 * error(zero_filled)


def test_commands_name_flags_that_exist():
    commands = re.findall(r"python -m (experiments\.\w+)(.*)", README)
    assert len(commands) >= 6
    for module, arguments in commands:
        source = Path(importlib.import_module(module).__file__).read_text()
        if "pipeline.programs" in source:
            # Mains of federated training define the flags of their settings, and those of a run.
            main, programs = map(importlib.import_module, (module, "experiments.pipeline.programs"))
            settings = getattr(main, "FullStackSettings", None) or getattr(main, "TrainSettings", None)
            source += Path(programs.__file__).read_text()
            source += "".join(f'"{field.name}"' for field, _ in (fields(settings) if settings else ()))
        for flag in re.findall(r"--(?:no)?([\w.]+)", arguments.split("#")[0]):
            # --dp.epsilon is the field dp_epsilon.
            flag = flag.replace(".", "_")
            assert flag.startswith("help") or f'"{flag}"' in source, (module, flag)
