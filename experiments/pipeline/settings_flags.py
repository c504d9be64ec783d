"""Flags of the fields of settings classes."""

from collections.abc import Collection
from typing import Any

from absl import flags

from fedrecon.training import fields

# Flags belong to the program that calls for them, whose --help lists them.
flags.disclaim_key_flags()


def define_flags(
    settings: type,
    *,
    without: Collection[str] = (),
    by_preset: Collection[str] = (),
    flag_values: flags.FlagValues = flags.FLAGS,
) -> None:
    """Defines the flags of a settings class. They are None unless given: presets come below what is given.

    Args:
      settings: the class.
      without: fields that get no flag.
      by_preset: fields that a preset sets; the others' help tells the default.
      flag_values: where the flags are defined.
    """
    options = {"flag_values": flag_values}
    for field, default in fields(settings):
        if field.name in without or not field.metadata:
            continue
        shown = "by --preset" if field.name in by_preset else f"default {default}"
        text = field.metadata["help"] + (f" ({shown})." if shown != "default " else ".")
        if field.metadata["choices"]:
            flags.DEFINE_enum(field.name, None, list(field.metadata["choices"]), text, **options)
        elif isinstance(default, bool):
            flags.DEFINE_bool(field.name, None, text, **options)
        elif isinstance(default, int):
            flags.DEFINE_integer(field.name, None, text, **options)
        elif isinstance(default, float):
            flags.DEFINE_float(field.name, None, text, **options)
        else:
            flags.DEFINE_string(field.name, None, text, **options)


def given_flags(settings: type) -> dict[str, Any]:
    """The values of the flags of a settings class that were given."""
    names = [field.name for field, _ in fields(settings) if field.name in flags.FLAGS]
    return {name: value for name in names if (value := flags.FLAGS[name].value) is not None}
