"""Reading JSON files member by member: what is missing, unknown or of another kind is named."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from fedrecon.data.formats.hdf5 import DataError


class JsonObject:
    """The members of a JSON object that have not been read yet; whatever does not fit raises `DataError`.

    Args:
      path: of the file.
      where: what leads to the object, with a full stop; empty at the top.
      value: what was found there.
    """

    def __init__(self, path: Path, where: str, value: Any) -> None:
        self.path, self.where = path, where
        if not isinstance(value, dict):
            raise DataError(path, where.rstrip(".") or None, "an object", _shown(value))
        self.members = dict(value)

    def error(self, key: str | None, expected: str, found: Any) -> DataError:
        where = self.where + key if key else self.where.rstrip(".")
        return DataError(self.path, where or None, expected, _shown(found))

    def finish(self) -> None:
        if self.members:
            raise self.error(min(self.members), "no such member", "one")

    def take(self, key: str, expected: str, fits: Callable[[Any], Any]) -> Any:
        if key not in self.members:
            raise self.error(key, expected, None)
        value = self.members.pop(key)
        if not fits(value):
            raise self.error(key, expected, value)
        return value

    def text(self, key: str) -> str:
        return self.take(key, "text", lambda v: isinstance(v, str) and v.strip())

    def flag(self, key: str) -> bool:
        return self.take(key, "true or false", lambda v: isinstance(v, bool))

    def choice(self, key: str, values: tuple[str, ...]) -> str:
        return self.take(key, " or ".join(map(repr, values)), lambda v: v in values)

    def integer(self, key: str, least: int) -> int:
        return self.take(key, f"an integer of at least {least}", lambda v: type(v) is int and v >= least)

    def positive(self, key: str) -> float:
        return float(
            self.take(key, "a positive number", lambda v: _is_number(v) and 0 < v <= sys.float_info.max)
        )

    def fraction(self, key: str) -> float:
        return float(self.take(key, "a number in [0, 1)", lambda v: _is_number(v) and 0 <= v < 1))

    def file(self, key: str) -> str:
        return self.take(key, "a file inside the data folder", _is_inside)

    def files(self, key: str) -> tuple[str, ...]:
        def fits(value):
            return isinstance(value, list) and value and all(map(_is_inside, value))

        return tuple(self.take(key, "a list of files inside the data folder", fits))

    def object(self, key: str) -> "JsonObject":
        value = self.take(key, "an object", lambda v: isinstance(v, dict))
        return JsonObject(self.path, f"{self.where}{key}.", value)

    def objects(self, key: str) -> list["JsonObject"]:
        values = self.take(key, "a list of objects", lambda v: isinstance(v, list) and v)
        return [JsonObject(self.path, f"{self.where}{key}[{i}].", value) for i, value in enumerate(values)]


def read_json_object(path: str | os.PathLike) -> JsonObject:
    """Reads a file of one JSON object, in which no member is given twice.

    Raises:
      DataError: it is none; names the file and the member.
    """
    path = Path(path)

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise DataError(path, twice, "one such member in an object", "two")
        return members

    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=distinct)
    except DataError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        found = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(path, None, "a JSON file", found) from error
    return JsonObject(path, "", value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_inside(value: Any) -> bool:
    if not isinstance(value, str) or not value or "\\" in value:
        return False
    path = PurePosixPath(value)
    return not path.is_absolute() and ".." not in path.parts and bool(path.name)


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)[:80]
