"""Faults of a deployment, caused on purpose: what happens, and whether anything is lost."""

import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.pipeline.deploy_processes import Processes, wait_until
from experiments.pipeline.deploy_run import Deployment, initialize, parity, rounds_of, run
from experiments.pipeline.deployed import as_job, problem, site_data
from experiments.pipeline.federated_settings import TrainSettings
from fedrecon.deployment import SERVER, DeploymentError, Job, LocalSite, Policy, coordinate, pack, unpack
from fedrecon.errors import ArgumentError

# Seconds that a link is cut.
CUT = 30


class Fault(NamedTuple):
    """What was seen of a fault.

    Attributes:
      name: of the fault.
      seen: what happened, in one line.
      lost: whether parameters differ from the simulation, or a closed round is gone.
    """

    name: str
    seen: str
    lost: bool


def messages(folder: Path, settings: TrainSettings) -> list[Fault]:
    """Faults of what is sent, between server and sites in this process."""
    job = as_job(settings)

    def sites(name: str, *, of=problem, data=site_data, policy: Policy | None = None) -> list[LocalSite]:
        """Sites of which the last one differs."""
        last = settings.clients - 1

        def one(client: int) -> LocalSite:
            differs = client == last
            own = (data if differs else site_data, of if differs else problem)
            return LocalSite(
                folder / name / f"site-{client + 1}",
                f"site-{client + 1}",
                client,
                own[1],
                lambda values: own[0](values, client),
                policy if differs else None,
            )

        return [one(client) for client in range(settings.clients)]

    def refused(name: str, parties: list[LocalSite]) -> Fault:
        def ask(kind: str, sent: dict[int, bytes]) -> dict[int, bytes]:
            return {client: parties[client].answer(message) for client, message in sent.items()}

        try:
            coordinate(Job("faults", job, settings.clients), problem(job), folder / name / "server", ask)
        except ArgumentError as error:
            return Fault(name, str(error), (folder / name / "server" / "server.state").exists())
        return Fault(name, "nobody noticed", True)

    def other_network(values: dict[str, Any]) -> Any:
        return problem({**values, "channels": 8})

    def other_data(values: dict[str, Any], client: int) -> Any:
        return site_data({**values, "image_size": 12}, client)

    found = [
        refused("wrong_model_version", sites("wrong_model_version", of=other_network)),
        refused("wrong_data_schema", sites("wrong_data_schema", data=other_data)),
    ]
    policy = Policy(most_bytes=2000)
    found.append(refused("huge_payload_to_a_site", sites("huge_payload_to_a_site", policy=policy)))
    site = sites("huge_payload")[0]
    huge = site.answer(pack({"version": 1}, {"x": np.zeros(2**21, np.uint8)})[:-1])
    found.append(Fault("cut_payload", unpack(huge).about["reason"], False))
    return found


class Proxy:
    """A TCP relay to the server whose link can be cut.

    Args:
      port: of the server on this machine.
    """

    def __init__(self, port: int) -> None:
        self._target, self._open, self._pairs = port, True, list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, seconds: float) -> None:
        """Breaks all connections, and accepts none for this time."""
        self._open = False
        for one in self._pairs:
            one.close()
        self._pairs.clear()
        time.sleep(seconds)
        self._open = True

    def close(self) -> None:
        """Ends it."""
        self._open = False
        self._listener.close()
        for one in self._pairs:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            try:
                other = socket.create_connection(("127.0.0.1", self._target if self._open else 0))
            except OSError:
                # The server is not there, or the link is cut: there is no port 0.
                one.close()
                continue
            self._pairs += [one, other]
            for pair in ((one, other), (other, one)):
                threading.Thread(target=self._relay, args=pair, daemon=True).start()

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            one.close()


def processes(
    folder: Path, settings: TrainSettings, engine: str, only: tuple[str, ...], say: Callable[[str], None]
) -> list[Fault]:
    """Faults of processes and links, each in a deployment of its own between processes with certificates."""
    causes: dict[str, Callable[[Deployment, Any], str]] = {
        "site_killed": _site_killed,
        "server_restarted": _server_restarted,
        "link_cut": _link_cut,
        "slow_site": _slow_site,
    }
    found = []
    for name, cause in causes.items():
        if name in only:
            say(name)
            found.append(_during(_made(folder / name, settings, engine), name, cause, say))
    if "wrong_certificate" in only:
        say("wrong_certificate")
        found.append(_wrong_certificate(_made(folder / "wrong_certificate", settings, engine)))
    return found


