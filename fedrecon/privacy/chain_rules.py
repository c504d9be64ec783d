"""What a record of rounds may say, and how each entry is checked against those before it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fedrecon.errors import ArgumentError
from fedrecon.privacy.digests import leads_to, merkle_proof, merkle_root, node_proof, node_root
from fedrecon.privacy.signatures import signed

CLIENT, AGGREGATOR, KEY_HOLDER, GATEWAY = "client", "aggregator", "key holder", "gateway"
# Kind of an entry -> the role of its author.
AUTHORS = {
    "genesis": AGGREGATOR,
    "round": AGGREGATOR,
    "checkpoint": AGGREGATOR,
    "sum": KEY_HOLDER,
    "config": AGGREGATOR,
    "join": AGGREGATOR,
    "leave": CLIENT,
    "consent": CLIENT,
    "audit": AGGREGATOR,
}
START = "0" * 64


class ChainError(ArgumentError):
    """An entry that is not what was signed, or not in its place."""


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
    head: str = START
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
    seen, heads = Seen(), {START}
    for entry in entries:
        seen = follow(seen, entry)
        heads.add(seen.head)
    if head is not None and head not in heads:
        raise ChainError("head", f"an entry with the hash {head[:8]}..., which was seen before", "none")
    return seen


def follow(seen: Seen, entry: Mapping[str, Any]) -> Seen:
    """What entries have said after one more.

    Raises:
      ChainError: it is wrong.
    """
    where = f"entry {seen.entries}"
    try:
        return _checked(where, seen, entry)
    except (AttributeError, KeyError, TypeError) as error:
        raise ChainError(where, "the fields of its kind", repr(error)) from error


def _checked(where: str, seen: Seen, entry: Mapping[str, Any]) -> Seen:
    kind, first = entry["kind"], seen.entries == 0
    if kind not in AUTHORS or (kind == "genesis") != first:
        others = ", ".join(list(AUTHORS)[1:])
        raise ChainError(where, f"kind {'genesis' if first else others}", repr(kind))
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
    elif kind in ("round", "sum"):
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
    if kind in ("join", "leave"):
        parties = _members(where, seen, entry)
        least = enough(parties)
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


def prove_upload(
    entry: Mapping[str, Any], client: str, gateway_of: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """What shows that a client's upload is in an entry of kind "round": (side, hash) from leaf to root.

    Of n clients without gateways these are at most ceil(log2 n) hashes of 32 bytes.

    Args:
      entry: of the round.
      client: its name.
      gateway_of: client -> its gateway, where there are any; see `gateways_of`.

    Raises:
      ChainError: the client sent nothing in this round.
    """
    uploads, number = entry["uploads"], entry["round"]
    names = sorted(uploads)
    if client not in names:
        raise ChainError("client", f"one of {', '.join(names)}", repr(client))
    if not gateway_of:
        return merkle_proof(_leaves(number, uploads, names), names.index(client))
    own = gateway_of[client]
    inside = [name for name in names if gateway_of[name] == own]
    roots = gateway_roots(number, uploads, gateway_of)
    below = merkle_proof(_leaves(number, uploads, inside), inside.index(client))
    return below + node_proof(list(roots.values()), list(roots).index(own))


def check_upload(root: str, round: int, client: str, digest: bytes, proof: Iterable[tuple[str, str]]) -> bool:
    """Whether a proof of `prove_upload` leads from a client's digest to the root of a round."""
    return leads_to(root, leaf(round, client, digest.hex()), proof)


def leaf(round: int, client: str, digest: str) -> bytes:
    """What a client signs of what it sent."""
    return canonical({"round": round, "client": client, "digest": digest})


def _leaves(number: int, uploads: Mapping[str, Mapping[str, str]], names: Iterable[str]) -> list[bytes]:
    return [leaf(number, name, uploads[name]["digest"]) for name in names]


