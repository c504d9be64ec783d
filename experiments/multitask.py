"""The whole system on several problems: one table, and the trade-offs of scores against what they cost.

Reconstruction of MRI and CT, segmentation and diagnosis, over simulated sites and, with --data_dir, over
sites of public files. Every problem is trained by each site alone, on the pooled data, by the federated
--methods (of which the best on validation patients is marked as chosen), and by FedAvg with each --codec,
with a secure sum (--secure_aggregation), with each budget of privacy (--epsilons, and the other --dp flags),
and with all of these at once; of images also by --finetune from a model that the sites have trained together
without labels, whose bytes are not among those of the rows. The problem "joint" goes from k-space to a mask,
in two stages and jointly. What needs no training (the direct image, total variation, a constant prediction)
is a row, too. Scores are means over test patients, with intervals by drawing patients; thresholds are those
of validation patients. On the front are federations that no other one beats in both the score and a cost.

Every training has a directory of its own, --workdir/PROBLEM/ROW/seed-N, as in train_federated; the same
command continues an interrupted run, and more seeds, rows or problems extend it. The working directory gets
multitask.json, multitask.md and multitask.png. --CODEC.NAME=VALUE and --METHOD.NAME=VALUE set options.

  python -m experiments.multitask --workdir=runs/multitask --preset=smoke
  python -m experiments.multitask --workdir=runs/all --data_dir=DIR --json
  python -m experiments.multitask --workdir=runs/ct --problems=ct --codec=top_k --top_k.fraction=0.05
"""

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.pipeline import multitask_joint, multitask_report, sweep
from experiments.pipeline.federated_data import FederatedData, load_data
from experiments.pipeline.federated_run import with_seed
from experiments.pipeline.federated_settings import TrainSettings
from experiments.pipeline.joint_settings import JointSettings
from experiments.pipeline.multitask_problems import (
    BASELINE,
    EXTENT,
    LABELS,
    METRICS,
    PRESETS,
    PROBLEMS,
    Row,
    problems_of,
    rows_of,
    settings_of,
)
from experiments.pipeline.multitask_scores import (
    over_seeds,
    scores_of,
    seconds_of,
    tested,
    untrained,
    validated,
)
from experiments.pipeline.pretraining import started
from experiments.pipeline.programs import define_run_flags, ending_run, parse_flags
from experiments.pipeline.settings_flags import given_flags
from fedrecon import communication
from fedrecon.files import write_atomically
from fedrecon.runtime import Workdir, describe_environment, run_program, set_cpu_devices
from fedrecon.training import (
    Dotted,
    Execution,
    FlagError,
    algorithms,
    fields,
    finetuning,
    method,
)

FIRST = ("workdir", "preset", "problems", "data_dir", "methods", "codec", "secure_aggregation", "epsilons",
         "finetune", "rounds", "seeds", "json")  # fmt: skip
# Flags of trainings that all problems take.
KEPT = ("seed", "rounds", "epochs", "batch_size", "learning_rate", "optimizer", "channels", "pools")


def plan(
    preset: str, given: Mapping[str, Any], extent: Mapping[str, Any], data_dir: str, dotted: Dotted
) -> dict[str, dict[str, Row] | JointSettings]:
    """The rows of each problem, checked; of the joint one its settings, whose rows are always the same.

    Args:
      preset: of sizes. given: fields of the settings that flags set. extent: as `EXTENT` and "protocol".
      data_dir: of public files; empty without.
      dotted: options.

    Raises:
      FlagError: a name is unknown, or a setting does not fit; names the flag.
    """
    epsilons = sweep.budgets("epsilons", extent["epsilons"])
    common = {"methods": extent["methods"], "codecs": extent["codec"], "protocol": extent["protocol"]}
    common |= {"finetune": extent["finetune"], "epsilons": epsilons, "dotted": dotted}
    return {
        name: multitask_joint.settings_of(preset, given, data_dir)
        if problem.joint
        else rows_of(settings_of(name, preset, given, data_dir), **common)
        for name, problem in problems_of(extent["problems"] or (), data_dir).items()
    }


