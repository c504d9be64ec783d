"""Settings of federated training, the same in every program: algorithm, topology, faults, privacy."""

import dataclasses
from functools import partial

from fedrecon import communication
from fedrecon import federated as fl
from fedrecon.training.options import Need, setting

OPTIMIZERS = ("sgd", "momentum", "adam", "adam_cosine")
SAMPLERS = ("all", "uniform", "poisson", "weighted", "longest_absent", "highest_loss")
REDUCERS = ("mean", "median", "trimmed_mean", "krum", "bulyan", "geometric_median", "norm_bound",
            "centered_clipping", "fltrust", "bucketing")  # fmt: skip
ATTACKS = ("none", "sign_flip", "gaussian", "label_flip", "backdoor", "free_rider", "answer_flip", "echo",
           "stale", "disguised_noise", "false_size", "alie", "inner_product")  # fmt: skip
SERVER_OPTIMIZERS = ("default", "sgd", "momentum", "adagrad", "adam", "adamw", "amsgrad", "lamb", "lion",
                     "nadam", "radam", "rmsprop", "yogi")  # fmt: skip
RATE_SCHEDULES = ("constant", "linear", "cosine", "exponential", "warmup_cosine")
# Topologies in which every client has a model of its own.
PEERS = ("gossip", "braintorrent")
TOPOLOGIES = ("star", "ring", "single_pass", "gossip", "braintorrent", "asynchronous")
MIXINGS = ("ring", "complete", "matching")
VISITS = ("fixed", "shuffled")
HANDOVERS = ("model", "optimizer")
DELAYS = ("half_normal", "constant")
STREAM_SOURCES = ("memory", "hdf5")
CODECS = ("none", *communication.CODECS)
DOWNLINKS = ("none", "bfloat16", "stochastic", "qsgd", "signs", "top_k")
FINETUNINGS = ("full", "lora", "adapter", "bias", "head")
CLOCKS = ("none", "wait", "deadline", "overselect", "tiers")
PROTOCOLS = ("none", "secagg", "secagg+", "lightsecagg")
WEIGHTINGS = ("default", "examples", "equal")

_training, _federation, _protection, _topology, _privacy = (
    partial(setting, group=group) for group in ("training", "federation", "protection", "topology", "privacy")
)
_STAR = Need("--topology=star", lambda s: s.topology == "star")
_SERVER = Need("--topology=star or asynchronous", lambda s: s.topology in ("star", "asynchronous"))
_RING = Need("--topology=ring or single_pass", lambda s: s.topology in ("ring", "single_pass"))
_ASYNCHRONOUS = Need("--topology=asynchronous", lambda s: s.topology == "asynchronous")
_PRIVATE = Need("--dp.epsilon", lambda s: s.dp_epsilon > 0)
_WITHIN = Need("another --dp.unit than site", lambda s: s.dp_unit != "site")
NO_PRIVACY = Need("--dp.batch_size and no such flag", lambda s: not s.dp_epsilon or s.dp_unit == "site")


