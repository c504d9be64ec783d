"""Two institutions that know different things of the same patients, and what they learn together.

A guest knows images, or some columns of a table; a host knows other columns and the labels. They find the
patients in common by private set intersection and train one network that is divided between them
(fedrecon.vertical, docs/vertical.md). Rows are each institution alone (the guest given the labels), data in
one place (pooled), divided (federated), and divided with the guest's data protected at the cut for each of
--epsilons, with both networks trained, or with the guest's inputs sent once and all training at the host.
Scores are areas under the curve of patients that were not trained on, by fivefold cross-validation, with
intervals of 95 % over patients and seeds. Problems:

  simulated   images of disks and a table, without files
  sunnybrook  measured images of 30 hearts, and a SYNTHETIC table of the same patients; heart failure
  tcga_brca   measured table of breast cancer, its columns divided; death within five years
  heart       measured table of heart disease, its columns divided

With --transfer, labels are known at all hospitals but one: simulated, or those of heart. With --psi=N nothing
is trained, and an intersection of two lists of N is timed, each party in a process of its own.

  python -m experiments.vertical
  python -m experiments.vertical --problem=heart --data_dir=DIR --seeds=5 --json
  python -m experiments.vertical --transfer --problem=heart --data_dir=DIR
  python -m experiments.vertical --psi=100000 --json
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags

from experiments.pipeline import psi_party, vertical_problems, vertical_training, vertical_transfer
from fedrecon.errors import ArgumentError
from fedrecon.reporting import format_table
from fedrecon.runtime import ending, run_program
from fedrecon.training import FlagError


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_enum("problem", "simulated", list(vertical_problems.PROBLEMS), "What is known where.")
    flags.DEFINE_string("data_dir", "", "Folder of the public files; $FEDRECON_DATA by default.")
    flags.DEFINE_integer("seeds", 5, "Number of seeds.", 1, 100)
    flags.DEFINE_integer("steps", 200, "Steps of a training, each over all training patients.", 1)
    flags.DEFINE_list(
        "epsilons", ["8", "32"], "Budgets of a patient's data at the guest; none trains without."
    )
    flags.DEFINE_integer("private_steps", 5, "Steps of a network that is trained with privacy.", 1)
    flags.DEFINE_float("table_effect", 1.0, "Factor of what a synthetic or simulated table tells.", 0)
    flags.DEFINE_bool(
        "transfer", False, "From hospitals with labels to one without, in place of two institutions."
    )
    flags.DEFINE_integer(
        "psi", 0, "Size of the lists whose intersection is timed; nothing is trained.", 0, 10**7
    )
    flags.DEFINE_bool("json", False, "Print JSON.")


def run(
    problem: str,
    folder: str = "",
    seeds: int = 5,
    steps: int = 200,
    epsilons: tuple[float, ...] = (),
    private_steps: int = 5,
    effect: float = 1.0,
) -> dict[str, Any]:
    """All rows of a problem.

    Args: as the flags.

    Returns:
      "problem", "notes", "patients" ("guest", "host", "common"), "rows" (row -> "auc", "low", "high",
      "per_seed", and of private ones "epsilon", "delta", "noise_multiplier") and "compared" (what -> [value,
      low, high]).
    """
    logits: dict[str, list[np.ndarray]] = {}
    labels = []
    for seed in range(seeds):
        data = vertical_problems.load(problem, folder, seed, effect)
        ways = vertical_training.ways(data, steps, epsilons, private_steps)
        for name, way in ways.items():
            logits.setdefault(name, []).append(vertical_training.scores(data, way, seed))
        labels.append(data.labels)
    rows, compared = vertical_training.summary(
        {name: np.stack(each) for name, each in logits.items()}, np.stack(labels)
    )
    for name, way in ways.items():
        rows[name] |= vertical_training.cost(way, data)
    patients = dict(zip(("guest", "host", "common"), data.sizes, strict=True))
    return {"problem": problem, "notes": data.notes, "patients": patients, "rows": rows, "compared": compared}


def table(found: Mapping[str, Any]) -> str:
    """The rows, with what is compared and the notes below."""
    lines = [["row", "AUC", "95 %", "ε", "δ"]]
    for name, row in found["rows"].items():
        cost = [f"{row['epsilon']:.2f}", f"{row['delta']:.1g}"] if "epsilon" in row else ["–", "–"]
        lines.append([name, f"{row['auc']:.3f}", _interval(row["low"], row["high"]), *cost])
    sizes = found["patients"]
    text = [format_table(lines[0], lines[1:])]
    text += [f"{name}: {x[0]:.3f} ({_interval(*x[1:])})" for name, x in found["compared"].items()]
    text.append(
        f"Patients: {sizes['guest']} of the guest, {sizes['host']} of the host, {sizes['common']} in common."
    )
    return "\n".join([*text, found["notes"]])


def transfer_table(found: Mapping[str, Any]) -> str:
    """A line of each hospital without labels."""
    names = list(next(iter(found.values())))
    rows = [
        [hospital, *(f"{x['auc']:.3f} ({_interval(x['low'], x['high'])})" for x in rows.values())]
        for hospital, rows in found.items()
    ]
    return format_table(["without labels", *names], rows)


def _interval(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}"


def _folder(values: Any) -> str:
    folder = values.data_dir or os.environ.get("FEDRECON_DATA", "")
    if values.problem != "simulated" and not folder:
        files = {
            "sunnybrook": vertical_problems.HEARTS,
            "tcga_brca": "tabular/tcga_brca.csv",
            "heart": "tabular/heart_cleveland.csv",
        }
        raise FlagError("data_dir", f"a folder with {files[values.problem]}, or $FEDRECON_DATA", "none")
    return folder


def _epsilons(texts: list[str]) -> tuple[float, ...]:
    try:
        found = tuple(float(text) for text in texts)
    except ValueError:
        raise FlagError("epsilons", "numbers", ",".join(texts)) from None
    if not all(0 < epsilon < float("inf") for epsilon in found) or len(set(found)) < len(found):
        raise FlagError("epsilons", "distinct positive numbers", ",".join(texts))
    return found


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending("nothing was written"):
        if values.psi:
            measured = psi_party.measure(values.psi, 0)
            if not measured["exact"]:
                raise ArgumentError("--psi", "the intersection of the lists", "another")
            print(json.dumps(measured) if values.json else _psi_text(measured))
            return
        epsilons = _epsilons(values.epsilons)
        folder = _folder(values)
        if values.transfer:
            if values.problem not in ("simulated", "heart"):
                raise FlagError("problem", "simulated or heart with --transfer", values.problem)
            moved = vertical_transfer.run(values.problem, folder, values.seeds)
            print(json.dumps(moved) if values.json else transfer_table(moved))
            return
        found = run(
            values.problem,
            folder,
            values.seeds,
            values.steps,
            epsilons,
            values.private_steps,
            values.table_effect,
        )
        print(json.dumps(found) if values.json else table(found))


def _psi_text(measured: Mapping[str, Any]) -> str:
    first, second, common = measured["sizes"]
    return (
        f"{common} in common of {first} and {second}, exact, in {measured['seconds']:.2f} s "
        f"({measured['cpu_seconds'][0]:.2f} and {measured['cpu_seconds'][1]:.2f} s of a processor); "
        f"{measured['bytes'] / 1e6:.2f} MB either way"
    )


if __name__ == "__main__":
    define_flags()
    run_program(main)
