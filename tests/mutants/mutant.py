"""A wrong version of a line."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """One change of a file, and who must notice it.

    Attributes:
      file: path from the root of the project.
      before: a text that occurs in the file exactly once, within one line.
      after: what replaces it.
      tests: node ids of the default suite, separated by spaces; at least one of them fails on the change.
    """

    file: str
    before: str
    after: str
    tests: str


def in_file(file: str, *changes: tuple[str, str, str]) -> tuple[Mutant, ...]:
    """Mutants of one file from (before, after, tests)."""
    return tuple(Mutant(file, *change) for change in changes)
