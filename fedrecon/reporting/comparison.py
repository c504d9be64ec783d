"""Methods compared over seeds: means, 95 % confidence intervals and paired differences, and their display."""

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedrecon.errors import ArgumentError
from fedrecon.files import replacing, write_atomically
from fedrecon.reporting.tables import format_table


class Interval(NamedTuple):
    """A mean and half the width of its confidence interval; NaN where there are too few values."""

    mean: float
    half_width: float


class ComparisonRow(NamedTuple):
    """One method and one figure.

    Attributes:
      method: its name.
      model: "own", "released" or "unseen site".
      values: seed -> value.
      interval: of the values.
      difference: of the values minus the baseline's at the same seeds; None for the baseline.
      verdict: "better", "worse" or "no difference shown", by whether the interval of the differences has
        zero in it; "" for the baseline, or with fewer than two seeds.
    """

    method: str
    model: str
    values: dict[int, float]
    interval: Interval
    difference: Interval | None
    verdict: str


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution for a whole number of degrees of freedom.

    By bisection of the closed form of the distribution (Abramowitz and Stegun, 26.7.3 and 26.7.4).

    Raises:
      ValueError: ``probability`` is not in (0, 1), or ``freedom`` not a positive integer.
    """
    if not 0 < probability < 1:
        raise ArgumentError("probability", "a number in (0, 1)", repr(probability))
    if isinstance(freedom, bool) or not isinstance(freedom, int) or freedom < 1:
        raise ArgumentError("freedom", "an integer of at least 1", repr(freedom))
    if probability == 0.5:
        return 0.0
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    # In the angle whose tangent is t / sqrt(freedom), the whole line is an interval.
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        if 0.5 + _central_probability(middle, freedom) / 2 < probability:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean and half width of its interval by the t distribution; values that are NaN make both NaN."""
    values = np.asarray(values, float)
    if not len(values):
        return Interval(math.nan, math.nan)
    if len(values) < 2:
        return Interval(float(values[0]), math.nan)
    error = values.std(ddof=1) / math.sqrt(len(values))
    return Interval(float(values.mean()), float(t_quantile((1 + confidence) / 2, len(values) - 1) * error))


def compare_values(
    values: Mapping[str, Mapping[int, float]], baseline: str, model: str, *, lower_is_better: bool = False
) -> list[ComparisonRow]:
    """Rows of methods, in their order, with paired differences to the baseline.

    Args:
      values: method -> seed -> value.
      baseline: the method of which differences are taken; without it there are none.
      model: "own", "released" or "unseen site", for the rows.
      lower_is_better: which sign of a difference is good.
    """
    rows = []
    for method, own in values.items():
        difference, verdict = None, ""
        if method != baseline and baseline in values:
            seeds = [seed for seed in own if seed in values[baseline]]
            difference = mean_interval([own[seed] - values[baseline][seed] for seed in seeds])
            if not math.isnan(difference.half_width):
                verdict = "no difference shown"
                if abs(difference.mean) > difference.half_width:
                    verdict = "better" if (difference.mean > 0) != lower_is_better else "worse"
        rows.append(
            ComparisonRow(method, model, dict(own), mean_interval(list(own.values())), difference, verdict)
        )
    return rows


def text_table(rows: Sequence[ComparisonRow], metric: str, baseline: str, digits: int = 3) -> str:
    """The table for a terminal."""
    header, body = _cells(rows, metric, baseline, digits, " ± ")
    return format_table(header, body)


def markdown_table(rows: Sequence[ComparisonRow], metric: str, baseline: str, digits: int = 3) -> str:
    """The table in Markdown."""
    header, body = _cells(rows, metric, baseline, digits, " ± ")
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *body)) + "\n"


