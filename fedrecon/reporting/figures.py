"""Figures of a run. Each function draws from arrays and dicts and returns a matplotlib figure."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.patches
import numpy as np
from matplotlib.figure import Figure

_COLORS = matplotlib.color_sequences["tab10"]
_ERROR_GAIN = 5.0
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def plot_reconstructions(
    panels: Sequence[Mapping[str, Any]], scores: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> Figure:
    """Images by site (rows) and method (columns), each with a zoom inset and an error map below.

    Args:
      panels: one mapping a site: ``site`` (its name), ``title`` (optional, shown instead), ``images`` (method
        name to a (ny, nx) magnitude array, "reference" among them, in one intensity scale), ``names``
        (optional, of methods that are called otherwise here), ``below`` (optional, of methods that show in
        place of their error another map, in the scale of the images) and ``zoom`` (row, column, height,
        width) in pixels.
      scores: ``scores[method][site]["psnr"]`` printed in each corner where present.
    """
    methods = list(panels[0]["images"])
    figure = Figure(figsize=(1.9 * len(methods), 3.9 * len(panels)), facecolor="black", layout="constrained")
    axes = figure.subplots(2 * len(panels), len(methods), squeeze=False)
    for index, panel in enumerate(panels):
        reference = np.asarray(panel["images"]["reference"])
        top, bright = float(reference.max()), float(np.percentile(reference, 99.5))
        row, column, height, width = panel["zoom"]
        for j, method in enumerate(methods):
            image = np.asarray(panel["images"][method])
            upper, lower = axes[2 * index, j], axes[2 * index + 1, j]
            upper.imshow(image, cmap="gray", vmin=0, vmax=bright, interpolation="nearest")
            upper.add_patch(
                matplotlib.patches.Rectangle(
                    (column - 0.5, row - 0.5), width, height, fill=False, edgecolor="#ffd000", linewidth=0.8
                )
            )
            inset = upper.inset_axes([0.62, 0.0, 0.38, 0.38])
            inset.imshow(
                image[row : row + height, column : column + width],
                cmap="gray",
                vmin=0,
                vmax=bright,
                interpolation="nearest",
            )
            inset.set(xticks=[], yticks=[])
            for spine in inset.spines.values():
                spine.set_edgecolor("#ffd000")
            psnr = scores.get(method, {}).get(panel["site"], {}).get("psnr")
            name = _wrapped(panel.get("names", {}).get(method, method), 18)
            upper.set_title(name if psnr is None else f"{name}\n{psnr:.1f} dB", color="white", fontsize=8)
            error = panel.get("below", {}).get(method, np.abs(image - reference))
            lower.imshow(
                _ERROR_GAIN * error,
                cmap="inferno",
                vmin=0,
                vmax=top,
                interpolation="nearest",
            )
            for axis in (upper, lower):
                axis.set(xticks=[], yticks=[])
        title = panel.get("title", panel["site"])
        axes[2 * index, 0].set_ylabel(title, color="white", fontsize=9)
        axes[2 * index + 1, 0].set_ylabel(f"error × {_ERROR_GAIN:g}", color="white", fontsize=8)
    return figure


def plot_segmentations(panels: Sequence[Mapping[str, Any]]) -> Figure:
    """Of each site the image with the reference outline (green) and the predicted one (red), four in a row.

    Args:
      panels: ``site``, ``image`` ((ny, nx) or (ny, nx, 3), scaled to [0, 1]), ``reference`` and
        ``prediction`` ((ny, nx), 0 or 1).
    """
    columns, rows = min(4, len(panels)), -(-len(panels) // 4)
    figure = Figure(figsize=(2.3 * columns, 2.7 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, panel in zip(axes, panels, strict=False):
        axis.imshow(panel["image"], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for name, color in (("reference", "#31d843"), ("prediction", "#ff4040")):
            if np.ptp(panel[name]) > 0:
                axis.contour(panel[name], levels=[0.5], colors=[color], linewidths=0.9)
        axis.set_title(_wrapped(panel["site"], 22), fontsize=8)
        axis.set(xticks=[], yticks=[])
    figure.supxlabel("green: reference   red: prediction", fontsize=8)
    return figure


def plot_classification(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Receiver operating characteristic: name to (false positive rate, true positive rate) arrays."""
    figure = Figure(figsize=(6.0, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.set_aspect("equal")
    for (name, (false_rate, true_rate)), color in zip(curves.items(), itertools.cycle(_COLORS)):
        axis.plot(false_rate, true_rate, label=name, color=color, linewidth=1.3)
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle="--")
    axis.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.01))
    if curves:
        figure.legend(fontsize=7, loc="outside right upper")
    return figure


