"""Mirrors of the run log in TensorBoard and MLflow.

A mirror reads what the run wrote, so that it can neither slow nor stop a training, and can be made at any
time: while the run goes on, or afterwards.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.runtime import read_log

_LONGEST = 6000
_BATCH = 500


class Tracker(NamedTuple):
    """Where records go.

    Attributes:
      write: ``write(numbers, step)``: numbers by name, of one record.
      finish: ``finish(folder)``: figures and results of a finished run.
    """

    write: Callable[[Mapping[str, float], int], None]
    finish: Callable[[Path], None]


def numbers_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record of the log by name, ``stage/loss`` or ``stage/validation/site/psnr``.

    Validation scores have a mean over the sites that have them, ``stage/validation_mean/psnr``.
    """
    found: dict[str, float] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                add(f"{name}/{key}", item)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)

    stage = record["stage"]
    for key, value in record.items():
        if key not in ("stage", "round"):
            add(f"{stage}/{key}", value)
    scores: dict[str, list[float]] = {}
    for of_site in record.get("validation", {}).values():
        for metric, value in of_site.items():
            if value is not None:
                scores.setdefault(metric, []).append(value)
    return found | {f"{stage}/validation_mean/{name}": float(np.mean(x)) for name, x in scores.items()}


def mirror(
    folder: Path, tracker: Tracker, *, follow: bool, seconds: float = 2.0, patience: float = math.inf
) -> int:
    """Hands the log of a run to a tracker; returns the number of records.

    Records that a resumed run writes again, the same to the last bit, are handed on once.

    Args:
      folder: of the run.
      tracker: gets each record once, then figures and results, if the run is finished.
      follow: waits for further records until the run is finished.
      seconds: between two looks at the log.
      patience: seconds without a new record after which waiting ends.
    """
    known: set[tuple[str, int]] = set()
    since = time.monotonic()
    while True:
        # Looked at before the log: what is finished has a whole log.
        finished = (folder / "results.json").exists()
        for record in read_log(folder / "metrics.jsonl"):
            key = (record["stage"], record["round"])
            if key not in known:
                known.add(key)
                tracker.write(numbers_of(record), record["round"])
                since = time.monotonic()
        if finished:
            tracker.finish(folder)
        if finished or not follow or time.monotonic() - since > patience:
            return len(known)
        time.sleep(seconds)


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a run by the names of their flags.

    Raises:
      ArgumentError: there is no run in the folder.
    """
    try:
        return dict(json.loads((folder / "config.json").read_text())["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArgumentError("--workdir", "the directory of a run, with config.json", error) from error


@contextlib.contextmanager
def tensorboard(folder: Path, settings: Mapping[str, Any]) -> Iterator[Tracker]:
    """Event files of TensorBoard in a folder, in place of those that are there.

    Raises:
      ImportError: without the extra ``fedrecon[tensorboard]``.
      OSError: the folder cannot be written.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError("TensorBoard needs an extra: pip install 'fedrecon[tensorboard]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        rows = [f"| {name} | {value} |" for name, value in settings.items()]
        writer.add_text("settings", "\n".join(["| flag | value |", "|---|---|", *rows]), 0)

        def write(numbers: Mapping[str, float], step: int) -> None:
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        def finish(run: Path) -> None:
            from matplotlib.image import imread

            for figure in sorted(run.glob("*.png")):
                image = np.asarray(imread(figure), np.float32)
                writer.add_image(figure.stem, image[..., :3] if image.ndim == 3 else image[..., None], 0,
                                 dataformats="HWC")  # fmt: skip

        yield Tracker(write, finish)


@contextlib.contextmanager
def mlflow(uri: str, experiment: str, name: str, settings: Mapping[str, Any]) -> Iterator[Tracker]:
    """A new run in an experiment of an MLflow server, with the settings as parameters.

    Args:
      uri: of the server, such as ``http://localhost:5000``.
      experiment: created where there is none of the name.
      name: of the run.
      settings: of the run.

    Raises:
      ArgumentError: the server does not answer as one.
      ImportError: without the extra ``fedrecon[mlflow]``.
    """
    # Seven tries would take two minutes to say that nobody listens.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise ImportError("MLflow needs an extra: pip install 'fedrecon[mlflow]'") from error
    try:
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        number = client.create_experiment(experiment) if found is None else found.experiment_id
        run = client.create_run(number, run_name=name).info.run_id
        chosen = [Param(key, str(value)[:_LONGEST]) for key, value in settings.items()]
        for i in range(0, len(chosen), 100):
            client.log_batch(run, params=chosen[i : i + 100])
    except MlflowException as error:
        found_there = (str(error).splitlines() or [""])[0]
        raise ArgumentError("--mlflow", "the address of an MLflow server", f"{uri}: {found_there}") from error

    def write(numbers: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        values = [Metric(_named(key), value, now, step) for key, value in numbers.items()]
        for i in range(0, len(values), _BATCH):
            client.log_batch(run, metrics=values[i : i + _BATCH])

    def finish(folder: Path) -> None:
        for file in sorted([*folder.glob("*.png"), folder / "report.html", folder / "results.json"]):
            if file.exists():
                client.log_artifact(run, str(file))

    status = "FAILED"
    try:
        yield Tracker(write, finish)
        status = "FINISHED"
    finally:
        client.set_terminated(run, status)


def _named(text: str) -> str:
    """MLflow takes letters, digits and ``_-. :/`` in names."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in text)