def solve(
    name: str, rows: Mapping[str, Row], folder: Path, seeds: list[int], *, tuned: bool, **execution: Any
) -> dict[str, Any]:
    """Trains and scores all rows of a problem: what the table and the figure need.

    Args:
      name: of the problem.
      rows: from `plan`.
      folder: of the problem.
      seeds: of the trainings.
      tuned: reconstructions are compared with total variation, too.
      **execution: as in `sweep.trainings`.
    """
    problem, plain = PROBLEMS[name], next(iter(rows.values())).settings
    data = functools.cache(lambda seed: load_data(with_seed(plain, seed)))
    place, of_seeds = folder / "untrained", [with_seed(plain, seed) for seed in seeds]
    names = [tested(place, settings, data) for settings in of_seeds]
    constant = [untrained(place, settings, data, tuned=tuned) for settings in of_seeds]
    found: dict[str, dict[str, Any]] = {
        label: {"exchanges": False, **over_seeds([scores[label] for scores in constant], names)}
        for label in constant[0]
    }
    for label, row in rows.items():
        found[label] = {"exchanges": row.exchanges, "refused": row.refused, "features": list(row.features)}
        try:
            if not row.refused:
                found[label] |= _train(label, row, seeds, folder, data, names, execution)
        except FlagError as error:
            if not row.features:
                raise
            # What the data of a problem exclude, such as a budget with too few patients.
            found[label]["refused"] = str(error)
        print(f"{name}, {label}: {found[label]['refused'] or found[label]['score']}", flush=True)
    methods = [
        label for label, row in rows.items() if row.exchanges and not row.features and not row.pretrained
    ]
    return {
        "title": problem.title,
        "metric": (metric := METRICS[problem.settings["task"]]),
        "label": LABELS[metric],
        "untrained": list(constant[0]),
        # Of equal ones the first; FedAvg where nothing was validated.
        "chosen": max(methods, key=lambda label: np.nan_to_num(found[label]["validated"], nan=-np.inf)),
        "rows": multitask_report.with_fronts(multitask_report.with_differences(found, BASELINE)),
        "saved_bytes": multitask_report.saved_bytes(
            found, max(found[label]["score"] for label in constant[0])
        ),
        "notes": found[BASELINE]["notes"],
    }


def _train(
    label: str,
    row: Row,
    seeds: list[int],
    folder: Path,
    data: Callable[[int], FederatedData],
    names: Sequence[Sequence[str]],
    execution: Mapping[str, Any],
) -> dict[str, Any]:
    """The figures of one row: means over seeds of scores and costs, the largest ε."""
    scores, costs, notes = [], [], ""
    for seed in seeds:
        settings = row.settings
        if row.pretrained:
            before, of_seed = folder / "pretraining" / f"seed-{seed}", with_seed(settings, seed)
            settings = started(of_seed, lambda s: data(s.seed), before, Execution(**execution))
        place = functools.partial(_place, folder)
        (done,) = sweep.trainings({label: settings}, [seed], place, load=lambda s: data(s.seed), **execution)
        scores.append(scores_of(done))
        notes = done.results.notes
        epsilon = max(done.results.privacy.get("epsilon", {"": math.inf}).values())
        costs.append(
            (done.results.bytes_up, done.results.bytes_down, seconds_of(done), epsilon, validated(done))
        )
    up, down, seconds, epsilons, validations = (list(column) for column in zip(*costs, strict=True))
    return {
        **over_seeds(scores, names),
        "bytes_up": float(np.mean(up)),
        "bytes_down": float(np.mean(down)),
        "seconds": float(np.mean(seconds)),
        "epsilon": max(epsilons),
        "validated": float(np.mean(validations)),
        "notes": notes,
    }


def _place(folder: Path, label: str, seed: int) -> Path:
    """The directory of a training: names of rows without signs."""
    words = label.replace("ε = ", "epsilon ").replace(",", "").replace("+", "").split()
    return folder / "-".join(words) / f"seed-{seed}"


