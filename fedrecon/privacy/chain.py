"""A tamper-evident record of rounds: a chain of hashes with signatures, and who may sign what.

Entries are canonical JSON (sorted keys, no floats), a line each. An entry holds the hash of the one before it
and is signed with Ed25519 by its author; the first one names the parties with their public keys and roles.
The aggregator, which sees single ciphertexts, is never the holder of the key. Nothing is mined and nobody
agrees on anything: the record shows afterwards that a file was changed, and where, to whoever has the first
entry's hash and, against truncation, a later head. It does not show that what was signed is true.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.types import PyTree

CLIENT, AGGREGATOR, KEY_HOLDER = "client", "aggregator", "key holder"
# Kind of an entry -> the role of its author.
AUTHORS = {"genesis": AGGREGATOR, "round": AGGREGATOR, "sum": KEY_HOLDER}
_START = "0" * 64


class ChainError(ArgumentError):
    """An entry that is not what was signed, or not in its place."""


class Party(NamedTuple):
    """A member: its name, its role, and its Ed25519 signing key (raw bytes) where it is one's own."""

    name: str
    role: str
    private: bytes = b""

    @property
    def public(self) -> str:
        """The public key, hexadecimal."""
        return _private(self.private).public_key().public_bytes_raw().hex()


def new_party(name: str, role: str) -> Party:
    """A member with a fresh key."""
    return Party(name, role, os.urandom(32))


class Chain:
    """A record in memory, and in a file if there is a path, to which every entry is appended and synced.

    Args:
      path: of a file of JSON lines; one that exists is verified and continued.
      head: a hash that the file must contain, which shows that nothing after it was cut off; None for none.

    Raises:
      ChainError: the file was tampered with; names the entry.
    """

    def __init__(self, path: str | os.PathLike | None = None, head: str | None = None) -> None:
        self._path = None if path is None else Path(path)
        self.entries: list[dict[str, Any]] = []
        if self._path is not None and self._path.exists():
            self.entries = read_entries(self._path)
        self._seen = verify(self.entries, head)

    @property
    def head(self) -> str:
        """The hash of the last entry, to be kept somewhere else."""
        return self._seen.head

    def begin(self, author: Party, members: Iterable[Party], about: Mapping[str, Any] | None = None) -> None:
        """The first entry: who takes part.

        Raises:
          ChainError: names are not unique, or the aggregator holds the key.
        """
        members = list(members)
        parties = {member.name: {"role": member.role, "key": member.public} for member in members}
        if len(parties) != len(members):
            raise ChainError("members", "names that are unique", [member.name for member in members])
        self._append("genesis", {"parties": parties, "about": dict(about or {})}, author)

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
        signed = {}
        for name, digest in uploads.items():
            leaf = _leaf(number, name, digest.hex())
            signed[name] = {"digest": digest.hex(), "signature": _sign(signers[name], leaf)}
        body = {"round": number, "uploads": signed, "root": _root(number, signed)}
        self._append("round", body, author)

    def sum(self, author: Party, number: int, ciphertexts: bytes, result: bytes) -> None:
        """What the holder of the key decrypted in a round: digests of the sum and of the result."""
        body = {"round": number, "ciphertexts": ciphertexts.hex(), "result": result.hex()}
        self._append("sum", body, author)

    def _append(self, kind: str, body: Mapping[str, Any], author: Party) -> None:
        place = {"index": len(self.entries), "previous": self.head}
        entry: dict[str, Any] = {**place, "kind": kind, "author": author.name, **body}
        entry["signature"] = _sign(author, canonical(entry))
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
      ChainError: a line is no JSON object.
    """
    entries = []
    for number, line in enumerate(Path(path).read_bytes().splitlines()):
        try:
            entry = json.loads(line)
            # What is not canonical could be changed without changing its hash.
            if canonical(entry) != line:
                raise ValueError("not canonical")
        except ValueError as error:
            raise ChainError(f"{path}, entry {number}", "canonical JSON", str(error)) from error
        entries.append(entry)
    return entries


class Seen(NamedTuple):
    """What entries up to a place have said.

    Attributes:
      entries: their number.
      head: the hash of the last.
      parties: name -> {"role", "key"}.
      places: (kind, round) of the entries.
    """

    entries: int = 0
    head: str = _START
    parties: Mapping[str, Mapping[str, str]] = {}
    places: frozenset[tuple[str, int]] = frozenset()


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
        raise ChainError(where, f"kind {'genesis' if first else 'round or sum'}", repr(kind))
    if entry["index"] != seen.entries or entry["previous"] != seen.head:
        raise ChainError(
            where, f"to follow the entry {seen.head[:8]}...", f"after {entry['previous'][:8]}..."
        )
    parties, places = seen.parties, seen.places
    if first:
        parties = _parties(entry)
    else:
        place = (kind, entry["round"])
        if place in places:
            raise ChainError(where, f"one {kind} of round {place[1]}", "a second one")
        if kind == "sum" and ("round", place[1]) not in places:
            raise ChainError(where, f"round {place[1]} before its sum", "none")
        places |= {place}
    _check_signatures(where, entry, parties)
    return Seen(seen.entries + 1, digest_of(entry), parties, places)


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


def digest_of_blocks(blocks: Sequence[bytes]) -> bytes:
    """SHA-256 of a sequence of byte strings, which their lengths keep apart."""
    total = hashlib.sha256(len(blocks).to_bytes(8, "big"))
    for block in blocks:
        total.update(len(block).to_bytes(8, "big") + block)
    return total.digest()


def digest_of_tree(tree: PyTree) -> bytes:
    """SHA-256 over paths, dtypes, shapes and little-endian bytes of a pytree's leaves, sorted by path."""
    leaves = [
        (jax.tree_util.keystr(path), np.asarray(x))
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]
    parts: list[bytes] = []
    for path, x in sorted(leaves, key=lambda leaf: leaf[0]):
        little = x.astype(x.dtype.newbyteorder("<"))
        parts += [path.encode(), x.dtype.name.encode(), repr(x.shape).encode(), little.tobytes()]
    return digest_of_blocks(parts)


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root of a tree of hashes; an odd node moves up as it is."""
    level = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves] or [hashlib.sha256(b"").digest()]
    while len(level) > 1:
        level = _pairs(level)
    return level[0]


def prove_upload(entry: Mapping[str, Any], client: str) -> list[tuple[str, str]]:
    """What shows that a client's upload is in an entry of kind "round": (side, hash) from leaf to root.

    Raises:
      ChainError: the client sent nothing in this round.
    """
    names = sorted(entry["uploads"])
    if client not in names:
        raise ChainError("client", f"one of {', '.join(names)}", repr(client))
    leaves = [_leaf(entry["round"], name, entry["uploads"][name]["digest"]) for name in names]
    level, place, proof = (
        [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves],
        names.index(client),
        [],
    )
    while len(level) > 1:
        other = place ^ 1
        if other < len(level):
            proof.append(("left" if other < place else "right", level[other].hex()))
        level, place = _pairs(level), place // 2
    return proof


def check_upload(root: str, round: int, client: str, digest: bytes, proof: Iterable[tuple[str, str]]) -> bool:
    """Whether a proof of `prove_upload` leads from a client's digest to the root of a round."""
    node = hashlib.sha256(b"\x00" + _leaf(round, client, digest.hex())).digest()
    for side, other in proof:
        pair = bytes.fromhex(other) + node if side == "left" else node + bytes.fromhex(other)
        node = hashlib.sha256(b"\x01" + pair).digest()
    return node.hex() == root


