"""A site of a deployed training: answers the server from its own data, and keeps its own state."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.data import ClientData
from fedrecon.deployment.errors import DeploymentError
from fedrecon.deployment.plan import Plan, Problem, Waiting, make_plan, of_site, replaying
from fedrecon.deployment.roster import Facts, padded, read_facts
from fedrecon.deployment.sums import as_words, setup_of
from fedrecon.deployment.wire import Packet, as_tree, named, pack, unpack
from fedrecon.federated.split import ClientRows, Invitation, Site, hidden_record, own_model
from fedrecon.files import write_atomically
from fedrecon.secure_aggregation import SecAggClient
from fedrecon.training.spending import NoPurse, Purse, fresh_key
from fedrecon.weights import write_weights

VERSION = 1
STATE, EVENTS, MODEL = "site.state", "events.jsonl", "model.npz"


@dataclasses.dataclass(frozen=True)
class Policy:
    """What the owner of a site's data asks for, whatever a job says.

    Attributes:
      minimum: examples below which the site takes part in nothing, at least 1.
      most_rounds: of a job; 0 is any number.
      most_epsilon: of all that the site's ledger says was released; 0 is that of the job.
      most_bytes: of a message.
      approved: SHA-256 of the settings of jobs that may run, or "any".
      own_key: whether batches and noise come from a key of the site, which the server does not know.
    """

    minimum: int = 1
    most_rounds: int = 0
    most_epsilon: float = 0.0
    most_bytes: int = 2**30
    approved: tuple[str, ...] = ("any",)
    own_key: bool = False


class Pending(NamedTuple):
    """A round that the site has computed and the server has not closed, as far as the site knows.

    Attributes:
      round: its number.
      rows: what stays at the site if the server keeps it.
      record: arrays that the server hears.
      words: of the site in the secure sum; None without.
    """

    round: int
    rows: ClientRows
    record: dict[str, np.ndarray]
    words: np.ndarray | None


class LocalSite:
    """A site.

    Args:
      folder: of the site alone: its state, its ledger, its events.
      name: of the site.
      client: its number.
      problem: ``problem(settings) -> Problem`` of a job, from its JSON-able settings.
      data: ``data(settings) -> ClientData`` of this one client.
      policy: of the owner.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        client: int,
        problem: Callable[[dict[str, Any]], Problem],
        data: Callable[[dict[str, Any]], ClientData],
        policy: Policy | None = None,
    ) -> None:
        self._folder, self._name, self._client = Path(folder), name, client
        self._problem, self._data, self.policy = problem, data, policy or Policy()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._loaded: tuple[str, ClientData] | None = None
        self._plan: Plan | None = None
        self._site: Site | None = None
        self._rows: ClientRows | None = None
        self._pending: Pending | None = None
        # Rounds of which the site knows how the server closed them.
        self._settled = 0
        self._protocol: SecAggClient | None = None
        self._purse: Purse | NoPurse = NoPurse()

    def answer(self, message: bytes) -> bytes:
        """The answer to a message: what it asks for, or "refused" with one line that says why."""
        start, about = time.monotonic(), {}
        try:
            packet = unpack(message, self.policy.most_bytes)
            about = packet.about
            self._check(about)
            handlers = {
                "facts": self._facts,
                "before": self._before,
                "start": self._start,
                "round": self._round,
                "sum": self._sum,
                "finish": self._finish,
            }
            if about["kind"] not in handlers:
                raise DeploymentError("kind", f"one of {', '.join(handlers)}", repr(about["kind"])[:80])
            reply = handlers[about["kind"]](packet)
        # Whatever a task, data or settings raise, the server must hear of it.
        except Exception as error:
            line = " ".join(str(error).split())[:500]
            reply = pack(self._about(about, "refused") | {"reason": f"{self._name}: {line}"}, {})
        self._note(about, len(message), len(reply), unpack(reply).about, time.monotonic() - start)
        return reply

    def _check(self, about: Mapping[str, Any]) -> None:
        if about.get("version") != VERSION:
            raise DeploymentError("message", f"version {VERSION}", about.get("version"))
        for name, kind in (("job", str), ("kind", str), ("settings", dict)):
            if not isinstance(about.get(name), kind):
                raise DeploymentError(f"message: {name}", kind.__name__, repr(about.get(name))[:80])
        if about.get("client") != self._client:
            raise DeploymentError("message", f"one for client {self._client}", about.get("client"))
        digest = settings_digest(about["settings"])
        if "any" not in self.policy.approved and digest not in self.policy.approved:
            raise DeploymentError("job", "settings that the owner of the data has approved", digest)

    def _about(self, about: Mapping[str, Any], kind: str) -> dict[str, Any]:
        told = {name: about.get(name) for name in ("job", "round", "attempt")}
        return {"version": VERSION, "kind": kind, "client": self._client, **told}

    def _own(self, settings: dict[str, Any]) -> ClientData:
        digest = settings_digest(settings)
        if self._loaded is None or self._loaded[0] != digest:
            self._loaded = digest, self._data(settings)
        return self._loaded[1]

    def _facts(self, packet: Packet) -> bytes:
        facts = Facts.of(self._own(packet.about["settings"]))
        if facts.examples < self.policy.minimum:
            raise DeploymentError("examples", f"at least {self.policy.minimum} at this site", "fewer")
        return pack(self._about(packet.about, "facts") | {"facts": facts._asdict()}, {})

    def _built(self, packet: Packet) -> Plan:
        """The plan of a message that tells the facts of all sites and what they have exchanged."""
        about = packet.about
        roster = [read_facts(value) for value in about["roster"]]
        problem = self._problem(about["settings"])
        most = self.policy.most_rounds
        if most and problem.budget.rounds > most:
            raise DeploymentError("rounds", f"at most {most} at this site", problem.budget.rounds)
        own = self._own(about["settings"])
        mine = Facts.of(own)
        if not 0 <= self._client < len(roster) or roster[self._client] != mine:
            raise DeploymentError("roster", "the facts that this site has told", "others")
        own = padded(own, max(facts.length for facts in roster))

        def reader(number):
            return lambda like: as_tree(packet.arrays, like, f"result{number}")

        readers = [reader(number) for number in range(about["results"])]
        plan = make_plan(problem, roster, replaying(readers, own, self._client), own)
        self._site = plan.site(own, self._client)
        return plan

    def _before(self, packet: Packet) -> bytes:
        try:
            self._built(packet)
        except Waiting as waiting:
            return pack(self._about(packet.about, "before"), named(waiting.message))
        raise DeploymentError("before", "an exchange that is due", "none")

    def _start(self, packet: Packet) -> bytes:
        about = packet.about
        try:
            self._plan = plan = self._built(packet)
        except Waiting as waiting:
            raise DeploymentError(
                "start", "the results of all exchanges before the rounds", "fewer"
            ) from waiting
        if about["model"] != plan.digest:
            what = "another version of fedrecon, or of the network"
            raise DeploymentError(
                "model", f"that of the server ({about['model'][:8]}...)", f"{plan.digest[:8]}...: {what}"
            )
        self._key = self._run_key(plan)
        name = plan.clients.names[self._client]
        if plan.noise is not None:
            spending = of_site(plan.noise, name, self.policy.most_epsilon)
            self._purse = Purse(self._folder, plan.prepared.stage.name, spending, self._key)
        self._restore(about["job"])
        waits = None if self._pending is None else self._pending.round
        return pack(self._about(about, "start") | {"settled": self._settled, "pending": waits}, {})

    def _run_key(self, plan: Plan) -> jax.Array:
        """The run's key, or with ``own_key`` one that only this site has, the same after a restart."""
        if not self.policy.own_key:
            return plan.key
        file = self._folder / "site.key"
        if not file.exists():
            write_atomically(file, np.asarray(jax.random.key_data(fresh_key())).tobytes())
            file.chmod(0o600)
        words = np.frombuffer(file.read_bytes(), np.uint32)
        return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")

    def _round(self, packet: Packet) -> bytes:
        about, plan, site = packet.about, self._ready(packet), self._site
        assert site is not None and self._rows is not None
        number = about["round"]
        self._settle(packet)
        if self._pending is None or self._pending.round != number:
            if number < self._settled:
                expected = f"round {self._settled} or a later one, which this site has come to"
                raise DeploymentError("round", expected, number)
            # In the ledger, on disk, before anything of the round exists that could be sent.
            if not self._purse.permit(number, 1):
                raise DeploymentError("dp_epsilon", "a budget that is not spent", "this round beyond it")
            invitation = self._invitation(packet)
            sent, rows = site.turn(invitation, self._rows, plan.key, self._key)
            words = None
            if plan.hides:
                words = as_words(sent.sums["upload"])
                record = named(hidden_record(sent.record), "record")
            else:
                record = named(sent.sums, "sums") | named(sent.record, "record")
            self._pending = Pending(number, jax.device_get(rows), record, words)
            self._save(about["job"])
        pending = self._pending
        arrays = dict(pending.record)
        if (words := pending.words) is not None:
            invited = packet.arrays["invitation:.invited"]
            place = int(invited[: self._client].sum())
            setup = setup_of(
                plan.settings, about["job"], number, about["attempt"], int(invited.sum()), words.size
            )
            self._protocol = SecAggClient(setup, place, words.copy)
            arrays["protocol"] = np.frombuffer(self._protocol.start(), np.uint8)
        return pack(self._about(about, "round"), arrays)

    def _sum(self, packet: Packet) -> bytes:
        if self._protocol is None or self._pending is None or self._pending.round != packet.about["round"]:
            raise DeploymentError("sum", "one of the round that was computed", packet.about["round"])
        reply = self._protocol.answer(packet.arrays["protocol"].tobytes())
        return pack(self._about(packet.about, "sum"), {"protocol": np.frombuffer(reply, np.uint8)})

    def _finish(self, packet: Packet) -> bytes:
        plan = self._ready(packet)
        self._settle(packet)
        assert self._site is not None and self._rows is not None
        prepared, shapes = plan.prepared, self._site.invitation.variables
        shared = as_tree(packet.arrays, shapes, "model")
        model = prepared.tuning.whole(own_model(prepared.algorithm, shared, self._rows))
        about = {"job": packet.about["job"], "settled": self._settled}
        write_weights(self._folder / MODEL, jax.device_get(model), about)
        return pack(self._about(packet.about, "finish") | {"settled": self._settled}, {})

    def _ready(self, packet: Packet) -> Plan:
        if self._plan is None:
            raise DeploymentError("kind", "start, before anything else", packet.about["kind"])
        return self._plan

    def _invitation(self, packet: Packet) -> Invitation:
        assert self._site is not None
        return as_tree(packet.arrays, self._site.invitation, "invitation")

    def _settle(self, packet: Packet) -> None:
        """Takes in how the server has closed the round before, perhaps without this site."""
        verdict, pending, rows = packet.about.get("verdict"), self._pending, self._rows
        assert self._site is not None and rows is not None
        closed = 0 if verdict is None else verdict["round"] + 1
        if pending is None or pending.round >= closed:
            self._settled = max(self._settled, closed)
            return
        assert verdict is not None
        kept = bool(verdict["kept"]) and pending.round == verdict["round"]
        answer = as_tree(packet.arrays, rows.answer, "answer")
        self._rows = jax.device_get(self._site.settle(rows, pending.rows, jnp.asarray(kept), answer))
        self._settled, self._pending, self._protocol = closed, None, None
        self._save(packet.about["job"])

    def _save(self, job: str) -> None:
        arrays, waits = named(self._rows, "rows"), None
        if (pending := self._pending) is not None:
            waits = pending.round
            arrays |= named(pending.rows, "pending")
            arrays |= {f"sent:{name}": value for name, value in pending.record.items()}
            arrays |= {} if pending.words is None else {"words": pending.words}
        about = {"version": VERSION, "job": job, "settled": self._settled, "pending": waits}
        write_atomically(self._folder / STATE, pack(about, arrays))

    def _restore(self, job: str) -> None:
        """The state of this job on disk; that of another job is put aside."""
        assert self._site is not None
        self._rows, self._pending, self._settled = jax.device_get(self._site.rows), None, 0
        file = self._folder / STATE
        if not file.exists():
            return
        about, arrays = unpack(file.read_bytes())
        if about["job"] != job:
            file.replace(file.with_name(f"{STATE}.{about['job']}"))
            return
        self._settled = about["settled"]
        self._rows = as_tree(arrays, self._site.rows, "rows")
        if about["pending"] is not None:
            rows = as_tree(arrays, self._site.rows, "pending")
            record = {k.removeprefix("sent:"): x for k, x in arrays.items() if k.startswith("sent:")}
            self._pending = Pending(about["pending"], rows, record, arrays.get("words"))

    def _note(
        self, about: Mapping[str, Any], down: int, up: int, said: Mapping[str, Any], seconds: float
    ) -> None:
        line = {"time": time.time(), "job": about.get("job"), "kind": about.get("kind")}
        line |= {
            "round": about.get("round"),
            "bytes_down": down,
            "bytes_up": up,
            "seconds": round(seconds, 3),
        }
        line |= {"answer": said["kind"]} | ({"reason": said["reason"]} if "reason" in said else {})
        with (self._folder / EVENTS).open("a") as file:
            file.write(json.dumps(line) + "\n")


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of a job's settings as canonical JSON, hexadecimal: what an owner of data approves."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
