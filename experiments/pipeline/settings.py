"""Settings of the full-stack experiment and the presets they come from."""

import dataclasses
from functools import partial
from typing import Any

from fedrecon.models import CLASSIFIERS, SEGMENTERS, SIZED, SUPERVISED, SUPERVISED_POOLS
from fedrecon.training import (
    NO_PRIVACY,
    FederationSettings,
    FlagError,
    Need,
    changed,
    check_federation,
    check_method,
    check_needs,
    check_ranges,
    fitted,
    fixed_flags,
    initial_tasks,
    method,
    setting,
    unprotected,
)

_data, _model, _training, _run = (partial(setting, group=g) for g in ("data", "model", "training", "run"))
_SIMULATED = Need("--cohort=simulated", lambda s: s.cohort == "simulated")
_MEASURED = Need("--cohort=measured", lambda s: s.cohort == "measured")
_SIZED = Need(
    "a --segmentation_network or --classification_network whose size is not the published one",
    lambda s: s.segmentation_network in SIZED or s.classification_network in SIZED,
)


@dataclasses.dataclass(frozen=True)
class FullStackSettings:
    """Everything that determines the results of a full-stack run; the flag of the same name sets a field.

    Sizes are in pixels, rates per optimizer step, rounds count federated rounds.
    """

    modality: str = _data("mri", "Physics of the simulated cohort", choices=("mri", "ct"))
    cohort: str = _data(
        "simulated",
        "Simulated sites, or from --data_dir: own files in folders of hospitals, or what "
        "data_scripts.simulate_cohort wrote (folder), which is the default with that flag, or measured data "
        "(measured, or real)",
        choices=("simulated", "folder", "measured", "real"),
    )
    preset: str = _run(
        "default",
        "Sizes: minutes, half an hour, or a short trial; sets what other flags leave open",
        choices=("default", "full", "smoke"),
    )
    data_dir: str = _data(
        "",
        "Folder of hospitals (docs/own_data.md), or with cohort.json, or with "
        "mri/ and multisite/ for --cohort=measured",
    )
    data_sha256: str = ""
    data_labels: str = ""
    skip_bad: bool = _data(
        False,
        "Leave out files of --data_dir that have a fault, and list them in the notes",
        needs=(Need("--data_dir of own files", lambda s: s.cohort == "folder"),),
    )
    seed: int = _run(0, "Seed of the cohort, the initial weights and the training", least=0)
    # Cohort.
    sites: int = _data(5, "Number of simulated sites", above=0, needs=(_SIMULATED,))
    patients_per_site: int = _data(
        10, "Mean number of simulated patients at a site", above=0, needs=(_SIMULATED,)
    )
    slices: int = _data(4, "Slices of a simulated patient", above=0, needs=(_SIMULATED,))
    image_size: int = _data(64, "Matrix size of the simulated images", least=16, needs=(_SIMULATED,))
    acceleration: float = _data(
        4.0,
        "Undersampling factor of the k-space lines",
        least=1,
        needs=(Need("--cohort=simulated or measured", lambda s: s.cohort != "folder"),),
    )
    masks_per_slice: int = _data(
        6, "Training masks drawn for each measured slice", above=0, needs=(_MEASURED,)
    )
    # Federation.
    federation: FederationSettings = dataclasses.field(default=FederationSettings(optimizer="adam_cosine"))
    epochs: int = _training(1, "Local epochs in a reconstruction round", above=0)
    batch_size: int = _training(
        2, "Slices in a local step of the reconstruction", above=0, needs=(NO_PRIVACY,)
    )
    mirror: bool = _training(
        False,
        "Mirror slices at random in both directions while the reconstruction is trained",
        needs=(Need("--modality=mri", lambda s: s.modality == "mri"),),
    )
    comparators: bool = _training(True, "Also train local-only and centralized reconstruction networks")
    # Reconstruction.
    network: str = _model(
        "varnet",
        "Reconstruction network: the data term is minimized (modl), or descended by one step (varnet), in a "
        "cascade",
        choices=("modl", "varnet"),
    )
    rounds: int = _training(12, "Reconstruction rounds", above=0)
    start: str = _model(
        "random",
        "Network that all trainings of the reconstruction start from: shipped (made by "
        "experiments.starting_network), the folder of a run or a network.npz, or random weights (random)",
    )
    start_sha256: str = ""
    cascades: int = _model(4, "Cascades of the reconstruction network", above=0)
    channels: int = _model(8, "Channels of its regularizer at full resolution", above=0)
    pools: int = _model(2, "Poolings of its regularizer", above=0)
    learning_rate: float = _training(2e-3, "Peak learning rate of the reconstruction", above=0)
    pooled_learning_rate: float = _training(
        0.0,
        "The same on pooled data, which take the steps of all sites; 0 takes --learning_rate",
        least=0,
        needs=(Need("--comparators", lambda s: s.comparators),),
    )
    pooled_epochs: int = _training(
        0,
        "Passes over pooled data in a round, each of as many steps as all sites take; 0 takes --epochs",
        least=0,
        needs=(Need("--comparators", lambda s: s.comparators),),
    )
    learn_coil_maps: bool = _model(
        False,
        "Refine the coil sensitivities inside the network",
        needs=(Need("--modality=mri", lambda s: s.modality == "mri"),),
    )
    # Segmentation and classification.
    finetune_rounds: int = _training(12, "Rounds of segmentation and of classification", above=0)
    finetune_epochs: int = _training(2, "Local epochs in one of those rounds", above=0)
    finetune_batch_size: int = _training(
        4, "Examples in a local step of those rounds", above=0, needs=(NO_PRIVACY,)
    )
    segmentation_network: str = _model("unet", "Network of the segmentation", choices=SEGMENTERS)
    classification_network: str = _model(
        "unet",
        "Network of the classification; all but the U-Nets have the sizes published",
        choices=CLASSIFIERS,
    )
    finetune_channels: int = _model(
        8, "Channels of the segmentation and classification encoder", above=0, needs=(_SIZED,)
    )
    finetune_pools: int = _model(3, "Poolings of that encoder", above=0, needs=(_SIZED,))
    finetune_learning_rate: float = _training(
        3e-3, "Peak learning rate of segmentation and classification", above=0
    )
    finetune_comparators: bool = _training(
        False, "Also train local-only segmentation and classification networks"
    )
    shrink: int = _data(
        2,
        "Factor by which measured segmentation and classification images are averaged down: 1, 2 or 4",
        needs=(_MEASURED,),
    )
    matrix: int = _data(
        0,
        "Common matrix of measured k-space; below a site's own it loses resolution, 0 is the largest",
        least=0,
        needs=(_MEASURED,),
    )


