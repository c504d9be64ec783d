"""The memory that training on a cohort needs, by a rule fitted to measured trainings."""

from typing import NamedTuple

from fedrecon.data.clients import Cohort

# Bytes of the process without data, copies of the data, and activations in units of one layer at full
# resolution, of eight trainings by default settings on CPU.
_BASE = {"reconstruction": 607e6, "segmentation": 499e6, "classification": 480e6}
_COPIES = {"reconstruction": 2.1, "segmentation": 2.0, "classification": 2.5}
_LAYERS = {"reconstruction": 76.0, "segmentation": 27.0, "classification": 7.0}
# Of the process that has brought samples to the grid, what it compiled for that.
_GRIDDING = 150e6


class Memory(NamedTuple):
    """Bytes.

    Attributes:
      data: arrays of the cohort.
      process: of the process without data.
      training: the copies of the data on the device, and what a local step and the scores hold.
    """

    data: int
    process: int
    training: int

    @property
    def total(self) -> int:
        """The largest resident set, where clients run on the memory of the host."""
        return self.data + self.process + self.training


def estimate_memory(cohort: Cohort, task: str, *, batch_size: int = 10, channels: int = 8) -> Memory:
    """The peak of ``experiments.train_federated`` with one device on CPU.

    Args:
      cohort: as in `read_cohort`.
      task: of the same.
      batch_size: examples in a local step.
      channels: of the network at full resolution.
    """
    data = sum(
        value.nbytes
        for part in (cohort.train, cohort.validation, cohort.test, cohort.unseen)
        if part is not None
        for value in part.examples.values()
    )
    ny, nx = cohort.image_shape
    layer = batch_size * ny * nx * channels * 4
    training = (_COPIES[task] - 1) * data + _LAYERS[task] * layer
    gridded = any(getattr(site, "gridded", 0) for site in cohort.sites)
    return Memory(int(data), int(_BASE[task] + gridded * _GRIDDING), int(training))
