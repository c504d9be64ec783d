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

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedrecon.privacy.chain_rules import AGGREGATOR as AGGREGATOR
from fedrecon.privacy.chain_rules import CLIENT as CLIENT
from fedrecon.privacy.chain_rules import GATEWAY as GATEWAY
from fedrecon.privacy.chain_rules import KEY_HOLDER as KEY_HOLDER
from fedrecon.privacy.chain_rules import ChainError as ChainError
from fedrecon.privacy.chain_rules import canonical as canonical
from fedrecon.privacy.chain_rules import check_upload as check_upload
from fedrecon.privacy.chain_rules import digest_of as digest_of
from fedrecon.privacy.chain_rules import (
    enough,
    follow,
    gateway_roots,
    gateways_of,
    invitation,
    leaf,
    root,
)
from fedrecon.privacy.chain_rules import prove_upload as prove_upload
from fedrecon.privacy.chain_rules import statement as statement
from fedrecon.privacy.chain_rules import verify as verify
from fedrecon.privacy.digests import digest_of_blocks as digest_of_blocks
from fedrecon.privacy.digests import digest_of_tree as digest_of_tree
from fedrecon.privacy.signatures import Party as Party
from fedrecon.privacy.signatures import new_party as new_party
from fedrecon.privacy.signatures import sign as sign

_LOG = logging.getLogger(__name__)


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
        gateways: Mapping[str, str] | None = None,
        sums: bool = True,
    ) -> None:
        """The first entry: who takes part.

        Args:
          author: the aggregator.
          members: all parties.
          about: what else is to be said.
          every: rounds after which a checkpoint must come.
          least: clients that must co-sign it; by default more than two thirds of them, and so it is once
            somebody has joined or left.
          gateways: client -> its edge gateway, one of the parties; of all clients or of none.
          sums: whether a holder of a key decrypts sums, which is then one of the parties.

        Raises:
          ChainError: names are not unique, the aggregator holds the key, a client has no gateway where there
            are some, or there are not as many clients.
        """
        members = list(members)
        parties = {member.name: {"role": member.role, "key": member.public} for member in members}
        for name, gateway in (gateways or {}).items():
            parties[name]["gateway"] = gateway
        if len(parties) != len(members):
            raise ChainError("members", "names that are unique", [member.name for member in members])
        rule = {"every": every, "least": enough(parties) if least is None else least}
        body = {"parties": parties, "about": dict(about or {}), "checkpoints": rule}
        self._append("genesis", body if sums else {**body, "sums": False}, author)

    def round(
        self,
        author: Party,
        number: int,
        uploads: Mapping[str, bytes],
        signers: Mapping[str, Party],
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """What every client sent in a round: the digest of its ciphertexts, which it signs itself.

        Args:
          author: the aggregator.
          number: of the round, which occurs once.
          uploads: client -> SHA-256 digest of what it sent.
          signers: name -> the party, of clients and their gateways.
          about: what else is to be said: digests, weights, bytes and budgets as integers or text.
        """
        leaves = {}
        for name, digest in uploads.items():
            own = leaf(number, name, digest.hex())
            leaves[name] = {"digest": digest.hex(), "signature": sign(signers[name], own)}
        gateway_of = gateways_of(self._seen.parties)
        body = {"round": number, "uploads": leaves, "root": root(number, leaves, gateway_of)}
        if roots := gateway_roots(number, leaves, gateway_of):
            body["gateways"] = {
                name: {"root": own.hex(), "signature": sign(signers[name], leaf(number, name, own.hex()))}
                for name, own in roots.items()
            }
        self._append("round", body if about is None else {**body, "about": dict(about)}, author)

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

    def join(self, author: Party, client: Party, gateway: str | None = None) -> None:
        """A client that joins, which signs that it does."""
        party = {"key": client.public} | ({} if gateway is None else {"gateway": gateway})
        body = {"client": client.name, "party": party}
        self._append("join", {**body, "accepted": sign(client, invitation(self._seen, client.name))}, author)

    def leave(self, client: Party) -> None:
        """A client that leaves; only itself may say so."""
        self._append("leave", {"client": client.name}, client)

    def note(self, kind: str, author: Party, about: Mapping[str, Any]) -> None:
        """An entry of kind "config" or "audit" by the aggregator, or "consent" by a client."""
        if kind not in ("config", "audit", "consent"):
            raise ChainError("kind", "config, audit or consent", repr(kind))
        self._append(kind, {"about": dict(about)}, author)

    def prove_inclusion(self, client: str, number: int) -> list[tuple[str, str]]:
        """The proof of `prove_upload` that what a client sent in a round is under its root.

        Raises:
          ChainError: there is no such round, or the client sent nothing in it.
        """
        found = [e for e in self.entries if e["kind"] == "round" and e["round"] == number]
        if not found:
            raise ChainError("round", "one that is recorded", number)
        (entry,) = found
        seen = verify(self.entries[: entry["index"]])
        return prove_upload(entry, client, gateways_of(seen.parties))

    def export(self) -> bytes:
        """All entries as the lines of a file, for `read_entries`."""
        return b"".join(canonical(entry) + b"\n" for entry in self.entries)

    def _append(self, kind: str, body: Mapping[str, Any], author: Party) -> None:
        place = {"index": len(self.entries), "previous": self.head}
        entry: dict[str, Any] = {**place, "kind": kind, "author": author.name, **body}
        entry["signature"] = sign(author, canonical(entry))
        seen = follow(self._seen, entry)
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


def check_replay(first: Iterable[Mapping[str, Any]], second: Iterable[Mapping[str, Any]]) -> int:
    """How many rounds two records of runs have in common, in which models and uploads are the same.

    Of a deterministic run that is repeated, all of them are; keys, signatures and times differ.

    Raises:
      ChainError: an entry of either is wrong, or names the first round in which the model that clients
        received, or what a client sent, is another.
    """
    rounds = []
    for entries in (list(first), list(second)):
        verify(entries)
        rounds.append({e["round"]: e for e in entries if e["kind"] == "round"})
    common = sorted(rounds[0].keys() & rounds[1].keys())
    for number in common:
        one, other = (found[number] for found in rounds)
        if (one.get("about") or {}).get("model") != (other.get("about") or {}).get("model"):
            raise ChainError(f"round {number}", "the model of the record", "another")
        for name in sorted(one["uploads"].keys() | other["uploads"].keys()):
            digests = [e["uploads"].get(name, {}).get("digest") for e in (one, other)]
            if digests[0] != digests[1]:
                raise ChainError(f"round {number}", f"what {name} sent in the record", "another upload")
    return len(common)