def plot_site_scores(
    methods: Mapping[str, Mapping[str, Mapping[str, float]]], metric: str, sites: Sequence[str], label: str
) -> Figure:
    """Points: one group a site, one marker a method; sites without the figure leave a gap.

    Differences are what matters, so that the axis need not begin at zero, as that of bars would.
    """
    figure = Figure(figsize=(1.2 * len(sites) + 3, 3.2), layout="constrained")
    axis = figure.subplots()
    width = 0.7 / max(len(methods) - 1, 1)
    for j, (method, scores) in enumerate(methods.items()):
        values = [scores.get(site, {}).get(metric, np.nan) for site in sites]
        places = np.arange(len(sites)) + (j - (len(methods) - 1) / 2) * width
        axis.plot(
            places, values, _MARKERS[j % len(_MARKERS)], label=method, color=_COLORS[j % len(_COLORS)], ms=5
        )
    for edge in range(1, len(sites)):
        axis.axvline(edge - 0.5, color="0.85", linewidth=0.8)
    axis.set_xticks(range(len(sites)), [_wrapped(site, 14) for site in sites], fontsize=8)
    axis.set(ylabel=label, xlim=(-0.5, len(sites) - 0.5))
    axis.grid(axis="y", color="0.9", linewidth=0.6)
    figure.legend(fontsize=7, loc="outside right upper")
    return figure


def plot_patients(methods: Mapping[str, Sequence[float]], chosen: str, label: str, gain: str) -> Figure:
    """Boxes over patients: their scores by method, and what ``chosen`` gains over each other method.

    Boxes go from the first to the third quartile with the median, whiskers over all patients, each of whom is
    a point. Patients are the same, in one order, for all methods; those that cannot be scored are NaN.

    Args:
      methods: method -> score of each patient.
      chosen: one of them.
      label: of the scores.
      gain: of the differences.
    """
    figure = Figure(figsize=(9.6, 1.5 + 0.42 * len(methods)), layout="constrained")
    left, right = figure.subplots(1, 2)
    values = {name: np.asarray(x, float) for name, x in methods.items()}
    gains = {name: values[chosen] - x for name, x in values.items() if name != chosen}
    for axis, rows, title in ((left, values, label), (right, gains, gain)):
        for place, (name, row) in enumerate(rows.items()):
            known = row[np.isfinite(row)]
            if not len(known):
                continue
            color = _COLORS[list(values).index(name) % len(_COLORS)]
            axis.boxplot(known, positions=[place], widths=0.6, orientation="horizontal", whis=(0, 100),
                         medianprops={"color": color, "linewidth": 2}, showfliers=False)  # fmt: skip
            spread = np.linspace(-0.2, 0.2, len(known))
            axis.plot(known, place + spread, ".", color=color, ms=4, alpha=0.7)
        axis.set_yticks(range(len(rows)), [_wrapped(name, 26) for name in rows], fontsize=8)
        axis.set(xlabel=title, ylim=(len(rows) - 0.5, -0.5))
        axis.grid(axis="x", color="0.9", linewidth=0.6)
    right.axvline(0, color="0.4", linewidth=0.9)
    return figure


def plot_training(
    curves: Mapping[str, Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]],
) -> Figure:
    """Learning curves: a row for each task, a panel for each quantity, a line for each training.

    Args:
      curves: ``curves[task][quantity][training]`` is a list of points (round, value). Quantities called a
        loss have a logarithmic axis.
    """
    columns = max((len(panels) for panels in curves.values()), default=1)
    rows = max(len(curves), 1)
    figure = Figure(figsize=(5.4 * columns, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, (task, panels) in zip(axes, curves.items(), strict=False):
        for axis in row[len(panels) :]:
            axis.set_axis_off()
        for axis, (quantity, lines) in zip(row, panels.items(), strict=False):
            for j, (name, points) in enumerate(lines.items()):
                if points:
                    style = {
                        "color": _COLORS[j % len(_COLORS)],
                        "linestyle": "-" if j < len(_COLORS) else "--",
                    }
                    axis.plot(*zip(*points, strict=True), label=name, linewidth=1.3, **style)
            axis.set_title(task, fontsize=9)
            axis.set(xlabel="round", ylabel=_wrapped(quantity, 24))
            if "loss" in quantity:
                axis.set_yscale("log")
            axis.xaxis.get_major_locator().set_params(integer=True)
            if axis.get_legend_handles_labels()[0]:
                # Beside the panel: within it, it would cover curves.
                axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return figure


def plot_privacy(
    curves: Mapping[str, Sequence[tuple[float, float, float]]], plain: tuple[float, float], metric: str
) -> Figure:
    """A metric against epsilon, by unit.

    Args:
      curves: unit -> (epsilon, mean, half width of its interval); widths may be NaN.
      plain: mean and half width without privacy, a line with a band.
      metric: its name.
    """
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for number, (unit, points) in enumerate(curves.items()):
        epsilon, mean, width = np.asarray(sorted(points), float).T
        # Units side by side: their intervals would cover each other.
        axes.errorbar(
            epsilon * 1.02**number, mean, np.nan_to_num(width), fmt="o-", capsize=3, markersize=4, label=unit
        )
    mean, width = plain
    axes.axhline(mean, color="0.4", linestyle="--", linewidth=1, label="without privacy")
    if width == width:
        axes.axhspan(mean - width, mean + width, color="0.4", alpha=0.12, linewidth=0)
    ticks = sorted({epsilon for points in curves.values() for epsilon, _, _ in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("ε of every client")
    axes.set_ylabel(metric)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False)
