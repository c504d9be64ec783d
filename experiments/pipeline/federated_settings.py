"""Settings of one federated training, as `train_federated` and `compare` read them from flags."""

import dataclasses
from typing import Any

from experiments.pipeline.algorithms import TASKS
from experiments.pipeline.federation_settings import FederationSettings, check_federation
from experiments.pipeline.options import FlagError, changed, check_needs, check_ranges, setting

COHORTS = ("simulated", "folder", "retina", "xray")
PARTITIONS = ("natural", "dirichlet", "dirichlet_balanced", "quantity", "shards")
NORMS = ("instance", "group", "batch")

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "full": {
        "rounds": 100,
        "examples_per_client": 200,
        "patients_per_site": 16,
        "channels": 16,
        "cascades": 5,
    },
    "smoke": {
        "rounds": 2,
        "examples_per_client": 16,
        "patients_per_site": 4,
        "channels": 4,
        "pools": 1,
        "cascades": 2,
    },
}


# Fields that some preset sets.
BY_PRESET = frozenset(name for preset in PRESETS.values() for name in preset)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Everything that determines the results of one training; the flag of the same name sets a field."""

    preset: str = setting(
        "default", "Sizes: a minute or two, longer training, or a short trial", choices=PRESETS
    )
    task: str = setting("classification", "Task of the training", choices=TASKS)
    cohort: str = setting(
        "simulated",
        "Data: simulated, or from --data_dir: what data_scripts.simulate_cohort wrote (folder), which is the "
        "default with that flag, photographs of the retina (segmentation) or chest radiographs "
        "(classification)",
        choices=COHORTS,
    )
    data_dir: str = setting("", "Folder with cohort.json, or with multisite/ for --cohort=retina or xray")
    data_sha256: str = ""
    seed: int = setting(0, "Seed of the data, the partition, the initial weights and the training", least=0)
    rounds: int = setting(20, "Federated rounds", above=0)
    epochs: int = setting(1, "Local passes over a client's data in a round", above=0)
    batch_size: int = setting(10, "Examples in a local step", above=0)
    learning_rate: float = setting(0.05, "Client learning rate", above=0)
    federation: FederationSettings = dataclasses.field(default=FederationSettings())
    partition: str = setting(
        "natural",
        "Division of the examples over clients. Labels are classes, or else sites of origin",
        choices=PARTITIONS,
    )
    concentration: float = setting(
        0.3, "Concentration of the Dirichlet draws of labels or sizes; small is skewed", above=0
    )
    shards_per_client: int = setting(
        2, "Shards of sorted labels that a client gets, for --partition=shards", above=0
    )
    minimum_examples: int = setting(
        10, "Least number of examples of a client, for Dirichlet and quantity partitions", least=0
    )
    validation_part: float = setting(
        0.0,
        "Part of each client's patients that is kept from training for the validation curve; with "
        "--partition=natural cohorts of sites have such a split of their own",
        least=0,
        most=0.7,
    )
    feature_shift: float = setting(
        0.0, "Strength of gain, gamma, noise and blur that differ between clients; images only", least=0
    )
    clients: int = setting(
        0,
        "Number of clients; 0 is 5 simulated sites, 10 clients of a partition, or those of the data",
        least=0,
    )
    examples_per_client: int = setting(
        80, "Mean number of simulated images of a client, a quarter of them for testing", above=0
    )
    patients_per_site: int = setting(
        6, "Mean number of simulated patients of a site, for segmentation and reconstruction", above=0
    )
    classes: int = setting(10, "Classes of the simulated classification", least=2)
    image_size: int = setting(0, "Edge of the images; 0 is 16 to 64, by cohort", least=0)
    channels: int = setting(8, "Channels of the network at full resolution", above=0)
    pools: int = setting(2, "Poolings of the network", least=0)
    norm: str = setting("instance", "Normalization layers of the network", choices=NORMS)
    cascades: int = setting(3, "Cascades of the reconstruction network", above=0)


def resolve(arguments: dict[str, Any]) -> TrainSettings:
    """Settings of the chosen preset with the fields in ``arguments`` on top; unchecked.

    ``data_dir`` without a cohort is a folder.
    """
    if arguments.get("data_dir") and "cohort" not in arguments:
        arguments = {**arguments, "cohort": "folder"}
    preset = arguments.get("preset", "default")
    return changed(TrainSettings(), **{**PRESETS.get(preset, {}), **arguments})


def divides_patients(settings: TrainSettings) -> bool:
    """Whether the split of patients is made here, and is not that of a cohort of sites."""
    drawn = settings.task == "classification" and settings.cohort == "simulated"
    return drawn or settings.partition != "natural"


_SKEWED = ("dirichlet", "dirichlet_balanced", "quantity")
_DRAWN = ("classes", "examples_per_client")
# Flags that have an effect only together with others: (flag, what it needs, whether that is so).
_NEEDS = (
    ("concentration", f"--partition={' or '.join(_SKEWED)}", lambda s: s.partition in _SKEWED),
    ("minimum_examples", f"--partition={' or '.join(_SKEWED)}", lambda s: s.partition in _SKEWED),
    ("shards_per_client", "--partition=shards", lambda s: s.partition == "shards"),
    *((name, "--task=classification and --cohort=simulated",
       lambda s: (s.task, s.cohort) == ("classification", "simulated")) for name in _DRAWN),
    ("patients_per_site", "--task=segmentation or reconstruction and --cohort=simulated",
     lambda s: s.task != "classification" and s.cohort == "simulated"),
    ("image_size", "another --cohort than folder, whose images have a size", lambda s: s.cohort != "folder"),
    ("validation_part", "a partition that divides patients", lambda s: divides_patients(s)),
    ("cascades", "--task=reconstruction", lambda s: s.task == "reconstruction"),
    ("batch_size", "--dp_batch_size and no --batch_size", lambda s: not s.federation.dp_epsilon),
)  # fmt: skip


def check_settings(settings: TrainSettings) -> TrainSettings:
    """Returns the settings.

    Raises:
      FlagError: a value is outside its range, contradicts another or has no effect; the message names the
        flag.
    """
    check_ranges(settings)
    base = resolve({"preset": settings.preset})
    check_federation(settings.federation, base.federation)
    federation = settings.federation
    if federation.topology == "single_pass" and settings.rounds != 1:
        raise FlagError("rounds", "1 with --topology=single_pass", settings.rounds)
    if settings.norm == "group" and settings.channels % 4:
        raise FlagError("channels", "a multiple of 4 with --norm=group", settings.channels)
    if settings.norm == "batch" and federation.dp_epsilon:
        raise FlagError(
            "norm", "instance or group with --dp_epsilon, since batch statistics mix examples", settings.norm
        )
    fitting = {"retina": ("segmentation",), "xray": ("classification",)}.get(settings.cohort, TASKS)
    if settings.task not in fitting:
        raise FlagError("task", f"{' or '.join(fitting)} with --cohort={settings.cohort}", settings.task)
    if (settings.cohort != "simulated") != bool(settings.data_dir):
        expected = "no folder" if settings.cohort == "simulated" else "the folder of the data"
        raise FlagError("data_dir", f"{expected} with --cohort={settings.cohort}", repr(settings.data_dir))
    if settings.clients and settings.cohort != "simulated" and settings.partition == "natural":
        expected = f"0, the sites of --cohort={settings.cohort}, with --partition=natural"
        raise FlagError("clients", expected, settings.clients)
    if federation.patience and divides_patients(settings) and not settings.validation_part:
        raise FlagError("patience", "--validation_part with it", federation.patience)
    if settings.feature_shift and settings.task == "reconstruction":
        expected = "0 with --task=reconstruction, whose data are not images"
        raise FlagError("feature_shift", expected, settings.feature_shift)
    check_needs(settings, base, _NEEDS)
    return settings
