"""Epsilon of many events: privacy loss distributions where they apply, Rényi divergences elsewhere."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import attr
import dp_accounting
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.privacy.balls_in_bins import loss_distribution
from fedrecon.privacy.events import BallsInBinsDpEvent, RenyiCurveDpEvent, event_from_json

Counts = tuple[tuple[str, int], ...]

# Of Rényi divergences: dp-accounting's, and the integers at which curves of discrete noise are known.
ORDERS = tuple(sorted({*dp_accounting.rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS, *range(2, 129)}))
# Grids of the privacy loss, coarsest first, and how many steps of the grid its spread has at least.
_INTERVALS = (1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4)
_STEPS_OF_SPREAD = 20


class Epsilon(NamedTuple):
    """A composed guarantee.

    Attributes:
      epsilon: an upper bound; infinite where nothing is guaranteed.
      accountant: "pld" with its grid, "rdp", or both where each half of delta goes to one of them.
    """

    epsilon: float
    accountant: str


@lru_cache(maxsize=16384)
def composed_epsilon(counts: Counts, relation: str, delta: float) -> Epsilon:
    """Epsilon of events that are all released.

    Args:
      counts: (event as JSON text, how often), each event once, none of them itself a composition
        (`fedrecon.privacy.events.leaves`).
      relation: name of a ``dp_accounting.NeighboringRelation``.
      delta: of the guarantee.

    Raises:
      ValueError: an event that no accountant takes under this relation.
    """
    if not counts:
        return Epsilon(0.0, "pld")
    by_distribution: list[tuple[str, int]] = []
    by_divergence: list[tuple[str, int]] = []
    for text, count in counts:
        (by_distribution if _pld_supports(text, relation) else by_divergence).append((text, count))
    if not by_divergence:
        return _by_distribution(by_distribution, relation, delta)
    _check_divergence(by_divergence, relation)
    candidates = []
    if all(_rdp_supports(text, relation) for text, _ in by_distribution):
        candidates.append(_by_divergence(counts, relation, delta))
    if by_distribution:
        halves = (
            _by_distribution(by_distribution, relation, delta / 2),
            _by_divergence(by_divergence, relation, delta / 2),
        )
        both = " + ".join(f"{half.accountant} at half of delta" for half in halves)
        candidates.append(Epsilon(sum(half.epsilon for half in halves), both))
    return min(candidates)


def _by_distribution(counts: Sequence[tuple[str, int]], relation: str, delta: float) -> Epsilon:
    interval = min(_interval(text, relation) for text, _ in counts)
    total = None
    for text, count in counts:
        part = _distribution(text, relation, interval)
        if part is None or not np.isfinite(part.get_epsilon_for_delta(delta)):
            return Epsilon(float("inf"), "pld")
        part = part.self_compose(count)
        total = part if total is None else total.compose(part)
    assert total is not None
    return Epsilon(float(total.get_epsilon_for_delta(delta)), f"pld {interval:g}")


def _by_divergence(counts: Sequence[tuple[str, int]], relation: str, delta: float) -> Epsilon:
    total = sum(count * _divergences(text, relation) for text, count in counts)
    epsilon, _ = dp_accounting.rdp.compute_epsilon(ORDERS, total, delta)
    return Epsilon(float(epsilon), "rdp")


@lru_cache(maxsize=1024)
def _distribution(text: str, relation: str, interval: float) -> Any:
    """The privacy loss distribution of an event; None where nothing is private."""
    event = event_from_json(text)
    if isinstance(event, BallsInBinsDpEvent):
        return loss_distribution(**attr.asdict(event), interval=interval) if event.noise_multiplier else None
    accountant = dp_accounting.pld.PLDAccountant(dp_accounting.NeighboringRelation[relation], interval)
    accountant.compose(event)
    # The accountant composes, but does not hand it out.
    return None if np.isinf(accountant.get_epsilon(0.5)) else accountant._pld


@lru_cache(maxsize=1024)
def _interval(text: str, relation: str) -> float:
    """The coarsest grid that is fine beside the spread of the event's privacy loss.

    The total variation distance is delta at epsilon 0, which is exact on every grid; a normal privacy loss
    of small standard deviation s has s / sqrt(2 pi).
    """
    coarse = _distribution(text, relation, _INTERVALS[0])
    spread = np.inf if coarse is None else np.sqrt(2 * np.pi) * coarse.get_delta_for_epsilon(0.0)
    return next((step for step in _INTERVALS if step * _STEPS_OF_SPREAD <= spread), _INTERVALS[-1])


@lru_cache(maxsize=1024)
def _divergences(text: str, relation: str) -> np.ndarray:
    event = event_from_json(text)
    if isinstance(event, RenyiCurveDpEvent):
        # Divergences grow with the order: the next order that is known bounds those before it.
        place = np.searchsorted(event.orders, ORDERS)
        return np.append(event.rdp, np.inf)[place]
    accountant = dp_accounting.rdp.RdpAccountant(ORDERS, dp_accounting.NeighboringRelation[relation])
    return accountant.compose(event)._rdp  # as above


def _pld_supports(text: str, relation: str) -> bool:
    event = event_from_json(text)
    if isinstance(event, BallsInBinsDpEvent):
        # The number of units, which makes bins and full ones, is the same for both neighbors.
        return relation == "REPLACE_SPECIAL"
    return dp_accounting.pld.PLDAccountant(dp_accounting.NeighboringRelation[relation]).supports(event)


def _rdp_supports(text: str, relation: str) -> bool:
    event = event_from_json(text)
    accountant = dp_accounting.rdp.RdpAccountant(ORDERS, dp_accounting.NeighboringRelation[relation])
    return isinstance(event, RenyiCurveDpEvent) or accountant.supports(event)


def _check_divergence(counts: Sequence[tuple[str, int]], relation: str) -> None:
    for text, _ in counts:
        if not _rdp_supports(text, relation):
            raise ArgumentError(
                "event", f"one that an accountant takes for the relation {relation}", event_from_json(text)
            )
