"""Compares codecs of the updates that clients send: bytes, and what they cost in the scores.

--codec names one codec or several, with "none" for updates as they are; all other flags are those of
experiments.train_federated, whose --algorithm every codec is used with. Every training has a directory of its
own, --workdir/CODEC, and resumes. --CODEC.NAME=VALUE sets an option of one codec, --codec.NAME of all.

Besides codecs there are "lora", the flags --finetune=lora (with --initialize_from; --finetune.NAME sets its
options), and "diloco", a tenth of the rounds with ten times the passes and clients that keep Adam.

Bytes up are those of one client in one round, as every round counts them; serialised_bytes is the length of
a client's message that was really made. Of runs that validate (--validation_part), the table says how many
bytes of a client had gone up and down when the validation loss had first come down 95 % of the way that it
came without a codec, how long that takes with links of 10, 100 and 1000 Mbit/s, and the best validation score
before a tenth of all bytes without a codec. communication.png draws scores over bytes. With --seeds figures
are means over the seeds, whose trainings are in --workdir/CODEC/seed-SEED.

  python -m experiments.communication --workdir=runs/codecs --codec=none,qsgd,top_k,power_sgd --preset=smoke
  python -m experiments.communication --workdir=runs/top --codec=top_k --codec.fraction=0.01 --json
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.pipeline import sweep
from experiments.pipeline.byte_curves import LINKS, ByteCurve, byte_curve, byte_figure, mean_curve, to_target
from experiments.pipeline.configuration import configuration_of
from experiments.pipeline.federated_run import budget_of, metrics_of, stage_of
from experiments.pipeline.federated_settings import BY_PRESET, TrainSettings, check_settings, resolve
from experiments.pipeline.programs import define_run_flags, ending_run, given_settings, parse_flags
from fedrecon import communication
from fedrecon.reporting import format_table
from fedrecon.runtime import read_log, run_program, set_cpu_devices
from fedrecon.training import Dotted, FlagError, changed, check_method, messages, summary

FIRST = ("workdir", "codec", "preset", "task", "cohort", "data_dir", "clients", "rounds", "algorithm",
         "seeds", "secure_aggregation", "json")  # fmt: skip
# What there is besides codecs.
OTHERS = ("lora", "diloco")


def plan(base: TrainSettings, codecs: list[str], dotted: Dotted) -> dict[str, TrainSettings]:
    """Settings of each codec, checked.

    Raises:
      FlagError: a codec is unknown or given twice, or its options do not fit.
    """
    known = ("none", *communication.CODECS, *OTHERS)
    if not codecs or len(set(codecs)) != len(codecs) or not set(codecs) <= set(known):
        raise FlagError("codec", f"distinct ones of {', '.join(known)}", ",".join(codecs))
    for name in communication.CODECS:
        if dotted.get(name) and name not in codecs:
            raise FlagError(f"{name}.NAME", "one of --codec", name)
    planned = {}
    for name in codecs:
        planned[name] = check_settings(_point(base, name, dotted))
        federation = planned[name].federation
        try:
            check_method(federation, (base.task,))
        except FlagError as error:
            raise error.renamed("codec", name) if dotted.get(name) else error from error
    return planned


def _point(base: TrainSettings, name: str, dotted: Dotted) -> TrainSettings:
    """The settings with a codec, or with what there is besides."""
    # Options of --finetune are those of the point lora, and --codec is a list.
    base = changed(base, finetune="full", finetune_options=(), codec="none", codec_options=())
    if name == "lora":
        return changed(base, finetune="lora", finetune_options=tuple(dotted.get("finetune", ())))
    if name == "diloco":
        fewer = {"rounds": max(1, base.rounds // 10), "epochs": 10 * base.epochs}
        return changed(base, algorithm="diloco", algorithm_options=(), optimizer="adam", **fewer)
    options = () if name == "none" else (*dotted.get("codec", ()), *dotted.get(name, ()))
    return changed(base, codec=name, codec_options=options)


def compare(
    planned: Mapping[str, TrainSettings],
    folder: Path,
    *,
    seeds: Sequence[int] | None = None,
    **execution: Any,
) -> dict[str, dict[str, Any]]:
    """Trains with every codec and seed, and returns {codec: its figures}, means over the seeds."""
    seeds = [next(iter(planned.values())).seed] if seeds is None else seeds
    found: dict[int, dict[str, dict[str, Any]]] = {seed: {} for seed in seeds}
    curves: dict[int, dict[str, ByteCurve]] = {seed: {} for seed in seeds}

    def place(name: str, seed: int) -> Path:
        return folder / name / f"seed-{seed}" if len(seeds) > 1 else folder / name

    for done in sweep.trainings(planned, seeds, place, **execution):
        rounds = read_log(done.folder / "metrics.jsonl")
        metric = metrics_of(done.settings.task, done.results)[0]
        # Messages of all seeds have one length, or one bound.
        known = found[seeds[0]].get(done.point, {})
        row = _figures(done, rounds, metric, known.get("serialised_bytes"))
        found[done.settings.seed][done.point] = row
        curves[done.settings.seed][done.point] = byte_curve(rounds, metric)
        print(f"{done.point}: {metric} {row['mean']:.4f}, {row['bytes_up']} bytes up", flush=True)
    for seed in seeds:
        plain = curves[seed].get("none")
        for name, row in found[seed].items():
            row["ratio"] = found[seed]["none"]["bytes_up"] / row["bytes_up"] if plain else None
            row |= to_target(curves[seed][name], plain, row["metric"])
    figure = byte_figure({n: mean_curve([curves[s][n] for s in seeds]) for n in planned}, metric)
    if figure is not None and len(planned) > 1:
        sweep.save_figure(folder / "communication.png", figure)
    return {name: together([found[seed][name] for seed in seeds]) for name in planned}


def _figures(
    done: sweep.Done, rounds: Sequence[Mapping[str, Any]], metric: str, length: int | None
) -> dict[str, Any]:
    """Figures of one training, without those that need the one without a codec; ``length`` of a message."""
    if length is None:
        data = done.data()
        chosen = configuration_of(done.settings, data)
        stage, budget = stage_of(done.settings, data, chosen), budget_of(done.settings, chosen)
        length = messages.message_length(stage, done.settings.federation, budget)
    mean, worst = summary(done.results.own, metric)
    return {
        "bytes_up": rounds[0]["bytes_up"] // rounds[0]["clients"],
        "bytes_down": rounds[-1]["bytes_down"] // max(rounds[-1]["clients"], 1),
        "serialised_bytes": length,
        "adds": done.point not in communication.CODECS or communication.named_codec(done.point).sums,
        "rounds": len(rounds),
        "metric": metric,
        "mean": mean,
        "worst": worst,
    }


def together(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one training, or of several seeds their means, None where some seed has none.

    Several have "each", the score of every seed.
    """
    if len(rows) == 1:
        return rows[0]

    def mean(values: list[Any]) -> Any:
        first = values[0]
        if isinstance(first, dict):
            return {key: mean([value[key] for value in values]) for key in first}
        if any(value is None for value in values):
            return None
        if isinstance(first, bool | str):
            return first
        found = float(np.mean(values))
        return round(found) if isinstance(first, int) else found

    return mean(list(rows)) | {"each": [row["mean"] for row in rows]}


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows of codecs."""
    metric = next(iter(found.values()))["metric"]
    header = ["codec", metric, "worst client", "adds", "bytes up", "message", "ratio", "bytes down"]
    header += ["to target: up", "down", *(f"s at {link} Mbit/s" for link in LINKS), "at equal bytes"]
    rows = [
        [
            name,
            f"{row['mean']:.4f}" + (f" ± {np.std(row['each'], ddof=1):.4f}" if "each" in row else ""),
            f"{row['worst']:.4f}",
            "yes" if row["adds"] else "no",
            str(row["bytes_up"]),
            _shown(row["serialised_bytes"]),
            _shown(row["ratio"], ".1f"),
            str(row["bytes_down"]),
            _shown(row["bytes_to_target"]),
            _shown(row["bytes_down_to_target"]),
            *(_shown(row["seconds_to_target"][str(link)], ".2f") for link in LINKS),
            _shown(row["score_at_equal_bytes"], ".4f"),
        ]
        for name, row in found.items()
    ]
    return format_table(header, rows)


def _shown(value: float | None, form: str = "") -> str:
    return "–" if value is None else format(value, form)


def main(dotted: Dotted) -> None:
    values = flags.FLAGS
    with ending_run(values.workdir):
        planned = plan(resolve(given_settings(TrainSettings, dotted)), values.codec, dotted)
        set_cpu_devices(values.devices)
        workdir = Path(values.workdir)
        sweep.share_programs(workdir)
        with sweep.only_json(values.json):
            first = next(iter(planned.values()))
            seeds = sweep.seeds_of(values.seeds, first.seed)
            found = compare(planned, workdir, seeds=seeds, **sweep.execution_of(values))
        found = sweep.write_json(workdir / "communication.json", found)
        if values.json:
            print(json.dumps(next(iter(found.values())) if len(found) == 1 else found))
        else:
            print("\n" + table(found))


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    options = {"flag_values": flag_values}
    define_run_flags(
        TrainSettings, without=("codec", "finetune"), by_preset=BY_PRESET, flag_values=flag_values
    )
    text = f"What is compared, some of none, {', '.join((*communication.CODECS, *OTHERS))}."
    flags.DEFINE_list("codec", ["none", "qsgd", "top_k", "power_sgd"], text, **options)
    flags.DEFINE_integer("seeds", 1, "Seeds, from --seed on.", lower_bound=1, **options)
    flags.DEFINE_bool("json", False, "Print JSON, of one codec alone its figures.", **options)


if __name__ == "__main__":
    define_flags()
    groups = partial(tuple, communication.CODECS)
    run_program(main, partial(parse_flags, settings=TrainSettings, first=FIRST, groups=groups))
