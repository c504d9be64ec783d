"""A deployment on one machine: certificates, processes of server and sites, the run, and its comparison."""

import contextlib
import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.pipeline.deployed import as_job, of_job
from experiments.pipeline.federated_data import load_data
from experiments.pipeline.federated_run import budget_of, stage_of
from experiments.pipeline.federated_settings import TrainSettings
from fedrecon import federated as fl
from fedrecon.deployment import SERVER, DeploymentError, Engine, engine_of, settings_digest, unpack
from fedrecon.errors import ArgumentError
from fedrecon.files import write_atomically
from fedrecon.training import FlagError, plan_privacy
from fedrecon.training.stage import in_topology, noise_key, prepared
from fedrecon.weights import read_weights

FILE = "deployment.json"
# Jobs that are begun for one training before a run gives up.
ATTEMPTS = 4
_START_SECONDS = 300
_PROBLEM = "experiments.pipeline.deployed:problem"
_DATA = "experiments.pipeline.deployed:site_data"


class Deployment(NamedTuple):
    """What ``init`` has made.

    Attributes:
      folder: the working directory.
      job: name of the training.
      settings: of it, as JSON.
      sites: names of the sites.
      options: ``minimum``, ``deadline`` and ``own_keys``.
      engine: name of what carries the messages.
    """

    folder: Path
    job: str
    settings: dict[str, Any]
    sites: list[str]
    options: dict[str, Any]
    engine: str

    @property
    def carrier(self) -> Engine:
        """The engine."""
        return engine_of(self.engine)

    @property
    def kits(self) -> Path:
        """The folder with those of the parties."""
        return self.folder / self.carrier.place

    @property
    def server(self) -> Path:
        """What the server keeps."""
        return self.folder / "server"

    def site(self, name: str) -> Path:
        """What a site keeps."""
        return self.folder / "sites" / name


def initialize(
    folder: Path,
    settings: TrainSettings,
    *,
    engine: str,
    host: str,
    port: int,
    policy: dict[str, Any],
    **options: Any,
) -> Deployment:
    """Makes certificates and the folders of all parties.

    Raises:
      ImportError: the engine is not installed; names the extra.
      ValueError: there is a deployment, or the settings cannot be deployed; names the flag.
    """
    job, folder = as_job(settings), Path(folder).resolve()
    if (folder / FILE).exists():
        raise FlagError("workdir", "a folder without a deployment", str(folder))
    carrier = engine_of(engine)
    carrier.need()
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"site-{number + 1}" for number in range(settings.clients)]
    made = Deployment(folder, f"training-{uuid.uuid4().hex[:8]}", job, names, options, engine)
    carrier.provision(folder, names, host=host, port=port)
    common = {"problem": _PROBLEM}
    carrier.configure(made.kits / SERVER, common | {"folder": str(made.server)})
    policy = {**policy, "approved": [settings_digest(job)], "own_key": bool(options["own_keys"])}
    for client, name in enumerate(names):
        local = common | {"data": _DATA, "folder": str(made.site(name)), "client": client, "name": name}
        carrier.configure(made.kits / name, local | {"policy": policy})
    kept = made._asdict() | {"folder": str(folder)}
    write_atomically(folder / FILE, (json.dumps(kept, indent=2) + "\n").encode())
    return made


def read_deployment(folder: Path) -> Deployment:
    """What ``init`` has made.

    Raises:
      FlagError: there is none.
    """
    file = Path(folder).resolve() / FILE
    try:
        kept = json.loads(file.read_text())
        return Deployment(file.parent, *(kept[name] for name in Deployment._fields[1:]))
    except (OSError, ValueError, KeyError) as error:
        raise FlagError("workdir", "a folder in which init has made a deployment", str(folder)) from error


