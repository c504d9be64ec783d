"""Budgets of trainings, and the noise that a privacy budget demands."""

from typing import NamedTuple


class Budget(NamedTuple):
    """What a training may spend.

    Attributes:
      rounds: federated rounds.
      epochs: local passes over a client's data in a round.
      batch_size: examples in a local step; under DP-SGD the expected number.
      learning_rate: of the clients, in the first round (with warmup_cosine, the highest).
    """

    rounds: int
    epochs: int
    batch_size: int
    learning_rate: float


class Noise(NamedTuple):
    """Noise of DP-SGD, the same at every client and in every step.

    Attributes:
      multiplier: its standard deviation over ``clipping_norm``.
      clipping_norm: bound on the l2 norm of each example's gradient.
    """

    multiplier: float
    clipping_norm: float
