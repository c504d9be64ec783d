"""The run log: one JSON object a line, append-only, the truth about a run."""

import json
import math
import os
from pathlib import Path
from typing import Any

from fedrecon.errors import ArgumentError
from fedrecon.files import write_atomically

_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def encode_numbers(value: Any) -> Any:
    """JSON has no numbers that are not finite: the words "nan", "inf" and "-inf" in their place."""
    if isinstance(value, dict):
        return {name: encode_numbers(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode_numbers(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def decode_numbers(value: Any) -> Any:
    """Inverse of `encode_numbers`, of what dicts hold by name; words in lists, as names, stay words."""
    if isinstance(value, dict):
        return {
            name: _WORDS.get(item, item) if isinstance(item, str) else decode_numbers(item)
            for name, item in value.items()
        }
    return [decode_numbers(item) for item in value] if isinstance(value, list) else value


def read_log(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Records of a run log in order; an incomplete last line, left by a crash, is ignored.

    Null stands for nothing to report; what was not finite is NaN or infinite again.

    Raises:
      ValueError: a line other than the last is not a JSON object; names the file and the line.
    """
    path = Path(path)
    if not path.exists():
        return []
    records = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number == len(lines):
                break
            raise ArgumentError(f"{path}, line {number}", "a JSON object", repr(line[:60])) from error
        records.append(decode_numbers(record))
    return records


class RunLog:
    """Appends records to ``metrics.jsonl``; every record names its stage and round.

    Args:
      path: the file; created when absent. A torn last line is removed on opening.
      write: False leaves the file alone, on all processes of a run but one.
    """

    def __init__(self, path: str | os.PathLike, *, write: bool = True) -> None:
        self.path = Path(path)
        self._write = write
        self._rewrite(read_log(self.path))

    def append(self, stage: str, round: int, **fields: Any) -> None:
        """Writes one record and hands it to the operating system before returning."""
        if not self._write:
            return
        record = encode_numbers({"stage": stage, "round": round, **fields})
        line = json.dumps(record, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def drop_after(self, stage: str, round: int) -> None:
        """Removes the records of ``stage`` later than ``round``: they will be written again."""
        kept = [r for r in read_log(self.path) if r.get("stage") != stage or r.get("round", 0) <= round]
        self._rewrite(kept)

    def _rewrite(self, records: list[dict[str, Any]]) -> None:
        if not self._write:
            return
        write_atomically(self.path, "".join(json.dumps(encode_numbers(r)) + "\n" for r in records).encode())
