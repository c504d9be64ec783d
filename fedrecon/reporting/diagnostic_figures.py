"""Figures of a diagnosis: scores by site, agreement of two measurements, and calibration."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from fedrecon.reporting.figures import _COLORS, _MARKERS, _wrapped


def plot_site_boxes(
    methods: Mapping[str, Mapping[str, Sequence[float]]], sites: Sequence[str], label: str
) -> Figure:
    """Boxes over the patients of each site, one group a site and one box a method.

    Boxes go from the first to the third quartile with the median, whiskers over all patients, each of whom is
    a point; patients that cannot be scored are NaN and left out, and below a site is how many there are.

    Args:
      methods: method -> site -> score of each patient.
      sites: in their order.
      label: of the scores.
    """
    figure = Figure(figsize=(1.2 + max(1.3, 0.42 * len(methods)) * len(sites), 3.6), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(methods)
    counts = dict.fromkeys(sites, 0)
    for j, (method, scores) in enumerate(methods.items()):
        color = _COLORS[j % len(_COLORS)]
        for i, site in enumerate(sites):
            values = np.asarray(scores.get(site, ()), float)
            known = values[np.isfinite(values)]
            if not len(known):
                continue
            counts[site] = max(counts[site], len(known))
            place = i + (j - (len(methods) - 1) / 2) * width
            axis.boxplot(known, positions=[place], widths=0.8 * width, whis=(0, 100), showfliers=False,
                         medianprops={"color": color, "linewidth": 2})  # fmt: skip
            spread = np.linspace(-0.25, 0.25, len(known)) * width
            axis.plot(place + spread, known, ".", color=color, ms=4, alpha=0.7)
        axis.plot([], [], "s", color=color, label=method, ms=5)
    names = [f"{_wrapped(site, 14)}\n{counts[site]} patients" for site in sites]
    axis.set_xticks(range(len(sites)), names, fontsize=8)
    axis.set(ylabel=label, xlim=(-0.5, len(sites) - 0.5))
    axis.grid(axis="y", color="0.9", linewidth=0.6)
    figure.legend(fontsize=7, loc="outside upper center", ncols=min(4, len(methods)))
    return figure


def plot_agreement(
    pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    limits: tuple[float, float, float],
    label: str,
) -> Figure:
    """Differences of two measurements over their means (Bland and Altman 1986), one marker a site.

    Args:
      pairs: site -> the first and the second measurement of each patient.
      limits: bias and limits of agreement of all, as `fedrecon.evaluation.limits_of_agreement` has them.
      label: of the measurements, with their unit.
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    for j, (site, (first, second)) in enumerate(pairs.items()):
        first, second = np.asarray(first, float), np.asarray(second, float)
        axis.plot((first + second) / 2, first - second, _MARKERS[j % len(_MARKERS)], label=site, ms=5,
                  color=_COLORS[j % len(_COLORS)], alpha=0.8)  # fmt: skip
    for value, name, style in zip(limits, ("bias", "− 1.96 SD", "+ 1.96 SD"), ("-", "--", "--"), strict=True):
        axis.axhline(value, color="0.3", linewidth=0.9, linestyle=style)
        axis.annotate(f"{name} {value:.4g}", (1, value), xycoords=("axes fraction", "data"), fontsize=7,
                      ha="right", va="bottom")  # fmt: skip
    axis.axhline(0, color="0.8", linewidth=0.8)
    axis.margins(y=0.15)
    axis.set(xlabel=f"mean of both: {label}", ylabel="difference")
    if pairs:
        figure.legend(fontsize=7, loc="outside right upper")
    return figure


def plot_calibration(curves: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[int]]]) -> Figure:
    """How often what was said with a probability was so, and how often each was said.

    Args:
      curves: name -> mean probability, share of the positive and number of examples in each bin, as
        `fedrecon.evaluation.reliability` has them; empty bins are NaN.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle="--")
    for j, (name, (confidence, share, count)) in enumerate(curves.items()):
        known, color = np.asarray(count) > 0, _COLORS[j % len(_COLORS)]
        places = np.asarray(confidence, float)[known]
        style = _MARKERS[j % len(_MARKERS)] + "-"
        above.plot(
            places, np.asarray(share, float)[known], style, ms=5, color=color, linewidth=1.2, label=name
        )
        edges = np.linspace(0, 1, len(known) + 1)
        below.stairs(np.asarray(count, float), edges, color=color, linewidth=1.2)
    above.set(ylabel="share that was positive", ylim=(-0.02, 1.02))
    below.set(xlabel="probability that was said", ylabel="examples", xlim=(0, 1))
    for axis in (above, below):
        axis.grid(color="0.9", linewidth=0.6)
    if curves:
        figure.legend(fontsize=7, loc="outside right upper")
    return figure
