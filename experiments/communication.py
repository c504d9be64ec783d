"""Compares codecs of the updates that clients send: bytes, and what they cost in the scores.

--codec names one codec or several, with "none" for updates as they are; all other flags are those of
experiments.train_federated, whose --algorithm every codec is used with. Every training has a directory of its
own, --workdir/CODEC, and resumes. --CODEC.NAME=VALUE sets an option of one codec, --codec.NAME of all.

Bytes up are those of one client in one round, as every round counts them; serialised_bytes is the length of
a client's message that was really made. Of runs that validate (--validation_part), the table says how many
bytes of a client had gone up when the validation loss had first come down 95 % of the way that it came
without a codec.

  python -m experiments.communication --workdir=runs/codecs --codec=none,qsgd,top_k,power_sgd --preset=smoke
  python -m experiments.communication --workdir=runs/top --codec=top_k --codec.fraction=0.01 --json
"""

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from experiments.pipeline import sweep
from experiments.pipeline.configuration import configuration_of
from experiments.pipeline.federated_data import load_data
from experiments.pipeline.federated_run import budget_of, metrics_of, stage_of
from experiments.pipeline.federated_settings import BY_PRESET, TrainSettings, check_settings, resolve
from experiments.pipeline.programs import define_run_flags, ending_run, given_settings, parse_flags
from fedrecon import communication
from fedrecon.reporting import format_table
from fedrecon.runtime import read_log, run_program, set_cpu_devices
from fedrecon.training import Dotted, FlagError, changed, check_method, messages, summary

FIRST = ("workdir", "codec", "preset", "task", "cohort", "data_dir", "clients", "rounds", "algorithm",
         "secure_aggregation", "json")  # fmt: skip
# Part of the way of the loss without a codec.
TARGET = 0.95


def plan(base: TrainSettings, codecs: list[str], dotted: Dotted) -> dict[str, TrainSettings]:
    """Settings of each codec, checked.

    Raises:
      FlagError: a codec is unknown or given twice, or its options do not fit.
    """
    known = ("none", *communication.CODECS)
    if not codecs or len(set(codecs)) != len(codecs) or not set(codecs) <= set(known):
        raise FlagError("codec", f"distinct ones of {', '.join(known)}", ",".join(codecs))
    for name in communication.CODECS:
        if dotted.get(name) and name not in codecs:
            raise FlagError(f"{name}.NAME", "one of --codec", name)
    planned = {}
    for name in codecs:
        options = () if name == "none" else (*dotted.get("codec", ()), *dotted.get(name, ()))
        federation = changed(base.federation, codec=name, codec_options=options)
        planned[name] = check_settings(changed(base, federation=federation))
        try:
            check_method(federation, (base.task,))
        except FlagError as error:
            raise error.renamed("codec", name) if dotted.get(name) else error from error
    return planned


def compare(
    planned: Mapping[str, TrainSettings], folder: Path, **execution: Any
) -> dict[str, dict[str, Any]]:
    """Trains with every codec, and returns {codec: its figures}."""
    first = next(iter(planned.values()))
    data, found = load_data(first), {}
    for done in sweep.trainings(
        planned, [first.seed], lambda name, _: folder / name, load=lambda _: data, **execution
    ):
        rounds = read_log(done.folder / "metrics.jsonl")
        metric, chosen = (
            metrics_of(done.settings.task, done.results)[0],
            configuration_of(done.settings, data),
        )
        mean, worst = summary(done.results.own, metric)
        found[done.point] = {
            "bytes_up": rounds[0]["bytes_up"] // rounds[0]["clients"],
            "bytes_down": rounds[0]["bytes_down"] // rounds[0]["clients"],
            "serialised_bytes": messages.message_length(
                stage_of(done.settings, data, chosen),
                done.settings.federation,
                budget_of(done.settings, chosen),
            ),
            "metric": metric,
            "mean": mean,
            "worst": worst,
            "losses": [_loss(line) for line in rounds],
        }
        print(f"{done.point}: {metric} {mean:.4f}, {found[done.point]['bytes_up']} bytes up", flush=True)
    return _to_target(found)


def _loss(record: Mapping[str, Any]) -> float:
    values = [scores["loss"] for scores in record.get("validation", {}).values() if "loss" in scores]
    return sum(values) / len(values) if values else math.nan


def _to_target(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Adds the ratio of bytes to updates as they are, and the bytes up of a client until the target."""
    courses = {name: row.pop("losses") for name, row in found.items()}
    plain = courses.get("none")
    for name, row in found.items():
        row["ratio"] = found["none"]["bytes_up"] / row["bytes_up"] if plain else None
        reached = None
        if plain:
            target = plain[0] - TARGET * (plain[0] - min(plain))
            reached = next((number for number, loss in enumerate(courses[name], 1) if loss <= target), None)
        row["bytes_to_target"] = reached and reached * row["bytes_up"]
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows of codecs."""
    metric = next(iter(found.values()))["metric"]
    header = [
        "codec",
        metric,
        "worst client",
        "bytes up",
        "message",
        "ratio",
        "bytes to target",
        "bytes down",
    ]
    rows = [
        [
            name,
            f"{row['mean']:.4f}",
            f"{row['worst']:.4f}",
            str(row["bytes_up"]),
            _shown(row["serialised_bytes"]),
            "–" if row["ratio"] is None else f"{row['ratio']:.1f}",
            _shown(row["bytes_to_target"]),
            str(row["bytes_down"]),
        ]
        for name, row in found.items()
    ]
    return format_table(header, rows)


def _shown(value: int | None) -> str:
    return "–" if value is None else str(value)


def main(dotted: Dotted) -> None:
    values = flags.FLAGS
    with ending_run(values.workdir):
        planned = plan(resolve(given_settings(TrainSettings, dotted)), values.codec, dotted)
        set_cpu_devices(values.devices)
        workdir = Path(values.workdir)
        with sweep.only_json(values.json):
            found = compare(planned, workdir, **sweep.execution_of(values))
        found = sweep.write_json(workdir / "communication.json", found)
        if values.json:
            print(json.dumps(next(iter(found.values())) if len(found) == 1 else found))
        else:
            print("\n" + table(found))


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    options = {"flag_values": flag_values}
    define_run_flags(TrainSettings, without=("codec",), by_preset=BY_PRESET, flag_values=flag_values)
    text = f"Codecs, some of none, {', '.join(communication.CODECS)}."
    flags.DEFINE_list("codec", ["none", "qsgd", "top_k", "power_sgd"], text, **options)
    flags.DEFINE_bool("json", False, "Print JSON, of one codec alone its figures.", **options)


if __name__ == "__main__":
    define_flags()
    groups = partial(tuple, communication.CODECS)
    run_program(main, partial(parse_flags, settings=TrainSettings, first=FIRST, groups=groups))
