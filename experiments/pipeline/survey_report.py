"""The survey's results as JSON, as a page and as figures."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.pipeline import sweep
from experiments.pipeline.survey_problems import PROBLEMS
from experiments.pipeline.survey_rows import TABLES, Row
from experiments.pipeline.survey_runs import FEDAVG, TRIVIAL
from experiments.pipeline.survey_tables import ROWS
from fedrecon.files import write_atomically
from fedrecon.runtime import decode_numbers

_FILE = "survey.json"
_TITLES = {
    "applications": "Applications",
    "algorithms": "Improved algorithms",
    "frameworks": "Improved frameworks",
    "privacy": "Privacy",
}
# Of those of which more is better, all on one scale.
_SCORES = {"dice": "Dice", "accuracy": "accuracy", "auc": "AUC", "ssim": "SSIM", "kappa": "kappa"}
_METRICS = {**_SCORES, "psnr": "PSNR", "loss": "loss"}
_HEADER = """# The review's systems, run again

The 44 systems of Liu, Dai and Chen, *Review of Federated Learning in Medical Image Processing*, Computer
Science 52(1), 2025, each on data that are there, beside FedAvg, each site alone and pooled data. **{measured}
were run for this page**, which `python -m experiments.survey --preset={preset} --data_dir=DIR` writes, and
which grows with every row. **The review's figures are of other data, networks and schedules:
they stand beside ours, and are not compared with them.** Problems are small (a few rounds of small networks
on two processors), and nothing was tuned for any method: same data, same network, same steps and rates for
all rows of a problem, except for what is listed under own settings. Scores are means over the clients' own
test examples, by the model that a client would use, with 95 % intervals over seeds (t distribution);
differences are to FedAvg, seed by seed. With this many rows some differences leave zero out by chance.
"MB" is what all clients sent and got in these rounds.
"""


def read(folder: Path) -> dict[str, Any]:
    """The results that are in a directory: "ROW/PROBLEM" -> result."""
    file = folder / _FILE
    return json.loads(file.read_text())["results"] if file.exists() else {}


def write(folder: Path, results: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """Writes survey.json, survey.md and the figures; returns the numbers."""
    order = {row.name: number for number, row in enumerate(ROWS)}
    known = {key: value for key, value in results.items() if value["row"] in order}
    results = dict(sorted(known.items(), key=lambda item: order[item[1]["row"]]))
    document = sweep.write_json(folder / _FILE, {"preset": preset, "results": results})
    write_atomically(folder / "survey.md", page(document).encode())
    for table in TABLES:
        if found := figure(document["results"], table):
            sweep.save_figure(folder / f"survey_{table}.png", found)
    return document


def line(result: Mapping[str, Any]) -> str:
    """A result in a line."""
    rows = result["rows"]
    own = rows[result["row"]]
    metric = _METRICS[result["metric"]]
    return (
        f"{result['row']} on {result['problem']}: {metric} {_interval(own['interval'])}, FedAvg "
        f"{_interval(rows[FEDAVG]['interval'])}: {_verdict(own)}"
    )


def page(document: Mapping[str, Any]) -> str:
    """The page, in Markdown, of what `write` has written."""
    results = _decoded(document["results"])
    count = len({r["row"] for r in results.values()})
    measured = "All of them" if count == len(ROWS) else f"{count} of them"
    lines = [_HEADER.format(preset=document["preset"], measured=measured)]
    for table in TABLES:
        of_table = [row for row in ROWS if row.table == table and _of(results, row)]
        if not of_table:
            continue
        lines += [f"## {_TITLES[table]}", "", f"![Differences to FedAvg](images/survey_{table}.png)", ""]
        lines += [
            "| row | problem | score | FedAvg | difference | |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for row in of_table:
            for result in _of(results, row):
                own, average = result["rows"][row.name], result["rows"][FEDAVG]
                name = f"[{row.name}](#{_anchor(row.name)})"
                cells = (name, result["problem"], _interval(own["interval"]), _interval(average["interval"]),
                         _difference(own["difference"]), own["verdict"])  # fmt: skip
                lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
        for row in of_table:
            lines += _section(row, _of(results, row))
    return "\n".join(lines)


def _section(row: Row, results: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"### {row.name}", "", row.purpose, ""]
    lines += [f"Made for: {row.shift}. The review: {row.reported}, on {row.paper_data}.", ""]
    lines += [f"Seen with the preset small, five seeds: {row.remark}", ""] if row.remark else []
    shown = {label for result in results for label in result["rows"]}
    lines += [f"Own settings: {own}.", ""] if (own := own_settings(row, shown)) else []
    for result in results:
        metric = _METRICS[result["metric"]]
        lines += [f"**{PROBLEMS[result['problem']].title}** stands in. {_sentence(result)}", ""]
        lines += [f"| | {metric} | minus FedAvg | | worst client | minus FedAvg | MB | simulated hours |",
                  "| --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
        for label, found in result["rows"].items():
            cells = (
                label,
                _interval(found["interval"]),
                _difference(found["difference"]),
                found["verdict"],
                _figure(found["worst"]),
                _difference(found["worst_difference"]),
                _figure(found["bytes"] / 1e6, 1),
                _figure(found["clock"] / 3600, 2),
            )
            lines.append("| " + " | ".join(cells) + " |")
        if not math.isnan(result["trivial"]):
            lines.append(f"| {TRIVIAL} | {_figure(result['trivial'])} | | | | | | |")
        lines.append("")
        lines += _besides(result.get("besides", {}))
    return lines


def _besides(figures: Mapping[str, Any]) -> list[str]:
    """Figures beside the scores, as a table: each with its differences, or without a reference by seed."""
    if not figures:
        return []
    header = [""]
    for title, found in figures.items():
        header += [title, f"minus {found['reference']}" if found["reference"] else "seed by seed"]
    lines = ["| " + " | ".join(header) + " |", "| --- " * len(header) + "|"]
    for label in dict.fromkeys(label for found in figures.values() for label in found["rows"]):
        cells = [label]
        for found in figures.values():
            row = found["rows"][label]
            values = ", ".join(map(_figure, row["values"].values()))
            difference = f"{_difference(row['difference'])} {row['verdict']}".strip()
            cells += [_interval(row["interval"]), difference if found["reference"] else values]
        lines.append("| " + " | ".join(cells) + " |")
    return ["Measured besides:", "", *lines, ""]


def own_settings(row: Row, labels: Collection[str]) -> str:
    """What trainings of a row, of these labels, do not have in common with FedAvg besides the method."""
    given = {row.name: {**row.settings, "start": row.start, "turns": row.turns}, **row.rivals}
    given |= {label: {"start": way} for label, way in row.starts.items()}
    found = []
    for label, changes in given.items():
        if label not in labels:
            continue
        parts = [f"{name}={value}" for name, value in changes.get("algorithm_options", ())]
        left = ("algorithm", "algorithm_options", "start", "turns", "on")
        parts += [f"{name}={value}" for name, value in changes.items() if name not in left]
        if way := changes.get("start"):
            parts.append(f"a start from as many rounds without labels ({way}), which are not among its MB")
        if (turns := changes.get("turns", 1)) > 1:
            parts.append(f"{turns} times the rounds, so that its model takes {turns} times the steps")
        found += [f"{label}: {', '.join(parts)}"] if parts else []
    shared = ", ".join(f"{name}={value}" for name, value in row.shared.items())
    return "; ".join([*found, *([f"all: {shared}"] if shared else [])])


def _sentence(result: Mapping[str, Any]) -> str:
    """What was measured, in a sentence."""
    own, seeds = result["rows"][result["row"]], len(result["rows"][FEDAVG]["values"])
    count = f"{seeds} seed{'s' if seeds > 1 else ''}"
    if own["difference"] and math.isnan(own["difference"]["half_width"]):
        return f"{count}: no interval."
    return f"{count}: {_verdict(own)}."


def _verdict(found: Mapping[str, Any]) -> str:
    difference = found["difference"]
    if not difference:
        return found["verdict"] or "the same training"
    if difference["mean"] == 0 and difference["half_width"] == 0:
        return "equal to FedAvg in every seed"
    return f"{_difference(difference)}, {found['verdict']}".rstrip(", ")


def figure(results: Mapping[str, Any], table: str) -> Figure | None:
    """Differences to FedAvg with intervals, a line for each row and problem of a table; None of no rows."""
    results = _decoded(results)
    rows = [row for row in ROWS if row.table == table]
    shown = [
        (f"{row.name}, {result['problem']}", result)
        for row in rows
        for result in _of(results, row)
        if result["metric"] in _SCORES and result["rows"][row.name]["difference"]
    ]
    if not shown:
        return None
    found = Figure(figsize=(7.2, 0.9 + 0.27 * len(shown)), layout="constrained")
    axes = found.add_subplot()
    for place, (_, result) in enumerate(reversed(shown)):
        for label, marker, color in (
            (result["row"], "o", "C0"),
            ("pooled", "|", "C2"),
            ("each alone", "|", "C3"),
        ):
            if label not in result["rows"]:
                continue
            difference = result["rows"][label]["difference"]
            width = (
                0
                if math.isnan(difference["half_width"]) or label != result["row"]
                else difference["half_width"]
            )
            axes.errorbar(
                difference["mean"],
                place,
                xerr=width or None,
                fmt=marker,
                color=color,
                markersize=5,
                capsize=2,
                linewidth=1.2,
                label=("the row, 95 % over seeds" if marker == "o" else label) if place == 0 else None,
            )
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [name for name, _ in reversed(shown)], fontsize=8)
    axes.set_xlabel("score minus that of FedAvg (Dice, accuracy, AUC, SSIM)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.margins(y=0.03)
    axes.grid(axis="x", alpha=0.3)
    found.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return found


def _of(results: Mapping[str, Any], row: Row) -> list[Mapping[str, Any]]:
    return [result for result in results.values() if result["row"] == row.name]


def _decoded(value: Any) -> Any:
    """Numbers as they were: null is NaN."""
    if isinstance(value, dict):
        return {key: _decoded(part) for key, part in value.items()}
    return math.nan if value is None else decode_numbers(value)


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _interval(interval: Mapping[str, float]) -> str:
    if math.isnan(interval["half_width"]):
        return _figure(interval["mean"])
    return f"{_figure(interval['mean'])} ± {_figure(interval['half_width'])}"


def _difference(difference: Mapping[str, float]) -> str:
    if not difference:
        return ""
    if math.isnan(difference["mean"]):
        return "–"
    sign = "+" if difference["mean"] >= 0 else "-"
    text = f"{sign}{_figure(abs(difference['mean']))}"
    return text if math.isnan(difference["half_width"]) else f"{text} ± {_figure(difference['half_width'])}"


def _figure(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"
