"""Settings of federated training, the same in every program: algorithm, topology, faults, privacy."""

import dataclasses

from experiments.pipeline.options import FlagError, check_needs, setting

OPTIMIZERS = ("sgd", "momentum", "adam", "adam_cosine")
SAMPLERS = ("all", "uniform", "poisson", "weighted", "longest_absent", "highest_loss")
REDUCERS = ("mean", "median", "trimmed_mean", "krum", "bulyan", "geometric_median")
SERVER_OPTIMIZERS = ("default", "sgd", "momentum", "adagrad", "adam", "adamw", "amsgrad", "lamb", "lion",
                     "nadam", "radam", "rmsprop", "yogi")  # fmt: skip
RATE_SCHEDULES = ("constant", "linear", "cosine", "exponential", "warmup_cosine")
TOPOLOGIES = ("star", "ring", "single_pass", "gossip", "asynchronous")
MIXINGS = ("ring", "complete", "matching")
VISITS = ("fixed", "shuffled")
HANDOVERS = ("model", "optimizer")
DELAYS = ("half_normal", "constant")
STREAM_SOURCES = ("memory", "hdf5")
WEIGHTINGS = ("default", "examples", "equal")


@dataclasses.dataclass(frozen=True)
class FederationSettings:
    """Settings of federated training; the flag of the same name sets a field.

    ``algorithm_options`` and ``reduce_options`` hold the texts of the dotted flags, ``methods_sha256`` the
    SHA-256 of the file ``methods_from``.
    """

    algorithm: str = setting("fedavg", "Federated algorithm; see --algorithm.NAME=VALUE")
    algorithm_options: tuple[tuple[str, str], ...] = ()
    methods_from: str = setting(
        "", "Python file that registers methods of its own in fedrecon.catalog; see CONTRIBUTING.md"
    )
    methods_sha256: str = ""
    optimizer: str = setting(
        "sgd",
        "Optimizer of the clients, started afresh each round; momentum is 0.9. adam_cosine is adam that is "
        "kept from round to round, clips gradients to norm 1, and has --rate_schedule=warmup_cosine to a "
        "fiftieth unless another is given",
        choices=OPTIMIZERS,
    )
    sampler: str = setting("all", "Choice of the clients of a round", choices=SAMPLERS)
    clients_per_round: int = setting(
        0, "Clients in a round (expected number, for poisson); 0 with --sampler=all", least=0
    )
    reduce: str = setting(
        "mean", "Reducer of the updates at the server; see --reduce.NAME=VALUE", choices=REDUCERS
    )
    reduce_options: tuple[tuple[str, str], ...] = ()
    screen_norm: float = setting(
        0.0, "Leaves out clients whose update is longer than this many times the median; 0 none", least=0
    )
    screen_cosine: float = setting(
        -1.0,
        "Leaves out clients whose update has a lower cosine with the median update; -1 none",
        least=-1,
        most=1,
    )
    clip_norm: float = setting(
        0.0, "Largest l2 norm of a client's update, longer ones are scaled down to it; 0 is no bound", least=0
    )
    weighting: str = setting(
        "default",
        "Weights of the clients in the mean; default is the algorithm's own, equal with --sampler=weighted",
        choices=WEIGHTINGS,
    )
    server_optimizer: str = setting(
        "default",
        "Optimizer of the server, fed minus the mean update; default is the algorithm's own",
        choices=SERVER_OPTIMIZERS,
    )
    server_learning_rate: float = setting(
        1.0, "Learning rate of the server, for --server_optimizer other than default", above=0
    )
    rate_schedule: str = setting(
        "constant",
        "Learning rate of the clients by round, the same at all of them: linear, cosine and exponential fall "
        "from the first round to the last; warmup_cosine rises over a twentieth of the training and falls "
        "from step to step within rounds",
        choices=RATE_SCHEDULES,
    )
    final_rate: float = setting(
        0.1, "Part of the learning rate that is left at the end, unless constant", above=0, most=1
    )
    stragglers: float = setting(
        0.0, "Probability that a client takes only a random part of its steps in a round", least=0, most=1
    )
    fault: str = setting(
        "", "Faults of clients, KIND:CLIENT,...: nan, inf, exploding, flipped, crashed, empty or straggler"
    )
    validate_every: int = setting(
        1, "Rounds between evaluations on the validation split of the clients; 0 never evaluates", least=0
    )
    patience: int = setting(
        0,
        "Rounds without a lower validation loss after which a training ends, and it keeps its best round; 0 "
        "trains all rounds and keeps the last",
        least=0,
    )
    fine_tune: int = setting(
        0, "Passes of each client over its data after training, for a released model of its own", least=0
    )
    fine_tune_head: str = setting(
        "", "Part of the network that --fine_tune trains, such as head; all by default"
    )
    topology: str = setting(
        "star",
        "Paths of models between clients and server; single_pass is one ring of one round",
        choices=TOPOLOGIES,
    )
    mixing: str = setting(
        "ring",
        "Partners of a client in --topology=gossip: two neighbors, all, or random pairs",
        choices=MIXINGS,
    )
    visits: str = setting("fixed", "Order of the clients in --topology=ring or single_pass", choices=VISITS)
    handover: str = setting(
        "model",
        "Handed on in --topology=ring or single_pass: the model, or its optimizer's state, too",
        choices=HANDOVERS,
    )
    concurrency: int = setting(
        0, "Clients that train at a time in --topology=asynchronous; 0 is half of them", least=0
    )
    buffer_size: int = setting(
        1, "Updates that arrive before a step of the server in --topology=asynchronous", least=1
    )
    delay: str = setting(
        "half_normal",
        "Distribution of the delays in --topology=asynchronous; a straggler takes ten times as long",
        choices=DELAYS,
    )
    discount: float = setting(
        0.5, "Updates s server steps old count (1 + s)^-discount in --topology=asynchronous", least=0
    )
    asynchronous_mixing: float = setting(
        0.0,
        "Part of the server's model that an update replaces (FedAsync); 0 is FedBuff",
        least=0,
        most=1,
    )
    stream: int = setting(
        0,
        "Most clients of a round on the device, data and states of others staying in memory; 0 is all",
        least=0,
    )
    stream_from: str = setting(
        "memory",
        "Place of the data of streamed clients: memory, or an HDF5 file in --workdir",
        choices=STREAM_SOURCES,
    )
    dp_epsilon: float = setting(
        0.0,
        "Example-level privacy budget of each client's training (DP-SGD) over all stages; with any algorithm "
        "that sends nothing else it computes from examples; 0 trains without, as comparators always do",
        least=0,
    )
    dp_delta: float = setting(
        0.0, "Delta of that budget; 0 takes 1 / n^1.1 of the smallest client", least=0, most=1
    )
    dp_clipping_norm: float = setting(
        0.1, "Clipping norm of the per-example gradients under --dp_epsilon", above=0
    )
    dp_batch_size: int = setting(
        8, "Expected size of the Poisson-sampled batches of all stages under --dp_epsilon", least=1
    )