def _made(folder: Path, settings: TrainSettings, engine: str) -> Deployment:
    options = {"minimum": 0, "deadline": 0, "own_keys": False}
    return initialize(folder, settings, engine=engine, host="localhost", port=0, policy={}, **options)


def _redirect(made: Deployment, site: str, port: int) -> None:
    """Makes a site look for its server at another port of this machine."""
    startup = made.kits / site / "startup"
    if made.engine == "flare":
        file = startup / "fed_client.json"
        values = json.loads(file.read_text())
        values["servers"][0]["service"]["target"] = f"localhost:{port}"
    else:
        file = startup / "superlink.json"
        values = json.loads(file.read_text()) | {"port": port}
    file.write_text(json.dumps(values))


def _during(
    made: Deployment,
    name: str,
    cause: Callable[[Deployment, Any], str],
    say: Callable[[str], None],
) -> Fault:
    """Causes a fault once the first round is closed."""
    told, proxy = list[str](), None
    if name == "link_cut":
        proxy = Proxy(made.carrier.network(made.kits / "site-1").port)
        _redirect(made, "site-1", proxy.port)
    caused = threading.Event()

    def watch(running: Processes) -> None:
        def act() -> None:
            if wait_until(lambda: rounds_of(made) >= 1, 600):
                told.append(cause(made, proxy or running))
                caused.set()

        threading.Thread(target=act, daemon=True).start()

    start = time.monotonic()
    lines: list[str] = []

    def note(line: str) -> None:
        lines.append(line)
        say(f"  {line}")

    try:
        run(made, note, watch=watch)
    except DeploymentError as error:
        return Fault(name, f"{told or 'before the fault'}: {error}", True)
    finally:
        if proxy is not None:
            proxy.close()
    caused.wait(CUT + 10)
    again = sum("was submitted" in line for line in lines) - 1
    went = (
        f"the job went on from the last closed round ({again} times)"
        if again
        else "the job went on by itself"
    )
    difference = parity(made)
    seconds = time.monotonic() - start
    seen = f"{told[0] if told else 'it came too late'}; {went}; "
    seen += f"parameters differ by {difference:g} after {seconds:.0f} s"
    return Fault(name, seen, not told or difference is None or difference > 1e-6)


def _site_killed(made: Deployment, running: Processes) -> str:
    running.kill("site-2")
    return f"site-2 was killed after round {rounds_of(made)} and started again"


def _server_restarted(made: Deployment, running: Processes) -> str:
    running.kill(SERVER)
    return f"the server was killed after round {rounds_of(made)} and started again with its sites"


def _link_cut(made: Deployment, proxy: Proxy) -> str:
    proxy.cut(CUT)
    return f"the link of site-1 was cut for {CUT} s after round {rounds_of(made)}"


def _slow_site(made: Deployment, running: Processes) -> str:
    running.signal("site-1", signal.SIGSTOP)
    time.sleep(15)
    running.signal("site-1", signal.SIGCONT)
    return "site-1 stood still for 15 s, and the round waited for it"


def _wrong_certificate(made: Deployment) -> Fault:
    """A site with the certificate of another authority, or a key that the server does not know."""
    foreign = made.folder / "foreign"
    made.carrier.provision(foreign, made.sites)
    flare = made.engine == "flare"
    for name in ("client.crt", "client.key", "rootCA.pem") if flare else ("site.key",):
        other = foreign / made.carrier.place / "site-1" / "startup" / name
        shutil.copy(other, made.kits / "site-1" / "startup" / name)
    logs = made.folder / "logs"
    with Processes(made.carrier.command, made.kits, logs) as running:
        for name in (SERVER, *made.sites):
            running.start(name)

        def joined(name: str) -> bool:
            return made.carrier.joined in (logs / f"{name}.log").read_bytes()

        wait_until(lambda: all(map(joined, made.sites[1:])), 300)
        time.sleep(10)
        took_part, others = joined("site-1"), all(map(joined, made.sites[1:]))
    seen = "the server answers it nothing, and the other sites are registered"
    seen = "it took part" if took_part else seen if others else "no site is registered"
    return Fault("wrong_certificate", seen, took_part or not others)


def table(found: list[Fault]) -> dict[str, Any]:
    """The faults, JSON-able."""
    faults = {fault.name: {"seen": fault.seen, "lost": fault.lost} for fault in found}
    return {"faults": faults, "lost": any(fault.lost for fault in found)}
