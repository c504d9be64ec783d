"""Settings of joint training from measurement to mask and diagnosis."""

import dataclasses
from functools import partial
from typing import Any

from experiments.pipeline.joint_data import DATA
from fedrecon.training import (
    FederationSettings,
    FlagError,
    Need,
    changed,
    check_federation,
    check_needs,
    check_ranges,
    setting,
)

PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    "smoke": {
        "rounds": 2,
        "image_size": 32,
        "cascades": 2,
        "channels": 4,
        "reader_channels": 4,
        "patients": 6,
    },
    "full": {
        "rounds": 60,
        "image_size": 128,
        "cascades": 6,
        "channels": 16,
        "reader_channels": 16,
        "pools": 3,
        "remat": True,
        "patients": 16,
    },
}
BY_PRESET = frozenset(name for preset in PRESETS.values() for name in preset)
_data, _model, _training, _run = (partial(setting, group=g) for g in ("data", "model", "training", "run"))
_SIMULATED = Need("--data=lesions, ct or clinical_ct", lambda s: s.data != "sunnybrook")
_PUBLIC = Need("--data=sunnybrook or clinical_ct", lambda s: s.data in ("sunnybrook", "clinical_ct"))


@dataclasses.dataclass(frozen=True)
class JointSettings:
    """Everything that determines the results of one seed; the flag of the same name sets a field."""

    preset: str = _run(
        "small", "Sizes: small images and networks, larger ones, or a short trial", choices=PRESETS
    )
    data: str = _data(
        "sunnybrook",
        "Data: hearts of 30 patients at five simulated scanners, heads or CT with simulated lesions, or "
        "CT of two patients with inserted ones",
        choices=DATA,
    )
    data_dir: str = _data(
        "",
        "Folder with multisite/sunnybrook_cardiac.h5, or with the files of clinical CT",
        needs=(_PUBLIC,),
    )
    image_size: int = _data(64, "Edge of the images", least=16)
    acceleration: float = _data(
        8.0, "Acceleration of the measurements; of CT the views are 96 over it", least=1
    )
    patients: int = _data(
        8,
        "Mean number of patients of a site; of clinical CT the copies, of which a quarter is healthy",
        least=6,
        needs=(_SIMULATED,),
    )
    data_seed: int = _data(0, "Seed of scanners, noise, masks and division of the patients", least=0)
    seed: int = _run(0, "First seed of the initial weights and the training", least=0)
    rounds: int = _training(12, "Federated rounds of every mode", above=0)
    epochs: int = _training(1, "Local passes over a client's data in a round", above=0)
    batch_size: int = _training(8, "Examples in a local step", above=0)
    learning_rate: float = _training(0.005, "Client learning rate", above=0)
    federation: FederationSettings = dataclasses.field(
        default=FederationSettings(optimizer="adam_cosine", validate_every=0)
    )
    cascades: int = _model(3, "Unrolled steps of the reconstruction", above=0)
    channels: int = _model(8, "Channels of the reconstruction's networks", above=0)
    reader_channels: int = _model(8, "Channels of the network that reads images", above=0)
    pools: int = _model(2, "Poolings of both networks", least=0)
    remat: bool = _model(False, "Recompute each unrolled step in the backward pass: less memory, more time")
    reference_weight: float = _training(0.5, "Weight of the reader's loss on reference images", least=0)
    project: bool = _training(False, "Take from the reader's gradient what opposes the reconstruction's")
    start: float = _training(
        0.3, "Part of the rounds before the reader's loss reaches the reconstruction", least=0, most=1
    )
    full: float = _training(0.6, "Part of the rounds after which it has its full weight", least=0, most=1)
    ramp: bool = _training(False, "Train at half the acceleration until the last two fifths of the rounds")


def resolve(arguments: dict[str, Any]) -> JointSettings:
    """Settings of the chosen preset with the fields in ``arguments`` on top; unchecked."""
    preset = arguments.get("preset", "small")
    return changed(JointSettings(), **{**PRESETS.get(preset, {}), **arguments})


def check_settings(settings: JointSettings) -> JointSettings:
    """Returns the settings.

    Raises:
      FlagError: a value is outside its range, contradicts another or has no effect.
    """
    check_ranges(settings)
    check_federation(settings.federation)
    if settings.start > settings.full:
        raise FlagError("start", f"at most --full={settings.full}", settings.start)
    if settings.image_size % (1 << settings.pools):
        raise FlagError("image_size", f"a multiple of {1 << settings.pools}", settings.image_size)
    if settings.data == "sunnybrook" and 128 % settings.image_size:
        raise FlagError("image_size", "16, 32, 64 or 128 with --data=sunnybrook", settings.image_size)
    if settings.acceleration > settings.image_size / 4:
        expected = f"at most {settings.image_size // 4}, a quarter of the columns"
        raise FlagError("acceleration", expected, settings.acceleration)
    if settings.federation.dp_epsilon:
        expected = "0: norms of gradients at the interface are sent without noise"
        raise FlagError("dp_epsilon", expected, settings.federation.dp_epsilon)
    if settings.federation.topology != "star":
        raise FlagError("topology", "star, whose server balances the losses", settings.federation.topology)
    if settings.data == "clinical_ct" and settings.image_size & (settings.image_size - 1):
        raise FlagError("image_size", "a power of two with --data=clinical_ct", settings.image_size)
    check_needs(settings, resolve({"preset": settings.preset}))
    return settings
