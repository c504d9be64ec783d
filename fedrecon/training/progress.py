"""What a finished training says about itself: its steps, the course of its loss, who did not take part."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedrecon.errors import ArgumentError

# Converged: the trend of the last quarter would gain less than this part of the whole gain in another one.
_NEGLIGIBLE = 0.02
_FEWEST = 3


class Course(NamedTuple):
    """How one training went; rounds count from 1.

    Attributes:
      stage: its name in the log.
      rounds: that were trained, of ``planned``.
      planned: rounds that it might take.
      steps: of one model in all rounds: those of the clients in a round are averaged by their weights.
      curve: "validation loss", or "training loss" where none was recorded.
      first, last, best: values of that curve; NaN without any.
      best_round: round of the best.
      remaining: what the trend of the last quarter would gain in another one, as a part of the whole gain;
        NaN with too few values.
      idle: rounds that left the model as it was.
      missing: client -> rounds in which it was to take part and sent nothing.
      excluded: client -> rounds in which its update was left out.
      patience: rounds without a better value after which it ends; 0 keeps the last round, not the best.
    """

    stage: str
    rounds: int
    planned: int
    steps: float
    curve: str
    first: float
    last: float
    best: float
    best_round: int
    remaining: float
    idle: int
    missing: dict[str, int]
    excluded: dict[str, int]
    patience: int

    @property
    def converged(self) -> bool:
        """Whether it ended by itself, or its curve promises nothing more."""
        return (self.rounds < self.planned and self.patience > 0) or self.remaining < _NEGLIGIBLE

    def lines(self) -> list[str]:
        """Sentences for a reader: how it ended, and who did not take part."""
        steps = f"{self.stage}: {self.rounds} rounds, {self.steps:.0f} steps of the model"
        course = f"; {self.curve} {self.first:.4g} to {self.last:.4g}, lowest in round {self.best_round}"
        course += ", which is kept" if self.patience else ""
        lines = [steps + (course if np.isfinite(self.first) else "") + f"; {self._verdict()}"]
        if self.idle:
            lines.append(f"{self.stage}: {self.idle} of {self.rounds} rounds left the model as it was")
        for what, clients in (("left out", self.excluded), ("missing", self.missing)):
            if clients:
                listed = ", ".join(f"{client} in {count} rounds" for client, count in clients.items())
                lines.append(f"{self.stage}: {what}: {listed}")
        return lines

    def _verdict(self) -> str:
        if self.rounds < self.planned and not self.patience:
            return f"ended by the privacy budget, before its {self.planned} rounds"
        if self.rounds < self.planned:
            return f"ended since {self.patience} rounds brought none lower (at most {self.planned} rounds)"
        if self.rounds >= 2 * _FEWEST and self.best >= self.first:
            return f"not converged: the {self.curve} has never been below its first value"
        if not np.isfinite(self.remaining):
            return "too few rounds to say whether it has converged"
        what = f"another quarter of the rounds would gain {100 * self.remaining:.1f} % of the whole gain"
        return ("converged" if self.converged else "not converged") + f": by its trend {what}"


def course(records: Iterable[dict[str, Any]], stage: str, planned: int, patience: int = 0) -> Course:
    """Reads how a training went out of its log.

    Args:
      records: of metrics.jsonl.
      stage: name of the training.
      planned: its rounds.
      patience: as in `Course`.
    """
    records = [record for record in records if record["stage"] == stage]
    rounds, values = _curve(records)
    best = int(np.nanargmin(values)) if np.isfinite(values).any() else -1
    return Course(
        stage=stage,
        rounds=len(records),
        planned=planned,
        steps=float(sum(record.get("steps", 0) for record in records)),
        curve="validation loss" if any("validation" in record for record in records) else "training loss",
        first=values[0] if len(values) else np.nan,
        last=values[-1] if len(values) else np.nan,
        best=values[best] if best >= 0 else np.nan,
        best_round=rounds[best] if best >= 0 else 0,
        remaining=remaining_gain(values),
        idle=sum(not record.get("applied", True) for record in records),
        missing=_counts(records, "missing"),
        excluded=_counts(records, "excluded"),
        patience=patience,
    )


def remaining_gain(values: Sequence[float]) -> float:
    """What the trend of the last quarter of a falling curve would gain in another, over its whole gain.

    The trend is the least-squares line through the last quarter, and at least three values; it counts as no
    gain where it rises. NaN for fewer than six values, or where the curve has not fallen at all or is not
    finite.
    """
    values = np.asarray(values, float)
    count = max(_FEWEST, len(values) // 4)
    if len(values) < 2 * count or not np.isfinite(values).all() or values.min() >= values[0]:
        return float("nan")
    slope = np.polyfit(np.arange(count), values[-count:], 1)[0]
    return float(max(-slope * count, 0.0) / (values[0] - values.min()))


def check_course(course: Course) -> None:
    """Refuses a training in which nobody took part.

    Raises:
      ArgumentError: no round changed the model.
    """
    if course.rounds and course.idle == course.rounds:
        why = [
            f"{', '.join(who)} {what}"
            for what, who in (("left out", course.excluded), ("missing", course.missing))
            if who
        ]
        found = f"none in {course.rounds} rounds" + (f" ({'; '.join(why)})" if why else "")
        raise ArgumentError(course.stage, "a round in which a client's update arrives and is finite", found)


def _curve(records: list[dict[str, Any]]) -> tuple[list[int], list[float]]:
    """Rounds and values of the curve: the mean over sites that have a value."""
    if any("validation" in record for record in records):
        records = [record for record in records if "validation" in record]
        found = [[_loss(site) for site in record["validation"].values()] for record in records]
        known = [[value for value in values if value is not None] for values in found]
        values = [float(np.mean(values)) if values else np.nan for values in known]
    else:
        records = [record for record in records if record.get("loss") is not None]
        values = [float(record["loss"]) for record in records]
    return [record["round"] for record in records], values


def _loss(scores: dict[str, float | None]) -> float | None:
    return scores.get("loss", next(iter(scores.values()), None))


def _counts(records: list[dict[str, Any]], name: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in records:
        for client in record.get(name, ()):
            counts[client] = counts.get(client, 0) + 1
    return counts
