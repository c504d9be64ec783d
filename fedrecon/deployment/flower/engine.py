"""Flower as an engine."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrecon.deployment.engine import Command, Engine, Network
from fedrecon.deployment.flower import control, kits


def _provision(folder: Path, sites: Sequence[str], **options: Any) -> None:
    kits.provision(folder / "certificates", sites, **options)


def _command(party: Path, name: str) -> Command:
    del name
    arguments = [sys.executable, "-u", "-m", "fedrecon.deployment.flower.party", str(party)]
    return Command(arguments, party, kits.variables(party))


def _network(party: Path) -> Network:
    return Network(*kits.address(party), party / "startup" / kits.AUTHORITY, None)


ENGINE = Engine(
    "flower",
    "flwr",
    True,
    {"flwr": (1, 42), "cryptography": (50, 0)},
    Path("certificates") / "parties",
    _provision,
    kits.configure,
    _command,
    b"SuperNode ID:",
    control.submit,
    control.ended,
    control.abort,
    _network,
)
