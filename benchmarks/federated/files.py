"""Inputs and outputs of the engines of the federated benchmark, in files.

Imported in every engine's environment: numpy and the standard library only.
"""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import peak_memory, relative_error

_OUTPUT_BOUND = 1e-4


@dataclasses.dataclass(frozen=True)
class FederatedProblem:
    """One workload: federated averaging of plain SGD over all clients, who hold equally many examples.

    Attributes:
      workload: its name.
      batch_size: examples per step; divides the examples of a client.
      learning_rate: of SGD; the server takes the mean of the clients' weights.
      x: (clients, examples, ...) float32, NHWC for images.
      y: (clients, examples) int32 classes, or (clients, examples, ny, nx, 1) float32 to be regressed.
      orders: (rounds, clients, examples) int32: in which order a client's pass of a round visits its
        examples.
      weights: the initial ones by path, in flax's layout (kernels (..., in, out)).
      output: the network's output for the first batch of the first client, as stored.
    """

    workload: str
    batch_size: int
    learning_rate: float
    x: np.ndarray
    y: np.ndarray
    orders: np.ndarray
    weights: dict[str, np.ndarray]
    output: np.ndarray

    @property
    def rounds(self) -> int:
        """Rounds after which the weights are compared."""
        return len(self.orders)

    @property
    def clients(self) -> int:
        return len(self.x)

    def batches(self, round: int, client: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of a client's pass; rounds past the last begin again at the first."""
        order = self.orders[round % self.rounds, client]
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            yield self.x[client, places], self.y[client, places]

    def check_output(self, output: np.ndarray) -> None:
        """Refuses a network that does not compute what ours does from the same weights.

        Raises:
          RuntimeError: names the error found and the one allowed.
        """
        error = relative_error(output, self.output)
        if not error <= _OUTPUT_BOUND:
            raise RuntimeError(
                f"{self.workload}: expected the output of the first batch to {_OUTPUT_BOUND:.0e}, "
                f"found a relative error of {error:.1e}"
            )

    def save(self, path: Path) -> None:
        arrays = {"x": self.x, "y": self.y, "orders": self.orders, "output": self.output}
        arrays |= {f"weights/{name}": value for name, value in self.weights.items()}
        settings = {k: getattr(self, k) for k in ("workload", "batch_size", "learning_rate")}
        np.savez(path, settings=np.array(json.dumps(settings)), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "FederatedProblem":
        with np.load(path, allow_pickle=False) as file:
            settings = json.loads(str(file["settings"]))
            arrays = {name: file[name] for name in ("x", "y", "orders", "output")}
            start = len("weights/")
            weights = {name[start:]: file[name] for name in file.files if name.startswith("weights/")}
        return cls(**settings, **arrays, weights=weights)


class Recorder:
    """Stamps the end of every round, and writes what an engine gives back into a folder.

    Args:
      folder: existing; receives ``result.json`` and ``weights.npz``.
      rounds_per_stamp: rounds that one stamp stands for.
    """

    def __init__(self, folder: str | Path, rounds_per_stamp: int = 1):
        self._folder, self._per_stamp = Path(folder), rounds_per_stamp
        self._stamps: list[float] = []

    def stamp(self) -> None:
        """Notes the moment, on a clock that all processes of a machine share.

        Once before the first round, then after every one.
        """
        self._stamps.append(time.monotonic())

    def wants_more(self, seconds: float = 2.0, stamps: int = 12) -> bool:
        """Whether further rounds would make the median of quick ones more certain."""
        return len(self._stamps) <= stamps and self._stamps[-1] - self._stamps[1] < seconds

    def write(self, weights: dict[str, np.ndarray], **facts: Any) -> None:
        """Writes the weights after the last round, the stamps, the memory and further facts."""
        np.savez(self._folder / "weights.npz", **weights)
        result = {"stamps": self._stamps, "rounds_per_stamp": self._per_stamp, "peak_mb": peak_memory()}
        (self._folder / "result.json").write_text(json.dumps(result | facts))
