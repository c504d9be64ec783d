"""Prints docs/flags.md: the flags of all programs, from where they are defined.

python -m experiments.flag_reference > docs/flags.md
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from experiments import multitask
from experiments.pipeline import federated_settings, joint_settings, settings
from experiments.pipeline.programs import flag_groups
from fedrecon.runtime import run_program, spelled
from fedrecon.training import fields

# Module -> its settings class and the fields that presets set; None where there is no such class.
PROGRAMS: dict[str, tuple[type, frozenset[str]] | None] = {
    "experiments.full_stack": (settings.FullStackSettings, settings.BY_PRESET),
    "experiments.train_federated": (federated_settings.TrainSettings, federated_settings.BY_PRESET),
    "experiments.train_recon": (federated_settings.TrainSettings, federated_settings.BY_PRESET),
    "experiments.compare_recon": (federated_settings.TrainSettings, federated_settings.BY_PRESET),
    "experiments.evaluate_recon": None,
    "experiments.zero_shot": None,
    "experiments.compare": (federated_settings.TrainSettings, federated_settings.BY_PRESET),
    "experiments.multitask": (federated_settings.TrainSettings, frozenset(multitask.KEPT)),
    "experiments.survey": None,
    "experiments.deploy_faults": None,
    "experiments.deploy": (federated_settings.TrainSettings, federated_settings.BY_PRESET),
    "experiments.reconstruct": None,
    "experiments.export": None,
    "experiments.predict": None,
    "experiments.track": None,
    "experiments.submit": None,
    "experiments.audit": None,
    "experiments.methods": None,
    "experiments.secure_aggregation": None,
    "experiments.communication": (federated_settings.TrainSettings, federated_settings.BY_PRESET),
    "experiments.finetune": (federated_settings.TrainSettings, federated_settings.BY_PRESET),
    "experiments.privacy_curves": (federated_settings.TrainSettings, federated_settings.BY_PRESET),
    "experiments.joint": (joint_settings.JointSettings, joint_settings.BY_PRESET),
    "experiments.leave_one_site_out": (federated_settings.TrainSettings, federated_settings.BY_PRESET),
    "experiments.continual": (federated_settings.TrainSettings, federated_settings.BY_PRESET),
    "experiments.clocks": None,
    "experiments.flamby": None,
    "experiments.vertical": None,
    "experiments.diagnosis": None,
    "experiments.benchmark_segmentation": None,
    "experiments.benchmark_recon": None,
    "experiments.benchmark_memory": None,
    "experiments.data_report": None,
    "experiments.gpu_check": None,
    "experiments.benchmark_privacy": None,
    "experiments.benchmark_quality": None,
    "experiments.operator_figures": None,
    "experiments.inversion_figures": None,
    "experiments.tomography_figures": None,
    "data_scripts.simulate_cohort": None,
    "data_scripts.check_cohort": None,
    "data_scripts.convert_lodopab": None,
    "benchmarks.mri": None,
    "benchmarks.ct": None,
    "benchmarks.federated": None,
    "benchmarks.convolution": None,
}
# Defaults that depend on the machine.
_OF_MACHINES = {
    ("experiments.benchmark_quality", "data"): "`$FEDRECON_DATA/mri`, or `../shared/data/mri`",
    ("benchmarks.federated", "devices"): "`1` and the number of processors",
}
_HEADER = """# Flags

The flags of all programs, printed by `python -m experiments.flag_reference` from where they are defined; a
value that fits none is refused in one line that names the flag. Lists are separated by commas; flags of true
and false are `--NAME` and `--noNAME`. `--algorithm.NAME` and `--reduce.NAME` are in [methods.md](methods.md);
`--dp.NAME` may be written `--dp_NAME`, and is explained in [privacy.md](privacy.md);
`python -m PROGRAM --help` says what a program does; `--flagfile=FILE` reads flags from a file, one a line.

Programs without flags: `python -m data_scripts.inspect_file FILE ...`, and
`python -m operators.native [NAME ...] [--precision=float32|float64]`.
"""


def reference() -> str:
    """The page."""
    parts = [_HEADER]
    for program, known in PROGRAMS.items():
        parts.append(f"## {program}\n")
        for group, members in _groups(program, known).items():
            title = [f"### {group}\n"] if group else []
            parts += [*title, *_table([_row(program, flag, known) for flag in members]), ""]
    return "\n".join(parts)


def _groups(program: str, known: Any) -> dict[str, list[flags.Flag]]:
    define = _definition(program)
    if known is not None:
        values = flags.FlagValues()
        define(flag_values=values)
        return flag_groups(known[0], values)
    # Programs that define flags for themselves alone.
    before = set(flags.FLAGS)
    try:
        define()
        return {"": [flags.FLAGS[name] for name in flags.FLAGS if name not in before]}
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)


def _definition(program: str) -> Callable[..., None]:
    module = importlib.import_module(program)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{program}.__main__")
    return module.define_flags


def _row(program: str, flag: flags.Flag, known: Any) -> tuple[str, str, str, str]:
    text, default, bounds = flag.help or "", flag.default, vars(flag.parser)
    if text.startswith("<"):
        # absl puts the choices there.
        text = text.partition(">: ")[2]
    low, high = bounds.get("lower_bound"), bounds.get("upper_bound")
    span, above = [low, high], None
    for field, value in fields(known[0]) if known else ():
        if field.name == flag.name and field.metadata:
            text, default = field.metadata["help"], value
            span, above = [field.metadata["least"], field.metadata["most"]], field.metadata["above"]
    shown = _OF_MACHINES.get((program, flag.name)) or _shown(default)
    if known and flag.name in known[1]:
        shown = "by `--preset`"
    if any("other than None" in check.message for check in flag.validators):
        shown = "required"
    return (
        f"`--{spelled(flag.name)}`",
        shown,
        _range(flag, *span, above),
        text.rstrip(".").replace("|", "\\\\|"),
    )


def _shown(default: Any) -> str:
    if default is None or default == "" or default == []:
        return "–"
    if isinstance(default, bool):
        return str(default).lower()
    return f"`{','.join(map(str, default)) if isinstance(default, list) else default}`"


def _range(flag: flags.Flag, low: Any, high: Any, above: Any) -> str:
    choices = getattr(flag.parser, "enum_values", None)
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    kind = "true, false" if flag.boolean else {"int": "integer", "float": "number"}.get(flag.flag_type())
    if kind is None:
        return "text" if flag.flag_type() == "string" else "list"
    parts = [kind]
    parts += [f"above {above:g}"] if above is not None else []
    parts += [f"from {low:g}"] if low is not None else []
    parts += [f"to {high:g}"] if high is not None else []
    return " ".join(parts)


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    header = ("flag", "default", "range", "what it sets")
    return ["| " + " | ".join(row) + " |" for row in (header, ("---",) * len(header), *rows)]


def main(_: list[str]) -> None:
    print(reference(), end="")


if __name__ == "__main__":
    run_program(main)
