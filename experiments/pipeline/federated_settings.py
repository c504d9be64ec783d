"""Settings of one federated training, as `train_federated` and `compare` read them from flags."""

import dataclasses
import math
from typing import Any

TASKS = ("classification", "segmentation", "reconstruction")
COHORTS = ("simulated", "retina", "xray")
OPTIMIZERS = ("sgd", "momentum", "adam")
SAMPLERS = ("all", "uniform", "poisson", "weighted", "longest_absent", "highest_loss")
REDUCERS = ("mean", "median", "trimmed_mean", "krum", "bulyan", "geometric_median")
SERVER_OPTIMIZERS = ("default", "sgd", "momentum", "adagrad", "adam", "adamw", "amsgrad", "lamb", "lion",
                     "nadam", "radam", "rmsprop", "yogi")  # fmt: skip
RATE_SCHEDULES = ("constant", "linear", "cosine", "exponential")
TOPOLOGIES = ("star", "ring", "single_pass", "gossip", "asynchronous")
MIXINGS = ("ring", "complete", "matching")
VISITS = ("fixed", "shuffled")
HANDOVERS = ("model", "optimizer")
DELAYS = ("half_normal", "constant")
STREAM_SOURCES = ("memory", "hdf5")
WEIGHTINGS = ("default", "examples", "equal")
PARTITIONS = ("natural", "dirichlet", "dirichlet_balanced", "quantity", "shards")
NORMS = ("instance", "group", "batch")

CHOICES = {
    "task": TASKS,
    "cohort": COHORTS,
    "optimizer": OPTIMIZERS,
    "sampler": SAMPLERS,
    "reduce": REDUCERS,
    "server_optimizer": SERVER_OPTIMIZERS,
    "rate_schedule": RATE_SCHEDULES,
    "topology": TOPOLOGIES,
    "mixing": MIXINGS,
    "visits": VISITS,
    "handover": HANDOVERS,
    "delay": DELAYS,
    "stream_from": STREAM_SOURCES,
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
    "screen_norm": "Leaves out clients whose update is longer than this many times the median; 0 none",
    "screen_cosine": "Leaves out clients whose update has a lower cosine with the median update; -1 none",
    "clip_norm": "Largest l2 norm of a client's update, longer ones are scaled down to it; 0 is no bound",
    "weighting": "Of the clients in the mean; default is the algorithm's own",
    "server_optimizer": "Of the server, fed minus the mean update; default is the algorithm's own",
    "server_learning_rate": "Of the server's steps, for --server_optimizer other than default",
    "rate_schedule": "How the clients' learning rate falls from round to round",
    "final_rate": "Part of the learning rate that is left in the last round, but for a constant schedule",
    "stragglers": "Probability that a client takes but a random part of its steps in a round",
    "fault": "What goes wrong, KIND:CLIENT,...: nan, inf, exploding, flipped, crashed, empty or straggler",
    "fine_tune": "Passes of each client over its data after training, for a released model of its own",
    "fine_tune_head": "Part of the network that --fine_tune trains, such as head; all by default",
    "topology": "Who sends models to whom; single_pass is one ring of one round",
    "mixing": "Who averages with whom in --topology=gossip: two neighbours, all, or random pairs",
    "visits": "Order of the clients in --topology=ring or single_pass",
    "handover": "What travels in --topology=ring or single_pass: the model, or its optimiser's state, too",
    "concurrency": "Clients that train at a time in --topology=asynchronous; 0 is half of them",
    "buffer_size": "Updates that arrive before a step of the server in --topology=asynchronous",
    "delay": "How long an update takes in --topology=asynchronous; a straggler takes ten times as long",
    "discount": "Updates s server steps old count (1 + s)^-discount in --topology=asynchronous",
    "asynchronous_mixing": "Part of the server's model that an update replaces (FedAsync); 0 is FedBuff",
    "stream": "Most clients of a round on the device, data and states of others staying in memory; 0 is all",
    "stream_from": "Where the data of streamed clients are: memory, or an HDF5 file in --workdir",
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
    "methods_from": "Python file that registers methods of its own in fedrecon.catalog; see CONTRIBUTING.md",
}


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Everything that determines the results of one training; the flag of the same name sets a field.

    ``algorithm_options`` and ``reduce_options`` hold the texts of the dotted flags, ``methods_sha256`` the
    SHA-256 of the file ``methods_from``.
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
    screen_norm: float = 0.0
    screen_cosine: float = -1.0
    clip_norm: float = 0.0
    weighting: str = "default"
    server_optimizer: str = "default"
    server_learning_rate: float = 1.0
    rate_schedule: str = "constant"
    final_rate: float = 0.1
    stragglers: float = 0.0
    fault: str = ""
    fine_tune: int = 0
    fine_tune_head: str = ""
    topology: str = "star"
    mixing: str = "ring"
    visits: str = "fixed"
    handover: str = "model"
    concurrency: int = 0
    buffer_size: int = 1
    delay: str = "half_normal"
    discount: float = 0.5
    asynchronous_mixing: float = 0.0
    stream: int = 0
    stream_from: str = "memory"
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
    methods_from: str = ""
    methods_sha256: str = ""

    def config(self) -> dict[str, Any]:
        """Flat, with dotted names, for config.json."""
        config = dataclasses.asdict(self)
        for group in ("algorithm", "reduce"):
            config |= {f"{group}.{name}": value for name, value in config.pop(f"{group}_options")}
        path, digest = config.pop("methods_from"), config.pop("methods_sha256")
        if path:
            config |= {"methods_from": path, "methods_from.sha256": digest}
        return config


