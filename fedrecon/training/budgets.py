"""Budgets of trainings, and the noise that a privacy budget demands."""

from typing import NamedTuple

from fedrecon.federated.mechanism import Mechanism
from fedrecon.privacy import DistributedNoise


class Budget(NamedTuple):
    """What a training may spend.

    Attributes:
      rounds: federated rounds.
      epochs: local passes over a client's data in a round.
      batch_size: examples in a local step; under differential privacy the expected number.
      learning_rate: of the clients, in the first round (with warmup_cosine, the highest).
    """

    rounds: int
    epochs: int
    batch_size: int
    learning_rate: float


class Spending(NamedTuple):
    """What a private stage may release.

    Attributes:
      mechanism: of every release.
      units: client -> its number of units; of the unit "site" the number of clients.
      deltas: client -> delta of its guarantee.
      target: epsilon that no client's total may exceed.
      secure: whether noise comes from the operating system.
      turns: most turns of a client in a round.
      selection: epsilon of a choice that every step makes by the client's validation patients, who are
        accounted apart from those that it trains on; 0 without.
      shares: of noise inside a secure sum of whole sites, for changes of at most as many numbers; None where
        noise is independent of who takes part.
    """

    mechanism: Mechanism
    units: dict[str, int]
    deltas: dict[str, float]
    target: float
    secure: bool = False
    turns: int = 1
    selection: float = 0.0
    shares: DistributedNoise | None = None
