"""Federated algorithms by name, with their hyper-parameters read from text."""

import math
import re
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.pipeline.federated_data import norm_layer
from experiments.pipeline.federated_faults import Faults, inject, parse_faults
from experiments.pipeline.federated_settings import TASKS, TrainSettings
from fedrecon import Task, catalog
from fedrecon import federated as fl
from fedrecon.catalog import Entry
from fedrecon.data import ClientData
from fedrecon.models import Encoder

# Flags of what is exchanged, which concern no comparator.
_EXCHANGE = (
    "server_optimizer", "server_learning_rate", "weighting", "reduce", "screen_norm", "screen_cosine",
    "clip_norm", "stragglers", "fault", "fine_tune", "fine_tune_head", "topology", "mixing", "visits",
    "handover", "concurrency", "buffer_size", "delay", "discount", "asynchronous_mixing",
)  # fmt: skip
# Option of `federated` -> the flags that set it.
_FLAGS = {
    "server_optimizer": ("server_optimizer", "server_learning_rate"),
    "weighting": ("weighting",),
    "sampler": ("sampler",),
    "channel": ("clip_norm",),
    "reduce": ("reduce", "screen_norm", "screen_cosine"),
}
# What this experiment can give a method.
_GIVEN = ("clients", "head", "head_steps", "represent", *TASKS)

REDUCERS = {
    "median": (fl.reducers.median, {}),
    "trimmed_mean": (fl.reducers.trimmed_mean, {"fraction": 0.2}),
    "krum": (fl.reducers.krum, {"byzantine": 1}),
    "bulyan": (fl.reducers.bulyan, {"byzantine": 1}),
    "geometric_median": (fl.reducers.geometric_median, {}),
}

# To withstand f clients, reducers need a f + b in a round: (a, b).
_CLIENTS_NEEDED = {"krum": (2, 3), "bulyan": (4, 3)}


def algorithms() -> tuple[str, ...]:
    """Names of the methods that ``--algorithm`` may be."""
    return tuple(entry.name for entry in catalog.entries() if set(entry.needs) <= set(_GIVEN))


def method(name: str) -> Entry:
    """The row of the catalog of this name.

    Raises:
      ValueError: there is none, or it needs what this experiment does not give.
    """
    if catalog.ALIASES.get(name, name) not in algorithms():
        raise ValueError(f"--algorithm: expected one of {', '.join(algorithms())}, found {name!r}")
    return catalog.lookup(name)


def fixed_flags(entry: Entry) -> tuple[str, ...]:
    """Flags that the method's definition leaves no choice of."""
    if not entry.exchanges:
        return (*_EXCHANGE, *(("stream", "stream_from") if entry.pooled else ()))
    return tuple(flag for option in entry.fixes for flag in _FLAGS[option])


def has_own_models(settings: TrainSettings) -> bool:
    """Whether clients evaluate with models of their own, beside the one that is released."""
    return method(settings.algorithm).personal or settings.topology == "gossip" or settings.fine_tune > 0


def options_of(name: str) -> dict[str, type]:
    """Names and types of what ``--algorithm.NAME=VALUE`` may set."""
    chosen = method(name)
    return chosen.options | ({"head": str} if "head" in chosen.needs else {})


def parse_options(
    flag: str, known: Mapping[str, type], given: Mapping[str, str], owner: str
) -> dict[str, Any]:
    """Converts the texts of dotted flags.

    Args:
      flag: the part before the dot.
      known: names and types.
      given: names and texts.
      owner: whose options they are, for messages.

    Raises:
      ValueError: a name is unknown or a text no value of its type.
    """
    values = {}
    for name, text in given.items():
        if name not in known:
            listed = ", ".join(f"{n} ({t.__name__})" for n, t in known.items()) or "none"
            raise ValueError(f"--{flag}.{name}: expected one of {owner}'s options ({listed})")
        values[name] = _convert(f"--{flag}.{name}", known[name], text)
    return values


def check_method(settings: TrainSettings) -> dict[str, Any]:
    """The algorithm's options, converted.

    Raises:
      ValueError: the algorithm, one of its options or of the reducer's is unknown, has another type, or does
        not go together with other flags.
    """
    chosen = method(settings.algorithm)
    defaults = TrainSettings()
    fixed = fixed_flags(chosen)
    for name in fixed:
        if getattr(settings, name) != getattr(defaults, name):
            raise ValueError(
                f"--{name}: expected {getattr(defaults, name)}, which {settings.algorithm} implies, "
                f"found {getattr(settings, name)}"
            )
    if chosen.rate != "optimizer" and settings.optimizer != "sgd":
        raise ValueError(
            f"--optimizer: expected sgd, which {settings.algorithm} presumes, found {settings.optimizer}"
        )
    kinds = [need for need in chosen.needs if need in TASKS]
    if kinds and settings.task not in kinds:
        raise ValueError(
            f"--algorithm={settings.algorithm}: expected --task={' or '.join(kinds)}, "
            f"found --task={settings.task}"
        )
    if "represent" in chosen.needs and settings.task != "classification":
        raise ValueError(
            f"--algorithm={settings.algorithm}: expected --task=classification, whose network has a "
            f"representation to contrast, found --task={settings.task}"
        )
    if settings.reduce == "mean" and settings.reduce_options:
        raise ValueError("--reduce: expected a robust reducer for --reduce.NAME, found mean")
    if settings.topology in ("ring", "single_pass", "gossip") and "server_optimizer" in fixed:
        raise ValueError(
            f"--topology={settings.topology}: expected an algorithm that does nothing at a server, "
            f"found --algorithm={settings.algorithm}"
        )
    make_reducer(settings)
    given = dict(settings.algorithm_options)
    return parse_options("algorithm", options_of(settings.algorithm), given, settings.algorithm)


