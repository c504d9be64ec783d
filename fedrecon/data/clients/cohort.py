"""Data of several sites, split by patient."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

from fedrecon.data.clients.client_data import ClientData, stack_clients

PARTS = ("train", "validation", "test")
FRACTIONS = (0.7, 0.1, 0.2)


@dataclasses.dataclass(frozen=True)
class Cohort:
    """The data of several sites, split by patient.

    Attributes:
      train: 70 % of each site's patients.
      validation: 10 %.
      test: 20 %; each part has at least one patient of each site.
      sites: how each client's data were acquired, in the order of the clients; those of ``unseen`` come last.
      image_shape: (ny, nx) of all images.
      patients: for each part (``"train"``, ``"validation"``, ``"test"``) and client the patient or volume
        that each value of ``examples["volume"]`` stands for; also for ``"unseen"`` where there is one.
      notes: what a report must say about these data.
      labels: names of the classes of ``examples["label"]`` in their order; empty where they have none.
      preparation: what was done to images, JSON-able, see `fedrecon.data.folders.Preparation`; empty where
        examples are no images of files.
      unseen: sites that take no part in training, all of whose patients are for the test; None without.
    """

    train: ClientData
    validation: ClientData
    test: ClientData
    sites: tuple[Any, ...]
    image_shape: tuple[int, int]
    patients: dict[str, tuple[tuple[str, ...], ...]]
    notes: str = ""
    labels: tuple[str, ...] = ()
    preparation: dict[str, Any] = dataclasses.field(default_factory=dict)
    unseen: ClientData | None = None


class Parts(TypedDict):
    """The data of a cohort by part."""

    train: ClientData
    validation: ClientData
    test: ClientData


def stack_volumes(volumes: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One client's examples from those of its volumes, numbering ``"volume"`` from 0."""
    numbered = [
        v | {"volume": np.full(len(next(iter(v.values()))), i, np.int32)} for i, v in enumerate(volumes)
    ]
    return {key: np.concatenate([volume[key] for volume in numbered]) for key in numbered[0]}


def stack_parts(examples: dict[str, list[list[dict[str, np.ndarray]]]], names: Sequence[str]) -> Parts:
    """The data of each part, from volumes by part and client."""
    train, validation, test = (stack_clients([stack_volumes(v) for v in examples[p]], names) for p in PARTS)
    return {"train": train, "validation": validation, "test": test}
