"""Those who co-sign a record of rounds, and what shows that it was told differently to two of them."""

from collections.abc import Iterable, Mapping
from typing import Any

from fedrecon.privacy.chain_rules import ChainError, statement, verify
from fedrecon.privacy.signatures import Party, sign


class Witness:
    """A client that co-signs records, and none that lacks what it has signed before.

    Args:
      party: the client.
      head: the last that it co-signed, if any; it is to be kept, with the client's key.
    """

    def __init__(self, party: Party, head: str | None = None) -> None:
        self._party, self.head = party, head

    def cosign(self, entries: Iterable[Mapping[str, Any]]) -> str:
        """A signature of all entries for `Chain.checkpoint`.

        Raises:
          ChainError: an entry is wrong, or what was signed before is not among them: the record was rolled
            back, or told differently to others.
        """
        seen = verify(entries, self.head)
        self.head = seen.head
        return sign(self._party, statement(seen))


def find_fork(
    first: Iterable[Mapping[str, Any]], second: Iterable[Mapping[str, Any]]
) -> tuple[int, str] | None:
    """Where two records of one beginning say different things, and who signed both; None where one goes on.

    Raises:
      ChainError: an entry of either is wrong, or they begin differently.
    """
    first, second = list(first), list(second)
    verify(first)
    verify(second)
    if first[:1] != second[:1]:
        raise ChainError("entry 0", "the same in both records", "another")
    for number, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return number, one["author"]
    return None