def run(
    made: Deployment,
    say: Callable[[str], None] = lambda line: None,
    watch: Callable[[Any], None] = lambda running: None,
) -> float:
    """Runs a deployment to its end, from where it is; returns seconds until the first new round was closed.

    ``say`` is told of progress, ``watch`` is given the processes before they are started.
    Parties that end are started again, and the job with them, from the last round that was closed.

    Raises:
      DeploymentError: a site refuses, or the training does not come to its end.
    """
    made.carrier.need()
    from experiments.pipeline.deploy_processes import Processes, wait_until

    started = time.monotonic()
    first = 0.0
    with Processes(made.carrier.command, made.kits, made.folder / "logs") as running:
        watch(running)
        for attempt in range(ATTEMPTS):
            _start(made, running, wait_until, say)
            seen = len(_lines(made))
            options = {name: made.options[name] for name in ("minimum", "deadline")}
            folder = made.folder / "jobs" / str(attempt)
            number = made.carrier.submit(made.kits, folder, made.job, made.settings, made.sites, **options)
            say(f"job {number[:8]} was submitted after {time.monotonic() - started:.0f} s")
            for event in _events(made, running, number, seen):
                if "finished" in event:
                    return first or time.monotonic() - started
                if "failed" in event:
                    say(f"stopped: {event['failed']}")
                    if not _worth_repeating(event["failed"]):
                        raise DeploymentError(
                            "run", "a training that all sites take part in", event["failed"]
                        )
                elif "seconds" in event:
                    first = first or time.monotonic() - started
                    loss = event.get("loss")
                    told = "" if loss is None else f", loss {loss:.4f}"
                    say(
                        f"round {event['round']}: {', '.join(event['sites'])}{told}, {event['seconds']:.1f} s"
                    )
            say("the job has ended early; it goes on from the last round that was closed")
            if running.alive(SERVER):
                # What is left of it at the other sites waits for an answer that does not come.
                with contextlib.suppress(Exception):
                    made.carrier.abort(made.kits, number)
    raise DeploymentError("run", f"the end within {ATTEMPTS} attempts", running.log_end("server", 1))


def _worth_repeating(reason: str) -> bool:
    """Whether another attempt may go better: sites may answer then, but one that refuses will refuse."""
    return "expected an answer, found" not in reason and "expected that of the server" not in reason


def _start(made: Deployment, running: Any, wait_until: Any, say: Any) -> None:
    """Starts the parties that do not run, and waits until the server knows all sites."""
    names = [name for name in (SERVER, *made.sites) if not running.alive(name)]
    if SERVER in names:
        # Sites of before hold tokens of a server that is gone.
        for name in made.sites:
            if running.alive(name):
                running.kill(name)
        names = [SERVER, *made.sites]
    logs = {name: made.folder / "logs" / f"{name}.log" for name in names}
    before = {name: file.stat().st_size if file.exists() else 0 for name, file in logs.items()}
    for name in names:
        running.start(name)

    def registered():
        running.look()
        told = {name: logs[name].read_bytes()[before[name] :] for name in names if logs[name].exists()}
        dead = [name for name in names if not running.alive(name)]
        if dead:
            lines = running.log_end(dead[0], 3, before[dead[0]])
            raise DeploymentError(dead[0], "a process that runs", " ".join(lines.split())[-300:])
        return all(made.carrier.joined in told.get(name, b"") for name in names if name != SERVER)

    if not wait_until(registered, _START_SECONDS):
        raise DeploymentError("start", f"all sites within {_START_SECONDS} s", "; ".join(names))
    if names:
        say(f"{', '.join(names)} started")


def _lines(made: Deployment) -> list[str]:
    file = made.server / "events.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def _events(made: Deployment, running: Any, number: str, seen: int) -> Iterator[dict[str, Any]]:
    """What the server tells of a job until it ends, or the engine says that it has ended."""
    asked, alive = time.monotonic(), True
    while True:
        for line in _lines(made)[seen:]:
            seen += 1
            event = json.loads(line)
            yield event
            if "finished" in event or "failed" in event:
                return
        if not alive:
            return
        running.look()
        time.sleep(0.3)
        if not all(running.alive(name) for name in (SERVER, *made.sites)):
            # What is still to be said of it comes first.
            time.sleep(2)
            alive = False
        elif time.monotonic() - asked > 20:
            asked = time.monotonic()
            # A server that is busy may not answer.
            with contextlib.suppress(Exception):
                alive = not made.carrier.ended(made.kits, number)


