"""Federated methods on FLamby's clinical tables, next to its published rows.

Heart disease of four hospitals (accuracy) and survival with breast cancer of six regions (concordance), in
FLamby's protocol: its division, models, budgets, rates and initial weights (arXiv:2210.04620). Methods are
those of experiments.methods that need nothing besides a table, and pooled, local (each site's own network on
its own test), cyclic, and cyclic_published, what FLamby's code does by that name: it hands no model on. A
method that FLamby has not takes the rate of its FedAvg. chosen is, of heart disease, one of 17 methods and
rates, those of the best cross-validation on the training patients; of breast cancer ridge_personal. ridge and
ridge_personal are penalized Cox models, shared or of each site's own, by Newton steps on sums over sites,
with penalties of the best cross-validated likelihood of the training patients.

  python -m experiments.flamby --dataset=heart --data_dir=DIR --methods=fedavg,fedadam,pooled,local
  python -m experiments.flamby --dataset=heart --data_dir=DIR --methods=fedavg --epsilons=1,2,4,8
  python -m experiments.flamby --dataset=tcga_brca --data_dir=DIR --seeds=42,43,44,45,46 --json
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.pipeline import flamby_cox
from experiments.pipeline.flamby import (
    METHODS,
    PROTOCOLS,
    Setting,
    Trainer,
    counts,
    published,
    scores,
    setting,
    summary,
    trainer,
)
from experiments.pipeline.flamby_choice import choose
from experiments.pipeline.flamby_privacy import private_trainer
from fedrecon.errors import ArgumentError
from fedrecon.reporting import format_table
from fedrecon.runtime import ending, run_program


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_enum("dataset", "heart", sorted(PROTOCOLS), "Table.")
    flags.DEFINE_string("data_dir", None, "Folder of the tables, or the one above.", required=True)
    flags.DEFINE_list("seeds", ["42", "43", "44", "45", "46"], "Seeds of initial weights and batches.")
    flags.DEFINE_list("methods", list(METHODS), "Methods.")
    flags.DEFINE_list("epsilons", [], "Budgets of privacy with which FedAvg is trained, too.")
    flags.DEFINE_float("delta", 1e-4, "Delta of these budgets.", 0, 1)
    flags.DEFINE_enum("unit", "patient", ["patient", "site"], "What they protect.")
    flags.DEFINE_bool("json", False, "Print JSON: method -> mean, per_client, per_seed.")


def run(
    dataset: str,
    folder: str,
    seeds: list[int],
    methods: list[str],
    epsilons: Sequence[float] = (),
    delta: float = 1e-4,
    unit: str = "patient",
) -> dict[str, Any]:
    """{method: {"mean", "per_client", "per_seed"}}, means over seeds and sites of the test's metric."""
    protocol = PROTOCOLS[dataset]
    data = setting(protocol, folder)
    survival = protocol.metric == "concordance"
    penalized = {"ridge": False, "ridge_personal": True} | ({"chosen": True} if survival else {})
    trainers: dict[str, tuple[Trainer, dict[str, Any]]] = {}
    for name in methods:
        if name in penalized:
            if not survival:
                raise ArgumentError("--methods", "ridge and ridge_personal with a table of survival", name)
            trainers[name] = _ridge(data, penalized[name])
        elif name != "chosen":
            trainers[name] = trainer(name, protocol, data), {}
    if "chosen" in methods and not survival:
        choice = choose(dataset, protocol, data)
        changed = protocol._replace(methods={**protocol.methods, choice.method: choice.options})
        about = {"method": choice.method, "options": choice.options, "cross_validated": choice.score}
        trainers["chosen"] = (trainer(choice.method, changed, data), about)
    for epsilon in epsilons:
        train, noise = private_trainer(protocol, data, epsilon=epsilon, delta=delta, unit=unit)
        about = {"epsilon": epsilon, "delta": delta, "unit": unit, "noise_multiplier": noise}
        trainers[f"fedavg, ε = {epsilon:g} of a {unit}"] = train, about
    results = {}
    for name in trainers:
        train, about = trainers[name]
        found = [scores(counts(protocol, data, train(seed, data))) for seed in seeds]
        results[name] = {**summary(found), **about}
    return results


def _ridge(data: Setting, own: bool) -> tuple[Trainer, dict[str, Any]]:
    found = flamby_cox.choose(flamby_cox.training_sites(data)[0], own)
    models = flamby_cox.models(data, found)
    options = {name: x for name, x in zip(("penalty", "strength"), found, strict=False) if x is not None}
    # No seed has a part in it.
    return (lambda seed, setting: models), {
        "method": "ridge_personal" if own else "ridge",
        "options": options,
        "cross_validated": found.score,
    }


def main(_: list[str]) -> None:
    values = flags.FLAGS
    seeds = [_seed(text) for text in values.seeds]
    if not seeds or len(set(values.methods)) != len(values.methods) or not values.methods:
        raise ArgumentError("--methods, --seeds", "distinct methods and at least one seed", values.methods)
    with ending("nothing was written"):
        results = run(
            values.dataset,
            values.data_dir,
            seeds,
            values.methods,
            [_number(text) for text in values.epsilons],
            values.delta,
            values.unit,
        )
    if values.json:
        print(json.dumps(results))
        return
    path = Path(values.data_dir)
    others = {}
    for place in (path, path / "reference", path.parent / "reference"):
        file = place / f"flamby_{values.dataset}_results.csv"
        if file.exists():
            others = published(file, seeds)
            break
    print(table(results, others, PROTOCOLS[values.dataset].metric))


def table(results: dict[str, Any], others: dict[str, Any], metric: str) -> str:
    """Rows of methods, FLamby's means beside them where they are known."""
    sites = len(next(iter(results.values()))["per_client"])
    header = ["method", metric, "FLamby's", *(f"site {number}" for number in range(sites))]
    rows = []
    for name, found in results.items():
        known = f"{others[name]['mean']:.3f}" if name in others else "–"
        rows.append([name, f"{found['mean']:.3f}", known, *(f"{x:.3f}" for x in found["per_client"])])
    text = format_table(header, rows)
    for name, chosen in results.items():
        if "cross_validated" not in chosen:
            continue
        options = ", ".join(f"{name} {value:g}" for name, value in chosen["options"].items())
        kind = "loss" if chosen["method"].startswith("ridge") else metric
        score = f"cross-validated {kind} {chosen['cross_validated']:.3f}"
        text += f"\n{name}, on the training patients: {chosen['method']}, {options} ({score})"
    return text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ArgumentError("--epsilons", "numbers", text) from None


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ArgumentError("--seeds", "whole numbers", text) from None


if __name__ == "__main__":
    define_flags()
    run_program(main)
