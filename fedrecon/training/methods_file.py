"""Methods from a Python file outside the package."""

import contextlib
import hashlib
import re
import sys
import traceback
import types
from collections.abc import Iterator
from pathlib import Path

from fedrecon import catalog
from fedrecon.catalog import Entry
from fedrecon.errors import ArgumentError
from fedrecon.training.options import FlagError

_LONGEST = 300
# Path -> digest and rows of the files that this process has run.
_loaded: dict[str, tuple[str, set[Entry]]] = {}


class MethodsFileError(ArgumentError):
    """The file of ``--methods_from`` failed; the message names the file and its line."""

    def __init__(self, message: str) -> None:
        ValueError.__init__(self, message)
        self.name, self.expected, self.found = "--methods_from", "a file that runs", message

    def __reduce__(self) -> tuple:
        return MethodsFileError, (self.found,)


def load_methods(path: str) -> str:
    """Runs a Python file, which registers its methods in the catalog; returns the SHA-256 of its content.

    A file that this process has run before with the same content is not run again. What the file imports is
    not part of the hash.

    Raises:
      ValueError: the file cannot be read or run, or registers nothing; the message is one line and names the
        flag, the file and its line.
    """
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise FlagError("methods_from", "a Python file", f"{path!r}: {error.strerror}") from error
    digest = hashlib.sha256(source).hexdigest()
    before = set(catalog.entries())
    old_digest, rows = _loaded.get(path, ("", set()))
    if old_digest == digest and rows <= before:
        return digest
    module = types.ModuleType("methods_from_" + re.sub(r"\W", "_", Path(path).stem))
    module.__file__ = path
    # Where dataclasses and pickle look for it.
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except Exception as error:
        raise MethodsFileError(_located(error, path) or f"--methods_from: {path}: {error}") from error
    rows = set(catalog.entries()) - before
    if not rows:
        raise FlagError(f"methods_from: {path}", "a call of fedrecon.catalog.register", "none")
    _loaded[path] = (digest, rows)
    return digest


@contextlib.contextmanager
def naming_the_line(path: str) -> Iterator[None]:
    """Turns an error that comes out of the methods file into one line with the file and its line.

    Args:
      path: of the file; empty for none.

    Raises:
      ValueError: in place of an error in the file.
    """
    try:
        yield
    except Exception as error:
        if path and (message := _located(error, path)):
            raise MethodsFileError(message) from error
        raise


def _located(error: Exception, path: str) -> str | None:
    """The error with the innermost line of the file that led to it; None if it is not of the file."""
    text = " ".join(str(error).split())[:_LONGEST]
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"--methods_from: {path}, line {error.lineno}: expected Python, found {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if not lines:
        return None
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"--methods_from: {path}, line {lines[-1]}: {kind}{text}"
