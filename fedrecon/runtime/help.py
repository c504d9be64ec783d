"""Help of command lines: a few flags first, all of them by group where they are many."""

import textwrap
from collections.abc import Mapping, Sequence

from absl import flags

_WIDTH = 100
_VALUES = {"int": "INTEGER", "float": "NUMBER", "string": "TEXT"}
_SHORT = ("help", "h", "helpshort", "?")


def spelled(name: str) -> str:
    """How a flag is shown: those of differential privacy as ``dp.NAME``, the same flag as ``dp_NAME``."""
    return f"dp.{name.removeprefix('dp_')}" if name.startswith("dp_") else name


def help_asked(argv: Sequence[str]) -> str:
    """The word short or full for a command line with ``--help`` or ``--helpfull``, else the empty text."""
    names = [argument.lstrip("-") for argument in argv[1:] if argument.startswith("-")]
    if "helpfull" in names:
        return "full"
    return "short" if any(name in _SHORT for name in names) else ""


def help_text(
    program: str, about: str, groups: Mapping[str, Sequence[flags.Flag]], first: Sequence[str] = ()
) -> str:
    """What a program is for, and its flags.

    Args:
      program: as in ``python -m PROGRAM``.
      about: the docstring of its main module.
      groups: its flags by group, in the order of the text.
      first: flags to show instead of all; then a last line names the groups.
    """
    if not first:
        parts = [_listed(name, members) for name, members in groups.items()]
        return "\n".join([about.strip(), "", *parts])
    known = {flag.name: flag for members in groups.values() for flag in members}
    rest = textwrap.wrap(
        f"python -m {program} --helpfull lists all {len(known)} flags by group: {', '.join(groups)}.", _WIDTH
    )
    return "\n".join([about.strip(), "", _listed("most used", [known[name] for name in first]), *rest])


def _listed(group: str, members: Sequence[flags.Flag]) -> str:
    lines = [f"{group}:"] if group else []
    for flag in members:
        lines.append(f"  {_usage(flag)}")
        lines += textwrap.wrap(
            _about(flag), _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
        )
    return "\n".join(lines) + "\n"


def _usage(flag: flags.Flag) -> str:
    if flag.boolean:
        return f"--[no]{spelled(flag.name)}"
    choices = getattr(flag.parser, "enum_values", None)
    value = " | ".join(choices) if choices else _VALUES.get(flag.flag_type(), "A,B,...")
    usage = f"--{spelled(flag.name)}={value}"
    return "\n        ".join(textwrap.wrap(usage, _WIDTH - 8, break_on_hyphens=False))


def _about(flag: flags.Flag) -> str:
    text = flag.help or ""
    if text.startswith("<"):
        # absl puts the choices there, which stand by the flag's name.
        text = text.partition(">: ")[2]
    if flag.default in (None, "") or "default" in text:
        return text
    shown = str(flag.default_as_str).strip("'")
    return f"{text.removesuffix('.')} (default {shown})."