def make_algorithm(settings: TrainSettings, task: Task, train: ClientData) -> fl.FederatedAlgorithm:
    """The algorithm that the settings name, for these clients.

    Raises:
      ValueError: as `check_method`, or from the recipe; names the flag.
    """
    chosen, options = method(settings.algorithm), check_method(settings)
    arguments: dict[str, Any] = {}
    if chosen.rate == "optimizer":
        arguments["optimizer"] = make_optimizer(settings)
    else:
        arguments["learning_rate"] = settings.learning_rate
        if chosen.rate == "both":
            arguments["optimizer"] = optax.sgd(options.get("learning_rate", settings.learning_rate))
    if "clients" in chosen.needs:
        arguments["clients"] = train.clients
    if "represent" in chosen.needs:
        arguments["represent"] = _representation(settings)
    if "head" in chosen.needs:
        shapes = jax.eval_shape(task.init, jax.random.key(0))
        try:
            arguments["head"] = fl.leaves_under(shapes, (options.pop("head", "head"),))
        except ValueError as error:
            raise ValueError(f"--algorithm.head: {str(error)[:300]}") from error
    if "head_steps" in chosen.needs:
        # Half of the steps of the smallest client, so that everybody trains the body, too.
        smallest = int(np.min(np.asarray(train.counts)))
        steps = settings.epochs * math.ceil(smallest / settings.batch_size)
        arguments["head_steps"] = max(1, steps // 2)
    if not chosen.pooled and "sampler" not in chosen.fixes:
        arguments["sampler"] = make_sampler(settings, train)
    if "weighting" not in fixed_flags(chosen) and settings.weighting != "default":
        arguments["weighting"] = {"examples": fl.by_examples, "equal": fl.equal}[settings.weighting]
    if (reduce := make_reducer(settings)) is not None:
        _check_reducer(settings, train.clients)
        arguments["reduce"] = reduce
    if settings.clip_norm:
        arguments["channel"] = fl.chain(fl.clip(settings.clip_norm))
    if settings.server_optimizer != "default":
        arguments["server_optimizer"] = make_server_optimizer(settings)
    if settings.handover == "optimizer":
        arguments["keep_optimizer"] = True
    try:
        algorithm = chosen.recipe(task, **{**arguments, **options})
    except ValueError as error:
        if not re.match(r"\w+(, \w+)*: ", str(error)):
            raise
        raise ValueError(f"--algorithm.{error}") from error
    except TypeError as error:
        if "keep_optimizer" not in str(error):
            raise
        raise ValueError(
            "--handover: expected model, since clients of "
            f"--algorithm={settings.algorithm} keep no optimiser, found optimizer"
        ) from error
    faults = parse_faults(settings.fault, train.names)
    return inject(algorithm._replace(schedule=make_schedule(settings, train, faults)), faults)


def make_optimizer(settings: TrainSettings) -> optax.GradientTransformation:
    """The clients' optimiser."""
    if settings.optimizer == "adam":
        return optax.adam(settings.learning_rate)
    return optax.sgd(settings.learning_rate, 0.9 if settings.optimizer == "momentum" else None)


def make_server_optimizer(settings: TrainSettings) -> optax.GradientTransformation:
    """The server's optimiser, at the defaults of optax but for its rate; momentum is 0.9."""
    rate = settings.server_learning_rate
    if settings.server_optimizer == "momentum":
        return optax.sgd(rate, 0.9)
    return getattr(optax, settings.server_optimizer)(rate)


def make_schedule(
    settings: TrainSettings, train: ClientData, faults: Faults = types.MappingProxyType({})
) -> Callable | None:
    """How far and how fast clients work in each round, or None for full work.

    The learning rate falls from its value in the first round to ``final_rate`` of it in the last. With
    probability ``stragglers`` a client takes a number of its steps that is uniform from 1 to all (Li et al.,
    MLSys 2020); one with the fault "straggler" takes a single step in every round.
    """
    slow = np.asarray([faults.get(client) == "straggler" for client in range(train.clients)])
    if settings.rate_schedule == "constant" and not settings.stragglers and not slow.any():
        return None
    last, final = max(settings.rounds - 1, 1), settings.final_rate
    rate = {
        "constant": optax.constant_schedule(1.0),
        "linear": optax.linear_schedule(1.0, final, last),
        "cosine": optax.cosine_decay_schedule(1.0, last, final),
        "exponential": optax.exponential_decay(1.0, last, final, end_value=final),
    }[settings.rate_schedule]
    limited, everything = bool(settings.stragglers or slow.any()), np.iinfo(np.int32).max
    steps = np.where(slow, 1, full_steps(settings, train)).astype(np.int32)

    def schedule(context):
        most = jnp.int32(everything)
        if limited:
            all_steps = jnp.asarray(steps)[context.client]
            late_key, part_key = jax.random.split(context.key)
            part = jax.random.randint(part_key, (), 1, jnp.maximum(all_steps, 1) + 1)
            most = jnp.where(jax.random.bernoulli(late_key, settings.stragglers), part, all_steps)
        return fl.Work(jnp.asarray(rate(context.round), jnp.float32), most)

    return schedule


def full_steps(settings: TrainSettings, train: ClientData) -> np.ndarray:
    """Local steps of each client in a round without stragglers, (clients,)."""
    return settings.epochs * -(-np.asarray(train.counts) // settings.batch_size)


def make_sampler(settings: TrainSettings, train: ClientData) -> Callable:
    """Who takes part.

    Raises:
      ValueError: more clients a round than there are.
    """
    count = settings.clients_per_round
    if count > train.clients:
        raise ValueError(f"--clients_per_round: expected at most the {train.clients} clients, found {count}")
    if settings.sampler == "all":
        return fl.all_clients()
    if settings.sampler == "poisson":
        return fl.sampling.poisson_clients(count / train.clients)
    if settings.sampler == "weighted":
        return fl.sampling.weighted_clients(count, np.asarray(train.counts))
    if settings.sampler == "highest_loss":
        return fl.sampling.highest_loss(count, min(2 * count, train.clients))
    return {"uniform": fl.uniform_clients, "longest_absent": fl.sampling.longest_absent}[settings.sampler](
        count
    )


def make_reducer(settings: TrainSettings) -> fl.Reducer | None:
    """The robust reducer, behind the screen where there is one, or None for the mean of all.

    Raises:
      ValueError: an option is unknown or out of range.
    """
    reduce = _robust(settings)
    if not settings.screen_norm and settings.screen_cosine == -1:
        return reduce
    return fl.reducers.screen(
        reduce,
        norm_factor=settings.screen_norm or None,
        min_cosine=None if settings.screen_cosine == -1 else settings.screen_cosine,
    )


def _robust(settings: TrainSettings):
    if settings.reduce == "mean":
        return None
    recipe = REDUCERS[settings.reduce][0]
    try:
        return recipe(**_reduce_options(settings))
    except ValueError as error:
        raise ValueError(f"--reduce.{error}") from error


def _reduce_options(settings: TrainSettings) -> dict[str, Any]:
    recipe, defaults = REDUCERS[settings.reduce]
    given = parse_options(
        "reduce", catalog.options_of(recipe), dict(settings.reduce_options), settings.reduce
    )
    return {**defaults, **given}


def _check_reducer(settings: TrainSettings, clients: int) -> None:
    """Refuses a reducer that would apply no round."""
    if settings.reduce not in _CLIENTS_NEEDED or settings.sampler == "poisson":
        return
    slope, intercept = _CLIENTS_NEEDED[settings.reduce]
    byzantine, count = _reduce_options(settings)["byzantine"], settings.clients_per_round or clients
    if count < slope * byzantine + intercept:
        raise ValueError(
            f"--reduce.byzantine: expected at most {max((count - intercept) // slope, -1)}, since "
            f"{settings.reduce} withstands f among {slope} f + {intercept} clients, of which a round has "
            f"{count}; found {byzantine}"
        )


def _representation(settings: TrainSettings):
    """What the classifier's last layer sees."""
    encoder = Encoder(settings.channels, settings.pools, norm_layer(settings))

    def represent(params, stats, batch):
        variables = {"params": params["encoder"], "batch_stats": stats.get("encoder", {})}
        features = encoder.apply(variables, batch["image"])[-1]
        return jnp.concatenate([features.mean((1, 2)), features.max((1, 2))], -1)

    return represent


def _convert(flag: str, kind: type, text: str) -> Any:
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        value = kind(text)
        if kind is float and not math.isfinite(value):
            raise ValueError(text)
    except (ValueError, KeyError) as error:
        expected = {bool: "true or false", int: "an integer", float: "a finite number"}[kind]
        raise ValueError(f"{flag}: expected {expected}, found {text!r}") from error
    return value