# Ends no training early: of every one, comparators included, the best round by validation is kept.
_KEEPS_BEST = {"patience": 1000}
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
        "network": "modl",
        "cascades": 3,
        "rounds": 12,
        "epochs": 6,
        "batch_size": 1,
        "learning_rate": 16e-3,
        "pooled_epochs": 2,
        "pooled_learning_rate": 8e-3,
        "weighting": "equal",
        **_KEEPS_BEST,
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

# Rates of the default were chosen on the validation patients of simulated MRI.
_PROXIMAL = {
    "network": "modl",
    "cascades": 3,
    "batch_size": 1,
    "epochs": 2,
    "learning_rate": 16e-3,
    "pooled_learning_rate": 8e-3,
    "mirror": True,
}
SIMULATED_MRI: dict[str, dict[str, Any]] = {
    "default": {
        **_PROXIMAL,
        **_KEEPS_BEST,
        "start": "shipped",
        "sites": 8,
        "patients_per_site": 4,
        "slices": 3,
        "image_size": 128,
        "rounds": 8,
        "epochs": 4,
        "learning_rate": 6e-3,
        "pooled_epochs": 1,
        "pooled_learning_rate": 4e-3,
        "finetune_rounds": 12,
        "finetune_comparators": True,
    },
    "full": {
        **_PROXIMAL,
        **_KEEPS_BEST,
        "start": "shipped",
        "sites": 8,
        "patients_per_site": 12,
        "slices": 5,
        "image_size": 160,
        "rounds": 20,
        "epochs": 1,
        "learning_rate": 6e-3,
        "pooled_learning_rate": 3e-3,
    },
    "smoke": {**_PROXIMAL, "cascades": 2},
}
# What a folder says itself.
_DRAWN = ("sites", "patients_per_site", "slices", "image_size")
for _preset, _values in SIMULATED_MRI.items():
    _values = PRESETS["simulated", _preset] | _values
    PRESETS["folder", _preset] = {name: value for name, value in _values.items() if name not in _DRAWN}

# Fields that some preset sets.
BY_PRESET = frozenset(name for preset in (*PRESETS.values(), *SIMULATED_MRI.values()) for name in preset)


