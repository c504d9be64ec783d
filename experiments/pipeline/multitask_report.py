"""One table and one figure of `experiments.multitask`, from numbers."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.pipeline.multitask_problems import BASELINE
from fedrecon import evaluation, reporting
from fedrecon.errors import ArgumentError

# What a federation costs: key of a row -> label of the axis, and words of the table.
COSTS = {"bytes_up": "MB up", "epsilon": "ε of every client", "seconds": "seconds of all rounds"}
_BETTER = ("higher", "lower")
Rows = Mapping[str, Mapping[str, Any]]


def with_fronts(rows: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows of a problem; federations get "fronts", the costs on whose front they are, and "dominated_by".

    The latter names the federations that are as good and as cheap in every cost, and better in one.
    """
    names = [name for name, row in rows.items() if row.get("exchanges") and "score" in row]
    found = {name: dict(row) for name, row in rows.items()}
    for cost in COSTS:
        on_front = evaluation.pareto_front([[rows[n]["score"], rows[n][cost]] for n in names], _BETTER)
        for name, there in zip(names, on_front, strict=True):
            found[name].setdefault("fronts", []).extend([cost] if there else [])
    points = [[rows[n]["score"], *(rows[n][cost] for cost in COSTS)] for n in names]
    beaten = evaluation.dominates(points, ("higher", *["lower"] * len(COSTS)))
    for i, name in enumerate(names):
        found[name]["dominated_by"] = [names[j] for j in np.flatnonzero(beaten[:, i])]
    return found


def saved_bytes(rows: Rows, floor: float) -> float:
    """Hypervolume of score above ``floor`` times decades of bytes saved against the costliest federation."""
    points = [
        [row["score"], math.log10(row["bytes_up"])]
        for row in rows.values()
        if row.get("exchanges") and math.isfinite(row.get("score", math.nan)) and row["bytes_up"] > 0
    ]
    if not points or not math.isfinite(floor):
        return math.nan
    return evaluation.hypervolume(points, _BETTER, (floor, max(cost for _, cost in points)))


def with_differences(rows: Mapping[str, dict[str, Any]], baseline: str) -> dict[str, dict[str, Any]]:
    """The rows with "p_value" of the difference to the baseline over patients, by Wilcoxon's test and Holm's.

    A patient counts once, with the mean over the seeds that tested them. A row without scores of
    single patients gets none.
    """
    found, tests = {name: dict(row) for name, row in rows.items()}, {}
    patients = rows.get(baseline, {}).get("patients", [])
    for name, row in rows.items():
        if name != baseline and len(row.get("patients", [])) == len(patients) > 0:
            try:
                tests[name] = evaluation.paired_test(row["patients"], patients)
            except ArgumentError:
                # Fewer than two patients with both scores.
                continue
    for name, test in evaluation.holm(tests).items():
        found[name] |= {"difference": test.difference, "p_value": test.adjusted}
    return found


def table(problems: Mapping[str, Mapping[str, Any]]) -> str:
    """All problems, one under the other."""
    header = ["problem", "trained", "score", "95 % of patients", "± seeds", "worst site", "p", "patients",
              "MB up", "ε", "seconds", "front"]  # fmt: skip
    lines = []
    for problem in problems.values():
        for number, (name, row) in enumerate(problem["rows"].items()):
            title = f"{problem['title']}, {problem['label']}" if number == 0 else ""
            lines.append([title, _name(problem, name), *_cells(row)])
    return reporting.format_table(header, lines)


