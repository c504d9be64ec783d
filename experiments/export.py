"""Exports the trained network of a run as a folder that others can use without this package.

The run is one of experiments.full_stack or experiments.train_federated. The folder gets the weights
(weights.safetensors), the compiled predictions for CPU, CUDA and TPU and any number of examples
(predict.stablehlo, read by jax.export), and card.json: what the network takes and gives, what it was trained
on, what it never saw, its scores, settings, versions and license. fedrecon.load reads the folder.

  python -m experiments.export --workdir=runs/first --output=exported
  python -m experiments.export --workdir=runs/first --output=exported --stage=segmentation --license=CC-BY-4.0
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags, logging

from experiments.pipeline import downstream, federated_data, reconstruction
from experiments.pipeline.federated_settings import TrainSettings
from experiments.pipeline.run import STAGES
from experiments.pipeline.settings import FullStackSettings
from fedrecon import Task
from fedrecon.data import DataError
from fedrecon.exports import export_model
from fedrecon.learned import about_network, load_network
from fedrecon.reporting import mean_interval
from fedrecon.runtime import ending, run_program
from fedrecon.training import FlagError, as_json, changed, fields, released_file
from fedrecon.weights import read_weights

_PROGRAMS = {"full_stack": FullStackSettings, "train_federated": TrainSettings}


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run of one of the training programs.

    Attributes:
      workdir: its directory.
      program: "full_stack" or "train_federated".
      settings: of the program.
      config: all settings by the names of their flags.
      environment: versions and devices.
      results: as in results.json.
    """

    workdir: Path
    program: str
    settings: FullStackSettings | TrainSettings
    config: dict[str, Any]
    environment: dict[str, Any]
    results: dict[str, Any]


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
    flags.DEFINE_string("output", None, "Folder to write: new, or empty.", required=True)
    flags.DEFINE_enum("stage", None, STAGES, "Network of a full-stack run (default 'reconstruction').")
    flags.DEFINE_string("license", "not stated", "License of the weights, for the card.")


