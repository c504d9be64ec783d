"""Reconstruction, mask and diagnosis of the same patients, trained jointly by several sites.

--mode names some of rec_only, frozen, finetune, joint, task_only and oracle, or all; what they start from is
trained with them. Every mode has the same data, rounds, steps and keys. "frozen" trains a new reader on the
images of a reconstruction that stays as it is, "finetune" the reader of reference images on them, and on
those of a reconstruction that was trained for twice the rounds: the best of these in validation is the
pipeline of two stages. "joint" is trained at every strength of --strengths by all sites together, anew and
from what "finetune" starts from ("warm"), and anew at the middle strength by each site alone and on pooled
data, there with all steps of its batches and with as many as a site takes ("pooled-steps"). Hearts are
diagnosed from the volumes of their masks, and by a classifier of the images of each training. Every
training has its scores in --workdir/seed-N and resumes; the working directory gets joint.json,
patients.jsonl, report.html, pareto.png and images.png.

  python -m experiments.joint --workdir=runs/joint --data_dir=DATA --mode=all --seeds=3
  python -m experiments.joint --workdir=runs/one --data=lesions --mode=joint --strengths=30 --json
"""

import contextlib
import json
import math
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging

from experiments.pipeline import joint_report, joint_runs
from experiments.pipeline.joint_scores import evaluator
from experiments.pipeline.joint_settings import BY_PRESET, JointSettings, check_settings, resolve
from experiments.pipeline.joint_training import STARTS, Training, plan
from experiments.pipeline.programs import define_run_flags, ending_run, given_settings, parse_flags
from fedrecon.files import write_atomically
from fedrecon.runtime import run_program, set_cpu_devices
from fedrecon.tasks import MODES
from fedrecon.training import Dotted, Execution, FlagError, as_json, check_method, method

FIRST = ("workdir", "mode", "strengths", "seeds", "preset", "data", "data_dir", "rounds", "algorithm", "json")


def run(
    settings: JointSettings, trainings: list[Training], seeds: list[int], folder: Path, **options: Any
) -> dict[str, Any]:
    """Trains, scores, and writes everything; what was found, JSON-able.

    Args:
      settings: of the first seed.
      trainings: in an order in which each finds what it starts from.
      seeds: of initial weights, batches and training masks.
      folder: where everything is written.
      **options: ``execution``, ``resume`` and ``command``, the command line for the page.
    """
    data = joint_runs.load_cohort(settings)
    tool = evaluator(settings, data)
    rest = {name: options[name] for name in ("execution", "resume")}
    found = [
        joint_runs.run_seed(settings, seed, trainings, data, tool, folder / f"seed-{seed}", **rest)
        for seed in seeds
    ]
    chosen = joint_report.choose(found, trainings)
    probes = {}
    if {"joint", "two stages", "oracle"} <= chosen.keys():
        pair = chosen["joint"], chosen["two stages"], chosen["oracle"]
        probes = joint_runs.probe(tool, found, data, settings, *pair)
    diagnoses = joint_runs.diagnoses(found, data), joint_runs.image_diagnoses(tool, found, trainings, data)
    summary = as_json(joint_report.summarize(found, trainings, probes, *diagnoses))
    write_atomically(folder / "joint.json", (json.dumps(summary, indent=2) + "\n").encode())
    lines = [
        {"seed": seed.seed, "training": name, "part": part, **row}
        for seed in found
        for part in ("validation", "test")
        for name, rows in getattr(seed, part).items()
        for row in rows
    ]
    write_atomically(
        folder / "patients.jsonl", "".join(json.dumps(as_json(x)) + "\n" for x in lines).encode()
    )
    shown = {}
    for kind in ("two stages", "joint"):
        if kind in chosen:
            training = next(t for t in trainings if t.name == chosen[kind])
            models = joint_runs.models_of(found[0].folder, training.name, data)
            shown[kind] = joint_runs.score(tool, training, models, data, "test")[1]
    readable = decoded(summary)
    joint_report.write_page(folder, readable, data, shown, options.get("command", ""))
    print("\n" + joint_report.table(readable))
    print(*joint_report.statements(readable), sep="\n")
    return summary


