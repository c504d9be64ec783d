"""Methods by name: those of the package, and those that are registered."""

import contextlib
import contextvars
from collections.abc import Iterator

from fedrecon.catalog.entry import Entry
from fedrecon.catalog.survey_algorithms import SURVEY_ALGORITHMS
from fedrecon.catalog.survey_applications import SURVEY_APPLICATIONS
from fedrecon.catalog.survey_diagnoses import SURVEY_DIAGNOSES
from fedrecon.catalog.survey_frameworks import SURVEY_FRAMEWORKS
from fedrecon.catalog.table import TABLE
from fedrecon.errors import ArgumentError

# Other spellings of names.
ALIASES = {"centralised": "centralized"}
_TABLES = (TABLE, SURVEY_ALGORITHMS, SURVEY_FRAMEWORKS, SURVEY_DIAGNOSES, SURVEY_APPLICATIONS)
_entries = {entry.name: entry for table in _TABLES for entry in table}
# Of blocks of `registered`, each in its own thread or coroutine.
_for_a_block: contextvars.ContextVar[tuple[Entry, ...]] = contextvars.ContextVar("_for_a_block", default=())


def entries() -> tuple[Entry, ...]:
    """All rows, those of the package first."""
    return (*_entries.values(), *_for_a_block.get())


def lookup(name: str) -> Entry:
    """The row of this name, or of the name that it is another spelling of.

    Raises:
      ValueError: there is none; the message lists the names.
    """
    name = ALIASES.get(name, name)
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        raise ArgumentError("method", f"one of {', '.join(known)}", repr(name))
    return known[name]


def register(entry: Entry) -> Entry:
    """Adds a method from outside the package, for this process, and returns it.

    Raises:
      ValueError: if there is a method of this name.
    """
    _check_free(entry)
    _entries[entry.name] = entry
    return entry


@contextlib.contextmanager
def registered(entry: Entry) -> Iterator[None]:
    """Adds a method for the length of a block and this thread; a row that is in the catalog stays there.

    Raises:
      ValueError: as `register`.
    """
    if entry in entries():
        yield
        return
    _check_free(entry)
    token = _for_a_block.set((*_for_a_block.get(), entry))
    try:
        yield
    finally:
        _for_a_block.reset(token)


def _check_free(entry: Entry) -> None:
    if entry.name in ALIASES or any(entry.name == other.name for other in entries()):
        raise ArgumentError("name", "one that is not in the catalog", repr(entry.name))
