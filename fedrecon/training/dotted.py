"""Options in text: ``--GROUP.NAME=VALUE``."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fedrecon.training.options import FlagError

Dotted = dict[str, tuple[tuple[str, str], ...]]


def split_dotted(argv: Sequence[str], groups: Collection[str]) -> tuple[list[str], Dotted]:
    """Takes ``--GROUP.NAME=VALUE``, or the two with a space between them, out of the arguments.

    ``--dp.NAME``, another spelling of the flag ``--dp_NAME``, stays there as that.

    Raises:
      FlagError: the group is unknown, the value is missing, or a name is given twice.
    """
    argv = [_plain(argument, argv) for argument in argv]
    rest: list[str] = []
    found: dict[str, dict[str, str]] = {group: {} for group in groups}
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        # A negative number is the value of the flag before it.
        if not re.match(r"--?[A-Za-z][\w-]*\.", argument) or "." not in name:
            rest.append(argument)
            continue
        group, _, option = name.partition(".")
        if not equals:
            value = next(arguments, "--")
            equals = "" if value.startswith("--") else "="
        if group not in found:
            raise FlagError(name, f"one of {', '.join(groups)} before the dot", repr(group))
        if not equals or not option:
            raise FlagError(name, f"--{group}.NAME=VALUE", repr(argument))
        if option in found[group]:
            raise FlagError(name, "once", "twice")
        found[group][option] = value
    return rest, {group: tuple(sorted(options.items())) for group, options in found.items()}


def _plain(argument: str, argv: Sequence[str]) -> str:
    """The argument, with the spelling that absl knows."""
    found = re.match(r"--?((?:no)?dp)\.(\w+)", argument)
    if found is None:
        return argument
    plain = f"--{found[1]}_{found[2]}"
    same = [other for other in argv if re.match(rf"--?(no)?dp[._]{found[2]}(=|$)", other)]
    if len(same) > 1:
        raise FlagError(f"dp.{found[2]}", "once", " and ".join(same))
    return plain + argument[found.end() :]


def parse_options(
    flag: str, known: Mapping[str, type], texts: Mapping[str, str], owner: str
) -> dict[str, Any]:
    """Converts the texts of dotted flags.

    Args:
      flag: the part before the dot.
      known: names and types.
      texts: by name.
      owner: whose options they are, for messages.

    Raises:
      FlagError: a name is unknown or a text no value of its type.
    """
    values = {}
    for name, text in texts.items():
        if name not in known:
            listed = ", ".join(f"{n} ({t.__name__})" for n, t in known.items()) or "none"
            raise FlagError(f"{flag}.{name}", f"one of {owner}'s options ({listed})", repr(name))
        values[name] = _convert(f"{flag}.{name}", known[name], text)
    return values


def _convert(flag: str, kind: type, text: str) -> Any:
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        value = kind(text)
        if kind is float and not math.isfinite(value):
            raise ValueError(text)
    except (ValueError, KeyError) as error:
        expected = {bool: "true or false", int: "an integer", float: "a finite number"}[kind]
        raise FlagError(flag, expected, repr(text)) from error
    return value
