"""Federated algorithms of the catalog, built from settings."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from fedrecon import catalog
from fedrecon import federated as fl
from fedrecon.alignment import Contrast
from fedrecon.catalog import Entry
from fedrecon.data import ClientData
from fedrecon.errors import ArgumentError
from fedrecon.federated.mechanism import Mechanism, private_sum, unreported
from fedrecon.federated.methods.averaging import averaged
from fedrecon.federated.methods.remembering import Memory
from fedrecon.training.before_rounds import check_before
from fedrecon.training.budgets import Budget, Spending
from fedrecon.training.catalog_arguments import STAND_IN, call_recipe, needed, of_recipe, stand_ins
from fedrecon.training.clocks import check_clock, check_timed, clocked_sampler
from fedrecon.training.codecs import downlinked, make_codec, make_downlink
from fedrecon.training.components import (
    ADAM_COSINE_END,
    both_schedules,
    check_reducer,
    make_optimizer,
    make_reducer,
    make_schedule,
    make_server_optimizer,
    make_weighting,
)
from fedrecon.training.dotted import parse_options
from fedrecon.training.faults import inject, parse_faults
from fedrecon.training.federation_settings import PEERS, FederationSettings
from fedrecon.training.finetuning import Tuning, check_finetuning
from fedrecon.training.malicious import parse_attack, poisoned
from fedrecon.training.named_tasks import TASKS
from fedrecon.training.options import FlagError, check_needs
from fedrecon.training.own_files import naming_the_line
from fedrecon.training.secure import check_secure, secured
from fedrecon.types import PyTree, Task

# Flags of what is exchanged, which concern no comparator.
_EXCHANGE = (
    "server_optimizer", "server_learning_rate", "average", "weighting", "reduce", "screen_norm",
    "screen_cosine", "riders", "clip_norm", "codec", "downlink", "secure_aggregation",
    "stragglers", "fault", "attack", "fine_tune", "fine_tune_head", "clock", "topology", "mixing",
    "visits", "handover", "concurrency", "buffer_size", "delay", "discount", "asynchronous_mixing",
    *(field.name for field in dataclasses.fields(FederationSettings) if field.name.startswith("dp_")),
)  # fmt: skip
# Flags of who takes part, which mean nothing where all data are one client's.
_CHOICE = ("sampler", "clients_per_round", "stream", "stream_from")
# Option of `federated` -> the flags that set it.
_FLAGS = {
    "server_optimizer": ("server_optimizer", "server_learning_rate"),
    "weighting": ("weighting",),
    "sampler": ("sampler",),
    "channel": ("clip_norm", "codec"),
    "reduce": ("reduce", "screen_norm", "screen_cosine", "riders"),
}
# What a method brings that a secure sum would replace -> the option it fixes then.
_OWN = (("sum", "reduce"), ("channel", "channel"))
# What a training can give a method.
_GIVEN = ("clients", "sizes", "head", "head_steps", "represent", "features", "maps", "example", "mechanism",
          "memory", "importance", "exchanged", "rounds", "score", "validation", "contrast", "volumes",
          *TASKS)  # fmt: skip


def algorithms() -> tuple[str, ...]:
    """Names of the methods that ``--algorithm`` may be."""
    return tuple(entry.name for entry in catalog.entries() if set(entry.needs) <= set(_GIVEN))


def method(name: str) -> Entry:
    """The row of the catalog of this name.

    Raises:
      FlagError: there is none, or it needs what trainings are not given.
    """
    if catalog.ALIASES.get(name, name) not in algorithms():
        raise FlagError("algorithm", f"one of {', '.join(algorithms())}", repr(name))
    return catalog.lookup(name)


def fixed_flags(entry: Entry) -> tuple[str, ...]:
    """Flags that the method's definition leaves no choice of."""
    if not entry.exchanges:
        return (*_EXCHANGE, *(_CHOICE if entry.pooled else ()))
    return tuple(flag for option in entry.fixes for flag in _FLAGS[option])


def comparator(settings: FederationSettings, name: str) -> FederationSettings:
    """The settings of a comparator, without what concerns an exchange."""
    defaults = FederationSettings()
    kept: dict[str, Any] = {field: getattr(defaults, field) for field in fixed_flags(method(name))}
    groups = ("algorithm", "reduce", "attack", "secure_aggregation", "clock", "codec", "downlink")
    kept |= {"algorithm": name} | {f"{group}_options": () for group in groups}
    return dataclasses.replace(settings, **kept)