def gateway_roots(
    number: int, uploads: Mapping[str, Mapping[str, str]], gateway_of: Mapping[str, str]
) -> dict[str, bytes]:
    """Of each gateway the root of its clients' uploads, in the order of names; {} without gateways."""
    if not gateway_of:
        return {}
    groups: dict[str, list[str]] = {}
    for name in sorted(uploads):
        groups.setdefault(gateway_of[name], []).append(name)
    return {gateway: merkle_root(_leaves(number, uploads, groups[gateway])) for gateway in sorted(groups)}


def root(number: int, uploads: Mapping[str, Mapping[str, str]], gateway_of: Mapping[str, str]) -> str:
    """The root of a round's uploads, hexadecimal; with gateways over the roots of these."""
    if gateway_of:
        return node_root(list(gateway_roots(number, uploads, gateway_of).values())).hex()
    return merkle_root(_leaves(number, uploads, sorted(uploads))).hex()


def _parties(entry: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    parties = entry["parties"]
    roles = [party["role"] for party in parties.values()]
    for role, count in ((AGGREGATOR, 1), (KEY_HOLDER, int(entry.get("sums", True)))):
        if roles.count(role) != count:
            raise ChainError("entry 0", f"one {role}" if count else f"no {role}", f"{roles.count(role)}")
    for name, party in parties.items():
        if party["role"] == CLIENT:
            _check_gateway("entry 0", name, party, parties)
    keys = [party["key"] for party in parties.values()]
    if len(set(keys)) != len(keys):
        raise ChainError(
            "entry 0", "parties with keys of their own, aggregator and key holder apart", "a shared key"
        )
    return parties


def _check_gateway(where: str, name: str, party: Mapping, parties: Mapping[str, Mapping[str, str]]) -> None:
    gateways = [other for other, one in parties.items() if one["role"] == GATEWAY]
    if gateways and party.get("gateway") not in gateways:
        raise ChainError(where, f"one of {', '.join(gateways)} as gateway of {name}", party.get("gateway"))


def gateways_of(parties: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Client -> its gateway; empty without gateways."""
    return {name: party["gateway"] for name, party in parties.items() if "gateway" in party}


def enough(parties: Mapping[str, Mapping[str, str]]) -> int:
    """More than two thirds of the clients."""
    return 2 * sum(party["role"] == CLIENT for party in parties.values()) // 3 + 1


def invitation(seen: Seen, name: str) -> bytes:
    """What a client signs that joins."""
    return canonical({"join": name, "head": seen.head})


def _members(where: str, seen: Seen, entry: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """The parties after one has joined or left."""
    parties, name = dict(seen.parties), entry["client"]
    if entry["kind"] == "leave":
        if entry["author"] != name:
            raise ChainError(where, f"{name} itself to leave", f"signed by {entry['author']}")
        del parties[name]
        if not any(party["role"] == CLIENT for party in parties.values()):
            raise ChainError(where, "a client that stays", "none")
        return parties
    if name in parties or any(party["key"] == entry["party"]["key"] for party in parties.values()):
        raise ChainError(where, "a name and a key that nobody has", name)
    party = {"role": CLIENT, **entry["party"]}
    if party["role"] != CLIENT or not signed(party["key"], entry["accepted"], invitation(seen, name)):
        raise ChainError(where, f"an invitation signed by the client {name}", "another signature")
    _check_gateway(where, name, party, parties)
    return {**parties, name: party}


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
        own = leaf(entry["round"], name, upload["digest"])
        if client["role"] != CLIENT or not signed(client["key"], upload["signature"], own):
            raise ChainError(where, f"an upload signed by the client {name}", "another signature")
    gateway_of = gateways_of(parties)
    for name, found in gateway_roots(entry["round"], entry["uploads"], gateway_of).items():
        said = entry["gateways"][name]
        if said["root"] != found.hex():
            raise ChainError(where, f"the root of the uploads at {name}", "another")
        if not signed(parties[name]["key"], said["signature"], leaf(entry["round"], name, said["root"])):
            raise ChainError(where, f"a root signed by the gateway {name}", "another signature")
    if root(entry["round"], entry["uploads"], gateway_of) != entry["root"]:
        raise ChainError(where, "the root of its uploads", "another")


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise ChainError("entry", "integers and text alone", repr(value))
    children = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    )
    for child in children:
        _refuse_floats(child)
