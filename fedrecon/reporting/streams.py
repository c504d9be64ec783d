"""Streams of blocks as a figure: what each block's score becomes while later ones are learned."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

_COLORS = matplotlib.color_sequences["tab10"]


def plot_streams(
    scores: Mapping[str, Sequence[Sequence[float]]], metric: str, lines: Mapping[str, float] | None = None
) -> Figure:
    """A panel of each method with a line of each block, dotted until the block has been learned.

    Args:
      scores: method -> (blocks, blocks), of block j after training on block t; None or NaN where unknown.
      metric: its name.
      lines: name -> score, drawn across all panels.
    """
    figure = Figure(figsize=(2.6 * len(scores) + 1.4, 2.8), layout="constrained")
    panels = figure.subplots(1, len(scores), squeeze=False, sharey=True)[0]
    for axis, (name, matrix) in zip(panels, scores.items(), strict=True):
        values = np.asarray(matrix, float)
        after = np.arange(1, len(values) + 1)
        for j in range(len(values)):
            color = _COLORS[j % len(_COLORS)]
            axis.plot(after[: j + 1], values[: j + 1, j], ":", color=color, linewidth=1)
            axis.plot(after[j:], values[j:, j], "-o", color=color, markersize=4, label=f"block {j + 1}")
        for number, (text, score) in enumerate((lines or {}).items()):
            style = ("--", "-.")[number % 2]
            axis.axhline(score, linestyle=style, color="0.4", linewidth=1, label=text)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("after block", fontsize=8)
        axis.set_xticks(after)
        axis.tick_params(labelsize=7)
    panels[0].set_ylabel(metric, fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="outside right upper")
    return figure