def write(folder: Path, problems: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers, the table and the figure; returns the numbers."""
    absent = multitask_report.missing(problems)
    write_atomically(folder / "multitask.md", multitask_report.markdown(problems).encode())
    sweep.save_figure(folder / "multitask.png", multitask_report.figure(problems))
    return sweep.write_json(folder / "multitask.json", {"problems": problems, "not_computed": absent})


def main(dotted: Dotted) -> None:
    values = flags.FLAGS
    with ending_run(values.workdir):
        defaults = EXTENT[values.preset]
        extent = {name: given if (given := values[name].value) is not None else default
                  for name, default in defaults.items()}  # fmt: skip
        extent["protocol"] = values.secure_aggregation or "secagg"
        given = given_flags(TrainSettings)
        for name in ("preset", "data_dir", "codec", "secure_aggregation", "finetune"):
            given.pop(name, None)
        planned = plan(values.preset, given, extent, values.data_dir, dotted)
        set_cpu_devices(values.devices)
        if values.preset != "full":
            sweep.compile_quickly(0 if values.preset == "smoke" else 1)
        seeds, execution = sweep.seeds_of(extent["seeds"], given.get("seed", 0)), sweep.execution_of(values)
        with (
            sweep.only_json(values.json),
            Workdir(
                values.workdir, {"multitask": True}, describe_environment(), resume=values.resume
            ) as workdir,
        ):
            sweep.share_programs(workdir.path)
            tuned = values.preset != "smoke"
            problems = {}
            for name, rows in planned.items():
                folder = workdir / name
                if isinstance(rows, JointSettings):
                    title = PROBLEMS[name].title
                    problems[name] = multitask_joint.solve(title, rows, folder, seeds, Execution(**execution))
                else:
                    problems[name] = solve(name, rows, folder, seeds, tuned=tuned, **execution)
                # What is there already, should the rest be interrupted.
                document = write(workdir.path, problems)
        if values.json:
            print(json.dumps(document))
            return
        print("\n" + multitask_report.table(problems))
        for problem in problems.values():
            print(f"{problem['title']}: chosen on validation patients: {problem['chosen']}")
        print(*document["not_computed"], sep="\n")


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    options = {"flag_values": flag_values}
    known = {field.name: field for field, _ in fields(TrainSettings)}
    without = [name for name in known if name not in KEPT and not name.startswith("dp_")]
    define_run_flags(TrainSettings, without=(*without, "dp_epsilon"), by_preset=KEPT, flag_values=flag_values)
    # One program a training: to measure which is fastest takes longer than these trainings.
    flag_values.set_default("parallel", "scan")
    flags.DEFINE_enum("preset", "small", list(PRESETS), "Sizes, and what is trained.", **options)
    flags.DEFINE_list("problems", None, f"Some of {', '.join(PROBLEMS)}; by default by --preset.", **options)
    text = "Folder with the public files (multisite/, mri/), for the problems of these."
    flags.DEFINE_string("data_dir", "", text, **options)
    able = ", ".join(name for name in algorithms() if name != BASELINE and method(name).exchanges)
    text = f"Federated algorithms, {BASELINE} and others of {able}; by default by --preset."
    flags.DEFINE_list("methods", None, text, **options)
    text = f"Codecs, some of {', '.join(communication.CODECS)}; by default by --preset."
    flags.DEFINE_list("codec", None, text, **options)
    text = "Protocol of the rows with a secure sum; none leaves them out."
    protocols = list(known["secure_aggregation"].metadata["choices"])
    flags.DEFINE_enum("secure_aggregation", "secagg", protocols, text, **options)
    kinds = ", ".join(("full", *finetuning.RECIPES))
    text = (
        f"What is trained from a model that was pre-trained without labels, some of {kinds}, alone or with "
    )
    text += "+CODEC; by default by --preset."
    flags.DEFINE_list("finetune", None, text, **options)
    text = "Budgets of every client of the rows with privacy; by default by --preset."
    flags.DEFINE_list("epsilons", None, text, **options)
    flags.DEFINE_integer(
        "seeds", None, "Number of seeds, from --seed on; by default by --preset.", 1, 1000, **options
    )
    flags.DEFINE_bool("json", False, "Print JSON, nothing else.", **options)


if __name__ == "__main__":
    define_flags()
    names = (*communication.CODECS, *finetuning.RECIPES, *algorithms())
    groups = functools.partial(tuple, names)
    run_program(main, functools.partial(parse_flags, settings=TrainSettings, first=FIRST, groups=groups))
