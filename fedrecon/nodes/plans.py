"""Training plans: source and configuration with one identity, which the owner of data approves."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedrecon.errors import ArgumentError
from fedrecon.files import write_atomically
from fedrecon.types import Task


class Plan(NamedTuple):
    """What is to be trained.

    Attributes:
      source: Python that defines ``task(example, config) -> Task``.
      config: JSON-able; "learning_rate", "batch_size" and "epochs", and what the source reads.
    """

    source: str
    config: Mapping[str, Any]


def identity(plan: Plan) -> str:
    """SHA-256 of a plan, hexadecimal: of its canonical source and its canonical configuration.

    Canonical are line ends as LF in UTF-8, and JSON with sorted keys and no spaces. Every other character
    counts, comments and spaces included.

    Raises:
      ValueError: the configuration is not JSON, or holds a number that is not finite.
    """
    source = plan.source.replace("\r\n", "\n").encode()
    try:
        config = json.dumps(plan.config, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ArgumentError("config", "JSON of finite numbers", error) from error
    return hashlib.sha256(b"".join(len(x).to_bytes(8, "big") + x for x in (source, config))).hexdigest()


def made_task(plan: Plan, example: Mapping[str, Any]) -> Task:
    """Runs the source of a plan, with all rights of this process, and makes its task.

    Args:
      plan: approved before.
      example: shapes and dtypes of a batch of one example.

    Raises:
      ValueError: the source defines no such function, or it makes no task.
    """
    namespace: dict[str, Any] = {"__name__": f"plan_{identity(plan)[:8]}"}
    exec(compile(plan.source, "plan", "exec"), namespace)
    make = namespace.get("task")
    made = make(example, dict(plan.config)) if callable(make) else None
    if not isinstance(made, Task):
        raise ArgumentError("plan", "a function task(example, config) that makes a Task", type(made).__name__)
    return made


class Approvals:
    """Which plans the owner of a node's data has approved, in memory or in a file of JSON.

    Args:
      path: of the file, which may not be there yet; None keeps them in memory.
    """

    def __init__(self, path: str | os.PathLike | None = None) -> None:
        self._path = None if path is None else Path(path)
        there = self._path is not None and self._path.exists()
        self._known: dict[str, str] = json.loads(self._path.read_text()) if self._path and there else {}

    def approve(self, plan: Plan, by: str) -> str:
        """Approves a plan in somebody's name; returns its identity."""
        self._known[identity(plan)] = by
        self._save()
        return identity(plan)

    def withdraw(self, digest: str) -> None:
        """Takes the approval of a plan back."""
        self._known.pop(digest, None)
        self._save()

    def __contains__(self, digest: str) -> bool:
        return digest in self._known

    def _save(self) -> None:
        if self._path is not None:
            write_atomically(self._path, (json.dumps(self._known, indent=2, sort_keys=True) + "\n").encode())