def fitted(settings: FederationSettings) -> FederationSettings:
    """The settings with the optimizer that fits the algorithm, in place of adam_cosine, which is kept.

    Algorithms that presume plain gradient descent get sgd; those that start their optimizers afresh each
    round adam at the same rates.
    """
    if settings.optimizer != "adam_cosine" or settings.rate_schedule != "constant":
        return settings
    entry = method(settings.algorithm)
    if entry.rate != "optimizer":
        return dataclasses.replace(settings, optimizer="sgd")
    if _keeps_optimizer(entry):
        return settings
    rates: dict[str, Any] = {
        "optimizer": "adam",
        "rate_schedule": "warmup_cosine",
        "final_rate": ADAM_COSINE_END,
    }
    return dataclasses.replace(settings, **rates)


def in_topology(settings: FederationSettings) -> FederationSettings:
    """The settings with the topology that the algorithm is defined by; the same without one.

    Raises:
      FlagError: another one is asked for, or what has no effect, or no account, in it.
    """
    name, own = settings.algorithm, method(settings.algorithm).topology
    if own and settings.topology not in ("star", own):
        raise FlagError("topology", f"{own}, which {name} is", settings.topology)
    settings = dataclasses.replace(settings, topology=own or settings.topology)
    if own:
        check_needs(settings, FederationSettings())
    if settings.topology == "braintorrent" and settings.dp_epsilon:
        expected = "0 with braintorrent, whose clients train as often as they are drawn"
        raise FlagError("dp_epsilon", expected, settings.dp_epsilon)
    return settings


def has_own_models(settings: FederationSettings) -> bool:
    """Whether clients evaluate with models of their own, besides the one that is released."""
    return (
        method(settings.algorithm).personal
        or in_topology(settings).topology in PEERS
        or settings.fine_tune > 0
    )


def options_of(name: str) -> dict[str, type]:
    """Names and types of what ``--algorithm.NAME=VALUE`` may set."""
    chosen = method(name)
    return chosen.options | ({"head": str} if "head" in chosen.needs else {})


def check_method(
    settings: FederationSettings, tasks: Sequence[str] = TASKS, *, blocks: bool = False
) -> dict[str, Any]:
    """The algorithm's options, converted.

    Args:
      settings: of the federation.
      tasks: what is trained, some of `TASKS`; none where what fits them was checked before.
      blocks: whether the training is one of a stream, which some algorithms remember.

    Raises:
      ValueError: the algorithm, one of its options or of the reducer's is unknown, has another type, or does
        not go together with other flags.
    """
    chosen, name = method(settings.algorithm), settings.algorithm
    defaults = FederationSettings()
    fixed = fixed_flags(chosen)
    for flag in fixed:
        if (found := getattr(settings, flag)) != (expected := getattr(defaults, flag)):
            raise FlagError(flag, f"{expected}, which {name} implies", found)
    if chosen.rate != "optimizer" and settings.optimizer != "sgd":
        raise FlagError("optimizer", f"sgd, which {name} presumes", settings.optimizer)
    if settings.optimizer == "adam_cosine" and not _keeps_optimizer(chosen):
        expected = f"sgd, momentum or adam, since clients of --algorithm={name} keep no optimizer"
        raise FlagError("optimizer", expected, settings.optimizer)
    if settings.handover == "optimizer" and not _keeps_optimizer(chosen):
        expected = f"model, since clients of --algorithm={name} keep no optimizer"
        raise FlagError("handover", expected, "optimizer")
    kinds = [need for need in chosen.needs if need in TASKS]
    unfit = [task for task in tasks if kinds and task not in kinds]
    if "represent" in chosen.needs and not kinds:
        unfit += [task for task in tasks if task != "classification"]
    if unfit:
        expected = ", ".join(kinds) or "classification, whose network has a representation to contrast,"
        raise FlagError(f"algorithm={name}", f"--task={expected} alone", f"the task {', '.join(unfit)}")
    settings = in_topology(settings)
    if "memory" in chosen.needs and tasks and not blocks:
        raise FlagError("algorithm", "experiments.continual, whose blocks it remembers", name)
    check_before(settings, chosen)
    if blocks and (chosen.task or chosen.before):
        raise FlagError("algorithm", "one that needs nothing before its rounds, in a stream of blocks", name)
    if settings.reduce == "mean" and settings.reduce_options:
        raise FlagError("reduce", "a robust reducer for --reduce.NAME", "mean")
    if (
        settings.topology in ("ring", "single_pass", *PEERS)
        and "server_optimizer" in fixed
        and not chosen.topology
    ):
        found = f"{settings.topology} with --algorithm={name}"
        raise FlagError("topology", "one with a server, which the algorithm presumes", found)
    if "mechanism" in chosen.needs and not settings.dp_epsilon:
        raise FlagError("dp_epsilon", f"a budget, for --algorithm={name}", settings.dp_epsilon)
    if chosen.unit and settings.dp_unit not in ("auto", chosen.unit):
        raise FlagError("dp_unit", f"{chosen.unit}, which {name} protects", settings.dp_unit)
    if chosen.validates and settings.stream:
        expected = f"0 with --algorithm={name}, whose clients keep validation data"
        raise FlagError("stream", expected, settings.stream)
    if settings.dp_unit == "site" and "channel" in chosen.fixes:
        expected = f"example or patient with --algorithm={name}, which brings a channel of its own"
        raise FlagError("dp_unit", expected, "site")
    make_reducer(settings)
    make_codec(settings)
    make_downlink(settings)
    check_clock(settings, chosen.fixes)
    check_finetuning(settings, chosen.fixes)
    parse_attack(settings, tasks)
    _check_sums(settings, chosen)
    options = parse_options("algorithm", options_of(name), dict(settings.algorithm_options), name)
    with naming_the_line(settings.methods_from):
        _check_recipe(settings, chosen, options)
    if "contrast" in chosen.needs and tasks:
        raise FlagError("algorithm", f"experiments.finetune --pretraining={name}, which reads no label", name)
    return options


