"""Fine-tunes a model that sites have pre-trained together without labels, by few parameters and few bytes.

Sites first train the network without labels, by masked autoencoding or by contrast (--pretraining: simclr, or
a method of the catalog for it, with --pretraining.NAME=VALUE). Then they train every choice of
--choices on their labels, or those of a part of their patients (--labels): full, lora, adapter, bias or head,
alone or with a codec, as in lora+top_k; head alone is a linear probe.
--CHOICE.NAME=VALUE sets an option of one choice, --CODEC.NAME=VALUE of a codec. Every choice is trained with
the learning rates --learning_rate times --factors; the one of the best validation loss is reported, with the
round of the best validation loss, where there is validation data (--validation_part). All other flags are
those of experiments.train_federated. Every training has a directory of its own and resumes.

Bytes are those of one client in all rounds that it took to the reported model, as every round counts them.

  python -m experiments.finetune --workdir=runs/tune --cohort=retina --task=segmentation --data_dir=DIR
      --optimizer=adam --learning_rate=0.003 --choices=full,lora,lora+top_k,bias,head --seeds=3 --top_k.bits=4
"""

import json
import math
import resource
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.pipeline import sweep
from experiments.pipeline.contrastive import with_few_labels
from experiments.pipeline.federated_data import FederatedData, load_data
from experiments.pipeline.federated_settings import BY_PRESET, TrainSettings, check_settings, resolve
from experiments.pipeline.pretraining import MASKED, based, check_way, pretrained, untrained, ways
from experiments.pipeline.programs import define_run_flags, ending_run, given_settings, parse_flags
from fedrecon import communication
from fedrecon.reporting import format_table
from fedrecon.runtime import read_log, run_program, set_cpu_devices
from fedrecon.training import (
    Dotted,
    Execution,
    FlagError,
    changed,
    check_method,
    finetuning,
    initial_digest,
    summary,
)

KINDS = ("full", *finetuning.RECIPES)
FIRST = ("workdir", "choices", "seeds", "base", "pretraining", "labels", "pretraining_rounds", "factors",
         "preset", "task", "cohort", "data_dir", "network", "rounds", "learning_rate", "json")  # fmt: skip
# Score by task; of AUC and Dice.
NOTHING = "nothing"
_SIZES = ("rounds", "bytes_up_of_a_round", "bytes_up", "bytes_down")
METRIC = {"classification": "auc", "segmentation": "dice"}


def plan(base: TrainSettings, choices: list[str], dotted: Dotted) -> dict[str, TrainSettings]:
    """Settings of each choice, checked; the model that they start from is not there yet.

    Raises:
      FlagError: a choice is unknown or given twice, or its options do not fit.
    """
    parts = {choice: choice.partition("+") for choice in choices}
    codecs = ("", *communication.CODECS)
    wrong = [c for c, (kind, plus, codec) in parts.items() if kind not in KINDS or (plus and not codec)]
    wrong += [c for c, (*_, codec) in parts.items() if codec not in codecs]
    if not choices or len(set(choices)) != len(choices) or wrong:
        expected = f"distinct ones of {', '.join(KINDS)}, alone or with +CODEC"
        raise FlagError("choices", expected, ",".join(wrong or choices))
    used = {name for kind, _, codec in parts.values() for name in (kind, codec)}
    for group, options in dotted.items():
        if options and group in (*KINDS, *communication.CODECS) and group not in used:
            raise FlagError(f"{group}.NAME", "one of --choices", group)
    planned = {}
    for choice, (kind, _, codec) in parts.items():
        federation = changed(
            base.federation,
            finetune=kind,
            finetune_options=tuple(dotted.get(kind, ())),
            codec=codec or "none",
            codec_options=tuple(dotted.get(codec, ())) if codec else (),
            initialize_from="pretraining",
        )
        planned[choice] = check_settings(changed(base, federation=federation))
        try:
            check_method(federation, (base.task,))
        except FlagError as error:
            raise error.renamed("finetune", kind).renamed("codec", codec) from error
    return planned