def _pairs(level: Sequence[bytes]) -> list[bytes]:
    pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
    return [hashlib.sha256(b"\x01" + b"".join(p)).digest() if len(p) == 2 else p[0] for p in pairs]


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


def _check_signatures(where: str, entry: Mapping[str, Any], parties: Mapping[str, Mapping[str, str]]) -> None:
    author = parties.get(entry["author"], {"role": "nobody", "key": ""})
    if author["role"] != AUTHORS[entry["kind"]]:
        raise ChainError(
            where, f"the {AUTHORS[entry['kind']]} as author", f"{entry['author']} ({author['role']})"
        )
    unsigned = {name: value for name, value in entry.items() if name != "signature"}
    if not _signed(author["key"], entry.get("signature"), canonical(unsigned)):
        raise ChainError(where, f"signed by {entry['author']}", "another signature")
    if entry["kind"] != "round":
        return
    for name, upload in entry["uploads"].items():
        client = parties.get(name, {"role": "nobody", "key": ""})
        leaf = _leaf(entry["round"], name, upload["digest"])
        if client["role"] != CLIENT or not _signed(client["key"], upload["signature"], leaf):
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


def _private(raw: bytes) -> Any:
    return _ed25519().Ed25519PrivateKey.from_private_bytes(raw)


def _sign(party: Party, message: bytes) -> str:
    return _private(party.private).sign(message).hex()


def _signed(key: str, signature: Any, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        _ed25519().Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(
            bytes.fromhex(signature), message
        )
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ImportError("signed records need the extra: pip install 'fedrecon[secure]'") from error
    return ed25519