def read_run(workdir: Path) -> FinishedRun:
    """Reads a working directory.

    Raises:
      FlagError: there is no run, or one that did not come to its end, or of another program.
    """
    try:
        document = json.loads((workdir / "config.json").read_text())
        config, environment = document["config"], document["environment"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FlagError("workdir", "the directory of a run, with config.json", error) from error
    if config.get("program") == "fedrecon.run":
        expected = "a run of a program; fedrecon.exports.export_model writes networks of fedrecon.run"
        raise FlagError("workdir", expected, workdir)
    if "methods" in config:
        raise FlagError("workdir", "a run of one method, such as a folder inside", f"{workdir}, a comparison")
    program = "full_stack" if "finetune_rounds" in config else "train_federated"
    kind = _PROGRAMS[program]
    known = {field.name for field, _ in fields(kind)}
    try:
        given = {name: value for name, value in config.items() if name in known}
        if "task.sha256" in config:
            given["task_sha256"] = config["task.sha256"]
        settings = changed(kind(), **given)
        results = json.loads((workdir / "results.json").read_text())
    except FileNotFoundError as error:
        expected = "a finished run, with results.json; the same command again continues it"
        raise FlagError("workdir", expected, error) from error
    except (OSError, ValueError, TypeError) as error:
        raise FlagError("workdir", f"a run of experiments.{program}", error) from error
    return FinishedRun(workdir, program, settings, config, environment, results)


def stage_of(run: FinishedRun, stage: str | None) -> tuple[str, str]:
    """The task of a stage, and the name of its released model.

    Raises:
      FlagError: the run has no stages.
    """
    if isinstance(run.settings, FullStackSettings):
        return (task := stage or "reconstruction"), f"{task}/federated"
    if stage not in (None, run.settings.task):
        raise FlagError("stage", f"{run.settings.task}, what the run trained", stage)
    return run.settings.task, run.settings.federation.algorithm


def task_of(run: FinishedRun, task: str, example: Mapping[str, jax.ShapeDtypeStruct]) -> Task:
    """The task that the run trained, of examples like ``example``."""
    if isinstance(run.settings, TrainSettings):
        return federated_data.make_task(run.settings, example)
    if task == "reconstruction":
        return reconstruction.make_task(run.settings, example["target"].shape[1:], example)
    return downstream.make_task(task, run.settings, example)


def card_of(run: FinishedRun, task: str, sites: Mapping[str, int], kind: str, license: str) -> dict[str, Any]:
    """What a reader must know of the network, JSON-able; ``kind`` of data is simulated or measured."""
    config, results = run.config, run.results
    command = [f"python -m experiments.{run.program}", "--workdir=RUN"]
    defaults = {field.name: value for field, value in fields(type(run.settings))}
    command += [
        f"--{name}={value}"
        for name, value in config.items()
        if value != defaults.get(name) and name != "data_labels"
    ]
    if run.program == "full_stack":
        scores = {"methods": results[task]}
        if task == "reconstruction":
            # Means over test patients, with intervals of 95 %; other tasks have theirs among the scores.
            patients = results.get("reconstruction_patients", {}).get("overall", {})
            scores |= {"patients": patients, "checks": results["checks"]}
        notes = list(results["notes"])
    else:
        scores = {"released": results["released"], "own": results["own"]}
        notes = [results["notes"]] if results.get("notes") else []
        scores["over_sites"] = over_sites(results["released"] or results["own"])
    simulated = kind == "simulated"
    return {
        # Of the file of a task of one's own the name alone.
        "task": task.rpartition("/")[2],
        "trained_on": {
            "cohort": config["cohort"],
            "data": kind,
            "training_examples": dict(sites),
        },
        "never_saw": "the test and validation patients of these sites, whose scores are given here, and any "
        "other scanner, protocol, anatomy or disease"
        + ("; no measured patient: all of its data were simulated" if simulated else ""),
        "method": {name: config[name] for name in ("algorithm", "rounds", "seed")},
        "scores": scores,
        "privacy": results["privacy"],
        "notes": notes,
        "license": license,
        "use": "research only: not a medical device, and not validated for diagnosis",
        "command": " ".join(command),
        "settings": config,
        "versions": run.environment,
    }


def over_sites(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean over the sites of each metric, which count alike, and its 95 % interval by the t distribution."""
    found = {}
    for metric in next(iter(scores.values()), {}):
        values = [v for site in scores.values() if isinstance(v := site.get(metric), float)]
        mean, half = mean_interval(values)
        found[metric] = {"mean": mean, "low": mean - half, "high": mean + half, "sites": len(values)}
    return as_json(found)


def run(workdir: str, output: str, stage: str | None = None, license: str = "not stated") -> dict[str, Any]:
    """Exports a network; returns its card.

    Raises:
      ValueError: the run or the folder is not as it should be; names the flag or the file.
      ImportError: without the extra ``fedrecon[export]``.
    """
    finished = read_run(Path(workdir))
    task_name, name = stage_of(finished, stage)
    file = released_file(finished.workdir, name)
    if not file.exists():
        algorithm = finished.config["algorithm"]
        expected = "a run with a model that is handed out"
        found = (
            f"--algorithm={algorithm} and no {file}, as of methods that share nothing and of earlier versions"
        )
        raise FlagError("workdir", expected, found)
    try:
        variables, about = read_weights(file)
        example = {
            key: jax.ShapeDtypeStruct((1, *spec["shape"]), np.dtype(spec["dtype"]))
            for key, spec in about["inputs"].items()
        }
        sites, kind = dict(about["sites"]), str(about["data"])
    except Exception as error:
        # Whatever a damaged archive raises.
        raise DataError(file, None, "a released model", error) from error
    # Some networks look at which examples are padding.
    example["valid"] = jax.ShapeDtypeStruct((1,), np.dtype(bool))
    task = task_of(finished, task_name, example)
    card = card_of(finished, task_name, sites, kind, license)
    card |= {key: about[key] for key in ("preparation", "images") if about.get(key)}
    if task_name == "reconstruction" and (finished.workdir / "network.npz").exists():
        card["network"] = about_network(load_network(finished.workdir))
    try:
        return export_model(output, task.predict, variables, example, card)
    except ValueError as error:
        if getattr(error, "name", None) == "folder":
            raise FlagError("output", error.expected, error.found) from error
        raise


def main(_: list[str]) -> None:
    values = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    with ending():
        card = run(values.workdir, values.output, values.stage, values.license)
    inputs = ", ".join(f"{name} {tuple(x['shape'])} {x['dtype']}" for name, x in card["inputs"].items())
    print(f"{card['task']}, {card['parameters']} parameters, trained on {card['trained_on']['data']} data")
    print(f"takes examples of {inputs}")
    print(f"wrote {values.output}: card.json, weights.safetensors, predict.stablehlo")


if __name__ == "__main__":
    define_flags()
    run_program(main)
