"""Figures of a run. Each function draws from arrays and dicts and returns a matplotlib figure."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.patches
import numpy as np
from matplotlib.figure import Figure

_COLORS = matplotlib.color_sequences["tab10"]
_ERROR_GAIN = 5.0


def plot_reconstructions(
    panels: Sequence[Mapping[str, Any]], scores: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> Figure:
    """Images by site (rows) and method (columns), each with a zoom inset and an error map below.

    Args:
      panels: one mapping a site: ``site`` (its name), ``images`` (method name to a (ny, nx) magnitude array,
        "reference" among them, in one intensity scale) and ``zoom`` (row, column, height, width) in pixels.
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
            title = method if psnr is None else f"{method}\n{psnr:.1f} dB"
            upper.set_title(title, color="white", fontsize=8)
            lower.imshow(
                _ERROR_GAIN * np.abs(image - reference),
                cmap="inferno",
                vmin=0,
                vmax=top,
                interpolation="nearest",
            )
            for axis in (upper, lower):
                axis.set(xticks=[], yticks=[])
        axes[2 * index, 0].set_ylabel(panel["site"], color="white", fontsize=9)
        axes[2 * index + 1, 0].set_ylabel(f"error × {_ERROR_GAIN:g}", color="white", fontsize=8)
    return figure


def plot_segmentations(panels: Sequence[Mapping[str, Any]]) -> Figure:
    """One column a site: the image with the reference outline (green) and the predicted one (red).

    Args:
      panels: ``site``, ``image`` ((ny, nx) or (ny, nx, 3), scaled to [0, 1]), ``reference`` and
        ``prediction`` ((ny, nx), 0 or 1).
    """
    figure = Figure(figsize=(2.3 * len(panels), 2.6), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        axis.imshow(panel["image"], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for name, color in (("reference", "#31d843"), ("prediction", "#ff4040")):
            if np.ptp(panel[name]) > 0:
                axis.contour(panel[name], levels=[0.5], colors=[color], linewidths=0.9)
        axis.set_title(panel["site"], fontsize=8)
        axis.set(xticks=[], yticks=[])
    figure.supxlabel("green: reference   red: prediction", fontsize=8)
    return figure


def plot_classification(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Receiver operating characteristic: name to (false positive rate, true positive rate) arrays."""
    figure = Figure(figsize=(3.6, 3.4), layout="constrained")
    axis = figure.subplots()
    for (name, (false_rate, true_rate)), color in zip(curves.items(), itertools.cycle(_COLORS)):
        axis.plot(false_rate, true_rate, label=name, color=color, linewidth=1.3)
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle="--")
    axis.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.01))
    axis.legend(fontsize=7, loc="lower right")
    return figure


def plot_site_bars(
    methods: Mapping[str, Mapping[str, Mapping[str, float]]], metric: str, sites: Sequence[str], label: str
) -> Figure:
    """Grouped bars: one group a site, one bar a method; sites without the figure leave a gap."""
    figure = Figure(figsize=(1.4 * len(sites) + 2, 2.8), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(methods)
    lowest: list[float] = []
    for j, (method, scores) in enumerate(methods.items()):
        values = [scores.get(site, {}).get(metric, np.nan) for site in sites]
        lowest.extend(value for value in values if np.isfinite(value))
        axis.bar(
            np.arange(len(sites)) + (j - (len(methods) - 1) / 2) * width,
            values,
            width,
            label=method,
            color=_COLORS[j % len(_COLORS)],
        )
    axis.set_xticks(range(len(sites)), sites, fontsize=8)
    axis.set_ylabel(label)
    if metric == "psnr" and lowest:
        axis.set_ylim(bottom=min(lowest) - 2)
    axis.legend(fontsize=7, ncols=2)
    return figure


def plot_training(records: Sequence[Mapping[str, Any]], stages: Sequence[str]) -> Figure:
    """Training loss by round, one line a stage, from the records of the run log."""
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axis = figure.subplots()
    for stage, color in zip(stages, itertools.cycle(_COLORS)):
        points = [(r["round"], r["loss"]) for r in records if r.get("stage") == stage and "loss" in r]
        if points:
            axis.plot(*zip(*points, strict=True), label=stage, color=color, linewidth=1.3)
    axis.set(xlabel="round", ylabel="training loss")
    axis.set_yscale("log")
    if axis.get_legend_handles_labels()[0]:
        figure.legend(fontsize=7, loc="outside right upper")
    return figure