_RINGS = ("ring", "single_pass")
_ASYNCHRONOUS = ("concurrency", "buffer_size", "delay", "discount", "asynchronous_mixing")
# Flags that have an effect only together with others: (flag, what it needs, whether that is so).
_NEEDS = (
    ("server_learning_rate", "a --server_optimizer", lambda s: s.server_optimizer != "default"),
    ("final_rate", "a --rate_schedule", lambda s: s.rate_schedule != "constant"),
    ("fine_tune_head", "--fine_tune", lambda s: s.fine_tune > 0),
    # The other reducers look at updates without their weights.
    ("weighting", "--reduce=mean or geometric_median",
     lambda s: s.reduce in ("mean", "geometric_median")),
    ("mixing", "--topology=gossip", lambda s: s.topology == "gossip"),
    ("handover", "an --optimizer with a state", lambda s: s.optimizer != "sgd"),
    *((name, "--topology=ring or single_pass", lambda s: s.topology in _RINGS)
      for name in ("visits", "handover")),
    *((name, "--topology=asynchronous", lambda s: s.topology == "asynchronous") for name in _ASYNCHRONOUS),
    ("patience", "--validate_every", lambda s: s.validate_every > 0),
    ("stream_from", "--stream", lambda s: s.stream > 0),
    *((name, "--dp_epsilon", lambda s: s.dp_epsilon > 0)
      for name in ("dp_delta", "dp_clipping_norm", "dp_batch_size")),
)  # fmt: skip
# Flags of what happens at a server, and those that other topologies leave without effect.
_SERVER = ("reduce", "screen_norm", "screen_cosine", "clip_norm", "weighting", "server_optimizer", "fault",
           "stream")  # fmt: skip
_WITHOUT = {
    "ring": _SERVER,
    "single_pass": _SERVER,
    "gossip": _SERVER,
    "asynchronous": ("reduce", "screen_norm", "screen_cosine", "sampler", "stream"),
}


def check_federation(settings: FederationSettings, base: FederationSettings) -> None:
    """Checks how the fields go together; `check_ranges` checks each by itself.

    Args:
      settings: to be checked.
      base: what they would be without any flag.

    Raises:
      FlagError: a value contradicts another or has no effect.
    """
    check_needs(settings, base, _NEEDS)
    defaults = FederationSettings()
    for name in _WITHOUT.get(settings.topology, ()):
        if (found := getattr(settings, name)) != (expected := getattr(defaults, name)):
            raise FlagError(name, f"{expected!r} with --topology={settings.topology}", repr(found))
    if settings.asynchronous_mixing and settings.buffer_size != 1:
        raise FlagError("buffer_size", "1 with --asynchronous_mixing", settings.buffer_size)
    if 0 < settings.screen_norm < 1:
        raise FlagError("screen_norm", "0 or at least 1", settings.screen_norm)
    if 0 < settings.stream < settings.clients_per_round:
        expected = f"at least the {settings.clients_per_round} --clients_per_round"
        raise FlagError("stream", expected, settings.stream)
    if (settings.sampler == "all") != (settings.clients_per_round == 0):
        expected = "0" if settings.sampler == "all" else "a positive number"
        raise FlagError(
            "clients_per_round", f"{expected} with --sampler={settings.sampler}", settings.clients_per_round
        )
    if settings.dp_delta == 1:
        raise FlagError("dp_delta", "less than 1", settings.dp_delta)
    if 0 < settings.patience < settings.validate_every:
        raise FlagError("patience", f"at least --validate_every={settings.validate_every}", settings.patience)
    if settings.dp_epsilon and settings.patience:
        expected = "0 with --dp_epsilon, since the validation split would choose the model without noise"
        raise FlagError("patience", expected, settings.patience)
    if settings.dp_epsilon and settings.sampler == "highest_loss":
        raise FlagError("sampler", "one that needs no loss with --dp_epsilon", settings.sampler)
