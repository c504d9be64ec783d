"""Parts of an algorithm that settings name: optimizers, schedules, samplers, reducers."""

import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrecon import catalog
from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.errors import ArgumentError
from fedrecon.training.budgets import Budget
from fedrecon.training.dotted import parse_options
from fedrecon.training.faults import Faults
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError, as_flag_error


def _bucketing(rule: str = "median", size: int = 2) -> fl.Reducer:
    """Bucketing in front of the robust reducer of this name, at its defaults."""
    if rule in ("bucketing", "fltrust") or rule not in REDUCERS:
        known = ", ".join(name for name in REDUCERS if name not in ("bucketing", "fltrust"))
        raise ArgumentError("rule", f"one of {known}", repr(rule))
    inner, defaults = REDUCERS[rule]
    return fl.reducers.bucketing(inner(**defaults), size)


REDUCERS: dict[str, tuple[Callable, dict[str, Any]]] = {
    "median": (fl.reducers.median, {}),
    "trimmed_mean": (fl.reducers.trimmed_mean, {"fraction": 0.2}),
    "krum": (fl.reducers.krum, {"byzantine": 1}),
    "bulyan": (fl.reducers.bulyan, {"byzantine": 1}),
    "geometric_median": (fl.reducers.geometric_median, {}),
    "norm_bound": (fl.reducers.norm_bound, {}),
    "centered_clipping": (fl.reducers.centered_clipping, {}),
    "fltrust": (fl.reducers.fltrust, {}),
    "bucketing": (_bucketing, {}),
}

# Part of the highest rate that adam_cosine ends with.
ADAM_COSINE_END = 0.02
# To withstand f clients, reducers need a f + b in a round: (a, b).
_CLIENTS_NEEDED = {"krum": (2, 3), "bulyan": (4, 3)}


def make_optimizer(settings: FederationSettings, budget: Budget) -> optax.GradientTransformation:
    """The clients' optimizer, at the highest rate: `make_schedule` scales it."""
    rate = budget.learning_rate
    if settings.optimizer == "adam":
        return optax.adam(rate)
    if settings.optimizer == "adam_cosine":
        # On one vector: kernels for each leaf would take nearly half as long to compile as the gradient.
        return optax.flatten(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)))
    return optax.sgd(rate, 0.9 if settings.optimizer == "momentum" else None)


def make_server_optimizer(settings: FederationSettings) -> optax.GradientTransformation:
    """The server's optimizer, at the defaults of optax except for its rate; momentum is 0.9."""
    rate = settings.server_learning_rate
    if settings.server_optimizer == "momentum":
        return optax.sgd(rate, 0.9)
    return getattr(optax, settings.server_optimizer)(rate)


def make_schedule(
    settings: FederationSettings,
    budget: Budget,
    train: ClientData,
    faults: Faults = types.MappingProxyType({}),
) -> Callable | None:
    """How far and how fast clients work in each round, or None for full work.

    The learning rate is that of `rate_by_round`. With probability ``stragglers`` a client takes a number of
    its steps that is uniform from 1 to all (Li et al., MLSys 2020); one with the fault "straggler" takes a
    single step in every round.
    """
    slow = np.asarray([faults.get(client) == "straggler" for client in range(train.clients)])
    rate = rate_by_round(settings, budget.rounds)
    if rate is None and not settings.stragglers and not slow.any():
        return None
    limited, everything = bool(settings.stragglers or slow.any()), np.iinfo(np.int32).max
    steps = np.where(slow, 1, full_steps(budget, train)).astype(np.int32)

    def schedule(context):
        most = jnp.int32(everything)
        if limited:
            all_steps = jnp.asarray(steps)[context.client]
            late_key, part_key = jax.random.split(context.key)
            part = jax.random.randint(part_key, (), 1, jnp.maximum(all_steps, 1) + 1)
            most = jnp.where(jax.random.bernoulli(late_key, settings.stragglers), part, all_steps)
        if rate is None:
            return fl.Work(jnp.float32(1), most)
        return fl.Work(lambda part: rate(context.round, part), most)

    return schedule


def both_schedules(first: Callable | None, second: Callable | None) -> Callable | None:
    """What two schedules leave of a client's work: the product of their rates, the fewer of their steps."""
    if first is None or second is None:
        return first or second

    def schedule(context):
        one, other = first(context), second(context)
        steps = jnp.minimum(one.steps, other.steps)
        if not callable(one.rate) and not callable(other.rate):
            return fl.Work(one.rate * other.rate, steps)
        rates = [work.rate if callable(work.rate) else _constant(work.rate) for work in (one, other)]
        return fl.Work(lambda part: rates[0](part) * rates[1](part), steps)

    return schedule


def _constant(rate: jax.Array) -> Callable:
    return lambda part: jnp.full(jnp.shape(part), rate, jnp.float32)


def schedule_name(settings: FederationSettings) -> str:
    """The ``--rate_schedule`` in force: adam_cosine brings its own unless another one is given."""
    own = settings.optimizer == "adam_cosine" and settings.rate_schedule == "constant"
    return "warmup_cosine" if own else settings.rate_schedule


