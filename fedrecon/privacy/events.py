"""Events of privacy in a loss-free JSON form, and those that dp-accounting does not have."""

import json
import math
from collections import Counter
from functools import lru_cache
from typing import Any

import attr
import dp_accounting
from dp_accounting import dp_event

from fedrecon.errors import ArgumentError


@attr.s(frozen=True, slots=True, auto_attribs=True)
class RenyiCurveDpEvent(dp_accounting.DpEvent):
    """A mechanism that dp-accounting has no event for, by its Rényi differential privacy.

    Attributes:
      mechanism: what it is, in words.
      orders: increasing, above 1.
      rdp: the Rényi divergence at each order. At an order between two it is at most that of the next.
    """

    mechanism: str
    orders: tuple[float, ...]
    rdp: tuple[float, ...]


@attr.s(frozen=True, slots=True, auto_attribs=True)
class BallsInBinsDpEvent(dp_accounting.DpEvent):
    """A pass of Gaussian mechanisms, each unit being in one of their sums, drawn anew in every pass.

    Attributes:
      noise_multiplier: of each sum.
      units: that are in the pass, a public number.
      bins: sums of a whole pass.
      steps: sums that are released, the first ones.
      most: units in a sum; of more a random subset is taken.
    """

    noise_multiplier: float
    units: int
    bins: int
    steps: int
    most: int


_OWN_EVENTS = {kind.__name__: kind for kind in (RenyiCurveDpEvent, BallsInBinsDpEvent)}


def event_to_json(event: dp_accounting.DpEvent) -> str:
    """The event as JSON text: equal events give equal texts, and `event_from_json` gives it back exactly.

    Raises:
      ValueError: it holds something other than numbers, texts, sequences and events.
    """
    return json.dumps(_encode(event), allow_nan=False, separators=(",", ":"))


@lru_cache(maxsize=4096)
def event_from_json(text: str) -> dp_accounting.DpEvent:
    """Inverse of `event_to_json`.

    Raises:
      ValueError: the text is no event of dp-accounting or of this module.
    """
    try:
        event = _decode(json.loads(text))
    except (TypeError, KeyError, AttributeError) as error:
        raise ArgumentError("event", "an event of dp-accounting", text[:80]) from error
    if not isinstance(event, dp_accounting.DpEvent):
        raise ArgumentError("event", "an event of dp-accounting", text[:80])
    return event


@lru_cache(maxsize=4096)
def leaves(text: str) -> tuple[tuple[str, int], ...]:
    """What an event, given as JSON text, is composed of: (event, count) in the order of their texts."""
    found: Counter[str] = Counter()

    def walk(event: dp_accounting.DpEvent, count: int) -> None:
        if isinstance(event, dp_accounting.SelfComposedDpEvent):
            walk(event.event, count * event.count)
        elif isinstance(event, dp_accounting.ComposedDpEvent):
            for part in event.events:
                walk(part, count)
        elif count and not isinstance(event, dp_accounting.NoOpDpEvent):
            found[event_to_json(event)] += count

    walk(event_from_json(text), 1)
    return tuple(sorted(found.items()))


def _encode(value: Any) -> Any:
    if isinstance(value, dp_accounting.DpEvent):
        fields = {field.name: _encode(getattr(value, field.name)) for field in attr.fields(type(value))}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ArgumentError("event", "numbers, texts, sequences and events", repr(value))


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_decode(item) for item in value["tuple"])
    if "float" in value:
        return float(value["float"])
    fields = {name: _decode(item) for name, item in value.items()}
    name = fields.pop("type")
    kind = _OWN_EVENTS.get(name, getattr(dp_event, name, None))
    if not (isinstance(kind, type) and issubclass(kind, dp_accounting.DpEvent)):
        raise ArgumentError("event", "an event of dp-accounting", name)
    return kind(**fields)