@dataclasses.dataclass(frozen=True)
class FederationSettings:
    """Settings of federated training; the flag of the same name sets a field.

    ``algorithm_options``, ``attack_options``, ``clock_options``, ``codec_options``, ``downlink_options``,
    ``finetune_options``, ``reduce_options`` and ``secure_aggregation_options`` hold the texts of the dotted
    flags, ``methods_sha256`` the SHA-256 of the file ``methods_from``.
    """

    algorithm: str = _federation("fedavg", "Federated algorithm; see --algorithm.NAME=VALUE")
    algorithm_options: tuple[tuple[str, str], ...] = ()
    methods_from: str = _federation(
        "", "Python file that registers methods of its own in fedrecon.catalog; see CONTRIBUTING.md"
    )
    methods_sha256: str = ""
    initialize_from: str = _training(
        "",
        "Model to start from: RUN, RUN:STAGE, the folder of an export, an .npz of models/, or a .pt of "
        "fastMRI or DIRECT. Of several stages those start from it that it has a model for",
    )
    initialize_sha256: str = ""
    new_head: bool = _training(
        False,
        "The last layer is not that of --initialize_from but drawn anew, and may be of other classes",
        needs=(Need("--initialize_from", lambda s: bool(s.initialize_from)),),
    )
    finetune: str = _training(
        "full",
        "What is trained of the model in --initialize_from and sent, everything else being frozen: full; "
        "lora, low-rank changes of kernels; adapter, small perceptrons behind blocks; bias, biases and "
        "scales; head, the last layer. See --finetune.NAME=VALUE (docs/communication.md)",
        choices=FINETUNINGS,
        needs=(Need("--initialize_from", lambda s: bool(s.initialize_from)),),
    )
    finetune_options: tuple[tuple[str, str], ...] = ()
    optimizer: str = _training(
        "sgd",
        "Optimizer of the clients, started afresh each round; momentum is 0.9. adam_cosine is adam that is "
        "kept from round to round, clips gradients to norm 1, and has --rate_schedule=warmup_cosine to a "
        "fiftieth unless another is given",
        choices=OPTIMIZERS,
    )
    sampler: str = _federation(
        "all",
        "Choice of the clients of a round",
        choices=SAMPLERS,
        needs=(Need("another --topology than asynchronous", lambda s: s.topology != "asynchronous"),),
    )
    clients_per_round: int = _federation(
        0, "Clients in a round (expected number, for poisson); 0 with --sampler=all", least=0
    )
    reduce: str = _protection(
        "mean",
        "Reducer of the updates at the server; see --reduce.NAME=VALUE",
        choices=REDUCERS,
        needs=(_STAR,),
    )
    reduce_options: tuple[tuple[str, str], ...] = ()
    screen_norm: float = _protection(
        0.0,
        "Leaves out clients whose update is longer than this many times the median; 0 none",
        least=0,
        needs=(_STAR,),
    )
    screen_cosine: float = _protection(
        -1.0,
        "Leaves out clients whose update has a lower cosine with the median update; -1 none",
        least=-1,
        most=1,
        needs=(_STAR,),
    )
    riders: str = _protection(
        "none",
        "Looks for clients that send something for a model that they did not work for, and takes up to this "
        "action: flagged and unrewarded, which metrics.jsonl tells, or excluded (docs/faults.md)",
        choices=fl.reducers.ACTIONS,
        needs=(_STAR,),
    )
    clip_norm: float = _protection(
        0.0,
        "Largest l2 norm of a client's update, longer ones are scaled down to it; 0 is no bound",
        least=0,
        needs=(_SERVER,),
    )
    secure_aggregation: str = _protection(
        "none",
        "Protocol of a secure sum, in which the server learns nothing but the sum of the updates; see "
        "--secure_aggregation.NAME=VALUE (threshold, neighbors, colluders, groups, bound, scalar_bound)",
        choices=PROTOCOLS,
        needs=(_STAR,),
    )
    secure_aggregation_options: tuple[tuple[str, str], ...] = ()
    codec: str = _federation(
        "none",
        "Compression of the updates that clients send; see --codec.NAME=VALUE",
        choices=CODECS,
        needs=(_STAR,),
    )
    codec_options: tuple[tuple[str, str], ...] = ()
    downlink: str = _federation(
        "none",
        "Compression of the model's changes that the server sends, which keeps what it leaves out; clients "
        "that missed a round get the whole model. See --downlink.NAME=VALUE, as of the same --codec",
        choices=DOWNLINKS,
        needs=(_STAR,),
    )
    downlink_options: tuple[tuple[str, str], ...] = ()
    weighting: str = _federation(
        "default",
        "Weights of the clients in the mean; default is the algorithm's own, and with --sampler=weighted "
        "equal, or more for clients that are always drawn",
        choices=WEIGHTINGS,
        needs=(
            _SERVER,
            Need("--reduce=mean or geometric_median", lambda s: s.reduce in ("mean", "geometric_median")),
        ),
    )
    server_optimizer: str = _federation(
        "default",
        "Optimizer of the server, fed minus the mean update; default is the algorithm's own",
        choices=SERVER_OPTIMIZERS,
        needs=(_SERVER,),
    )
    server_learning_rate: float = _federation(
        1.0,
        "Learning rate of the server, for --server_optimizer other than default",
        above=0,
        needs=(Need("a --server_optimizer", lambda s: s.server_optimizer != "default"),),
    )
    rate_schedule: str = _training(
        "constant",
        "Learning rate of the clients by round, the same at all of them: linear, cosine and exponential fall "
        "from the first round to the last; warmup_cosine rises over a twentieth of the training and falls "
        "from step to step within rounds",
        choices=RATE_SCHEDULES,
    )
    final_rate: float = _training(
        0.1,
        "Part of the learning rate that is left at the end, unless constant",
        above=0,
        most=1,
        needs=(Need("a --rate_schedule", lambda s: s.rate_schedule != "constant"),),
    )
    average: float = _federation(
        0.0,
        "Decay of the moving average, over rounds, of the shared parameters, which is evaluated and handed "
        "out in place of the last round's model; training is the same, and under --dp.epsilon it costs "
        "nothing. 0 is none",
        least=0,
        most=0.99999,
        needs=(_STAR, Need("--downlink=none", lambda s: s.downlink == "none")),
    )
    stragglers: float = _federation(
        0.0, "Probability that a client takes only a random part of its steps in a round", least=0, most=1
    )
    fault: str = _protection(
        "",
        "Faults of clients, KIND:CLIENT,...: nan, inf, exploding, flipped, crashed, empty or straggler",
        needs=(_SERVER,),
    )
    attack: str = _protection(
        "none",
        "What malicious clients do, for experiments; see --attack.clients=NAME,... and --attack.NAME=VALUE",
        choices=ATTACKS,
        needs=(_STAR,),
    )
    attack_options: tuple[tuple[str, str], ...] = ()
    validate_every: int = _training(
        1, "Rounds between evaluations on the validation split of the clients; 0 never evaluates", least=0
    )
    patience: int = _training(
        0,
        "Rounds without a lower validation loss after which a training ends, and it keeps its best round; 0 "
        "trains all rounds and keeps the last",
        least=0,
        needs=(Need("--validate_every", lambda s: s.validate_every > 0),),
    )
    fine_tune: int = _federation(
        0, "Passes of each client over its data after training, for a released model of its own", least=0
    )
    fine_tune_head: str = _federation(
        "",
        "Part of the network that --fine_tune trains, such as head; all by default",
        needs=(Need("--fine_tune", lambda s: s.fine_tune > 0),),
    )
    topology: str = _topology(
        "star",
        "Paths of models between clients and server; single_pass is one ring of one round",
        choices=TOPOLOGIES,
    )
    mixing: str = _topology(
        "ring",
        "Partners of a client in --topology=gossip: two neighbors, all, or random pairs",
        choices=MIXINGS,
        needs=(Need("--topology=gossip", lambda s: s.topology == "gossip"),),
    )
    visits: str = _topology(
        "fixed", "Order of the clients in --topology=ring or single_pass", choices=VISITS, needs=(_RING,)
    )
    handover: str = _topology(
        "model",
        "Handed on in --topology=ring or single_pass: the model, or its optimizer's state, too",
        choices=HANDOVERS,
        needs=(_RING, Need("an --optimizer with a state", lambda s: s.optimizer != "sgd")),
    )
    concurrency: int = _topology(
        0,
        "Clients that train at a time in --topology=asynchronous; 0 is half of them",
        least=0,
        needs=(_ASYNCHRONOUS,),
    )
    buffer_size: int = _topology(
        1,
        "Updates that arrive before a step of the server in --topology=asynchronous",
        least=1,
        needs=(_ASYNCHRONOUS,),
    )
    delay: str = _topology(
        "half_normal",
        "Distribution of the delays in --topology=asynchronous; a straggler takes ten times as long",
        choices=DELAYS,
        needs=(_ASYNCHRONOUS,),
    )
    discount: float = _topology(
        0.5,
        "Updates s server steps old count (1 + s)^-discount in --topology=asynchronous",
        least=0,
        needs=(_ASYNCHRONOUS,),
    )
    asynchronous_mixing: float = _topology(
        0.0,
        "Part of the server's model that an update replaces (FedAsync); 0 is FedBuff",
        least=0,
        most=1,
        needs=(_ASYNCHRONOUS,),
    )
    clock: str = _topology(
        "none",
        "Simulated clock of rounds, with slow, absent and badly connected clients, and what is done about "
        "slow ones: wait for all, a deadline, overselect and take the first, or tiers of like speed. See "
        "--clock.NAME=VALUE (docs/faults.md)",
        choices=CLOCKS,
        needs=(_SERVER, Need("no --stream", lambda s: s.stream == 0)),
    )
    clock_options: tuple[tuple[str, str], ...] = ()
    stream: int = _federation(
        0,
        "Most clients of a round on the device, data and states of others staying in memory; 0 is all",
        least=0,
        needs=(_STAR,),
    )
    stream_from: str = _federation(
        "memory",
        "Place of the data of streamed clients: memory, or an HDF5 file in --workdir",
        choices=STREAM_SOURCES,
        needs=(Need("--stream", lambda s: s.stream > 0),),
    )
    dp_epsilon: float = _privacy(
        0.0,
        "Privacy budget of each client's training over all stages; with any algorithm that sends nothing "
        "else it computes from examples; 0 trains without, as comparators always do",
        least=0,
    )
    dp_delta: float = _privacy(
        0.0,
        "Delta of that budget, below 1 / n of every client's units; 0 takes 1e-5, or 1 / n^1.1 where less",
        least=0,
        most=1,
        needs=(_PRIVATE,),
    )
    dp_unit: str = _privacy(
        "auto",
        "What is protected: an example (image or slice), a patient with all images, or a site with all "
        "patients; auto is the patient where the data tell patients apart, else the example",
        choices=("auto", *fl.mechanism.UNITS),
        needs=(_PRIVATE,),
    )
    dp_clipping_norm: float = _privacy(
        0.1,
        "Clipping norm of what one unit adds to a gradient, or with --dp.unit=site to the sum of updates",
        above=0,
        needs=(_PRIVATE,),
    )
    dp_batch_size: int = _privacy(
        8,
        "Expected number of examples or patients in the batches of all stages under --dp.epsilon",
        least=1,
        needs=(_PRIVATE, _WITHIN),
    )
    dp_microbatch_size: int = _privacy(
        0,
        "Examples or patients whose gradients are in memory at once; 0 is all of a batch",
        least=0,
        needs=(_PRIVATE, _WITHIN),
    )
    dp_sampling: str = _privacy(
        "poisson",
        "Batches under --dp.epsilon: Poisson samples, balls in bins (every unit in one random batch of each "
        "pass), or fixed shuffled batches; each is accounted as it is",
        choices=fl.mechanism.SAMPLINGS,
        needs=(_PRIVATE, _WITHIN),
    )
    dp_mechanism: str = _privacy(
        "gaussian",
        "Noise of the steps of a client: independent, or correlated (DP-FTRL) by a banded matrix "
        "factorization or a buffered linear Toeplitz one (blt), in fixed batches of one order",
        choices=("gaussian", "matrix", "blt"),
        needs=(_PRIVATE, _WITHIN),
    )
    dp_bands: int = _privacy(
        8,
        "Bands of --dp.mechanism=matrix, at most the steps in a pass of the smallest client",
        least=1,
        needs=(Need("--dp.mechanism=matrix", lambda s: s.dp_mechanism == "matrix"),),
    )
    dp_buffers: int = _privacy(
        3,
        "Most buffers of --dp.mechanism=blt, each of which is as large as the model at every client",
        least=1,
        most=6,
        needs=(Need("--dp.mechanism=blt", lambda s: s.dp_mechanism == "blt"),),
    )
    dp_adaptive_clipping: bool = _privacy(
        False,
        "The clipping norm follows the median norm of the updates, whose noised count is part of the budget",
        needs=(_PRIVATE, Need("--dp.unit=site", lambda s: s.dp_unit == "site")),
    )
    dp_noise_multiplier: float = _privacy(
        0.0,
        "Noise over sensitivity; the training stops before the budget is exceeded. 0 solves for the noise "
        "with which all rounds fit",
        least=0,
        needs=(_PRIVATE,),
    )
    dp_noise: str = _privacy(
        "simulation",
        "Random generator of noise and batches: simulation uses the run's seed, and anyone who knows it can "
        "remove the noise; secure uses the operating system's generator, and runs cannot be repeated",
        choices=("simulation", "secure"),
        needs=(_PRIVATE,),
    )
    dp_seed: int = _privacy(
        -1,
        "Seed of noise and batches in a simulation; -1 takes that of the run",
        least=-1,
        needs=(_PRIVATE, Need("--dp.noise=simulation", lambda s: s.dp_noise == "simulation")),
    )

    def expected_batch_size(self, batch_size: int) -> int:
        """Examples or patients in a local step: ``batch_size``, or --dp.batch_size of private batches."""
        return self.dp_batch_size if self.dp_epsilon and self.dp_unit != "site" else batch_size