def rate_by_round(settings: FederationSettings, rounds: int) -> Callable | None:
    """The clients' learning rate over its highest value, ``rate(round, part)``; None if it is always 1.

    It depends on nothing else: clients of all sizes, comparators, and clients that were absent have the same
    rate at the same time. ``part`` of a client's steps in the round are behind it. "linear", "cosine" and
    "exponential" fall from 1 in the first round to ``final_rate`` in the last and are constant within rounds;
    "warmup_cosine" rises from a tenth over a twentieth of the training and falls to ``final_rate`` at its
    end.
    """
    name, final = schedule_name(settings), settings.final_rate
    if name != settings.rate_schedule:
        final = ADAM_COSINE_END
    if name == "constant":
        return None
    if name == "warmup_cosine":
        return lambda round, part: _warmup_cosine((round + part) / rounds, final)
    last = max(rounds - 1, 1)
    schedule = {
        "linear": optax.linear_schedule(1.0, final, last),
        "cosine": optax.cosine_decay_schedule(1.0, last, final),
        "exponential": optax.exponential_decay(1.0, last, final, end_value=final),
    }[name]
    return lambda round, part: schedule(round)


def _warmup_cosine(time: jax.Array, final: float) -> jax.Array:
    rise = 0.1 + 0.9 * time / 0.05
    fall = final + (1 - final) * (1 + jnp.cos(jnp.pi * jnp.minimum((time - 0.05) / 0.95, 1))) / 2
    return jnp.where(time < 0.05, rise, fall)


def full_steps(budget: Budget, train: ClientData) -> np.ndarray:
    """Local steps of each client in a round without stragglers, (clients,)."""
    return budget.full_steps(np.asarray(train.counts))


def make_sampler(settings: FederationSettings, train: ClientData) -> Callable:
    """Who takes part.

    Raises:
      FlagError: more clients a round than there are.
    """
    count = settings.clients_per_round
    if count > train.clients:
        raise FlagError("clients_per_round", f"at most the {train.clients} clients", count)
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


def make_weighting(settings: FederationSettings, train: ClientData) -> Callable | None:
    """Weights of the clients in the mean; None is the algorithm's own."""
    if (settings.weighting, settings.sampler) == ("default", "weighted"):
        # Sizes count once: in who is drawn, or in the mean.
        return fl.sampling.drawn_by_size(settings.clients_per_round, np.asarray(train.counts))
    return {"default": None, "examples": fl.by_examples, "equal": fl.equal}[settings.weighting]


def make_reducer(settings: FederationSettings, clients: int = 1) -> fl.Reducer | Callable | None:
    """The robust reducer, behind the screen and the watch for riders, or None for the mean of all.

    Args:
      settings: of the federation.
      clients: their number.

    Raises:
      FlagError: an option is unknown or out of range.
    """
    reduce = _robust(settings)
    if settings.screen_norm or settings.screen_cosine != -1:
        reduce = fl.reducers.screen(
            reduce,
            norm_factor=settings.screen_norm or None,
            min_cosine=None if settings.screen_cosine == -1 else settings.screen_cosine,
        )
    if settings.riders == "none":
        return reduce
    return fl.reducers.watch_riders(clients, reduce, action=settings.riders)


def check_reducer(settings: FederationSettings, clients: int) -> None:
    """Refuses a reducer that would apply no round.

    Raises:
      FlagError: it withstands no client, or fewer than it shall, among these.
    """
    if settings.reduce == "fltrust":
        root = _reduce_options(settings).get("root", 0)
        if root >= clients:
            raise FlagError("reduce.root", f"the number of one of the {clients} clients", root)
        if settings.sampler != "all":
            expected = "all with --reduce=fltrust, whose root takes part in every round"
            raise FlagError("sampler", expected, settings.sampler)
    if settings.reduce not in _CLIENTS_NEEDED or settings.sampler == "poisson":
        return
    slope, intercept = _CLIENTS_NEEDED[settings.reduce]
    byzantine, count = _reduce_options(settings)["byzantine"], settings.clients_per_round or clients
    if count < slope * byzantine + intercept:
        raise FlagError(
            "reduce.byzantine",
            f"at most {max((count - intercept) // slope, -1)}, since {settings.reduce} withstands f among "
            f"{slope} f + {intercept} clients, of which a round has {count}",
            byzantine,
        )


def _robust(settings: FederationSettings) -> Any:
    if settings.reduce == "mean":
        return None
    recipe = REDUCERS[settings.reduce][0]
    try:
        return recipe(**_reduce_options(settings))
    except ArgumentError as error:
        raise as_flag_error(error, {}, "reduce.") from error


def _reduce_options(settings: FederationSettings) -> dict[str, Any]:
    recipe, defaults = REDUCERS[settings.reduce]
    given = dict(settings.reduce_options)
    return {**defaults, **parse_options("reduce", catalog.options_of(recipe), given, settings.reduce)}
