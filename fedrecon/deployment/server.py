"""The server of a deployed training: asks sites, sums what they answer, and keeps every round on disk."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon import federated as fl
from fedrecon.deployment.errors import DeploymentError
from fedrecon.deployment.plan import Plan, Problem, asking, make_plan
from fedrecon.deployment.roster import Facts, one_client, read_facts
from fedrecon.deployment.site import VERSION, settings_digest
from fedrecon.deployment.sums import MOST_ATTEMPTS, as_upload, setup_of, words_in
from fedrecon.deployment.wire import Packet, as_tree, named, pack, unpack
from fedrecon.federated.split import Sent, Server
from fedrecon.files import write_atomically
from fedrecon.secure_aggregation import AbortedError, SecAggServer
from fedrecon.types import Variables
from fedrecon.weights import write_weights

STATE, LOG, MODEL, CONFIG = "server.state", "metrics.jsonl", "model.npz", "config.json"

# ``ask(kind, {client: message}) -> {client: answer}`` of those who answer in time.
Ask = Callable[[str, dict[int, bytes]], dict[int, bytes]]


class Job(NamedTuple):
    """A job.

    Attributes:
      name: the same for all attempts to finish it.
      settings: JSON-able, of which server and sites make the `Problem`.
      sites: number of them.
      minimum: fewest sites that a round is closed with; 0 is all.
      most_bytes: of an answer.
    """

    name: str
    settings: dict[str, Any]
    sites: int
    minimum: int = 0
    most_bytes: int = 2**30


class Outcome(NamedTuple):
    """What a training came to.

    Attributes:
      variables: the released model; leaves that stay at sites have their initial values.
      rounds: completed.
      bytes_up: of all answers, since the server was started.
      bytes_down: of all messages.
    """

    variables: Variables
    rounds: int
    bytes_up: int
    bytes_down: int


class _Wire:
    """Messages of one job to its sites, with what they have in common."""

    def __init__(self, job: Job, ask: Ask) -> None:
        self._job, self._ask = job, ask
        self.up = self.down = 0

    def __call__(
        self,
        kind: str,
        about: Mapping[str, Any],
        arrays: Mapping[int, Mapping[str, np.ndarray]],
        own: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> dict[int, Packet]:
        """The answers of the sites that ``arrays`` has messages for, checked; names the site that refuses."""
        job = self._job
        common = {"version": VERSION, "job": job.name, "kind": kind, "settings": job.settings, **about}
        messages = {
            client: pack(common | {"client": client} | dict((own or {}).get(client, {})), part)
            for client, part in arrays.items()
        }
        self.down += sum(map(len, messages.values()))
        answers = {}
        for client, data in sorted(self._ask(kind, messages).items()):
            self.up += len(data)
            packet = unpack(data, job.most_bytes)
            if packet.about.get("kind") == "refused":
                raise DeploymentError("site", "an answer", packet.about.get("reason"))
            expected: dict[str, Any] = {"version": VERSION, "job": job.name, "kind": kind}
            expected |= {"client": client}
            expected |= {name: about[name] for name in ("round", "attempt") if name in about}
            for name, value in expected.items():
                if packet.about.get(name) != value:
                    raise DeploymentError(
                        f"answer of site {client}: {name}", str(value), packet.about.get(name)
                    )
            if client in messages:
                answers[client] = packet
        return answers


def coordinate(
    job: Job,
    problem: Problem,
    folder: Path,
    ask: Ask,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Outcome:
    """Trains, or finishes what an interrupted server left.

    After every round the state is on disk (``server.state``) before any site is asked for more, and a
    record of it in ``metrics.jsonl``; at the end the model is in ``model.npz``. What a site has answered in
    a round that was not closed it answers again.

    Args:
      job: what and with whom.
      problem: of the job's settings.
      folder: of the server.
      ask: asks sites; it decides how long to wait.
      report: is told of every round that was closed, and of the beginning.

    Raises:
      DeploymentError: a site refuses, or too few answer; names the round. Rounds that were closed stay.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    inner = job.settings.get("federation", {})
    config = {name: value for name, value in job.settings.items() if name != "federation"} | inner
    write_atomically(folder / CONFIG, (json.dumps({"config": config}, indent=2) + "\n").encode())
    wire = _Wire(job, ask)
    everybody: dict[int, dict] = {client: {} for client in range(job.sites)}
    told = wire("facts", {}, everybody)
    _check_all(told, job, "facts")
    roster = [read_facts(told[client].about["facts"]) for client in range(job.sites)]
    plan, results = _planned(job, problem, roster, wire)
    about = {"roster": [facts._asdict() for facts in roster], "results": len(results), "model": plan.digest}
    given = {
        name: value for n, result in enumerate(results) for name, value in named(result, f"result{n}").items()
    }
    started = wire("start", about, dict.fromkeys(everybody, given))
    _check_all(started, job, "start")
    server = plan.server()
    state, kept, verdict = _restored(folder, job, server, plan)
    report({"round": int(state.round), "rounds": plan.budget.rounds, "sites": list(plan.clients.names)})
    site = _site_shapes(plan)
    while int(state.round) < plan.budget.rounds:
        start = time.monotonic()
        number = int(state.round)
        before = wire.up, wire.down
        state, kept, info = _round(job, plan, server, site, state, kept, verdict, wire)
        verdict = number
        _save(folder, job, plan, state, kept)
        record = _record(plan, state, info, time.monotonic() - start)
        record |= {"bytes_up": wire.up - before[0], "bytes_down": wire.down - before[1]}
        _log(folder, record)
        report(record)
    released = plan.prepared.algorithm.release(state)
    shared = named(plan.shared(released), "model")
    arrays = {client: _answer(state, client) | shared for client in everybody}
    wire("finish", {}, arrays, {client: _verdict(verdict, kept, client) for client in everybody})
    whole = plan.prepared.tuning.whole(released)
    assert whole is not None
    write_weights(folder / MODEL, jax.device_get(whole), {"job": job.name, "rounds": int(state.round)})
    return Outcome(whole, int(state.round), wire.up, wire.down)