_POSITIVE = (
    "rounds", "epochs", "batch_size", "learning_rate", "concentration", "shards_per_client",
    "examples_per_client", "patients_per_site", "channels", "cascades", "server_learning_rate", "final_rate",
    "buffer_size",
)  # fmt: skip
_NOT_NEGATIVE = (
    "seed",
    "clients_per_round",
    "clients",
    "minimum_examples",
    "feature_shift",
    "image_size",
    "pools",
    "screen_norm",
    "clip_norm",
    "stragglers",
    "fine_tune",
    "concurrency",
    "discount",
    "stream",
)
# Flags that say something only together with others: (flag, what it needs, whether that is so).
_NEEDS = (
    ("server_learning_rate", "a --server_optimizer", lambda s: s.server_optimizer != "default"),
    ("final_rate", "a --rate_schedule", lambda s: s.rate_schedule != "constant"),
    ("fine_tune_head", "--fine_tune", lambda s: s.fine_tune > 0),
    ("mixing", "--topology=gossip", lambda s: s.topology == "gossip"),
    *(
        (name, "--topology=ring or single_pass", lambda s: s.topology in ("ring", "single_pass"))
        for name in ("visits", "handover")
    ),
    *(
        (name, "--topology=asynchronous", lambda s: s.topology == "asynchronous")
        for name in ("concurrency", "buffer_size", "delay", "discount", "asynchronous_mixing")
    ),
    ("stream_from", "--stream", lambda s: s.stream > 0),
)
# Flags of what happens at a server, and those that other topologies leave without effect.
_SERVER = (
    "reduce",
    "screen_norm",
    "screen_cosine",
    "clip_norm",
    "weighting",
    "server_optimizer",
    "fault",
    "stream",
)
_WITHOUT = {
    "ring": _SERVER,
    "single_pass": _SERVER,
    "gossip": _SERVER,
    "asynchronous": ("reduce", "screen_norm", "screen_cosine", "sampler", "stream"),
}


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
    defaults = TrainSettings()
    for name, other, given in _NEEDS:
        if getattr(settings, name) != getattr(defaults, name) and not given(settings):
            raise ValueError(f"--{name}: expected {other} beside it, found none")
    for name in _WITHOUT.get(settings.topology, ()):
        if (found := getattr(settings, name)) != getattr(defaults, name):
            raise ValueError(
                f"--{name}: expected {getattr(defaults, name)!r} with --topology={settings.topology}, "
                f"found {found!r}"
            )
    if settings.topology == "single_pass" and settings.rounds != 1:
        raise ValueError(f"--rounds: expected 1 with --topology=single_pass, found {settings.rounds}")
    if settings.asynchronous_mixing and settings.buffer_size != 1:
        raise ValueError(
            f"--buffer_size: expected 1 with --asynchronous_mixing, found {settings.buffer_size}"
        )
    if settings.screen_norm and settings.screen_norm < 1:
        raise ValueError(f"--screen_norm: expected 0 or at least 1, found {settings.screen_norm}")
    for name, low, high in (
        ("screen_cosine", -1, 1),
        ("stragglers", 0, 1),
        ("final_rate", 0, 1),
        ("asynchronous_mixing", 0, 1),
    ):
        if not low <= (found := getattr(settings, name)) <= high:
            raise ValueError(f"--{name}: expected a number from {low} to {high}, found {found}")
    if settings.stream and settings.stream < settings.clients_per_round:
        raise ValueError(
            f"--stream: expected at least the {settings.clients_per_round} --clients_per_round, "
            f"found {settings.stream}"
        )
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