def _check_sums(settings: FederationSettings, chosen: Entry) -> None:
    check_secure(settings)
    if settings.secure_aggregation == "none":
        return
    if not chosen.linear:
        expected = "one that sends nothing but sums with --secure_aggregation"
        raise FlagError("algorithm", expected, f"{chosen.name}, whose server reads what single clients send")
    if own := [kind for kind, option in _OWN if option in chosen.fixes]:
        expected = f"none with --algorithm={chosen.name}, which brings a {own[0]} of its own"
        raise FlagError("secure_aggregation", expected, settings.secure_aggregation)


def unprotected(settings: FederationSettings) -> bool:
    """Whether clients evaluate with models that they train without noise under ``--dp.epsilon``.

    These never leave a client, but what is made with them depends on its examples.
    """
    entry = method(settings.algorithm)
    algorithm = _stub(entry, settings, {})
    return settings.fine_tune > 0 or (entry.personal and all(jax.tree.leaves(algorithm.share_mask)))


def make_algorithm(
    settings: FederationSettings,
    budget: Budget,
    task: Task,
    train: ClientData,
    *,
    noise: Spending | None = None,
    represent: Callable | None = None,
    tuning: Tuning | None = None,
    own: fl.Method | None = None,
    memory: Memory | None = None,
    exchanged: PyTree = None,
    contrast: Contrast | None = None,
) -> fl.FederatedAlgorithm:
    """The algorithm that the settings name, for these clients.

    Args:
      settings: of the federation.
      budget: of the training.
      task: what is learned.
      train: the clients (for a pooling comparator the pooled one).
      noise: what may be released; None trains without privacy.
      represent: the network's representation, where the algorithm needs one.
      tuning: what is trained of a model, with the task; None trains everything.
      own: what the task itself needs at clients and server, besides the algorithm.
      memory: of the blocks before, where the algorithm needs one; None is an empty one.
      exchanged: what clients exchanged before the rounds, where the algorithm needs it.
      contrast: views and network, where the algorithm needs them.

    Raises:
      ValueError: as `check_method`, or from the recipe; names the flag.
    """
    chosen, options = method(settings.algorithm), check_method(settings, ())
    arguments = _optimizers(settings, chosen, options, budget)
    arguments |= needed(settings, chosen, options, budget, task, train)
    if "represent" in chosen.needs:
        arguments["represent"] = represent
    if "memory" in chosen.needs and memory is not None:
        arguments["memory"] = memory
    if "exchanged" in chosen.needs:
        arguments["exchanged"] = exchanged
    if "contrast" in chosen.needs:
        arguments["contrast"] = contrast
    if not chosen.pooled and "sampler" not in chosen.fixes:
        arguments["sampler"] = clocked_sampler(settings, budget, train)
    if "weighting" not in fixed_flags(chosen) and (weighting := make_weighting(settings, train)) is not None:
        arguments["weighting"] = weighting
    if (reduce := make_reducer(settings, train.clients)) is not None:
        check_reducer(settings, train.clients)
        arguments["reduce"] = reduce
    if tuning is not None and tuning.reduce is not None and chosen.exchanges:
        arguments["reduce"] = tuning.reduce
    codec = make_codec(settings)
    channels = [fl.clip(settings.clip_norm)] if settings.clip_norm else []
    if channels := [*channels, *([codec.channel] if codec else [])]:
        arguments["channel"] = fl.chain(*channels)
    if settings.server_optimizer != "default":
        arguments["server_optimizer"] = make_server_optimizer(settings)
    if noise is not None:
        arguments |= _private(chosen, noise.mechanism)
    if own is not None:
        arguments["method"] = fl.combine(own, arguments.get("method"))
    algorithm = call_recipe(settings, chosen, task, arguments | of_recipe(chosen, options))
    if tuning is not None:
        algorithm = tuning.applied_to(algorithm)
    algorithm = secured(algorithm, settings, task, train, None if noise is None else noise.shares)
    algorithm = downlinked(with_average(algorithm, settings), settings)
    faults = parse_faults(settings.fault, train.names)
    schedule = both_schedules(algorithm.schedule, make_schedule(settings, budget, train, faults))
    algorithm = algorithm._replace(schedule=schedule)
    return inject(poisoned(algorithm, settings, train.names), faults)


