"""A tamper-evident record of rounds: a chain of hashes with signatures, and who may sign what.

Entries are canonical JSON (sorted keys, no floats), a line each. An entry holds the hash of the one before it
and is signed with Ed25519 by its author; the first one names the parties with their public keys and roles.
The aggregator, which sees single ciphertexts, is never the holder of the key. After so many rounds a
checkpoint follows, at which enough clients have co-signed what was written so far; each signs only what holds
all that it signed before (`fedrecon.privacy.witness`), so that a record cannot be rolled back behind a
checkpoint, nor told differently to different clients. Nothing is mined: the record shows afterwards that a
file was changed, and where, to whoever has the first entry's hash and, against truncation, a later head. It
does not show that what was signed is true.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedrecon.errors import ArgumentError
from fedrecon.privacy.digests import digest_of_blocks as digest_of_blocks
from fedrecon.privacy.digests import digest_of_tree as digest_of_tree
from fedrecon.privacy.digests import leads_to, merkle_proof, merkle_root
from fedrecon.privacy.signatures import Party as Party
from fedrecon.privacy.signatures import new_party as new_party
from fedrecon.privacy.signatures import sign, signed

CLIENT, AGGREGATOR, KEY_HOLDER = "client", "aggregator", "key holder"
# Kind of an entry -> the role of its author.
AUTHORS = {"genesis": AGGREGATOR, "round": AGGREGATOR, "checkpoint": AGGREGATOR, "sum": KEY_HOLDER}
_START = "0" * 64
_LOG = logging.getLogger(__name__)


class ChainError(ArgumentError):
    """An entry that is not what was signed, or not in its place."""


class Chain:
    """A record in memory, and in a file if there is a path, to which every entry is appended and synced.

    Args:
      path: of a file of JSON lines; one that exists is verified and continued. A last line that a crash cut
        off is removed with a warning, or completed if only its end is missing: nobody has used what it says.
      head: a hash that the file must contain, which shows that nothing after it was cut off; None for none.

    Raises:
      ChainError: the file was tampered with; names the entry.
    """

    def __init__(self, path: str | os.PathLike | None = None, head: str | None = None) -> None:
        self._path = None if path is None else Path(path)
        self.entries: list[dict[str, Any]] = []
        if self._path is not None and self._path.exists():
            self.entries = _mended(self._path)
        self._seen = verify(self.entries, head)

    @property
    def head(self) -> str:
        """The hash of the last entry, to be kept somewhere else."""
        return self._seen.head

    @property
    def due(self) -> bool:
        """Whether a checkpoint must come before the next round."""
        return self._seen.every > 0 and self._seen.rounds >= self._seen.every

    def begin(
        self,
        author: Party,
        members: Iterable[Party],
        about: Mapping[str, Any] | None = None,
        *,
        every: int = 10,
        least: int | None = None,
    ) -> None:
        """The first entry: who takes part.

        Args:
          author: the aggregator.
          members: all parties.
          about: what else is to be said.
          every: rounds after which a checkpoint must come.
          least: clients that must co-sign it; by default more than two thirds of them.

        Raises:
          ChainError: names are not unique, the aggregator holds the key, or there are not as many clients.
        """
        members = list(members)
        parties = {member.name: {"role": member.role, "key": member.public} for member in members}
        if len(parties) != len(members):
            raise ChainError("members", "names that are unique", [member.name for member in members])
        clients = [member for member in members if member.role == CLIENT]
        rule = {"every": every, "least": 2 * len(clients) // 3 + 1 if least is None else least}
        self._append("genesis", {"parties": parties, "about": dict(about or {}), "checkpoints": rule}, author)

    def round(
        self, author: Party, number: int, uploads: Mapping[str, bytes], signers: Mapping[str, Party]
    ) -> None:
        """What every client sent in a round: the digest of its ciphertexts, which it signs itself.

        Args:
          author: the aggregator.
          number: of the round, which occurs once.
          uploads: client -> SHA-256 digest of what it sent.
          signers: client -> the client.
        """
        leaves = {}
        for name, digest in uploads.items():
            leaf = _leaf(number, name, digest.hex())
            leaves[name] = {"digest": digest.hex(), "signature": sign(signers[name], leaf)}
        body = {"round": number, "uploads": leaves, "root": _root(number, leaves)}
        self._append("round", body, author)

    def sum(self, author: Party, number: int, ciphertexts: bytes, result: bytes) -> None:
        """What the holder of the key decrypted in a round: digests of the sum and of the result."""
        body = {"round": number, "ciphertexts": ciphertexts.hex(), "result": result.hex()}
        self._append("sum", body, author)

    def checkpoint(self, author: Party, signatures: Mapping[str, str]) -> None:
        """What clients have co-signed: all entries so far.

        Args:
          author: the aggregator.
          signatures: client -> what its `Witness` signed.

        Raises:
          ChainError: a signature is wrong, or there are too few.
        """
        self._append("checkpoint", {"signatures": dict(signatures)}, author)

    def _append(self, kind: str, body: Mapping[str, Any], author: Party) -> None:
        place = {"index": len(self.entries), "previous": self.head}
        entry: dict[str, Any] = {**place, "kind": kind, "author": author.name, **body}
        entry["signature"] = sign(author, canonical(entry))
        seen = _follow(self._seen, entry)
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(canonical(entry) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        self.entries.append(entry)
        self._seen = seen


def read_entries(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The entries of a file, unverified.

    Raises:
      ChainError: a line is no JSON object, or the last one is cut off.
    """
    *lines, tail = Path(path).read_bytes().split(b"\n")
    entries = [_entry(line, f"{path}, entry {number}") for number, line in enumerate(lines)]
    if tail:
        expected = "a whole line; Chain(path) mends what a crash cut off"
        raise ChainError(f"{path}, entry {len(entries)}", expected, f"{len(tail)} bytes without its end")
    return entries


