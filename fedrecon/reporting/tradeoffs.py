"""Trade-offs as figures: scores against what they cost, with the front of what nothing beats."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLORS = (*matplotlib.color_sequences["tab10"], *matplotlib.color_sequences["Dark2"])
_LINES: tuple[Any, ...] = ("--", ":", "-.", (0, (8, 2)), (0, (1, 5)))
# Infinite costs are drawn this many times further right than the largest finite one.
_BEYOND = 3.0
# Points of one cost are this factor apart, and a shorter axis than this factor has ticks of its own.
_APART, _DECADES = 1.07, 30.0


class TradeOffPoint(NamedTuple):
    """A method: what it costs (may be infinite), its score, the interval of that, and if nothing beats it."""

    name: str
    cost: float
    score: float
    low: float
    high: float
    on_front: bool


class TradeOff(NamedTuple):
    """A panel.

    Attributes:
      title, cost, score: texts; ``cost`` and ``score`` label the axes.
      points: of the methods; those whose score is not finite are left out.
      lines: name -> score of what has no such cost, drawn across.
      unlimited: what an infinite cost is called.
    """

    title: str
    cost: str
    score: str
    points: Sequence[TradeOffPoint]
    lines: Mapping[str, float] = {}
    unlimited: str = "∞"


def plot_trade_offs(rows: Sequence[Sequence[TradeOff]]) -> Figure:
    """A panel for every cost (columns) of every problem (rows); points of the front are full and joined.

    Costs are on a logarithmic axis. Points are numbered, and the legend says which method each number is, so
    that labels do not cover each other; numbers are those of the order in which names first appear.
    """
    names = list(dict.fromkeys(point.name for row in rows for panel in row for point in panel.points))
    lines = list(dict.fromkeys(name for row in rows for panel in row for name in panel.lines))
    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(3.1 * columns + 1.9, 2.5 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for panels, line in zip(rows, axes, strict=True):
        for panel, axis in itertools.zip_longest(panels, line):
            if panel is None:
                axis.set_axis_off()
            else:
                _draw(axis, panel, names, lines)
    handles = [
        matplotlib.lines.Line2D([], [], marker="o", linestyle="", color=_color(i), label=f"{i + 1}  {name}")
        for i, name in enumerate(names)
    ]
    handles += [
        matplotlib.lines.Line2D([], [], linestyle=_LINES[i % len(_LINES)], color="0.4", label=name)
        for i, name in enumerate(lines)
    ]
    handles.append(
        matplotlib.lines.Line2D([], [], color="0.55", linewidth=1, label="front: nothing beats it")
    )
    figure.legend(handles=handles, fontsize=7, loc="outside right upper")
    return figure


def _draw(axis: Axes, panel: TradeOff, names: Sequence[str], lines: Sequence[str]) -> None:
    points = [point for point in panel.points if np.isfinite(point.score) and not np.isnan(point.cost)]
    finite = [point.cost for point in points if 0 < point.cost < np.inf]
    beyond = _BEYOND * max(finite, default=1.0)
    before = min(finite, default=1.0) / _BEYOND
    places = _spread({p.name: beyond if np.isinf(p.cost) else max(p.cost, before) for p in points})
    for name, score in panel.lines.items():
        if np.isfinite(score):
            style = _LINES[lines.index(name) % len(_LINES)]
            axis.axhline(score, linestyle=style, color="0.4", linewidth=1)
    front = sorted((places[p.name], p.score) for p in points if p.on_front)
    if front:
        axis.step(*zip(*front, strict=True), where="post", color="0.55", linewidth=1)
    for point in points:
        x, color = places[point.name], _color(names.index(point.name))
        if np.isfinite(point.low) and np.isfinite(point.high):
            axis.vlines(x, point.low, point.high, color=color, linewidth=0.8, alpha=0.6)
        face = color if point.on_front else "white"
        axis.plot(x, point.score, "o", markersize=6, markerfacecolor=face, markeredgecolor=color)
        axis.annotate(
            str(names.index(point.name) + 1),
            (x, point.score),
            xytext=(5, 3),
            textcoords="offset points",
            fontsize=7,
        )
    axis.set_xscale("log")
    axis.margins(x=0.12)
    axis.set_title(panel.title, fontsize=9)
    axis.set_xlabel(panel.cost, fontsize=8)
    axis.set_ylabel(panel.score, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25)
    odd = {before: "0"} if any(p.cost <= 0 for p in points) else {}
    odd |= {beyond: panel.unlimited} if any(np.isinf(p.cost) for p in points) else {}
    if odd or max(finite, default=1) < _DECADES * min(finite, default=1):
        _ticks(axis, sorted(set(finite)), odd)


def _spread(places: Mapping[str, float]) -> dict[str, float]:
    """Points of one cost side by side."""
    found = {}
    for place in set(places.values()):
        members = [name for name, x in places.items() if x == place]
        for number, name in enumerate(members):
            found[name] = place * _APART ** (number - (len(members) - 1) / 2)
    return found


def _ticks(axis: Axes, finite: Sequence[float], odd: Mapping[float, str]) -> None:
    """Ticks at a few finite costs and at the places of those that a logarithmic axis has none for."""
    chosen: list[float] = []
    for cost in finite:
        # Labels need an eighth of the axis each.
        if not chosen or cost >= chosen[-1] * (finite[-1] / finite[0]) ** 0.125:
            chosen.append(cost)
    ticks = {cost: f"{cost:.3g}" for cost in chosen} | dict(odd)
    axis.set_xticks(sorted(ticks), [ticks[cost] for cost in sorted(ticks)])
    axis.minorticks_off()


def _color(number: int) -> Any:
    return _COLORS[number % len(_COLORS)]
