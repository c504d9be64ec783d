"""The network that all trainings of a reconstruction start from."""

import dataclasses
import hashlib
from importlib import resources
from pathlib import Path

from experiments.pipeline.settings import FullStackSettings
from fedrecon.learned import Architecture, CheckedNetwork, load_network
from fedrecon.training import FlagError, initial_tasks

RANDOM, SHIPPED = "random", "shipped"


def architecture_of(settings: FullStackSettings) -> Architecture:
    """The network that the settings name."""
    return Architecture(
        settings.network, settings.cascades, settings.channels, settings.pools, settings.learn_coil_maps
    )


def start_file(start: str) -> Path | None:
    """The file or folder that ``--start`` names; None for random weights."""
    if start == RANDOM:
        return None
    if start == SHIPPED:
        return Path(str(resources.files("fedrecon") / "networks" / "start_mri.npz"))
    path = Path(start)
    return path / "network.npz" if (path / "network.npz").exists() else path


def open_start(settings: FullStackSettings) -> CheckedNetwork | None:
    """The network of ``--start``; None for random weights.

    Raises:
      FlagError: there is none, it is of another modality, or another network than the flags name.
      DataError: it is damaged.
    """
    file = start_file(settings.start)
    if file is None:
        return None
    if not file.exists():
        expected = f"{RANDOM}, {SHIPPED}, or the folder of a run of experiments.full_stack or a network.npz"
        raise FlagError("start", expected, settings.start)
    network = load_network(file)
    if network.physics != settings.modality:
        expected = f"a network of {settings.modality.upper()}, or {RANDOM}"
        raise FlagError("start", expected, f"one of {network.physics.upper()}")
    has, asked = (dataclasses.asdict(a) for a in (network.architecture, architecture_of(settings)))
    for name, value in has.items():
        if asked[name] != value:
            expected = f"{value}, as in the network of --start={settings.start}, or --start={RANDOM} with it"
            raise FlagError(name, expected, asked[name])
    return network


def with_start(settings: FullStackSettings) -> FullStackSettings:
    """The settings with the digest of the file that ``--start`` names; checks as `open_start`."""
    if open_start(settings) is None:
        return settings
    file = start_file(settings.start)
    data = file.read_bytes() if file is not None and file.is_file() else b""
    return dataclasses.replace(settings, start_sha256=hashlib.sha256(data).hexdigest())


def start_notes(settings: FullStackSettings) -> tuple[str, ...]:
    """What readers must know of the networks that trainings start from; nothing of random weights."""
    notes, given = [], settings.federation.initialize_from
    if network := open_start(settings):
        origin = f"one network, --start={settings.start}: {network.origin}"
        notes.append(f"All reconstruction trainings start from {origin}.")
    if tasks := initial_tasks(given):
        notes.append(
            f"All trainings of {', '.join(tasks)} start from the model in --initialize_from={given}."
        )
    return tuple(notes)
