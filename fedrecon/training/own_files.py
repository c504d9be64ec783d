"""Methods and tasks from Python files, or modules, outside the package."""

import contextlib
import hashlib
import importlib.util
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path

from fedrecon import catalog
from fedrecon.catalog import Entry
from fedrecon.errors import ArgumentError
from fedrecon.training.options import FlagError
from fedrecon.types import Task

_LONGEST = 300
# Path -> digest and module of the files that this process has run.
_run: dict[str, tuple[str, types.ModuleType]] = {}
# Path -> rows that it registered.
_rows: dict[str, set[Entry]] = {}


class OwnFileError(ArgumentError):
    """A file of ``--methods_from`` or ``--task`` failed; the message names the file and its line."""

    def __init__(self, message: str) -> None:
        ValueError.__init__(self, message)
        self.name, self.expected, self.found = message.partition(":")[0], "a file that runs", message

    def __reduce__(self) -> tuple:
        return OwnFileError, (self.found,)


def load_methods(given: str) -> str:
    """Runs a Python file, which registers its methods in the catalog; returns the SHA-256 of its content.

    A file that this process has run before with the same content is not run again. What the file imports is
    not part of the hash.

    Args:
      given: path of the file, or the name of a module.

    Raises:
      ValueError: the file cannot be read or run, or registers nothing; the message is one line and names the
        flag, the file and its line.
    """
    path, before = _source(given, "methods_from"), set(catalog.entries())
    rows = _rows.get(path, set())
    _, digest = _module(given, "methods_from", again=not rows or not rows <= before)
    if added := set(catalog.entries()) - before:
        _rows[path] = added
    elif not rows or not rows <= before:
        raise FlagError(f"methods_from: {path}", "a call of fedrecon.catalog.register", "none")
    return digest


def load_task(text: str) -> tuple[Task | Callable, str]:
    """Runs a Python file; returns a task in it, or a function that makes one, and the SHA-256 of the file.

    Args:
      text: ``FILE:name``, or ``MODULE:name``.

    Raises:
      ValueError: the file cannot be read or run, or has no such name; the message is one line and names the
        flag, the file and its line.
    """
    given, _, name = text.rpartition(":")
    if not given or not name.isidentifier():
        raise FlagError("task", "FILE:name of a task, or of a function of an example that makes one", text)
    module, digest = _module(given, "task")
    found = getattr(module, name, None)
    if not isinstance(found, Task) and not callable(found):
        known = [
            n for n, x in vars(module).items() if isinstance(x, Task | types.FunctionType) and n[0] != "_"
        ]
        expected = f"a task, or a function that makes one ({', '.join(known) or 'it has none'})"
        raise FlagError(f"task: {given}", expected, f"{name} = {found!r}" if name in vars(module) else name)
    return found, digest


@contextlib.contextmanager
def naming_the_line(given: str, flag: str = "methods_from") -> Iterator[None]:
    """Turns an error that comes out of a file into one line with the file and its line.

    Args:
      given: as of `load_methods` or, with ``:name``, of `load_task`; empty for none.
      flag: that gave it.

    Raises:
      ValueError: in place of an error in the file.
    """
    try:
        yield
    except Exception as error:
        given = given.rpartition(":")[0] if flag == "task" else given
        if given and (message := _located(error, _source(given, flag), flag)):
            raise OwnFileError(message) from error
        raise


def _module(given: str, flag: str, again: bool = False) -> tuple[types.ModuleType, str]:
    """The module that a file makes, and the SHA-256 of the file."""
    path = _source(given, flag)
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise FlagError(flag, "a Python file", f"{path!r}: {error.strerror}") from error
    digest = hashlib.sha256(source).hexdigest()
    if not again and path in _run and _run[path][0] == digest:
        return _run[path][1], digest
    name = given if path != given else f"{flag.partition('_')[0]}_from_" + re.sub(r"\W", "_", Path(path).stem)
    spec = importlib.util.spec_from_file_location(name, path)
    module = types.ModuleType(name) if spec is None else importlib.util.module_from_spec(spec)
    module.__file__ = path
    # Where dataclasses and pickle look for it.
    sys.modules[name] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except Exception as error:
        raise OwnFileError(_located(error, path, flag) or f"--{flag}: {path}: {error}") from error
    _run[path] = (digest, module)
    return module, digest


def _source(given: str, flag: str) -> str:
    """The path of a file, or of the module of a name."""
    if Path(given).is_file() or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", given):
        return given
    try:
        spec = importlib.util.find_spec(given)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise FlagError(flag, "a Python file", f"{given!r}: no such file or module")
    return spec.origin


def _located(error: Exception, path: str, flag: str) -> str | None:
    """The error with the innermost line of the file that led to it; None if it is not of the file."""
    text = " ".join(str(error).partition("\n-----")[0].split())[:_LONGEST]
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"--{flag}: {path}, line {error.lineno}: expected Python, found {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if not lines:
        return None
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"--{flag}: {path}, line {lines[-1]}: {kind}{text}"