def _planned(job: Job, problem: Problem, roster: Sequence[Facts], wire: _Wire) -> tuple[Plan, list[Any]]:
    results: list[Any] = []
    present = np.asarray([facts.examples > 0 for facts in roster])

    def ask(number, like):
        about = {"roster": [facts._asdict() for facts in roster], "results": number}
        given = {name: x for n, found in enumerate(results) for name, x in named(found, f"result{n}").items()}
        asked = {client: given for client in range(job.sites) if present[client]}
        answers = wire("before", about, asked)
        _check_all(answers, job, "before", sum(present))
        return [as_tree(answers[c].arrays, like) if c in answers else None for c in range(job.sites)]

    sums = asking(ask, present)

    def exchange(*arguments):
        results.append(sums(*arguments))
        return results[-1]

    return make_plan(problem, roster, exchange), results


def _site_shapes(plan: Plan) -> Sent:
    """Shapes of what a site sends, from data that are none."""
    return plan.site(one_client(plan.clients, 0), 0).sent


def _round(
    job: Job,
    plan: Plan,
    server: Server,
    shapes: Sent,
    state: fl.RoundState,
    kept: np.ndarray,
    verdict: int | None,
    wire: _Wire,
) -> tuple[fl.RoundState, np.ndarray, fl.RoundInfo]:
    """One round: (state, who was kept, what is reported)."""
    number = int(state.round)
    invitation = jax.device_get(server.invite(state, plan.key))
    invited = [int(client) for client in np.flatnonzero(invitation.invited)]
    sent = named(invitation, "invitation")
    asked = {client: sent | _answer(state, client) for client in invited}
    own = {client: _verdict(verdict, kept, client) for client in invited}
    # Keys of an attempt are never those of another, also after a restart.
    about = {"round": number, "attempt": int(time.time() * 8) % MOST_ATTEMPTS}
    answers = wire("round", about, asked, own)
    least = min(job.minimum or len(invited), len(invited))
    if len(answers) < least:
        names = ", ".join(plan.clients.names[c] for c in invited if c not in answers)
        raise DeploymentError(f"round {number + 1}", f"answers of at least {least} sites", f"none of {names}")
    blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    records = [
        as_tree(answers[c].arrays, shapes.record, "record") if c in answers else blank.record
        for c in range(job.sites)
    ]
    arrived = np.isin(np.arange(job.sites), list(answers))
    record = jax.tree.map(lambda *x: np.stack(x), *records)
    if plan.hides:
        arrived, total = _secret_sum(job, plan, shapes, answers, invited, about, wire)
        record["included"] = record["included"] & arrived
        upload = as_upload(total, shapes.sums["upload"])
        closed = server.close_sum(state, arrived, upload, record, blank.sums["channel"], plan.key)
    else:
        sums = [
            as_tree(answers[c].arrays, shapes.sums, "sums") if c in answers else blank.sums
            for c in range(job.sites)
        ]
        stacked = jax.tree.map(lambda *x: np.stack(x), *sums)
        closed = server.close(state, arrived, Sent(stacked, record), plan.key)
    state, kept, info = closed
    return state, np.asarray(kept), jax.device_get(info)