class Simulated(NamedTuple):
    """The same training in one place.

    Attributes:
      released: the server's model.
      own: those of the clients.
    """

    released: Any
    own: list[Any]


def simulate(settings: TrainSettings) -> Simulated:
    """The training of a deployment, in one compiled round after the other."""
    data, federation = load_data(settings), in_topology(settings.federation)
    stage, budget = stage_of(settings, data), budget_of(settings)
    noise = plan_privacy(federation, [(stage.clients, {stage.name: budget})]).noise[stage.name]
    made = prepared(stage, federation, budget, noise)
    key, frozen = noise_key(made.stage, federation), made.tuning.frozen
    placed = fl.place(data.train, frozen=frozen)
    state = fl.init_state(made.algorithm, made.stage.variables, placed)
    round_ = fl.make_round(made.algorithm, **made.work)
    for _ in range(settings.rounds):
        state, _ = round_(state, placed, key)
    whole = made.tuning.whole
    own = [whole(fl.client_variables(made.algorithm, state, i)) for i in range(data.train.clients)]
    return Simulated(jax.device_get(whole(made.algorithm.release(state))), jax.device_get(own))


def parity(made: Deployment) -> float | None:
    """The largest difference of parameters from those of the simulation; None with sites' own keys.

    Both of the server's model and of those that sites evaluate with.
    """
    if made.options["own_keys"]:
        return None
    simulated = simulate(of_job(made.settings))
    files = [made.server / "model.npz", *(made.site(name) / "model.npz" for name in made.sites)]
    pairs = zip(files, (simulated.released, *simulated.own), strict=True)
    return max(_difference(read_weights(file)[0], model) for file, model in pairs)


def _difference(one: Any, other: Any) -> float:
    if jax.tree.structure(one) != jax.tree.structure(other):
        raise ArgumentError("models", "the same leaves", "others")
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max((float(np.abs(np.asarray(a, np.float64) - np.asarray(b)).max(initial=0)) for a, b in leaves))


def rounds_of(made: Deployment) -> int:
    """Rounds that the server has closed."""
    file = made.server / "server.state"
    return unpack(file.read_bytes()).about["round"] if file.exists() else 0


def finished(made: Deployment) -> bool:
    """Whether server and sites have their last models."""
    files = [made.server / "model.npz", *(made.site(name) / "model.npz" for name in made.sites)]
    return all(file.exists() for file in files) and rounds_of(made) == of_job(made.settings).rounds


def status(made: Deployment) -> dict[str, Any]:
    """Where a deployment is, JSON-able, from the files of server and sites."""
    log = made.server / "metrics.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    sites = {}
    for name in made.sites:
        file = made.site(name) / "site.state"
        about = unpack(file.read_bytes()).about if file.exists() else {"settled": 0, "pending": None}
        ledger = made.site(name) / "ledger.jsonl"
        spent = (
            [json.loads(line)["epsilon"] for line in ledger.read_text().splitlines()]
            if ledger.exists()
            else []
        )
        sites[name] = {"settled": about["settled"], "pending": about["pending"]}
        sites[name] |= {"epsilon": spent[-1]} if spent else {}
    last = [json.loads(line) for line in _lines(made)]
    reason = next((event["failed"] for event in last[-1:] if "failed" in event), "")
    return {
        "job": made.job,
        "method": made.settings.get("federation", {}).get("algorithm", "fedavg"),
        "round": rounds_of(made),
        "rounds": of_job(made.settings).rounds,
        "finished": finished(made),
        "stopped": reason,
        "loss": records[-1].get("loss") if records else None,
        "sites": sites,
        "settings": settings_digest(made.settings),
        "model": _digest(made.server / "model.npz"),
    }


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""


def cheap_compilation() -> None:
    """Makes XLA optimize little in this process and those that it starts, for small networks."""
    cheap = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
    os.environ.setdefault("XLA_FLAGS", cheap)


def say(line: str) -> None:
    """A line of progress, apart from results."""
    print(line, file=sys.stderr, flush=True)
