"""What each client adds to the federation's score: Shapley values and simpler ones."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedrecon.errors import ArgumentError

# ``value(members) -> score`` of the model of a coalition; ``members`` is bool (clients,).
Value = Callable[[np.ndarray], float]
EXACT = 10


class Contribution(NamedTuple):
    """Shares of the score among clients.

    Attributes:
      values: float (clients,).
      errors: their standard errors, 0 where exact.
      evaluations: how many coalitions were scored.
    """

    values: np.ndarray
    errors: np.ndarray
    evaluations: int


def shapley(value: Value, clients: int) -> Contribution:
    """Exact Shapley values: each client's marginal gain averaged over all orders of joining (Shapley 1953).

    All 2^clients coalitions are scored once, also the empty one. The values add up to that of all minus that
    of nobody; clients that are interchangeable get the same, one that never changes the score gets 0.

    Raises:
      ArgumentError: more than 10 clients, of whom `sampled_shapley` takes any number.
    """
    if not 1 <= clients <= EXACT:
        raise ArgumentError("clients", f"from 1 to {EXACT}; see sampled_shapley", clients)
    scores = [value(_members(code, clients)) for code in range(2**clients)]
    values = np.zeros(clients)
    for client in range(clients):
        for code in range(2**clients):
            if code >> client & 1:
                continue
            size = code.bit_count()
            weight = math.factorial(size) * math.factorial(clients - size - 1) / math.factorial(clients)
            values[client] += weight * (scores[code | 1 << client] - scores[code])
    return Contribution(values, np.zeros(clients), len(scores))


def sampled_shapley(
    value: Value,
    clients: int,
    *,
    seed: int,
    permutations: int = 50,
    most: int = 1000,
    truncation: float = 1e-3,
    precision: float = 0.05,
) -> Contribution:
    """Shapley values by truncated Monte Carlo (Ghorbani and Zou 2019, arXiv:1904.02868).

    Clients join in random orders. An order ends, the rest counting 0, once the score is within ``truncation``
    of that of all; sampling ends when the largest standard error is below ``precision`` times the spread of
    the values, or after ``most`` orders.

    Args:
      value: score of a coalition; each is scored once.
      clients: their number.
      seed: of the orders.
      permutations: the fewest orders.
      most: the most.
      truncation: of the score; 0 joins everybody.
      precision: of the standard errors.
    """
    rng = np.random.default_rng(seed)
    known: dict[bytes, float] = {}

    def score(members):
        key = members.tobytes()
        if key not in known:
            known[key] = value(members)
        return known[key]

    everybody, nobody = score(np.ones(clients, bool)), score(np.zeros(clients, bool))
    gains: list[np.ndarray] = []
    while len(gains) < most:
        members, before, gain = np.zeros(clients, bool), nobody, np.zeros(clients)
        for client in rng.permutation(clients):
            if truncation and abs(everybody - before) < truncation:
                break
            members = members.copy()
            members[client] = True
            after = score(members)
            gain[client], before = after - before, after
        gains.append(gain)
        if len(gains) >= permutations:
            errors = np.std(gains, 0, ddof=1) / math.sqrt(len(gains))
            if errors.max() <= precision * np.ptp(np.mean(gains, 0)):
                break
    errors = np.std(gains, 0, ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else np.full(clients, np.nan)
    return Contribution(np.mean(gains, 0), errors, len(known))


def leave_one_out(value: Value, clients: int) -> Contribution:
    """The score of all minus that without each client."""
    everybody = value(np.ones(clients, bool))
    values = [everybody - value(np.arange(clients) != client) for client in range(clients)]
    return Contribution(np.asarray(values, float), np.zeros(clients), clients + 1)


def _members(code: int, clients: int) -> np.ndarray:
    return np.array([bool(code >> client & 1) for client in range(clients)])
