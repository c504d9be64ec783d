"""Settings of the full-stack experiment and the presets they come from."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that determines the results of a full-stack run; the flag of the same name sets a field.

    Sizes are in pixels, rates per optimiser step, rounds count federated rounds.
    """

    modality: str = "mri"
    cohort: str = "simulated"
    preset: str = "default"
    data_dir: str = ""
    seed: int = 0
    # Cohort.
    sites: int = 5
    patients_per_site: int = 10
    slices: int = 4
    image_size: int = 64
    acceleration: float = 4.0
    masks_per_slice: int = 6
    # Federation.
    algorithm: str = "fedavg"
    clients_per_round: int = 0
    clip_norm: float = 0.0
    epochs: int = 1
    batch_size: int = 2
    comparators: bool = True
    # Reconstruction.
    network: str = "varnet"
    rounds: int = 12
    cascades: int = 4
    channels: int = 8
    pools: int = 2
    learning_rate: float = 2e-3
    learn_coil_maps: bool = False
    # Segmentation and classification.
    finetune_rounds: int = 12
    finetune_epochs: int = 2
    finetune_batch_size: int = 4
    finetune_channels: int = 8
    finetune_pools: int = 3
    finetune_learning_rate: float = 3e-3
    finetune_comparators: bool = False
    shrink: int = 2
    matrix: int = 0
    # Differential privacy, per example at each site; 0 trains without.
    dp_epsilon: float = 0.0
    dp_delta: float = 0.0
    dp_clipping_norm: float = 0.1
    dp_batch_size: int = 8


PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("simulated", "default"): {},
    ("simulated", "full"): {
        "patients_per_site": 16,
        "image_size": 96,
        "rounds": 30,
        "cascades": 5,
        "finetune_rounds": 20,
        "finetune_comparators": True,
    },
    ("simulated", "smoke"): {
        "sites": 3,
        "patients_per_site": 4,
        "slices": 2,
        "image_size": 32,
        "rounds": 2,
        "cascades": 2,
        "channels": 4,
        "pools": 1,
        "finetune_rounds": 2,
        "finetune_epochs": 1,
        "finetune_channels": 4,
        "finetune_pools": 2,
    },
    ("measured", "default"): {
        "matrix": 128,
        "masks_per_slice": 4,
        "rounds": 12,
        "finetune_rounds": 10,
        "finetune_comparators": True,
    },
    ("measured", "full"): {
        "masks_per_slice": 12,
        "rounds": 60,
        "finetune_rounds": 40,
        "finetune_comparators": True,
        "shrink": 1,
    },
    ("measured", "smoke"): {
        "rounds": 2,
        "masks_per_slice": 2,
        "cascades": 2,
        "channels": 4,
        "pools": 1,
        "finetune_rounds": 2,
        "finetune_epochs": 1,
        "finetune_channels": 4,
        "shrink": 4,
        "matrix": 64,
    },
}

# Chosen on the validation patients of simulated MRI, and used there only.
_PROXIMAL = {"network": "modl", "batch_size": 1, "learning_rate": 4e-3}
SIMULATED_MRI: dict[str, dict[str, Any]] = {
    "default": {**_PROXIMAL, "rounds": 3},
    "full": {**_PROXIMAL, "rounds": 12},
    "smoke": _PROXIMAL,
}


def resolve(given: dict[str, Any]) -> Settings:
    """Settings of the chosen cohort and preset with the ``given`` fields on top.

    Raises:
      ValueError: a value is outside its range; the message names the flag, what was expected and found.
    """
    if given.get("cohort") == "real":
        given = {**given, "cohort": "measured"}
    cohort, preset = given.get("cohort", "simulated"), given.get("preset", "default")
    if (cohort, preset) not in PRESETS:
        choices = ", ".join(f"--cohort={c} --preset={p}" for c, p in PRESETS)
        raise ValueError(f"--cohort={cohort} --preset={preset}: expected one of {choices}")
    values = PRESETS[cohort, preset]
    if cohort == "simulated" and given.get("modality", "mri") == "mri":
        values = values | SIMULATED_MRI[preset]
    settings = Settings(**{**values, **given})
    _check(settings)
    return settings


_POSITIVE = (
    "sites", "patients_per_site", "slices", "image_size", "masks_per_slice", "epochs", "batch_size", "rounds",
    "cascades", "channels", "pools", "learning_rate", "finetune_rounds", "finetune_epochs",
    "finetune_batch_size", "finetune_channels", "finetune_pools", "finetune_learning_rate", "shrink",
    "dp_clipping_norm", "dp_batch_size",
)  # fmt: skip


def _check(settings: Settings) -> None:
    for name in _POSITIVE:
        if not getattr(settings, name) > 0:
            raise ValueError(f"--{name}: expected a positive number, found {getattr(settings, name)}")
    for name in ("clip_norm", "dp_epsilon", "dp_delta", "clients_per_round", "matrix"):
        if getattr(settings, name) < 0:
            raise ValueError(
                f"--{name}: expected 0 (off) or a positive number, found {getattr(settings, name)}"
            )
    if settings.acceleration < 1:
        raise ValueError(f"--acceleration: expected at least 1, found {settings.acceleration}")
    if settings.shrink not in (1, 2, 4):
        raise ValueError(f"--shrink: expected 1, 2 or 4, found {settings.shrink}")
    if settings.dp_delta >= 1:
        raise ValueError(f"--dp_delta: expected less than 1, found {settings.dp_delta}")
    if settings.cohort == "measured" and not settings.data_dir:
        raise ValueError(
            "--data_dir: expected the folder of measured data with --cohort=measured, found none"
        )
    if settings.cohort == "measured" and settings.modality == "ct":
        raise ValueError(
            "--modality=ct: expected --modality=mri with --cohort=measured, which holds measured k-space"
        )
    if settings.cohort == "simulated" and settings.data_dir:
        raise ValueError(
            "--data_dir: expected --cohort=measured with a data folder, found --cohort=simulated"
        )
    if settings.cohort == "simulated" and settings.clients_per_round > settings.sites:
        raise ValueError(
            f"--clients_per_round: expected at most the {settings.sites} sites, "
            f"found {settings.clients_per_round}"
        )
