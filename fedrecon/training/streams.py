"""Streams of blocks: federations whose sites, data and scanners change between blocks of rounds."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from fedrecon import federated as fl
from fedrecon.data import ClientData, stack_clients
from fedrecon.data.clients import draw_feature_shifts, shift_features
from fedrecon.errors import ArgumentError
from fedrecon.federated import FederatedAlgorithm, RoundState
from fedrecon.federated.methods.remembering import Memory, fisher_diagonal, remembered
from fedrecon.runtime import Workdir
from fedrecon.training.budgets import Budget
from fedrecon.training.catalog_algorithms import in_topology, method
from fedrecon.training.execution import Execution
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError
from fedrecon.training.stage import Stage, Trained, train_stage
from fedrecon.training.topologies import mesh_of
from fedrecon.types import Variables

EVERYBODY = "all"
# Keys of the Fisher diagonals, apart from those of the rounds.
_IMPORTANCE = 7


class Member(NamedTuple):
    """A site in a block.

    Attributes:
      site: its name.
      part, parts: which of how many parts of its training patients it has there, from 1.
      scanner: 0 for the one of its data; 1, 2, ... for others that replace it.
    """

    site: str
    part: int = 1
    parts: int = 1
    scanner: int = 0

    @property
    def domain(self) -> str:
        """Name of its test data: of the site and the scanner."""
        return f"{self.site}~{self.scanner}" if self.scanner else self.site

    def __str__(self) -> str:
        part = f":{self.part}/{self.parts}" if self.parts > 1 else ""
        return f"{self.site}{part}{f'~{self.scanner}' if self.scanner else ''}"


class Block(NamedTuple):
    """Some rounds of some sites; ``rounds`` is None for as many as the settings say."""

    members: tuple[Member, ...]
    rounds: int | None = None

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the members."""
        return tuple(member.site for member in self.members)

    def __str__(self) -> str:
        return ",".join(map(str, self.members)) + (f"*{self.rounds}" if self.rounds else "")


def parse_blocks(text: str, sites: Sequence[str]) -> tuple[Block, ...]:
    """The blocks that a text tells, separated by semicolons.

    A block lists its members, or changes the one before it: ``+NAME`` joins (or gets other data), ``-NAME``
    leaves. ``all`` are all sites; ``NAME:2/3`` has the second third of the site's training patients,
    ``NAME~1`` another scanner; ``*5`` at the end is its number of rounds. Members are in the order of the
    sites.

    Args:
      text: for instance ``"a,b; +c*5; -a; all:2/2"``.
      sites: names of all sites.

    Raises:
      FlagError: a site is unknown, twice in a block, or leaves where it is no member; a block has no member,
        or a number is out of range.
    """
    blocks: list[Block] = []
    for number, written in enumerate(text.split(";"), 1):
        body, star, count = written.partition("*")
        rounds = _number(count, f"rounds of block {number}") if star else None
        tokens = [token.strip() for token in body.split(",") if token.strip()]
        changes = [token[0] in "+-" for token in tokens]
        if any(changes) and not all(changes):
            raise FlagError("blocks", f"members, or only changes (+ and -), in block {number}", body.strip())
        if any(changes) and not blocks:
            raise FlagError(
                "blocks", "members in the first block, before anybody leaves or joins", body.strip()
            )
        members = {m.site: m for m in blocks[-1].members} if any(changes) else {}
        for token in tokens:
            sign, names = (token[0], token[1:]) if any(changes) else ("", token)
            for member in _members(names, sites, number):
                if sign == "-":
                    if member.site not in members:
                        expected = f"a member of block {number - 1} to leave in block {number}"
                        raise FlagError("blocks", expected, member.site)
                    del members[member.site]
                elif not sign and member.site in members:
                    raise FlagError("blocks", f"each site once in block {number}", member.site)
                else:
                    members[member.site] = member
        if not members:
            raise FlagError("blocks", f"a member in block {number}", written.strip() or "nothing")
        ordered = sorted(members.values(), key=lambda member: sites.index(member.site))
        blocks.append(Block(tuple(ordered), rounds))
    return tuple(blocks)


