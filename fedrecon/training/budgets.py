"""Budgets of trainings, and the noise that a privacy budget demands."""

from typing import Any, NamedTuple

import numpy as np

from fedrecon.federated.mechanism import Mechanism
from fedrecon.privacy import DistributedNoise


class Budget(NamedTuple):
    """What a training may spend.

    Attributes:
      rounds: federated rounds.
      epochs: local passes over a client's data in a round.
      batch_size: examples in a local step; under differential privacy the expected number.
      learning_rate: of the clients, in the first round (with warmup_cosine, the highest).
      steps: local steps of every client in a round, in place of passes; 0 takes passes.
    """

    rounds: int
    epochs: int
    batch_size: int
    learning_rate: float
    steps: int = 0

    @property
    def work(self) -> dict[str, Any]:
        """What `make_round` is told of a client's steps in a round."""
        passes = {"steps": self.steps} if self.steps else {"epochs": self.epochs}
        return {"batch_size": self.batch_size, **passes}

    def full_steps(self, counts: np.ndarray) -> np.ndarray:
        """Steps of each client in a round, of the shape of ``counts``; 0 for a client without examples."""
        counts = np.asarray(counts)
        if self.steps:
            return np.where(counts > 0, self.steps, 0)
        return self.epochs * -(-counts // self.batch_size)


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