def resolve(arguments: dict[str, Any]) -> FullStackSettings:
    """Settings of the chosen cohort and preset with the fields in ``arguments`` on top.

    Algorithms that presume an optimizer of their own get it where none is given, see `fitted`;
    ``clients_per_round`` without a sampler is drawn uniformly, and ``data_dir`` without a cohort is a folder.
    A preset's ``patience`` is for trainings that have validation curves, which private ones have not, its
    ``start`` for a reconstruction that ``initialize_from`` has no model for.

    Raises:
      FlagError: a value is outside its range; the message names the flag, what was expected and found.
    """
    if arguments.get("cohort") == "real":
        arguments = {**arguments, "cohort": "measured"}
    if arguments.get("data_dir") and "cohort" not in arguments:
        arguments = {**arguments, "cohort": "folder"}
    cohort, preset = arguments.get("cohort", "simulated"), arguments.get("preset", "default")
    if (cohort, preset) not in PRESETS:
        choices = ", ".join(f"--cohort={c} --preset={p}" for c, p in PRESETS)
        raise FlagError("preset", f"one of {choices}", f"--cohort={cohort} --preset={preset}")
    fixed = fixed_flags(method(arguments.get("algorithm", "fedavg")))
    values = {name: value for name, value in PRESETS[cohort, preset].items() if name not in fixed}
    if cohort == "simulated" and arguments.get("modality", "mri") == "mri":
        values = values | SIMULATED_MRI[preset]
    if arguments.get("dp_epsilon") or not arguments.get("validate_every", 1):
        # Validation curves are not private, and there may be none.
        values = values | dict.fromkeys(_KEEPS_BEST, 0)
    if "reconstruction" in initial_tasks(arguments.get("initialize_from", "")):
        if arguments.get("start", "random") != "random":
            expected = "random, or none, with --initialize_from of a model of the reconstruction"
            raise FlagError("start", expected, arguments["start"])
        values = values | {"start": "random"}
    if arguments.get("clients_per_round") and "sampler" not in arguments:
        arguments = {**arguments, "sampler": "uniform"}
    settings = changed(FullStackSettings(), **{**values, **arguments})
    check_ranges(settings)
    base = changed(FullStackSettings(), **values)
    if "optimizer" not in arguments:
        federation = fitted(settings.federation)
        settings = dataclasses.replace(settings, federation=federation)
        kept = {name: getattr(federation, name) for name in ("rate_schedule", "final_rate")}
        base = changed(base, **kept)
    check_needs(settings, base)
    check_federation(settings.federation)
    check_method(settings.federation)
    _check(settings)
    return settings


def _check(settings: FullStackSettings) -> None:
    if settings.segmentation_network in SUPERVISED and settings.finetune_pools < SUPERVISED_POOLS:
        expected = f"{SUPERVISED_POOLS} or more with --segmentation_network={settings.segmentation_network}"
        raise FlagError(
            "finetune_pools", f"{expected}, whose coarsest output has no weight", settings.finetune_pools
        )
    for name in ("pools", "finetune_pools"):
        if settings.cohort == "simulated" and 2 ** getattr(settings, name) > settings.image_size:
            expected = f"poolings that leave a pixel of --image_size={settings.image_size}"
            raise FlagError(name, expected, getattr(settings, name))
    if settings.shrink not in (1, 2, 4):
        raise FlagError("shrink", "1, 2 or 4", settings.shrink)
    if settings.cohort != "simulated" and not settings.data_dir:
        raise FlagError("data_dir", f"the folder of the data with --cohort={settings.cohort}", "none")
    if settings.cohort != "simulated" and settings.modality == "ct":
        raise FlagError("modality", f"mri with --cohort={settings.cohort}, which holds k-space", "ct")
    if settings.cohort == "simulated" and settings.data_dir:
        raise FlagError("data_dir", "--cohort=folder or measured with a data folder", "--cohort=simulated")
    federation = settings.federation
    if not method(federation.algorithm).exchanges:
        raise FlagError(
            "algorithm", "one that exchanges something; --comparators trains the others", federation.algorithm
        )
    if settings.cohort == "simulated" and federation.clients_per_round > settings.sites:
        raise FlagError(
            "clients_per_round", f"at most the {settings.sites} sites", federation.clients_per_round
        )
    for name in ("rounds", "finetune_rounds"):
        if federation.topology == "single_pass" and getattr(settings, name) != 1:
            raise FlagError(name, "1 with --topology=single_pass", getattr(settings, name))
    if federation.dp_epsilon and settings.cohort != "measured":
        personal = "fine_tune" if federation.fine_tune else "algorithm"
        if unprotected(federation):
            expected = (
                "one without models that sites train without noise, with --dp.epsilon, since later stages "
                "train on their images"
            )
            raise FlagError(personal, expected, getattr(federation, personal))
