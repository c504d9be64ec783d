"""Models of a stage, and what is noted of it, in the folder of its run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from fedrecon import ood
from fedrecon.data import ClientData
from fedrecon.files import write_atomically
from fedrecon.runtime import is_lead
from fedrecon.types import Variables
from fedrecon.weights import read_weights, write_weights

if TYPE_CHECKING:
    from fedrecon.training.stage import Stage, Trained


def example_of(clients: ClientData) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch of one example."""
    return {name: jax.ShapeDtypeStruct((1, *x.shape[2:]), x.dtype) for name, x in clients.examples.items()}


def released_file(folder: Path, stage: str) -> Path:
    """Where a stage's released model is, in the folder of a run."""
    return folder / "models" / f"{stage}.npz"


def personal_file(folder: Path, stage: str) -> Path:
    """Where the models are that clients of a stage evaluate with, if they have models of their own."""
    return folder / "models" / f"{stage}.own.npz"


def note_stage(folder: Path, name: str, stage: str, found: Mapping[str, Any]) -> None:
    """Keeps what was found of a stage beside that of others in ``NAME.json``; nothing of what is empty."""
    if not found or not is_lead():
        return
    path = folder / f"{name}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    write_atomically(path, (json.dumps(known | {stage: found}, indent=2) + "\n").encode())


def save_personal(folder: Path, stage: "Stage", trained: "Trained") -> None:
    """Keeps the clients' own models, stacked."""
    models = trained.models(stage.clients.clients)
    stacked: Any = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
    path = personal_file(folder, stage.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights(path, stacked, {"clients": list(stage.clients.names)})


def read_models(folder: Path, stage: str) -> tuple[Variables | None, dict[str, Variables]]:
    """The released model of a stage, None where nothing is shared, and those of clients with their own."""
    released, own = released_file(folder, stage), personal_file(folder, stage)
    variables = read_weights(released)[0] if released.exists() else None
    if not own.exists():
        return variables, {}
    stacked, about = read_weights(own)
    names = enumerate(about["clients"])
    return variables, {name: jax.tree.map(lambda x, i=i: x[i], stacked) for i, name in names}


def save_released(folder: Path, stage: "Stage", released: Variables, *, private: bool) -> None:
    """Keeps the released model with what `experiments.export` must know of its data.

    Of images also what tells them from others (`fedrecon.ood`), unless the training was private, whose
    guarantee would not hold for that.
    """
    inputs = {
        name: {"shape": list(x.shape[1:]), "dtype": str(x.dtype)}
        for name, x in example_of(stage.clients).items()
    }
    sites = {name: int(count) for name, count in zip(stage.clients.names, stage.clients.counts, strict=True)}
    about: dict[str, Any] = {**stage.about, "inputs": inputs, "sites": sites}
    if "image" in inputs and len(inputs["image"]["shape"]) == 3 and not private:
        known = [ood.client_statistics(data) for data in (stage.clients, stage.validation or stage.clients)]
        if len(known[0]):
            about["images"] = ood.as_document(ood.reference_of(*known))
    path = released_file(folder, stage.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights(path, released, about)