def _entry(line: bytes, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        # What is not canonical could be changed without changing its hash.
        if canonical(entry) != line:
            raise ValueError("not canonical")
    except ValueError as error:
        raise ChainError(where, "canonical JSON", str(error)) from error
    return entry


def _mended(path: Path) -> list[dict[str, Any]]:
    """The entries of a file whose last line a crash may have cut off."""
    content = path.read_bytes()
    tail = content[content.rfind(b"\n") + 1 :]
    if not tail:
        return read_entries(path)
    try:
        _entry(tail, "")
        whole = True
    except ChainError:
        whole = False
    with path.open("r+b") as file:
        if whole:
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
        else:
            file.truncate(len(content) - len(tail))
        file.flush()
        os.fsync(file.fileno())
    what = "completed" if whole else "removed"
    _LOG.warning("%s: a last line that a crash had cut off was %s", path, what)
    return read_entries(path)


class Seen(NamedTuple):
    """What entries up to a place have said.

    Attributes:
      entries: their number.
      head: the hash of the last.
      parties: name -> {"role", "key"}.
      places: (kind, round) of the entries.
      rounds: since the last checkpoint.
      every, least: after how many rounds one must come, 0 for never, and clients that co-sign it.
    """

    entries: int = 0
    head: str = _START
    parties: Mapping[str, Mapping[str, str]] = {}
    places: frozenset[tuple[str, int]] = frozenset()
    rounds: int = 0
    every: int = 0
    least: int = 0


def verify(entries: Iterable[Mapping[str, Any]], head: str | None = None) -> Seen:
    """Checks hashes, places, signatures and roles of a record.

    Args:
      entries: of the record, from the first.
      head: a hash that must be that of one of the entries: what was cut off behind it is noticed.

    Raises:
      ChainError: names the first entry that is wrong, and what is wrong with it.
    """
    seen, heads = Seen(), {_START}
    for entry in entries:
        seen = _follow(seen, entry)
        heads.add(seen.head)
    if head is not None and head not in heads:
        raise ChainError("head", f"an entry with the hash {head[:8]}..., which was seen before", "none")
    return seen


def _follow(seen: Seen, entry: Mapping[str, Any]) -> Seen:
    where = f"entry {seen.entries}"
    try:
        return _checked(where, seen, entry)
    except (AttributeError, KeyError, TypeError) as error:
        raise ChainError(where, "the fields of its kind", repr(error)) from error


def _checked(where: str, seen: Seen, entry: Mapping[str, Any]) -> Seen:
    kind, first = entry["kind"], seen.entries == 0
    if kind not in AUTHORS or (kind == "genesis") != first:
        raise ChainError(where, f"kind {'genesis' if first else 'round, sum or checkpoint'}", repr(kind))
    if entry["index"] != seen.entries or entry["previous"] != seen.head:
        raise ChainError(
            where, f"to follow the entry {seen.head[:8]}...", f"after {entry['previous'][:8]}..."
        )
    parties, places, rounds, every, least = seen[2:]
    if first:
        parties = _parties(entry)
        every, least = _rule(entry)
    elif kind == "checkpoint":
        _check_cosigned(where, seen, entry["signatures"])
        rounds = 0
    else:
        place = (kind, entry["round"])
        if place in places:
            raise ChainError(where, f"one {kind} of round {place[1]}", "a second one")
        if kind == "sum" and ("round", place[1]) not in places:
            raise ChainError(where, f"round {place[1]} before its sum", "none")
        if kind == "round" and 0 < every <= rounds:
            raise ChainError(where, f"a checkpoint after {every} rounds", "another round")
        places |= {place}
        rounds += kind == "round"
    _check_signatures(where, entry, parties)
    return Seen(seen.entries + 1, digest_of(entry), parties, places, rounds, every, least)


def canonical(entry: Mapping[str, Any]) -> bytes:
    """An entry as the bytes that are hashed: sorted keys, UTF-8, no floats.

    Raises:
      ChainError: it holds a float.
    """
    _refuse_floats(entry)
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest_of(entry: Mapping[str, Any]) -> str:
    """SHA-256 of 0x00 and an entry with its signature, hexadecimal."""
    return hashlib.sha256(b"\x00" + canonical(entry)).hexdigest()


def prove_upload(entry: Mapping[str, Any], client: str) -> list[tuple[str, str]]:
    """What shows that a client's upload is in an entry of kind "round": (side, hash) from leaf to root.

    Raises:
      ChainError: the client sent nothing in this round.
    """
    names = sorted(entry["uploads"])
    if client not in names:
        raise ChainError("client", f"one of {', '.join(names)}", repr(client))
    leaves = [_leaf(entry["round"], name, entry["uploads"][name]["digest"]) for name in names]
    return merkle_proof(leaves, names.index(client))


def check_upload(root: str, round: int, client: str, digest: bytes, proof: Iterable[tuple[str, str]]) -> bool:
    """Whether a proof of `prove_upload` leads from a client's digest to the root of a round."""
    return leads_to(root, _leaf(round, client, digest.hex()), proof)


def _leaf(round: int, client: str, digest: str) -> bytes:
    return canonical({"round": round, "client": client, "digest": digest})


def _root(number: int, uploads: Mapping[str, Mapping[str, str]]) -> str:
    return merkle_root([_leaf(number, name, uploads[name]["digest"]) for name in sorted(uploads)]).hex()


def _parties(entry: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    parties = entry["parties"]
    roles = [party["role"] for party in parties.values()]
    for role in (AGGREGATOR, KEY_HOLDER):
        if roles.count(role) != 1:
            raise ChainError("entry 0", f"one {role}", f"{roles.count(role)}")
    keys = [party["key"] for party in parties.values()]
    if len(set(keys)) != len(keys):
        raise ChainError(
            "entry 0", "parties with keys of their own, aggregator and key holder apart", "a shared key"
        )
    return parties


def _rule(entry: Mapping[str, Any]) -> tuple[int, int]:
    """After how many rounds a checkpoint comes, and how many clients co-sign it."""
    every, least = entry["checkpoints"]["every"], entry["checkpoints"]["least"]
    clients = sum(party["role"] == CLIENT for party in entry["parties"].values())
    if not (isinstance(every, int) and every >= 1):
        raise ChainError("entry 0", "checkpoints after at least 1 round", repr(every))
    if not (isinstance(least, int) and 1 <= least <= clients):
        raise ChainError("entry 0", f"1 to {clients} clients that co-sign checkpoints", repr(least))
    return every, least


def statement(seen: Seen) -> bytes:
    """What is co-signed: all entries so far."""
    return canonical({"checkpoint": seen.entries, "head": seen.head})


def _check_cosigned(where: str, seen: Seen, signatures: Mapping[str, str]) -> None:
    for name, signature in signatures.items():
        party = seen.parties.get(name, {"role": "nobody", "key": ""})
        if party["role"] != CLIENT or not signed(party["key"], signature, statement(seen)):
            raise ChainError(where, f"co-signed by the client {name}", "another signature")
    if len(signatures) < seen.least:
        raise ChainError(where, f"co-signed by at least {seen.least} clients", len(signatures))


def _check_signatures(where: str, entry: Mapping[str, Any], parties: Mapping[str, Mapping[str, str]]) -> None:
    author = parties.get(entry["author"], {"role": "nobody", "key": ""})
    if author["role"] != AUTHORS[entry["kind"]]:
        raise ChainError(
            where, f"the {AUTHORS[entry['kind']]} as author", f"{entry['author']} ({author['role']})"
        )
    unsigned = {name: value for name, value in entry.items() if name != "signature"}
    if not signed(author["key"], entry.get("signature"), canonical(unsigned)):
        raise ChainError(where, f"signed by {entry['author']}", "another signature")
    if entry["kind"] != "round":
        return
    for name, upload in entry["uploads"].items():
        client = parties.get(name, {"role": "nobody", "key": ""})
        leaf = _leaf(entry["round"], name, upload["digest"])
        if client["role"] != CLIENT or not signed(client["key"], upload["signature"], leaf):
            raise ChainError(where, f"an upload signed by the client {name}", "another signature")
    if _root(entry["round"], entry["uploads"]) != entry["root"]:
        raise ChainError(where, "the root of its uploads", "another")


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise ChainError("entry", "integers and text alone", repr(value))
    children = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    )
    for child in children:
        _refuse_floats(child)