def _secret_sum(
    job: Job,
    plan: Plan,
    shapes: Sent,
    answers: Mapping[int, Packet],
    invited: Sequence[int],
    about: Mapping[str, Any],
    wire: _Wire,
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the sites' words by the protocol: (who is in it (clients,), words)."""
    size = words_in(shapes.sums["upload"])
    setup = setup_of(plan.settings, job.name, about["round"], about["attempt"], len(invited), size)
    protocol = SecAggServer(setup)
    try:
        while protocol.stage is not None:
            for packet in answers.values():
                protocol.receive(packet.arrays["protocol"].tobytes())
            replies = protocol.advance()
            if not replies:
                break
            asked = {invited[c]: {"protocol": np.frombuffer(x, np.uint8)} for c, x in replies.items()}
            answers = wire("sum", about, asked)
    except AbortedError as error:
        raise DeploymentError(f"round {about['round'] + 1}", "a secure sum of enough sites", error) from error
    assert protocol.total is not None
    included = [invited[place] for place in protocol.included]
    return np.isin(np.arange(job.sites), included), np.asarray(protocol.total)


def _check_all(answers: Mapping[int, Packet], job: Job, kind: str, count: int | None = None) -> None:
    if len(answers) < (job.sites if count is None else count):
        missing = ", ".join(str(client) for client in range(job.sites) if client not in answers)
        raise DeploymentError(f"sites at {kind!r}", f"answers of all {job.sites}", f"none of {missing}")


def _answer(state: fl.RoundState, client: int) -> dict[str, np.ndarray]:
    return named(jax.tree.map(lambda x: x[client], state.answers), "answer")


def _verdict(round: int | None, kept: np.ndarray, client: int) -> dict[str, Any]:
    return {} if round is None else {"verdict": {"round": round, "kept": bool(kept[client])}}


def _save(folder: Path, job: Job, plan: Plan, state: fl.RoundState, kept: np.ndarray) -> None:
    about = {"version": VERSION, "job": job.name, "settings": settings_digest(job.settings)}
    about |= {"model": plan.digest, "sites": list(plan.clients.names), "round": int(state.round)}
    about |= {"rounds": plan.budget.rounds}
    write_atomically(folder / STATE, pack(about, named(state, "state") | {"kept": kept}))


def _restored(
    folder: Path, job: Job, server: Server, plan: Plan
) -> tuple[fl.RoundState, np.ndarray, int | None]:
    """(state, who was kept in the last round, that round's number) of the checkpoint, or the start."""
    file = folder / STATE
    if not file.exists():
        return server.state, np.zeros(job.sites, bool), None
    about, arrays = unpack(file.read_bytes())
    expected: dict[str, Any] = {
        "job": job.name,
        "settings": settings_digest(job.settings),
        "model": plan.digest,
    }
    expected |= {"sites": list(plan.clients.names)}
    for name, value in expected.items():
        if about.get(name) != value:
            raise DeploymentError(f"{file}: {name}", str(value), about.get(name))
    state = jax.tree.map(jnp.asarray, as_tree(arrays, server.state, "state"))
    return state, arrays["kept"], about["round"] - 1


def _record(plan: Plan, state: fl.RoundState, info: fl.RoundInfo, seconds: float) -> dict[str, Any]:
    names = plan.clients.names
    record: dict[str, Any] = {
        "stage": plan.prepared.stage.name,
        "round": int(state.round),
        "seconds": round(seconds, 3),
        "sites": [name for name, here in zip(names, info.participated, strict=True) if here],
        "excluded": [name for name, out in zip(names, info.excluded, strict=True) if out],
        "applied": bool(info.applied),
    }
    if not plan.hides and "loss" in info.metrics:
        total, count = info.metrics["loss"]
        record["loss"] = float(total / count) if count > 0 else None
    return record


def _log(folder: Path, record: Mapping[str, Any]) -> None:
    """Appends to the log, without lines of rounds that are done again."""
    file = folder / LOG
    lines = file.read_text().splitlines() if file.exists() else []
    known = [line for line in lines if json.loads(line)["round"] < record["round"]]
    write_atomically(file, ("\n".join([*known, json.dumps(record)]) + "\n").encode())
