"""What all parties of a round agree on beforehand, and the bytes that follow from it."""

import dataclasses

import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.secure_aggregation import primitives
from fedrecon.secure_aggregation.graph import least_threshold
from fedrecon.secure_aggregation.primitives import Context, job_bytes

COMMITMENT = 32
# In the clear beside a sealed share: two ciphertexts of ML-KEM, and one's secret sealed under the mask's own.
QUANTUM_RECORD = 2 * primitives.ML_KEM_CIPHERTEXT + primitives.SECRET + primitives.TAG


@dataclasses.dataclass(frozen=True)
class SecAggSetup:
    """One round of SecAgg (Bonawitz et al. 2017), or of SecAgg+ (Bell et al. 2020) where neighbors are fewer.

    Attributes:
      job: name of the training; other names have nothing in common.
      round: of the job, below 2^32; sums of one round are unmasked once.
      clients: n, the clients that may take part, numbered from 0.
      threshold: t, shares that a secret is recovered from: more than half of those who hold one, of whom the
        client itself is one, and more than two thirds with ``malicious``. As many clients must stay.
      size: d, words of a client.
      neighbors: k, clients with which each shares masks and secrets; None: all.
      malicious: the server may lie, too: keys and the list of summands are signed by identities, and fewer
        neighbors are drawn only when all clients that sent keys take part in that.
      smallest_sum: fewest summands that clients unmask the sum of; at least ``threshold`` with all neighbors.

    Raises:
      ArgumentError: an attribute is out of range.
    """

    job: str
    round: int
    clients: int
    threshold: int
    size: int
    neighbors: int | None = None
    malicious: bool = False
    smallest_sum: int = 2

    def __post_init__(self) -> None:
        check_counts(self.round, self.clients, self.size)
        if self.neighbors is not None:
            _check_between("neighbors", self.neighbors, 2, self.clients - 1)
            if self.neighbors % 2 and self.neighbors < self.clients - 1:
                raise ArgumentError("neighbors", "an even number, or all other clients", self.neighbors)
        holders = self.degree + 1
        least = least_threshold(holders, self.malicious)
        part = "two thirds" if self.malicious else "half"
        if not least <= self.threshold <= holders:
            raise ArgumentError(
                "threshold",
                f"more than {part} of {holders} holders of a share: {least} to {holders}",
                self.threshold,
            )
        _check_between("smallest_sum", self.smallest_sum, 1, self.clients)

    @property
    def context(self) -> Context:
        return Context(job_bytes(self.job), self.round)

    @property
    def degree(self) -> int:
        """Neighbors of a client when all take part."""
        return self.clients - 1 if self.neighbors is None else self.neighbors

    @property
    def sparse(self) -> bool:
        """Whether neighbors are drawn, which takes one more exchange."""
        return self.neighbors is not None and self.neighbors < self.clients - 1

    def bytes_up(self) -> dict[str, int]:
        """Bytes that a client sends when nobody drops out, by what they are for; headers not counted.

        "protocol" is 64 + 118 k + 4 d + 37 (k + 1), and 128 for signatures; "post_quantum" the public keys
        and ciphertexts of ML-KEM-768 in addition; "joint_randomness" of the graph.
        """
        degree = self.degree
        return {
            "protocol": 64 + 118 * degree + 4 * self.size + 37 * (degree + 1) + 128 * self.malicious,
            "post_quantum": 2 * primitives.ML_KEM_PUBLIC + degree * QUANTUM_RECORD,
            "joint_randomness": 2 * COMMITMENT * self.sparse,
        }

    def messages_up(self) -> int:
        """Messages that a client sends."""
        return 4 + self.sparse + self.malicious


def check_counts(number: int, clients: int, size: int) -> None:
    """Checks what all protocols have.

    Raises:
      ArgumentError: round, clients or size is out of range.
    """
    _check_between("round", number, 0, 2**32 - 1)
    _check_between("clients", clients, 2, 2**31)
    _check_between("size", size, 1, 2**30 - 1)


def check_words(words: np.ndarray, size: int, below: int | None = None) -> None:
    """Checks the words of a client.

    Raises:
      ArgumentError: they are not uint32 of shape (size,), or not all ``below``.
    """
    if not isinstance(words, np.ndarray) or words.dtype != np.uint32 or words.shape != (size,):
        found = (
            f"{words.dtype} of shape {words.shape}" if isinstance(words, np.ndarray) else type(words).__name__
        )
        raise ArgumentError("words", f"uint32 of shape ({size},)", found)
    if below is not None and words.max() >= below:
        raise ArgumentError("words", f"numbers below {below}", words.max())


def _check_between(name: str, value: object, least: int, most: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= value <= most:  # type: ignore[operator]
        raise ArgumentError(name, f"an integer from {least} to {most}", value)
