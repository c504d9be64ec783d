"""Scores of a training against the bytes that had been sent: from its log, and as a figure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from fedrecon.tasks import lower_is_better

# Part of the way of the loss without a codec; part of the bytes without one at which all are compared.
TARGET, EQUAL = 0.95, 0.1
# Links of a client, in Mbit/s, as fast up as down.
LINKS = (10, 100, 1000)


class ByteCurve(NamedTuple):
    """One training, by round.

    Attributes:
      up, down: (rounds,) bytes of a client until then, mean over those of each round.
      seconds: (rounds,) of computing until then, without validation.
      loss, score: (rounds,) mean over sites on their validation splits; NaN where there was none.
    """

    up: np.ndarray
    down: np.ndarray
    seconds: np.ndarray
    loss: np.ndarray
    score: np.ndarray

    def reached(self, loss: float) -> int | None:
        """The number of the first round with a loss as low as that, from 1; None without one."""
        found = np.flatnonzero(self.loss <= loss)
        return int(found[0]) + 1 if found.size else None

    def within(self, size: float) -> int:
        """Rounds whose bytes up and down together are no more."""
        return int(np.searchsorted(self.up + self.down, size, side="right"))


def byte_curve(log: Sequence[Mapping[str, Any]], metric: str) -> ByteCurve:
    """The curve of the records of metrics.jsonl."""

    def mean(record: Mapping[str, Any], name: str) -> float:
        sites = record.get("validation", {}).values()
        values = [scores[name] for scores in sites if scores.get(name) is not None]
        return float(np.mean(values)) if values else math.nan

    def each(name: str) -> np.ndarray:
        return np.cumsum([record[name] / max(record["clients"], 1) for record in log])

    seconds = [record["seconds"] - record.get("validation_seconds", 0.0) for record in log]
    losses, scores = ([mean(record, name) for record in log] for name in ("loss", metric))
    return ByteCurve(
        each("bytes_up"), each("bytes_down"), np.cumsum(seconds), np.array(losses), np.array(scores)
    )


def mean_curve(curves: Sequence[ByteCurve]) -> ByteCurve:
    """The mean of several seeds, of the rounds that all have."""
    rounds = min(len(curve.up) for curve in curves)
    return ByteCurve(*(np.mean([x[:rounds] for x in each], 0) for each in zip(*curves, strict=True)))


def to_target(curve: ByteCurve, plain: ByteCurve | None, metric: str) -> dict[str, Any]:
    """What a training took until its loss had come the way of `TARGET`, and its score at equal bytes.

    Args:
      curve: of the training.
      plain: of that without a codec; None without one, and then nothing is known.
      metric: of the score.

    Returns:
      "rounds_to_target", "bytes_to_target" (up), "bytes_down_to_target", "seconds_to_target" by Mbit/s of the
      link, and "score_at_equal_bytes": the best score before more bytes, up and down, than `EQUAL` times
      those of ``plain`` in all. None is never.
    """
    nothing: dict[str, Any] = dict.fromkeys(
        ("rounds_to_target", "bytes_to_target", "bytes_down_to_target", "score_at_equal_bytes")
    )
    nothing["seconds_to_target"] = {str(link): None for link in LINKS}
    if plain is None or not np.isfinite(plain.loss).any():
        return nothing
    best = float(np.nanmin(plain.loss))
    reached = curve.reached(plain.loss[0] - TARGET * (plain.loss[0] - best))
    rounds = curve.within(EQUAL * float(plain.up[-1] + plain.down[-1]))
    scores = curve.score[:rounds][np.isfinite(curve.score[:rounds])]
    if scores.size:
        better = np.min if lower_is_better(metric) else np.max
        nothing["score_at_equal_bytes"] = float(better(scores))
    if reached is None:
        return nothing
    last = reached - 1
    bits = 8 * (curve.up[last] + curve.down[last])
    return nothing | {
        "rounds_to_target": reached,
        "bytes_to_target": round(curve.up[last]),
        "bytes_down_to_target": round(curve.down[last]),
        "seconds_to_target": {str(link): float(curve.seconds[last] + bits / (1e6 * link)) for link in LINKS},
    }


def byte_figure(curves: Mapping[str, ByteCurve], metric: str) -> Figure | None:
    """The best score until then over the bytes up of a client; None without validation."""
    known = {name: c for name, c in curves.items() if np.isfinite(c.score).any()}
    if not known:
        return None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    best = np.minimum.accumulate if lower_is_better(metric) else np.maximum.accumulate
    for number, (name, curve) in enumerate(known.items()):
        seen = np.isfinite(curve.score)
        style = ("-", "--", "-.")[number // 10 % 3]
        axes.plot(curve.up[seen], best(curve.score[seen]), style, marker=".", markersize=4, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("bytes sent by a client")
    axes.set_ylabel(f"validation {metric}, best so far")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    return figure
