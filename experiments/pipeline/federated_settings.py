"""Settings of one federated training, as `train_federated` and `compare` read them from flags."""

import dataclasses
import math
from typing import Any

TASKS = ("classification", "segmentation", "reconstruction")
COHORTS = ("simulated", "retina", "xray")
OPTIMIZERS = ("sgd", "momentum", "adam")
SAMPLERS = ("all", "uniform", "poisson", "weighted", "longest_absent", "highest_loss")
REDUCERS = ("mean", "median", "trimmed_mean", "krum", "geometric_median")
WEIGHTINGS = ("default", "examples", "equal")
PARTITIONS = ("natural", "dirichlet", "dirichlet_balanced", "quantity", "shards")
NORMS = ("instance", "group", "batch")

CHOICES = {
    "task": TASKS,
    "cohort": COHORTS,
    "optimizer": OPTIMIZERS,
    "sampler": SAMPLERS,
    "reduce": REDUCERS,
    "weighting": WEIGHTINGS,
    "partition": PARTITIONS,
    "norm": NORMS,
}

HELP = {
    "task": "What is learned",
    "cohort": "Data: simulated, photographs of the retina (segmentation), chest radiographs (classification)",
    "data_dir": "Folder with multisite/, for the measured cohorts",
    "seed": "Seed of the data, the partition, the initial weights and the training",
    "rounds": "Federated rounds",
    "epochs": "Local passes over a client's data in a round",
    "batch_size": "Examples in a local step",
    "learning_rate": "Of the clients' steps",
    "optimizer": "Of the clients, started afresh each round; momentum is 0.9",
    "sampler": "Who takes part in a round",
    "clients_per_round": "Clients in a round (expected number, for poisson); all with --sampler=all",
    "reduce": "What the server does with the updates; see --reduce.NAME=VALUE",
    "weighting": "Of the clients in the mean; default is the algorithm's own",
    "partition": "Division of the examples over clients. Labels are classes, or else sites of origin",
    "concentration": "Of the Dirichlet draws of labels or sizes; small is skewed",
    "shards_per_client": "Shards of sorted labels that a client gets, for --partition=shards",
    "minimum_examples": "Least number of examples of a client, for partitions other than natural",
    "feature_shift": "Strength of gain, gamma, noise and blur that differ between clients; images only",
    "clients": "Number of clients; 0 is 5 simulated sites, 10 clients of a partition, or those of the data",
    "examples_per_client": "Mean number of simulated images of a client, a quarter of them for testing",
    "patients_per_site": "Mean number of simulated patients of a site, for segmentation and reconstruction",
    "classes": "Classes of the simulated classification",
    "image_size": "Edge of the images; 0 is 16 to 64, by cohort",
    "channels": "Channels of the network at full resolution",
    "pools": "Poolings of the network",
    "norm": "Normalisation layers of the network",
    "cascades": "Cascades of the reconstruction network",
}


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Everything that determines the results of one training; the flag of the same name sets a field.

    ``algorithm_options`` and ``reduce_options`` hold the texts of the dotted flags.
    """

    task: str = "classification"
    cohort: str = "simulated"
    data_dir: str = ""
    seed: int = 0
    algorithm: str = "fedavg"
    algorithm_options: tuple[tuple[str, str], ...] = ()
    rounds: int = 20
    epochs: int = 1
    batch_size: int = 10
    learning_rate: float = 0.05
    optimizer: str = "sgd"
    sampler: str = "all"
    clients_per_round: int = 0
    reduce: str = "mean"
    reduce_options: tuple[tuple[str, str], ...] = ()
    weighting: str = "default"
    partition: str = "natural"
    concentration: float = 0.3
    shards_per_client: int = 2
    minimum_examples: int = 10
    feature_shift: float = 0.0
    clients: int = 0
    examples_per_client: int = 80
    patients_per_site: int = 6
    classes: int = 10
    image_size: int = 0
    channels: int = 8
    pools: int = 2
    norm: str = "instance"
    cascades: int = 3

    def config(self) -> dict[str, Any]:
        """Flat, with dotted names, for config.json."""
        config = dataclasses.asdict(self)
        for group in ("algorithm", "reduce"):
            config |= {f"{group}.{name}": value for name, value in config.pop(f"{group}_options")}
        return config


_POSITIVE = (
    "rounds", "epochs", "batch_size", "learning_rate", "concentration", "shards_per_client",
    "examples_per_client", "patients_per_site", "channels", "cascades",
)  # fmt: skip
_NOT_NEGATIVE = (
    "seed",
    "clients_per_round",
    "clients",
    "minimum_examples",
    "feature_shift",
    "image_size",
    "pools",
)


def check_settings(settings: TrainSettings) -> TrainSettings:
    """Returns the settings.

    Raises:
      ValueError: a value is outside its range or contradicts another; the message names the flag.
    """
    for name, choices in CHOICES.items():
        if (found := getattr(settings, name)) not in choices:
            raise ValueError(f"--{name}: expected one of {', '.join(choices)}, found {found!r}")
    for name in _POSITIVE + _NOT_NEGATIVE:
        found = getattr(settings, name)
        if not math.isfinite(found) or found < 0 or (found == 0 and name in _POSITIVE):
            expected = "a positive number" if name in _POSITIVE else "a number of at least 0"
            raise ValueError(f"--{name}: expected {expected}, found {found}")
    if settings.classes < 2:
        raise ValueError(f"--classes: expected at least 2, found {settings.classes}")
    if settings.norm == "group" and settings.channels % 4:
        raise ValueError(f"--channels: expected a multiple of 4 with --norm=group, found {settings.channels}")
    fitting = {"retina": ("segmentation",), "xray": ("classification",)}.get(settings.cohort, TASKS)
    if settings.task not in fitting:
        raise ValueError(
            f"--task={settings.task}: expected {' or '.join(fitting)} with --cohort={settings.cohort}"
        )
    if (settings.cohort != "simulated") != bool(settings.data_dir):
        expected = "no folder" if settings.cohort == "simulated" else "the folder of the data"
        raise ValueError(
            f"--data_dir: expected {expected} with --cohort={settings.cohort}, found {settings.data_dir!r}"
        )
    if (settings.sampler == "all") != (settings.clients_per_round == 0):
        expected = "0" if settings.sampler == "all" else "a positive number"
        raise ValueError(
            f"--clients_per_round: expected {expected} with --sampler={settings.sampler}, "
            f"found {settings.clients_per_round}"
        )
    if settings.clients and settings.cohort != "simulated" and settings.partition == "natural":
        raise ValueError(
            f"--clients: expected 0, the sites of --cohort={settings.cohort}, with --partition=natural, "
            f"found {settings.clients}"
        )
    if settings.feature_shift and settings.task == "reconstruction":
        raise ValueError("--feature_shift: expected 0 with --task=reconstruction, whose data are not images")
    return settings