def decoded(value: Any) -> Any:
    """JSON with NaN in place of null."""
    if isinstance(value, dict):
        return {name: decoded(x) for name, x in value.items()}
    return math.nan if value is None else value


def _modes(names: list[str]) -> tuple[str, ...]:
    if names == ["all"]:
        return tuple(MODES)
    if not names or len(set(names)) != len(names) or not set(names) <= set(MODES):
        raise FlagError("mode", f"all, or distinct ones of {', '.join(MODES)}", ",".join(names))
    return tuple(names)


def _strengths(texts: list[str]) -> tuple[float, ...]:
    try:
        values = tuple(float(text) for text in texts)
    except ValueError:
        raise FlagError("strengths", "numbers", ",".join(texts)) from None
    if not values or len(set(values)) != len(values) or not all(0 <= x < math.inf for x in values):
        raise FlagError("strengths", "distinct numbers of 0 or more", ",".join(texts))
    return tuple(sorted(values))


def _starts(names: list[str]) -> tuple[str, ...]:
    if not names or len(set(names)) != len(names) or not set(names) <= set(STARTS):
        raise FlagError("starts", f"distinct ones of {', '.join(STARTS)}", ",".join(names))
    return tuple(names)


def main(dotted: Dotted) -> None:
    values = flags.FLAGS
    with ending_run(values.workdir):
        settings = check_settings(resolve(given_settings(JointSettings, dotted)))
        check_method(settings.federation, ("segmentation",))
        if (chosen := method(settings.federation.algorithm)).task or chosen.before:
            expected = "one that trains two networks in a row as they are"
            raise FlagError("algorithm", expected, chosen.name)
        chosen = _modes(values.mode), _strengths(values.strengths), values.comparators
        trainings = plan(*chosen, _starts(values.starts))
        set_cpu_devices(values.devices)
        folder = Path(values.workdir)
        folder.mkdir(parents=True, exist_ok=True)
        if jax.config.jax_compilation_cache_dir is None:
            jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
        if values.json:
            logging.set_verbosity(logging.ERROR)
        with contextlib.redirect_stdout(sys.stderr) if values.json else contextlib.nullcontext():
            found = run(
                settings,
                trainings,
                list(range(settings.seed, settings.seed + values.seeds)),
                folder,
                execution=Execution(values.parallel, values.rounds_per_dispatch),
                resume=values.resume,
                command=shlex.join(["python", "-m", "experiments.joint", *sys.argv[1:]]),
            )
        if values.json:
            print(json.dumps(found))


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    options = {"flag_values": flag_values}
    define_run_flags(JointSettings, by_preset=BY_PRESET, flag_values=flag_values)
    text = f"What is trained, with what it starts from: all, or some of {', '.join(MODES)}."
    flags.DEFINE_list("mode", ["all"], text, **options)
    text = "Weights of the reader's gradient in the reconstruction, over its own, for --mode=joint."
    flags.DEFINE_list("strengths", ["10", "30", "100"], text, **options)
    text = f"Joint training starts {' or '.join(STARTS)}: from a reconstruction and a reader trained apart."
    flags.DEFINE_list("starts", list(STARTS), text, **options)
    flags.DEFINE_bool(
        "comparators", True, "Train jointly at each site alone and on pooled data, too.", **options
    )
    flags.DEFINE_integer("seeds", 1, "Number of seeds, from --seed on.", 1, 1000, **options)
    flags.DEFINE_bool("json", False, "Print what was found as JSON.", **options)


if __name__ == "__main__":
    define_flags()
    run_program(main, partial(parse_flags, settings=JointSettings, first=FIRST))