def compare(
    planned: Mapping[str, TrainSettings],
    folder: Path,
    *,
    seeds: list[int],
    factors: list[float],
    rounds: int,
    rate: float,
    base: str = "",
    way: str = MASKED,
    options: tuple[tuple[str, str], ...] = (),
    labels: float = 1.0,
    **execution: Any,
) -> dict[str, Any]:
    """Pre-trains, or takes the base, and fine-tunes with every seed; {choice: figures}.

    ``way`` and ``options`` are of `pretrained`; ``labels`` is of `few_labels`, for fine-tuning.
    """
    first = next(iter(planned.values()))
    metric = METRIC[first.task]
    rows: dict[str, list[dict[str, Any]]] = {choice: [] for choice in (*planned, NOTHING)}
    pretraining = []
    for seed in seeds:
        kept: list[FederatedData] = []

        def data(settings: TrainSettings, kept: list[FederatedData] = kept) -> FederatedData:
            if not kept:
                kept.append(load_data(settings))
            return kept[0]

        before = changed(first, seed=seed)
        loaded, place = partial(data, before), folder / "pretraining" / f"seed-{seed}"
        if base:
            start, found = based(before, loaded, place, base), None
        else:
            given = {"rounds": rounds, "rate": rate, "way": way, "options": options}
            start, found = pretrained(before, loaded, place, execution=Execution(**execution), **given)
        if found is not None:
            pretraining.append({"loss": found.course.last, "bytes_up": found.bytes_up})
        mean, worst = untrained(before, loaded, start, metric)
        rows[NOTHING].append({metric: mean, "worst": worst, **dict.fromkeys(_SIZES, 0)})
        points = {
            f"{choice}/{factor:g}": _started(settings, start, factor)
            for choice, settings in planned.items()
            for factor in factors
        }
        best: dict[str, dict[str, Any]] = {}
        for done in sweep.trainings(
            points,
            [seed],
            partial(_place, folder, labels),
            load=with_few_labels(data, labels),
            named="choices",
            **execution,
        ):
            choice = done.point.partition("/")[0]
            row = figures(done, metric)
            if choice not in best or row["validation"] < best[choice]["validation"]:
                best[choice] = row
        for choice, row in best.items():
            rows[choice].append(row)
            print(
                f"seed {seed}, {choice}: {metric} {row[metric]:.4f}, {row['bytes_up']} bytes up", flush=True
            )
    return {"metric": metric, "pretraining": pretraining, "choices": together(rows, metric)}


def _place(folder: Path, labels: float, point: str, seed: int) -> Path:
    choice, _, factor = point.partition("/")
    part = "" if labels == 1 else f"-labels-{labels:g}"
    return folder / choice / f"rate-{factor}{part}" / f"seed-{seed}"


def _started(settings: TrainSettings, start: Path, factor: float) -> TrainSettings:
    """The settings with the model to start from and the learning rate."""
    federation = changed(
        settings.federation, initialize_from=str(start), initialize_sha256=initial_digest(str(start))
    )
    return changed(settings, federation=federation, learning_rate=settings.learning_rate * factor)


def figures(done: sweep.Done, metric: str) -> dict[str, Any]:
    """Figures of one training: the score on the test, and what the reported model took."""
    log = read_log(done.folder / "metrics.jsonl")
    course = done.results.course
    curve = course.best if course.curve.startswith("validation") else math.nan
    rounds = course.best_round if course.patience else len(log)
    sent = [{name: r[name] / max(r["clients"], 1) for name in ("bytes_up", "bytes_down")} for r in log]
    mean, worst = summary(done.results.own, metric)
    return {
        metric: mean,
        "worst": worst,
        "rate": done.settings.learning_rate,
        "rounds": rounds,
        # Without validation the first of the factors is taken.
        "validation": curve if math.isfinite(curve) else math.inf,
        "bytes_up_of_a_round": round(sent[0]["bytes_up"]),
        "bytes_up": round(sum(r["bytes_up"] for r in sent[:rounds])),
        "bytes_down": round(sum(r["bytes_down"] for r in sent[:rounds])),
    }


def together(rows: Mapping[str, list[dict[str, Any]]], metric: str) -> dict[str, Any]:
    """Means over seeds, next to full fine-tuning where that is one of the choices."""
    full = rows.get("full")
    found = {}
    for choice, each in rows.items():
        scores = [row[metric] for row in each]
        row: dict[str, Any] = {
            "mean": float(np.mean(scores)),
            "deviation": float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0,
            "worst": float(np.mean([r["worst"] for r in each])),
            "bytes_up_of_a_round": each[0]["bytes_up_of_a_round"],
            **{
                name: float(np.mean([r[name] for r in each])) for name in ("bytes_up", "bytes_down", "rounds")
            },
            "seeds": each,
        }
        if full:
            row["of_full"] = row["mean"] / float(np.mean([r[metric] for r in full]))
            row["of_full_each"] = [r[metric] / f[metric] for r, f in zip(each, full, strict=False)]
            if row["bytes_up"]:
                row["fewer_a_round"] = full[0]["bytes_up_of_a_round"] / row["bytes_up_of_a_round"]
                row["fewer"] = float(np.mean([r["bytes_up"] for r in full])) / row["bytes_up"]
        found[choice] = row
    return found