def with_average(algorithm: fl.FederatedAlgorithm, settings: FederationSettings) -> fl.FederatedAlgorithm:
    """The algorithm with ``--average``; without it the same object.

    Raises:
      FlagError: the algorithm hands out a model of its own.
    """
    try:
        return averaged(algorithm, settings.average)
    except ArgumentError as error:
        expected = f"0 with --algorithm={settings.algorithm}, which hands out a model of its own"
        raise FlagError("average", expected, settings.average) from error


def _private(chosen: Entry, mechanism: Mechanism) -> dict[str, Any]:
    if "mechanism" in chosen.needs:
        return {"mechanism": mechanism}
    if mechanism.unit == "site":
        return {"method": unreported(), "channel": fl.chain(private_sum(mechanism))}
    return {"method": fl.private_gradients(mechanism)}


def _optimizers(
    settings: FederationSettings, chosen: Entry, options: Mapping[str, Any], budget: Budget
) -> dict[str, Any]:
    if chosen.rate == "optimizer":
        arguments: dict[str, Any] = {"optimizer": make_optimizer(settings, budget)}
        if settings.optimizer == "adam_cosine" or settings.handover == "optimizer":
            arguments["keep_optimizer"] = True
        return arguments
    arguments = {"learning_rate": budget.learning_rate}
    if chosen.rate == "both":
        arguments["optimizer"] = optax.sgd(options.get("learning_rate", budget.learning_rate))
    return arguments


def example_algorithm(entry: Entry) -> fl.FederatedAlgorithm:
    """The method at its defaults, for a task that is nobody's."""
    return _stub(entry, FederationSettings(), {})


def _keeps_optimizer(entry: Entry) -> bool:
    """Whether the recipe lets clients keep their optimizer's state."""
    if entry.rate != "optimizer":
        return False
    try:
        entry.recipe(STAND_IN, **stand_ins(entry), keep_optimizer=True)
    except TypeError as error:
        if "keep_optimizer" not in str(error):
            raise
        return False
    return True


def _check_recipe(settings: FederationSettings, entry: Entry, options: Mapping[str, Any]) -> None:
    """Builds the algorithm of a task that is nobody's: what it refuses is refused before data are read."""
    # A method with a mechanism of its own hides what it computes.
    hidden = settings.dp_epsilon and "mechanism" not in entry.needs
    private = {"method": fl.Method(hides=True)} if hidden else {}
    check_timed(with_average(_stub(entry, settings, {**options, **private}), settings), settings)


def _stub(entry: Entry, settings: FederationSettings, options: Mapping[str, Any]) -> fl.FederatedAlgorithm:
    method = {name: options[name] for name in ("method",) if name in options}
    given = of_recipe(entry, options)
    # Who is meant is checked with the clients.
    given.pop("target", None)
    return call_recipe(settings, entry, STAND_IN, stand_ins(entry) | given | method)