def latex_table(rows: Sequence[ComparisonRow], metric: str, baseline: str, digits: int = 3) -> str:
    """The table as a LaTeX ``tabular`` for the package booktabs."""
    header, body = _cells(rows, metric, baseline, digits, r" \pm ")

    def cell(text: str) -> str:
        if "\\pm" in text:
            return f"${text}$"
        return text.replace("_", r"\_").replace("–", "--")

    lines = [" & ".join(map(cell, line)) + r" \\" for line in (header, *body)]
    columns = "ll" + "r" * (len(header) - 3) + "l"
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def write_csv(path: str | os.PathLike, rows: Sequence[ComparisonRow], metric: str) -> None:
    """One line a method, model and seed: ``method, model, metric, seed, value``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "model", "metric", "seed", "value"])
    for row in rows:
        for seed, value in row.values.items():
            writer.writerow([row.method, row.model, metric, seed, repr(float(value))])
    write_atomically(path, text.getvalue().encode())


def plot_comparison(rows: Sequence[ComparisonRow], metric: str, baseline: str) -> Figure:
    """Points with intervals: the metric on the left, paired differences to the baseline on the right."""
    models = list(dict.fromkeys(row.model for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Figure(figsize=(7.6, 1.3 + 0.34 * len(methods)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for number, model in enumerate(models):
        shift = (number - (len(models) - 1) / 2) * 0.3
        color = f"C{number}"
        for row in (row for row in rows if row.model == model):
            y = methods.index(row.method) + shift
            seeds = list(row.values.values())
            left.plot(seeds, [y] * len(seeds), ".", color=color, alpha=0.3, markersize=4)
            first = row.method == next(r.method for r in rows if r.model == model)
            _point(left, row.interval, y, color, f"{model} model" if first else None)
            if row.difference is not None:
                _point(right, row.difference, y, color, None)
    right.axvline(0, color="0.6", linewidth=0.8)
    left.set_yticks(range(len(methods)), methods, fontsize=8)
    left.set_ylim(len(methods) - 0.5, -0.5)
    left.set_xlabel(metric)
    right.set_xlabel(f"difference to {baseline}, paired by seed")
    figure.legend(fontsize=7, loc="outside upper center", ncols=2)
    return figure


def save_comparison_plot(
    path: str | os.PathLike, rows: Sequence[ComparisonRow], metric: str, baseline: str
) -> None:
    """Writes `plot_comparison` as a PNG file."""
    figure = plot_comparison(rows, metric, baseline)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _point(axis: Axes, interval: Interval, y: float, color: str, label: str | None) -> None:
    width = None if math.isnan(interval.half_width) else interval.half_width
    axis.errorbar(
        interval.mean,
        y,
        xerr=width,
        fmt="o",
        color=color,
        markersize=4,
        capsize=2,
        linewidth=1.2,
        label=label,
    )


def _cells(
    rows: Sequence[ComparisonRow], metric: str, baseline: str, digits: int, sign: str
) -> tuple[list[str], list[list[str]]]:
    seeds = max((len(row.values) for row in rows), default=0)
    header = ["method", "model", f"{metric} ({seeds} seeds)", f"minus {baseline}", ""]
    body = [
        [
            row.method,
            row.model,
            _interval(row.interval, digits, sign),
            "–" if row.difference is None else _interval(row.difference, digits, sign, signed=True),
            row.verdict,
        ]
        for row in rows
    ]
    return header, body


def _interval(interval: Interval, digits: int, sign: str, signed: bool = False) -> str:
    if math.isnan(interval.mean):
        return "–"
    mean = f"{interval.mean:+.{digits}f}" if signed else f"{interval.mean:.{digits}f}"
    if math.isnan(interval.half_width):
        return mean
    return f"{mean}{sign}{interval.half_width:.{digits}f}"


def _central_probability(angle: float, freedom: int) -> float:
    """P(|T| < sqrt(freedom) tan(angle))."""
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom == 1:
        return 2 * angle / math.pi
    odd = freedom % 2
    term = total = cosine if odd else 1.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
