"""The ledger of privacy: every noisy release is written to disk before its result is used.

A line of ``ledger.jsonl`` is a JSON object: ``version``, ``unit``, ``site``, ``stage``, ``round``, ``draw``,
``event`` (as in `fedrecon.privacy.events`), ``neighboring_relation``, ``delta``, ``noise`` (where it comes
from, if that is known), ``epsilon`` (of all releases of this unit at this site up to and including this one),
``accountant``, and ``chain``, a SHA-256 over the line and the chain of the line before, by which lines that
were changed, doubled or taken out are found.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedrecon.errors import ArgumentError

VERSION = 1
UNITS = ("example", "patient", "site")
_RELATIONS = ("ADD_OR_REMOVE_ONE", "REPLACE_ONE", "REPLACE_SPECIAL")
_CHAIN = b', "chain": "'
_START = hashlib.sha256(b"fedrecon ledger").hexdigest()
_FOLLOWING = "the line that was written after the one before it"
_FIELDS = dict.fromkeys(
    (
        "unit",
        "site",
        "stage",
        "round",
        "draw",
        "event",
        "neighboring_relation",
        "delta",
        "epsilon",
        "accountant",
    )
)
_LOG = logging.getLogger(__name__)


class Release(NamedTuple):
    """One noisy result about one site's data.

    Attributes:
      site: whose data it is about.
      unit: what is protected: "example", "patient" or "site".
      stage: of the run.
      round: within the stage.
      event: a ``dp_accounting.DpEvent``, or `fedrecon.privacy.events.RenyiCurveDpEvent`.
      delta: of the guarantee that is reported with it.
      draw: names the noise that was drawn. A release whose stage, round, site, unit, event and draw are those
        of an earlier one is the same release and counts once: a simulation that resumes from a checkpoint
        draws the same noise from the same keys. None is fresh noise, which always counts.
      relation: name of a ``dp_accounting.NeighboringRelation``; one for all releases of a unit at a site.
      noise: where the noise comes from, for the reader of a line; None says nothing.
    """

    site: str
    unit: str
    stage: str
    round: int
    event: Any
    delta: float
    draw: str | None = None
    relation: str = "ADD_OR_REMOVE_ONE"
    noise: str | None = None


class Ledger:
    """Appends releases to a file, and says what they cost in all.

    Any number of processes may use one file at a time: each takes a lock and reads what others wrote. What a
    crash left of a last line is counted if all of the release can be read, and removed with a warning if it
    cannot: nothing that is used may precede the line's being complete on disk.

    Args:
      path: the file, ``ledger.jsonl`` of the working directory; created at the first release.

    Raises:
      ValueError: a line is not one that a ledger of this version has written after the line before it; names
        file and line.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._book = _Book(self.path)
        self._refresh()

    @property
    def count(self) -> int:
        """Number of lines."""
        self._refresh()
        return self._book.count

    def spend(self, releases: Sequence[Release]) -> tuple[float, ...]:
        """Writes releases, and returns once they are on disk; only then may their results be used.

        Returns:
          the composed epsilon of each release's unit and site, including it. All or none of them are written
          unless the process dies.

        Raises:
          ValueError: a field out of range, a relation other than that of earlier releases of the same unit
            and site, or an event that no accountant takes; nothing is written.
          OSError: the disk; what could be used is counted all the same.
        """
        wanted = [_payload(release) for release in releases]
        if not wanted:
            return ()
        with self._locked(create=True) as descriptor:
            self._book.read(descriptor)
            composed = self._book.preview(wanted)
            chain, content = self._book.chain, b""
            for payload, (epsilon, accountant) in zip(wanted, composed, strict=True):
                if accountant is not None:  # None: it has been released before
                    record = {**payload, "epsilon": _number(epsilon), "accountant": accountant}
                    line, chain = _linked(json.dumps({"version": VERSION, **record}).encode(), chain)
                    content += line + b"\n"
            if content:
                _write(descriptor, content)
                os.fsync(descriptor)
                self._sync_folder()
                self._book.read(descriptor)
        return tuple(epsilon for epsilon, _ in composed)

    def epsilon(self, site: str, unit: str, delta: float) -> float:
        """Composed epsilon of all releases about a unit of a site; 0 before the first."""
        self._refresh()
        return self._book.epsilon((site, unit), _checked_delta(delta))

    def remaining(self, site: str, unit: str, budget: float, delta: float) -> float:
        """What is left of a budget of epsilon, at least 0. Epsilons do not add: ask `would_exceed`."""
        return max(0.0, budget - self.epsilon(site, unit, delta))

    def would_exceed(self, releases: Sequence[Release], budget: float) -> dict[tuple[str, str], float]:
        """{(site, unit): composed epsilon} of those whom these releases would take beyond the budget.

        Each epsilon is that at the delta of the site's and unit's last release among these.
        """
        self._refresh()
        composed = self._book.preview([_payload(release) for release in releases])
        reached = {(r.site, r.unit): epsilon for r, (epsilon, _) in zip(releases, composed, strict=True)}
        return {who: epsilon for who, epsilon in reached.items() if epsilon > budget}

    def _refresh(self) -> None:
        with self._locked(create=False) as descriptor:
            if descriptor is not None:
                self._book.read(descriptor)

    @contextlib.contextmanager
    def _locked(self, *, create: bool) -> Iterator[Any]:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT * create, 0o644)
        except FileNotFoundError:
            if create or self._book.count:
                raise
            yield None
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_ledger(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a ledger in order, checked, without changing the file; none if there is none.

    Epsilons that are not finite are infinite again; events are as `fedrecon.privacy.events` encodes them.

    Raises:
      ValueError: as `Ledger`.
    """
    path = Path(path)
    book = _Book(path)
    records: list[dict[str, Any]] = []
    if path.exists():
        book.parse(path.read_bytes(), records)
    return records


class _Book:
    """What has been read of a file: totals by site and unit, and where reading goes on."""

    def __init__(self, path: Path) -> None:
        self.path, self.count, self.offset, self.chain = path, 0, 0, _START
        self.totals: dict[tuple[str, str], Counter[str]] = {}
        self.relations: dict[tuple[str, str], str] = {}
        self.draws: set[tuple | None] = set()

    def read(self, descriptor: int) -> None:
        """Takes in what was appended since the last time; mends a torn last line."""
        size = os.fstat(descriptor).st_size
        if size < self.offset:
            raise ArgumentError(str(self.path), f"the {self.offset} bytes of before", f"{size}: it was cut")
        tail, whole = self.parse(os.pread(descriptor, size - self.offset, self.offset))
        if tail:
            os.ftruncate(descriptor, size - len(tail))
            if whole is not None:
                _write(descriptor, whole + b"\n")
            os.fsync(descriptor)
            what = (
                "removed: its release was not used" if whole is None else "completed, and its release counted"
            )
            _LOG.warning("%s: a last line that a crash had cut off was %s", self.path, what)

    def parse(self, content: bytes, records: list | None = None) -> tuple[bytes, bytes | None]:
        """Takes in lines; returns what follows the last line's end, and the line that it is the start of."""
        *lines, tail = content.split(b"\n")
        for line in lines:
            self._take(line, records)
        whole = self._completed(tail) if tail else None
        if whole is not None:
            self._take(whole, records)
        return tail, whole

    def preview(self, payloads: Sequence[dict[str, Any]]) -> list[tuple[float, str | None]]:
        """(epsilon, accountant) of each release after those before it; no accountant if it counts already."""
        totals: dict[tuple[str, str], Counter[str]] = {}
        draws: set[tuple | None] = set()
        composed: list[tuple[float, str | None]] = []
        for payload in payloads:
            who, draw = (payload["site"], payload["unit"]), _draw(payload)
            total = totals.setdefault(who, Counter(self.totals.get(who)))
            relation = self.relations.get(who, payload["neighboring_relation"])
            if payload["neighboring_relation"] != relation:
                expected = f"{relation}, as in earlier releases about {who[1]}s of {who[0]}"
                raise ArgumentError("relation", expected, payload["neighboring_relation"])
            new = draw is None or (draw not in self.draws and draw not in draws)
            if new:
                total.update(_leaves(payload))
                draws.add(draw)
            epsilon, accountant = _composed(total, relation, payload["delta"])
            composed.append((epsilon, accountant if new else None))
        return composed

    def epsilon(self, who: tuple[str, str], delta: float) -> float:
        return _composed(self.totals[who], self.relations[who], delta)[0] if who in self.totals else 0.0

    def _take(self, line: bytes, records: list | None) -> None:
        where = f"{self.path}, line {self.count + 1}"
        record = _record(line)
        if record is None:
            raise ArgumentError(where, "a release", repr(line[:60]))
        if record.get("version") != VERSION:
            raise ArgumentError(where, f"version {VERSION}", record.get("version"))
        if line != _linked(line[: line.rfind(_CHAIN)] + b"}", self.chain)[0]:
            raise ArgumentError(where, _FOLLOWING, "another")
        who = (record["site"], record["unit"])
        self.totals.setdefault(who, Counter()).update(_leaves(record))
        self.relations[who] = record["neighboring_relation"]
        self.draws.add(_draw(record))
        self.count += 1
        self.offset += len(line) + 1
        self.chain = record["chain"]
        if records is not None:
            records.append({**record, "epsilon": float(record["epsilon"])})

    def _completed(self, tail: bytes) -> bytes | None:
        """The line that ``tail`` is the start of, if all of its release is there."""
        cut = tail.rfind(_CHAIN)
        if cut < 0:
            cut = len(tail) - next(k for k in range(len(_CHAIN), -1, -1) if tail.endswith(_CHAIN[:k]))
        payload = tail[:cut] + b"}"
        if _record(payload) is None:
            return None
        line, _ = _linked(payload, self.chain)
        if not line.startswith(tail):
            raise ArgumentError(f"{self.path}, line {self.count + 1}", _FOLLOWING, "another")
        return line


def _payload(release: Release) -> dict[str, Any]:
    """The fields of a line that say what was released; raises ValueError for one out of range."""
    from fedrecon.privacy.events import event_to_json

    if release.unit not in UNITS:
        raise ArgumentError("unit", " or ".join(UNITS), repr(release.unit))
    if release.relation not in _RELATIONS:
        raise ArgumentError("relation", " or ".join(_RELATIONS), repr(release.relation))
    for name in ("site", "stage"):
        if not isinstance(getattr(release, name), str):
            raise ArgumentError(name, "a name", repr(getattr(release, name)))
    return {
        "unit": release.unit,
        "site": release.site,
        "stage": release.stage,
        "round": int(release.round),
        "draw": release.draw,
        "event": json.loads(event_to_json(release.event)),
        "neighboring_relation": release.relation,
        "delta": _checked_delta(release.delta),
        **({} if release.noise is None else {"noise": release.noise}),
    }


def _checked_delta(delta: float) -> float:
    if not 0 < delta < 1:
        raise ArgumentError("delta", "a number between 0 and 1", repr(delta))
    return float(delta)


def _record(line: bytes) -> dict[str, Any] | None:
    """The object of a line if it has the fields of a release, or another version."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or "version" not in record:
        return None
    return record if record["version"] != VERSION or record.keys() >= _FIELDS.keys() else None


def _linked(payload: bytes, chain: str) -> tuple[bytes, str]:
    """A line made of an object and the chain of the line before it, and its own chain."""
    link = hashlib.sha256(chain.encode() + payload).hexdigest()
    return payload[:-1] + _CHAIN + link.encode() + b'"}', link


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record["event"], separators=(",", ":"))


def _leaves(record: dict[str, Any]) -> dict[str, int]:
    from fedrecon.privacy.events import leaves

    return dict(leaves(_text(record)))


def _draw(record: dict[str, Any]) -> tuple | None:
    """What makes two releases the same; None for noise that was drawn for this one alone."""
    if record["draw"] is None:
        return None
    return (*(record[name] for name in ("unit", "site", "stage", "round", "draw")), _text(record))


def _composed(total: Counter[str], relation: str, delta: float) -> tuple[float, str]:
    from fedrecon.privacy.composition import composed_epsilon

    return composed_epsilon(tuple(sorted(total.items())), relation, delta)


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