def markdown(problems: Mapping[str, Mapping[str, Any]]) -> str:
    """The same for a page, a table for each problem."""
    header = [
        "trained",
        "score (95 % of patients)",
        "± seeds",
        "worst site",
        "p",
        "MB up",
        "ε",
        "seconds",
        "front",
    ]
    parts = []
    for problem in problems.values():
        lines = [
            f"| {problem['title']}, {problem['label']}: {' | '.join(header)} |",
            "| --- " * len(header) + "|",
        ]
        for name, row in problem["rows"].items():
            score, interval, *rest = _cells(row)
            rest.pop(3)
            both = score if interval == "–" else f"{score} ({interval})"
            lines.append("| " + " | ".join([_name(problem, name), both, *rest]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def missing(problems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sentences on what could not be computed or saved nothing, the first with the number of the former."""
    rows = [(p, name, row) for p, problem in problems.items() for name, row in problem["rows"].items()]
    sentences = []
    for problem, name, row in rows:
        if row.get("refused"):
            sentences.append(f"{problem}, {name}: not trained: {row['refused']}")
        elif math.isnan(row["score"]):
            sentences.append(f"{problem}, {name}: no score: {row['reason']}")
        elif row["unscored"] and name == next(iter(problems[problem]["rows"])):
            sentences.append(f"{problem}: {row['unscored']} of {row['unscored'] + row['scored']} test "
                             f"patients have no score of their own: {row['reason']}")  # fmt: skip
        elif row.get("features") == ["codec"] and row["bytes_up"] >= (dense := _dense(problems[problem])):
            words = f"nothing was compressed: {row['bytes_up']:.0f} bytes up, and {dense:.0f} without a codec"
            sentences.append(f"{problem}, {name}: {words}")
    none = sum(bool(row.get("refused")) or math.isnan(row["score"]) for _, _, row in rows)
    return [f"{none} of {len(rows)} rows have no score", *sentences]


def _dense(problem: Mapping[str, Any]) -> float:
    """Bytes up of FedAvg; NaN where it has none."""
    return problem["rows"].get(BASELINE, {}).get("bytes_up", math.nan)


def figure(problems: Mapping[str, Mapping[str, Any]]) -> Any:
    """Scores against bytes, ε and seconds; comparators that no federation is are lines."""
    panels = []
    for problem in problems.values():
        known = {name: row for name, row in problem["rows"].items() if "score" in row}
        federations = {name: row for name, row in known.items() if row["exchanges"]}
        lines = {name: row["score"] for name, row in known.items() if not row["exchanges"]}
        # Names of problems' own are one in the legend.
        lines = {"no training" if name in problem["untrained"] else name: x for name, x in lines.items()}
        panels.append(
            [
                reporting.TradeOff(
                    problem["title"],
                    label,
                    problem["label"],
                    [
                        reporting.TradeOffPoint(
                            name,
                            row[cost] / 1e6 if cost == "bytes_up" else row[cost],
                            row["score"],
                            row["low"],
                            row["high"],
                            cost in row["fronts"],
                        )
                        for name, row in federations.items()
                    ],
                    lines,
                    "none",
                )
                for cost, label in COSTS.items()
            ]
        )
    return reporting.plot_trade_offs(panels)


def _name(problem: Mapping[str, Any], name: str) -> str:
    return f"{name} (chosen)" if name == problem["chosen"] else name


def _cells(row: Mapping[str, Any]) -> list[str]:
    if row.get("refused"):
        return ["refused", *["–"] * 9]
    low, high = row["low"], row["high"]
    digits = 2 if abs(row["score"]) > 1.5 else 3
    interval = f"{low:.{digits}f} to {high:.{digits}f}" if math.isfinite(low) and math.isfinite(high) else "–"
    costs = ["–"] * 3
    if row["exchanges"]:
        epsilon = "none" if math.isinf(row["epsilon"]) else f"{row['epsilon']:.2f}"
        costs = [f"{row['bytes_up'] / 1e6:.3g}", epsilon, f"{row['seconds']:.1f}"]
    names = {"bytes_up": "bytes", "epsilon": "ε", "seconds": "seconds"}
    return [
        _shown(row["score"], digits),
        interval,
        _shown(row["half_width"], digits),
        _shown(row["worst_site"], digits),
        _shown(row.get("p_value", math.nan), 2),
        f"{row['scored']} of {row['scored'] + row['unscored']}",
        *costs,
        ", ".join(names[cost] for cost in row.get("fronts", [])) or "–",
    ]


def _shown(value: float, digits: int) -> str:
    if math.isinf(value):
        return "diverged"
    return "–" if math.isnan(value) else f"{value:.{digits}f}"
