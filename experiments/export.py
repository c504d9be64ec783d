"""Exports the trained network of a run as a folder that others can use without this package.

The run is one of experiments.full_stack, experiments.train_federated or fedrecon.run. The folder gets the
weights (weights.safetensors), the compiled predictions for CPU, CUDA and TPU and any number of examples
(predict.stablehlo, read by jax.export), and card.json: what the network takes and gives, what it was trained
on, what it never saw, its scores, settings, versions and license. fedrecon.load reads the folder.

  python -m experiments.export --workdir=runs/first --output=exported
  python -m experiments.export --workdir=runs/first --output=exported --stage=segmentation --license=CC-BY-4.0
"""

import dataclasses
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

import fedrecon
from experiments.pipeline import downstream, federated_data, reconstruction
from experiments.pipeline.configuration import read_configuration
from experiments.pipeline.federated_settings import TrainSettings
from experiments.pipeline.run import STAGES
from experiments.pipeline.settings import FullStackSettings
from fedrecon import ArgumentError, Task, Variables
from fedrecon.data import DataError
from fedrecon.exports import export_model, write_export
from fedrecon.learned import about_network, load_network
from fedrecon.reporting import mean_interval
from fedrecon.runtime import ending, run_program
from fedrecon.training import (
    FederationSettings,
    FlagError,
    as_json,
    changed,
    fields,
    finetuning,
    flat,
    program_file,
    released_file,
)
from fedrecon.weights import read_weights

