"""What a finished full-stack run reports."""

import dataclasses
from typing import Any

from experiments.pipeline.downstream import Downstream
from experiments.pipeline.reconstruction import Reconstruction
from experiments.pipeline.stages import Traffic
from fedrecon.data import ClientData
from fedrecon.training import Course


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Everything a finished run reports.

    Attributes:
      reconstruction, segmentation, classification: the stages' results; None of the latter that were left
        out, which ``notes`` say.
      tests: test split of each stage.
      unseen: that of the reconstruction at the unseen site; None without one.
      checks: site -> sentences about its federated reconstructions that are unlike those in validation.
      sites: rows of the site table, header first.
      notes: sentences about the data that a reader must know.
      courses: training -> how it went.
      traffic: bytes by stage.
      privacy: site -> epsilon, with the sentence that says what it means; empty without privacy.
    """

    reconstruction: Reconstruction
    segmentation: Downstream | None
    classification: Downstream | None
    tests: dict[str, ClientData]
    unseen: ClientData | None
    checks: dict[str, list[str]]
    sites: list[list[str]]
    notes: tuple[str, ...]
    courses: dict[str, Course]
    traffic: list[Traffic]
    privacy: dict[str, Any]

    def reconstruction_tests(self) -> dict[str, tuple[ClientData, int]]:
        """Site -> data with its test examples, and its index there; the unseen site comes last."""
        return {
            name: (data, i)
            for data in (self.tests["reconstruction"], self.unseen)
            if data is not None
            for i, name in enumerate(data.names)
        }


@dataclasses.dataclass(frozen=True)
class Provenance:
    """How a run was made; part of the page, and of no result.

    Attributes:
      command: the command line.
      seconds: spent in this process.
    """

    command: str
    seconds: float
