"""A picture of how examples are divided over clients."""

import os
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fedrecon.errors import ArgumentError
from fedrecon.files import replacing

_COLORS = matplotlib.color_sequences["tab20"]
_MOST_NAMED = 20
_MOST_BARS = 60


def plot_partition(
    counts: np.ndarray, clients: Sequence[str], labels: Sequence[str], *, title: str = ""
) -> Figure:
    """Stacked bars: one bar a client, its length the number of examples, its colors their labels.

    Args:
      counts: (clients, labels), numbers of examples.
      clients: names of the rows.
      labels: names of the columns.
      title: above the bars.

    Raises:
      ValueError: ``counts`` does not fit the names, or has negative entries.
    """
    counts = np.asarray(counts)
    if counts.shape != (len(clients), len(labels)) or not len(clients) or (counts < 0).any():
        raise ArgumentError(
            "counts",
            f"non-negative numbers ({len(clients)} clients, {len(labels)} labels)",
            f"shape {counts.shape}",
        )
    named = len(clients) <= _MOST_BARS
    height = 1.2 + (0.22 * len(clients) if named else 8.0)
    figure = Figure(figsize=(6.4, height), layout="constrained")
    axis = figure.subplots()
    left = np.zeros(len(clients))
    edges = np.repeat(np.arange(len(clients) + 1) - 0.5, 2)[1:-1]
    for index, label in enumerate(labels):
        right = left + counts[:, index]
        style: dict[str, Any] = {
            "color": _COLORS[index % len(_COLORS)],
            "label": label if index < _MOST_NAMED else None,
        }
        if named:
            axis.barh(range(len(clients)), counts[:, index], left=left, height=0.85, **style)
        else:
            # One shape for all: thousands of bars take minutes.
            axis.fill_betweenx(edges, np.repeat(left, 2), np.repeat(right, 2), linewidth=0, **style)
        left = right
    if named:
        axis.set_yticks(range(len(clients)), clients, fontsize=7)
    axis.set(xlabel="examples", ylabel="" if named else "client", title=title)
    axis.set_ylim(len(clients) - 0.5, -0.5)
    figure.legend(fontsize=7, loc="outside right upper", title="label", title_fontsize=7)
    return figure


def save_partition_plot(
    path: str | os.PathLike,
    counts: np.ndarray,
    clients: Sequence[str],
    labels: Sequence[str],
    *,
    title: str = "",
) -> None:
    """Writes `plot_partition` as a PNG file."""
    figure = plot_partition(counts, clients, labels, title=title)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