_PROGRAMS = {"full_stack": FullStackSettings, "train_federated": TrainSettings}
_FROM_PYTHON = "fedrecon.run"


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run of one of the training programs, or of `fedrecon.run`.

    Attributes:
      workdir: its directory.
      program: "full_stack", "train_federated" or "fedrecon.run".
      settings: of the program; None of `fedrecon.run`.
      config: all settings by the names of their flags.
      environment: versions and devices.
      results: as in results.json.
    """

    workdir: Path
    program: str
    settings: FullStackSettings | TrainSettings | None
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
    if "methods" in config:
        raise FlagError("workdir", "a run of one method, such as a folder inside", f"{workdir}, a comparison")
    program = config.get("program") or ("full_stack" if "finetune_rounds" in config else "train_federated")
    try:
        settings = None if program == _FROM_PYTHON else _settings_of(program, config)
        results = json.loads((workdir / "results.json").read_text())
    except FileNotFoundError as error:
        expected = "a finished run, with results.json; the same command or call again continues it"
        raise FlagError("workdir", expected, error) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FlagError("workdir", f"a run of experiments.{program}", error) from error
    return FinishedRun(workdir, program, settings, config, environment, results)


def _settings_of(program: str, config: Mapping[str, Any]) -> FullStackSettings | TrainSettings:
    kind = _PROGRAMS[program]
    known = {field.name for field, _ in fields(kind)}
    given = {name: value for name, value in config.items() if name in known}
    tuned = {name: value for name, value in config.items() if name.startswith("finetune.")}
    given["finetune_options"] = tuple((name.partition(".")[2], text) for name, text in tuned.items())
    if "task.sha256" in config:
        given["task_sha256"] = config["task.sha256"]
    return changed(kind(), **given)


def stage_of(run: FinishedRun, stage: str | None) -> tuple[str, str]:
    """The task of a stage, and the name of its released model.

    Raises:
      FlagError: the run has no stages.
    """
    if isinstance(run.settings, FullStackSettings):
        return (task := stage or "reconstruction"), f"{task}/federated"
    trained = "own" if run.settings is None else run.settings.task
    if stage not in (None, trained):
        raise FlagError("stage", f"{trained}, what the run trained", stage)
    return trained, run.config["algorithm"]


def task_of(run: FinishedRun, task: str, example: Mapping[str, jax.ShapeDtypeStruct]) -> Task:
    """The task that the run trained, of examples like ``example``."""
    assert run.settings is not None, "the tasks of fedrecon.run are kept as programs"
    if isinstance(run.settings, TrainSettings):
        chosen = read_configuration(run.workdir)
        made = federated_data.make_task(run.settings, example, chosen)
        return finetuning.released_task(run.settings.federation, made, example)
    if task == "reconstruction":
        return reconstruction.make_task(run.settings, example)
    return downstream.make_task(task, run.settings, example)


def card_of(run: FinishedRun, task: str, sites: Mapping[str, int], kind: str, license: str) -> dict[str, Any]:
    """What a reader must know of the network, JSON-able; ``kind`` of data is simulated or measured."""
    config, results = run.config, run.results
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
        "command": _command_of(run),
        "settings": config,
        "versions": run.environment,
    }


def _command_of(run: FinishedRun) -> str:
    """The command, or the call, that made a run."""
    if run.settings is None:
        parameters = inspect.signature(fedrecon.run).parameters.values()
        defaults = flat(FederationSettings()) | {p.name: p.default for p in parameters}
        apart = ("program", "cohort", "task", "algorithm", "initialize_from.sha256")
        options = {n.partition(".")[2]: v for n, v in run.config.items() if n.startswith("algorithm.")}
        given = {n: v for n, v in run.config.items() if v != defaults.get(n) and n not in apart}
        given = {n: v for n, v in given.items() if not n.startswith("algorithm.")}
        arguments = [f"{n}={v!r}" for n, v in (given | ({"options": options} if options else {})).items()]
        words = ["cohort", "task", repr(run.config["algorithm"]), "workdir='RUN'", *arguments]
        return f"fedrecon.run({', '.join(words)})"
    defaults = {field.name: value for field, value in fields(type(run.settings))}
    given = {n: v for n, v in run.config.items() if v != defaults.get(n) and n != "data_labels"}
    flags = [f"--{name}={value}" for name, value in given.items()]
    return " ".join([f"python -m experiments.{run.program}", "--workdir=RUN", *flags])


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
    card = card_of(finished, about.get("task", task_name), sites, kind, license)
    card |= {key: about[key] for key in ("preparation", "images") if about.get(key)}
    if task_name == "reconstruction" and (finished.workdir / "network.npz").exists():
        card["network"] = about_network(load_network(finished.workdir))
    try:
        if finished.settings is None:
            return _write_kept(finished.workdir, name, output, variables, card)
        # Some networks look at which examples are padding.
        example["valid"] = jax.ShapeDtypeStruct((1,), np.dtype(bool))
        task = task_of(finished, task_name, example)
        return export_model(output, task.predict, variables, example, card)
    except ValueError as error:
        if getattr(error, "name", None) == "folder":
            raise FlagError("output", error.expected, error.found) from error
        raise


def _write_kept(
    workdir: Path, stage: str, output: str, variables: Variables, card: dict[str, Any]
) -> dict[str, Any]:
    """Exports by the predictions that `fedrecon.run` kept, whose task may be a function of a notebook."""
    file = program_file(workdir, stage)
    try:
        return write_export(output, file.read_bytes(), variables, card)
    except FileNotFoundError as error:
        expected = "its predictions, which the same call of fedrecon.run writes where fedrecon[export] is "
        expected += "installed, or says why it cannot"
        raise DataError(file, None, expected, "no such file") from error
    except (ArgumentError, ImportError, OSError):
        raise
    except Exception as error:
        # Whatever a damaged program raises.
        raise DataError(file, None, "a program of fedrecon.run for its model", error) from error


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending():
        card = run(values.workdir, values.output, values.stage, values.license)
    inputs = ", ".join(f"{name} {tuple(x['shape'])} {x['dtype']}" for name, x in card["inputs"].items())
    print(f"{card['task']}, {card['parameters']} parameters, trained on {card['trained_on']['data']} data")
    print(f"takes examples of {inputs}")
    print(f"wrote {values.output}: card.json, weights.safetensors, predict.stablehlo")


if __name__ == "__main__":
    define_flags()
    run_program(main)
