"""A segmentation configured from the data of a training, and what a run keeps of it."""

import json
from pathlib import Path

from experiments.pipeline.federated_data import FederatedData, number_of_classes
from experiments.pipeline.federated_settings import TrainSettings
from fedrecon.errors import ArgumentError
from fedrecon.files import write_atomically
from fedrecon.tasks import Configured, configured
from fedrecon.training import FlagError

_FILE = "configuration.json"


def configuration_of(settings: TrainSettings, data: FederatedData) -> Configured | None:
    """What --configure=fingerprint chooses, by the training images of all sites; None without.

    Raises:
      FlagError: no site has patients enough.
    """
    if settings.configure != "fingerprint":
        return None
    rule = data.preparation.get("intensity") or {}
    # Of a window of Hounsfield units, which mean the same everywhere.
    absolute = rule.get("rule") == "window" and rule["low"] < 0
    try:
        return configured(
            data.train.as_arrays(),
            channels=settings.channels,
            classes=number_of_classes(settings),
            minimum=settings.fingerprint_minimum,
            normalization="foreground" if absolute else "image",
        )
    except ArgumentError as error:
        advice = "--fingerprint_minimum below it, or --configure=flags"
        raise FlagError(
            "configure", f"{error.name}: {error.expected}; {advice}, without it", error.found
        ) from error


def save_configuration(workdir: Path, chosen: Configured) -> None:
    """Keeps it with a run, for what reads the run later."""
    text = json.dumps(chosen.as_document(), indent=2) + "\n"
    write_atomically(workdir / _FILE, text.encode())


def read_configuration(workdir: Path) -> Configured | None:
    """What rules chose for a run; None where nothing was left to them."""
    file = workdir / _FILE
    return Configured.from_document(json.loads(file.read_text())) if file.exists() else None