def _members(token: str, sites: Sequence[str], block: int) -> list[Member]:
    token = token.strip()
    name, tilde, scanner = token.partition("~")
    name, colon, part = name.partition(":")
    k, slash, n = part.partition("/")
    which = (1, 1)
    if colon:
        which = (_number(k, f"{token} of block {block}"), _number(n, f"{token} of block {block}"))
        if not slash or which[0] > which[1]:
            raise FlagError("blocks", f"NAME:K/N with K up to N in block {block}", token)
    version = _number(scanner, f"{token} of block {block}") if tilde else 0
    if name not in sites and name != EVERYBODY:
        raise FlagError("blocks", f"some of {', '.join(sites)} in block {block}", repr(name))
    named = [name] if name in sites else list(sites)
    return [Member(site, *which, version) for site in named]


def _number(text: str, where: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise FlagError("blocks", f"a positive integer ({where})", repr(text.strip()))
    return int(text)


def joined(blocks: Sequence[Block], site: str) -> int:
    """The index of the block in which a site joined.

    Raises:
      FlagError: it is in no block.
    """
    for number, block in enumerate(blocks):
        if site in block.sites:
            return number
    known = list(dict.fromkeys(name for block in blocks for name in block.sites))
    raise FlagError("without", f"a site of the stream ({', '.join(known)})", repr(site))


def without_site(blocks: Sequence[Block], site: str) -> tuple[Block, ...]:
    """The stream as if the site had never been there; blocks that were its alone are gone.

    Raises:
      FlagError: it is in no block, or nobody else is in any.
    """
    joined(blocks, site)
    rest = [b._replace(members=tuple(m for m in b.members if m.site != site)) for b in blocks]
    if not (left := tuple(block for block in rest if block.members)):
        raise FlagError("without", "a stream with other sites, too", repr(site))
    return left


def block_data(
    members: Sequence[Sequence[Member]], data: ClientData, *, seed: int, strength: float
) -> ClientData:
    """The examples of sites, each the union of what its members have.

    Args:
      members: of each site that takes part, in the order of the clients; all of one have the same site.
      data: all sites.
      seed: which patients are in which part, and what other scanners are like: by the site's name.
      strength: of other scanners, see `draw_feature_shifts`.
    """
    names = [own[0].site for own in members]
    return stack_clients([_examples(own, data, seed, strength) for own in members], names)


def domain_data(members: Sequence[Member], data: ClientData, *, seed: int, strength: float) -> ClientData:
    """All examples of each distinct site and scanner among the members, under `Member.domain`."""
    found = {m.domain: [m._replace(part=1, parts=1)] for m in members}
    return stack_clients([_examples(own, data, seed, strength) for own in found.values()], list(found))


def _examples(
    members: Sequence[Member], data: ClientData, seed: int, strength: float
) -> dict[str, np.ndarray]:
    client = data.names.index(members[0].site)
    valid = np.asarray(data.valid[client])
    own = {name: np.asarray(x[client])[valid] for name, x in data.examples.items()}
    parts, offset = [], 0
    for scanner in sorted({member.scanner for member in members}):
        chosen = np.zeros(int(valid.sum()), bool)
        for member in members:
            if member.scanner == scanner:
                chosen |= _part(own, member, seed)
        found = {
            name: x[chosen] for name, x in _scanned(own, members[0].site, scanner, seed, strength).items()
        }
        if "volume" in found and len(found["volume"]):
            # Patients who were there with both scanners.
            found["volume"] = found["volume"] + np.asarray(offset, found["volume"].dtype)
            offset = int(found["volume"].max()) + 1
        parts.append(found)
    return {name: np.concatenate([part[name] for part in parts]) for name in own}


def _part(own: Mapping[str, np.ndarray], member: Member, seed: int) -> np.ndarray:
    """Which examples are of the patients of a member's part."""
    count = len(next(iter(own.values())))
    who = own["volume"] if "volume" in own else np.arange(count)
    patients = np.unique(who)
    if len(patients) < member.parts:
        expected = f"{member.parts} patients or more of {member.site}, for {member}"
        raise FlagError("blocks", expected, len(patients))
    order = np.random.default_rng([seed, 16, zlib.crc32(member.site.encode())]).permutation(patients)
    return np.isin(who, np.array_split(order, member.parts)[member.part - 1])


def _scanned(
    own: Mapping[str, np.ndarray], site: str, scanner: int, seed: int, strength: float
) -> Mapping[str, np.ndarray]:
    if not scanner:
        return own
    drawn = int(np.random.default_rng([seed, 17, zlib.crc32(site.encode())]).integers(2**31))
    shift = draw_feature_shifts(scanner, strength, seed=drawn)[-1]
    alone = stack_clients([own], (site,))
    try:
        shifted = shift_features(alone, [shift], seed=drawn % 10**6 + scanner)
    except ArgumentError as error:
        raise FlagError("blocks", "NAME~K of sites with images of numbers", f"{site}~{scanner}") from error
    return {name: np.asarray(x[0]) for name, x in shifted.examples.items()}


class Federation(NamedTuple):
    """A federation between two blocks.

    Attributes:
      algorithm, state: of the last block.
      names: of its clients.
      known: what stayed at clients, of all that have been members and may return.
      model: that new clients start from.
      memory: of all blocks so far.
    """

    algorithm: FederatedAlgorithm
    state: RoundState
    names: tuple[str, ...]
    known: dict[str, fl.members.ClientRows]
    model: Variables
    memory: Memory


def check_stream(settings: FederationSettings) -> None:
    """Refuses settings that do not go on from block to block.

    Raises:
      FlagError: names the flag.
    """
    entry = method(settings.algorithm)
    if not (entry.exchanges and entry.releases) or entry.pooled:
        raise FlagError("algorithm", "one that hands out a model", settings.algorithm)
    expected = {
        "dp_epsilon": (0.0, "0 in a stream, whose blocks have no budget together"),
        "finetune": ("full", "full in a stream"),
        "fine_tune": (0, "0 in a stream"),
        "patience": (0, "0 in a stream, which goes on from the last round of a block"),
        "stream": (0, "0 in a stream of blocks, whose sites are all in memory"),
    }
    for flag, (value, words) in expected.items():
        if (found := getattr(settings, flag)) != value:
            raise FlagError(flag, words, found)
    if in_topology(settings).topology in ("asynchronous", "braintorrent"):
        raise FlagError("topology", "one with rounds that end, in a stream", settings.topology)
    if "memory" in entry.needs and settings.secure_aggregation != "none":
        words = f"none with --algorithm={entry.name}, which is told of sums between blocks in the clear"
        raise FlagError("secure_aggregation", words, settings.secure_aggregation)


def train_block(
    stage: Stage,
    settings: FederationSettings,
    budget: Budget,
    workdir: Workdir,
    execution: Execution,
    before: Federation | None = None,
    *,
    keep: bool = True,
) -> tuple[Trained, Federation]:
    """Trains a block, or finishes what an interrupted run left of it, from where the one before has come to.

    Whoever was a member before goes on with the state that it kept; others begin with the whole model of the
    server. Rounds count anew in each block. Nothing of any site is read but of the block's members, so that a
    stream without a site has the bits of one that never had it, from any block before the site joined.

    Args:
      stage: its clients are the members; its variables are those of the first block alone. ``key`` is of the
        block.
      settings: checked by `check_stream`.
      budget: of the block.
      workdir: of the block.
      execution: how.
      before: after the block before; None for the first.
      keep: whether clients that are away keep their states for their return; otherwise they start anew.

    Raises:
      ValueError: as `train_stage`.
    """
    entry, names = method(settings.algorithm), stage.clients.names
    stage = stage._replace(memory=Memory() if before is None else before.memory)
    if before is not None:
        settings = dataclasses.replace(settings, initialize_from="", initialize_sha256="")
        carry = partial(
            _carried, before=before, names=names, exchange=not {"clients", "memory"} & {*entry.needs}
        )
        stage = stage._replace(variables=before.model, carry=carry)
    trained = train_stage(stage, settings, budget, workdir, execution)
    known = fl.members.rows_by_client(trained.state, names)
    if keep and before is not None:
        known = before.known | known
    memory = _remembered(entry.needs, stage, trained, settings, execution)
    model = fl.members.next_start(trained.algorithm, trained.state)
    return trained, Federation(trained.algorithm, trained.state, names, known, model, memory)


def _carried(fresh: RoundState, before: Federation, names: Sequence[str], exchange: bool) -> RoundState:
    same = tuple(names) == before.names
    return fl.members.with_members(fresh, names, before.state, before.known, same=same, exchange=exchange)


def _remembered(
    needs: Sequence[str], stage: Stage, trained: Trained, settings: FederationSettings, execution: Execution
) -> Memory:
    if "memory" not in needs or stage.memory is None or trained.released is None:
        return Memory()
    importance = None
    if "importance" in needs:
        mesh = mesh_of(settings)
        importance = fisher_diagonal(
            stage.task,
            trained.released,
            fl.place(stage.clients, mesh),
            jax.random.fold_in(stage.key, _IMPORTANCE),
            mesh=mesh,
        )
    return remembered(stage.memory, trained.released, importance)
