"""The working directory of one run."""

import fcntl
import json
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from fedrecon.files import write_atomically


class WorkdirError(ValueError):
    """The working directory cannot be used for this run; the message says why and what to do."""


class Workdir:
    """An exclusively locked directory that holds ``config.json``, logs, checkpoints and results.

    Opening it a second time with the same configuration continues the run; with another one it is refused,
    because a run half made under two configurations describes neither. A run that ends with a ValueError
    (a setting or a file does not fit) before anything is written leaves no trace.

    Args:
      path: directory; created with its parents when absent.
      config: JSON-able dict of everything that determines the results.
      environment: JSON-able dict that is recorded but may differ on resuming.
      resume: False refuses a directory that already holds a run.
      growing: numbers of ``config`` that may be larger than those the run was begun with, and why they may
        not: with the empty text config.json gets the new number, and the run continues.

    Raises:
      WorkdirError: the path is not a usable directory, another process holds it, it holds a run and
        ``resume`` is False, or it holds a run with another configuration (the flags that differ are named).
    """

    def __init__(
        self,
        path: str | os.PathLike,
        config: dict[str, Any],
        environment: dict | None = None,
        *,
        resume: bool = True,
        growing: Mapping[str, str] = types.MappingProxyType({}),
    ) -> None:
        self.path = Path(path).absolute()
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] | None = (self.path / ".lock").open("w")
        except OSError as error:
            raise WorkdirError(f"--workdir={path}: expected a writable directory, found: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise WorkdirError(
                f"--workdir={path}: another process or thread is using this directory"
            ) from error
        try:
            self.resumed = self._open_config(config, environment or {}, resume, growing)
        except BaseException:
            self.close()
            raise

    @classmethod
    def joined(cls, path: str | os.PathLike) -> "Workdir":
        """The directory that another process of the same run holds and writes; see `open_workdir`."""
        workdir = cls.__new__(cls)
        workdir.path, workdir.resumed, workdir._lock = Path(path).absolute(), True, None
        return workdir

    def _open_config(
        self, config: dict[str, Any], environment: dict, resume: bool, growing: Mapping[str, str]
    ) -> bool:
        file = self / "config.json"
        config = json.loads(json.dumps(config))
        if not file.exists():
            document = json.dumps({"config": config, "environment": environment}, indent=2)
            write_atomically(file, document.encode())
            return False
        if not resume:
            raise WorkdirError(
                f"--workdir={self.path} already holds a run and --noresume was given: "
                "choose another directory or remove this one"
            )
        try:
            document = json.loads(file.read_text())
            found = document["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise WorkdirError(
                f"{file}: expected a JSON object with key 'config', found: {error!r}"
            ) from error
        different = [
            name for name in sorted(config.keys() | found.keys()) if config.get(name) != found.get(name)
        ]
        if different and all(name in growing and name in found for name in different):
            for name in different:
                self._check_growth(name, found[name], config[name], growing[name])
            write_atomically(file, json.dumps(document | {"config": config}, indent=2).encode())
        elif different:
            changes = ", ".join(f"--{n}: was {found.get(n)!r}, now {config.get(n)!r}" for n in different)
            raise WorkdirError(f"--workdir={self.path} holds a run with other settings ({changes})")
        return True

    def _check_growth(self, name: str, old: float, new: float, obstacle: str) -> None:
        if new < old:
            expected = f"at least {old}, as many as the run has"
        elif obstacle:
            expected = f"{old}, as in the run there, {obstacle}"
        else:
            return
        raise WorkdirError(f"--workdir={self.path}: --{name}: expected {expected}, found {new}")

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def close(self) -> None:
        """Gives the directory back to other processes."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> "Workdir":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, ValueError) and not self.resumed and self._lock is not None:
            self._withdraw()
        self.close()

    def _withdraw(self) -> None:
        """Removes what opening has made, where nothing came of the run: other data or settings may follow."""
        if {path.name for path in self.path.iterdir()} <= {".lock", "config.json"}:
            for name in ("config.json", ".lock"):
                (self / name).unlink(missing_ok=True)
            if self._made:
                self.path.rmdir()
