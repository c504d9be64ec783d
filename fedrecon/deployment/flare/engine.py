"""NVIDIA FLARE as an engine."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrecon.deployment.engine import Command, Engine, Network
from fedrecon.deployment.flare import jobs, kits


def _provision(folder: Path, sites: Sequence[str], **options: Any) -> None:
    kits.provision(folder / "certificates", sites, **options)


def _command(party: Path, name: str) -> Command:
    server = (party / "startup" / "fed_server.json").exists()
    kind, program = ("server", "server_train") if server else ("client", "client_train")
    arguments = [sys.executable, "-u", "-m", f"nvflare.private.fed.app.{kind}.{program}"]
    arguments += ["-m", str(party), "-s", f"fed_{kind}.json", "--set", "secure_train=true"]
    arguments += ["org=coordinator"] if server else [f"uid={name}", f"org={name.replace('-', '_')}"]
    return Command([*arguments, "config_folder=config"], party)


def _ended(parties: Path, number: str) -> bool:
    return "FINISHED" in jobs.job_status(parties, number)


def _network(party: Path) -> Network:
    folder = party / "startup"
    target = json.loads((folder / "fed_client.json").read_text())["servers"][0]["service"]["target"]
    host, _, port = target.rpartition(":")
    identity = folder / "client.crt", folder / "client.key"
    return Network(host, int(port), folder / "rootCA.pem", identity)


ENGINE = Engine(
    "flare",
    "nvflare",
    False,
    {"nvflare": (2, 9), "cryptography": (50, 0)},
    Path("certificates") / "fedrecon" / "prod_00",
    _provision,
    kits.configure,
    _command,
    b"Successfully registered",
    jobs.submit,
    _ended,
    jobs.abort,
    _network,
)
