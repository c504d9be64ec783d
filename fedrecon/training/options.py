"""Settings as fields of frozen dataclasses, each with its flag's help text, choices and range."""

import dataclasses
import math
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from fedrecon.errors import ArgumentError
from fedrecon.runtime import spelled

Settings = TypeVar("Settings", bound=Any)


# Of integers: seeds and counts are int32 in compiled programs.
MOST = 2**31 - 1


class FlagError(ArgumentError):
    """A flag's value does not fit.

    Attributes:
      flag: its name, without dashes.
      expected: what would fit.
      found: what was found, as it is printed.
    """

    def __init__(self, flag: str, expected: str, found: Any) -> None:
        super().__init__(f"--{spelled(flag)}", expected, found)
        self.flag = flag

    def __reduce__(self) -> tuple:
        return FlagError, (self.flag, self.expected, self.found)

    def renamed(self, old: str, new: str) -> "FlagError":
        """The same of the flags whose dotted name begins with ``new`` instead of ``old``."""
        group, dot, name = self.flag.partition(".")
        return FlagError(new + dot + name, self.expected, self.found) if dot and group == old else self


def as_flag_error(error: ValueError, names: Mapping[str, str], prefix: str = "") -> ValueError:
    """An error of the library about an argument, as one about the flag that sets the argument.

    Args:
      error: from the library.
      names: argument -> flag.
      prefix: what the names of all other arguments get, for instance "algorithm."; without one, errors about
        these are returned as they are, as are errors that are not about one argument.
    """
    if isinstance(error, FlagError) or not isinstance(error, ArgumentError):
        return error
    if error.name not in names and not prefix:
        return error
    return FlagError(names.get(error.name, prefix + error.name), error.expected, error.found)


class Need(NamedTuple):
    """What a flag needs to have an effect.

    Attributes:
      flags: in words.
      holds: whether they are there, of the values of all fields of the program by name.
    """

    flags: str
    holds: Callable[[Any], bool]


def setting(
    default: Any,
    help: str,
    *,
    group: str,
    needs: tuple[Need, ...] = (),
    choices: Collection[str] = (),
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    later: bool = False,
) -> Any:
    """A field of a settings class that a flag of its name sets.

    Args:
      default: also gives the flag its type.
      help: without a full stop.
      group: under which ``--helpfull`` lists the flag.
      needs: without which the flag has no effect.
      choices: of text.
      above, least, most: bounds of a number; the first is exclusive. Numbers must be finite.
      later: earlier versions of this program did not have it, though others had one of its name, see `flat`.
    """
    bounds = {"choices": tuple(choices), "above": above, "least": least, "most": most}
    return dataclasses.field(
        default=default, metadata={"help": help, "group": group, "needs": needs, "later": later} | bounds
    )


def fields(settings: Any) -> Iterator[tuple[dataclasses.Field, Any]]:
    """The fields of settings (or of their class) with their values, those of a nested group in its place."""
    for field in dataclasses.fields(settings):
        value = field.default if isinstance(settings, type) else getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value)
        else:
            yield field, value


_IF_GIVEN = ("methods_from", "initialize_from", "data_labels", "skip_bad")
# Settings of later versions: runs of earlier ones continue.
_IF_CHANGED = (
    "accumulate",
    "average",
    "boundary",
    "classification_network",
    "clock",
    "configure",
    "downlink",
    "dp_buffers",
    "fingerprint_minimum",
    "finetune",
    "local_steps",
    "loss",
    "new_head",
    "precision",
    "riders",
    "segmentation_network",
)
_DIGESTS = {
    "task_sha256": "task.sha256",
    "methods_sha256": "methods_from.sha256",
    "initialize_sha256": "initialize_from.sha256",
    "data_sha256": "data_dir.sha256",
    "start_sha256": "start.sha256",
}


def flat(settings: Any) -> dict[str, Any]:
    """JSON-able dict of all fields, for config.json.

    ``X_options``, pairs of texts, become ``X.NAME``; ``methods_from`` and ``initialize_from`` are there only
    if there are such files, as are the SHA-256 of them, of an own task, of the manifest in ``data_dir``, of
    the network of ``start``, the labels of own data, and ``skip_bad``. Settings that earlier versions did
    not have are there where they are not the default.
    """
    values: dict[str, Any] = {}
    for field, value in fields(settings):
        if field.name.endswith("_options"):
            group = field.name.removesuffix("_options")
            values |= {f"{group}.{name}": text for name, text in value}
        elif field.name in _DIGESTS:
            values |= {_DIGESTS[field.name]: value} if value else {}
        elif (field.name not in _IF_GIVEN or value) and (
            not (field.name in _IF_CHANGED or field.metadata.get("later")) or value != field.default
        ):
            values[field.name] = value
    return values


def changed(settings: Settings, **changes: Any) -> Settings:
    """The settings with other values of some fields, which may be those of a nested group.

    Raises:
      TypeError: there is no such field.
    """
    own = {field.name for field in dataclasses.fields(settings)}
    inner = {name: value for name, value in changes.items() if name not in own}
    outer = {name: value for name, value in changes.items() if name in own}
    if inner:
        groups = [name for name in own if dataclasses.is_dataclass(getattr(settings, name))]
        if len(groups) != 1:
            raise TypeError(f"{type(settings).__name__} has no field {next(iter(inner))!r}")
        outer[groups[0]] = changed(outer.get(groups[0], getattr(settings, groups[0])), **inner)
    return dataclasses.replace(settings, **outer)


def check_ranges(settings: Any) -> None:
    """Checks every field by itself.

    Raises:
      FlagError: a value is none of its choices or outside its range.
    """
    for field, value in fields(settings):
        bounds = field.metadata
        if bounds and bounds["choices"] and value not in bounds["choices"]:
            raise FlagError(field.name, f"one of {', '.join(bounds['choices'])}", repr(value))
        if isinstance(value, int | float) and not isinstance(value, bool) and bounds:
            _check_number(field.name, value, bounds)


def _check_number(name: str, value: float, bounds: Mapping[str, Any]) -> None:
    if isinstance(value, int) and abs(value) > MOST:
        raise FlagError(name, f"at most {MOST}", value)
    above, least, most = bounds["above"], bounds["least"], bounds["most"]
    low = -math.inf if least is None else least
    high = math.inf if most is None else most
    if math.isfinite(value) and low <= value <= high and (above is None or value > above):
        return
    if most is not None:
        expected = f"a number from {least if above is None else above} to {most}"
        expected += "" if above is None else f", not {above}"
    elif above is not None:
        expected = "a positive number" if above == 0 else f"a number above {above}"
    else:
        expected = "a finite number" if least is None else f"at least {least}"
    raise FlagError(name, expected, value)


def check_needs(settings: Any, base: Any) -> None:
    """Refuses flags without an effect.

    Args:
      settings: to be checked.
      base: the same without what was given: fields equal to it were not changed.

    Raises:
      FlagError: a changed field lacks what it needs.
    """
    values = list(fields(settings))
    view = types.SimpleNamespace(**{field.name: value for field, value in values})
    for (field, value), (_, before) in zip(values, fields(base), strict=True):
        for need in field.metadata.get("needs", ()) if value != before else ():
            if not need.holds(view):
                raise FlagError(field.name, f"{need.flags} with it", f"{value!r} alone")