def table(found: Mapping[str, Any]) -> str:
    """Rows of choices."""
    metric = found["metric"]
    header = [
        "choice",
        metric,
        "worst client",
        "of full",
        "rounds",
        "bytes up",
        "a round",
        "fewer",
        "bytes down",
    ]
    rows = []
    for choice, row in found["choices"].items():
        compared = "of_full" in row
        rows.append(
            [
                choice,
                f"{row['mean']:.4f} ± {row['deviation']:.4f}",
                f"{row['worst']:.4f}",
                f"{row['of_full']:.1%}" if compared else "–",
                f"{row['rounds']:.1f}",
                f"{row['bytes_up']:.0f}",
                str(row["bytes_up_of_a_round"]),
                f"{row['fewer']:.0f}" if "fewer" in row else "–",
                f"{row['bytes_down']:.0f}",
            ]
        )
    return format_table(header, rows)


def main(dotted: Dotted) -> None:
    values = flags.FLAGS
    with ending_run(values.workdir):
        planned = plan(resolve(given_settings(TrainSettings, dotted)), values.choices, dotted)
        set_cpu_devices(values.devices)
        workdir = Path(values.workdir)
        first = next(iter(planned.values()))
        if first.task not in METRIC:
            raise FlagError("task", " or ".join(METRIC), first.task)
        options = dotted.get("pretraining", ())
        check_way(values.pretraining, options)
        for name in ("pretraining", "pretraining_rounds", "pretraining_rate"):
            if values.base and values[name].present:
                raise FlagError(
                    name, "none with --base, which takes the place of pre-training", values[name].value
                )
        sweep.share_programs(workdir)
        with sweep.only_json(values.json):
            found = compare(
                planned,
                workdir,
                seeds=sweep.seeds_of(values.seeds, first.seed),
                factors=sweep.budgets("factors", values.factors),
                rounds=values.pretraining_rounds,
                rate=values.pretraining_rate,
                base=values.base,
                way=values.pretraining,
                options=options,
                labels=values.labels,
                **sweep.execution_of(values),
            )
        # Of this process: in Linux in units of 1024 bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        found["peak_bytes"] = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = sweep.write_json(workdir / "finetune.json", found)
        print(json.dumps(found) if values.json else "\n" + table(found))


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    options = {"flag_values": flag_values}
    without = ("finetune", "codec", "initialize_from")
    define_run_flags(TrainSettings, without=without, by_preset=BY_PRESET, flag_values=flag_values)
    text = f"What is fine-tuned, some of {', '.join(KINDS)}, alone or with +CODEC."
    flags.DEFINE_list("choices", ["full", "lora", "lora+top_k", "adapter", "bias", "head"], text, **options)
    flags.DEFINE_integer("seeds", 1, "Seeds, from --seed on.", lower_bound=1, **options)
    text = "Factors of --learning_rate, of which validation chooses one for each choice and seed."
    flags.DEFINE_list("factors", ["1"], text, **options)
    text = f"How sites train without labels, one of {', '.join(ways())}."
    flags.DEFINE_string("pretraining", MASKED, text, **options)
    text = (
        "Part of each client's training patients whose labels fine-tuning sees, at least one of each label."
    )
    flags.DEFINE_float("labels", 1.0, text, lower_bound=1e-6, upper_bound=1.0, **options)
    text = "Rounds without labels; 0 starts from random weights."
    flags.DEFINE_integer("pretraining_rounds", 20, text, lower_bound=0, **options)
    text = "Learning rate of the training without labels."
    flags.DEFINE_float("pretraining_rate", 1e-3, text, lower_bound=1e-12, **options)
    text = "Model that all choices start from in place of --pretraining: a run, an export or an .npz of "
    text += "weights. All its layers that have the shapes of the network are taken over."
    flags.DEFINE_string("base", "", text, **options)
    flags.DEFINE_bool("json", False, "Print JSON.", **options)


if __name__ == "__main__":
    define_flags()
    names = ("pretraining", *(kind for kind in KINDS if kind != "full"), *communication.CODECS)
    run_program(main, partial(parse_flags, settings=TrainSettings, first=FIRST, groups=partial(tuple, names)))
