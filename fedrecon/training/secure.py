"""Secure sums of updates, as settings name them: the channel of an algorithm, and what it hides."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.errors import ArgumentError
from fedrecon.federated import FederatedAlgorithm
from fedrecon.federated.secure_sum import SumBytes, grouped_secure_sum, secure_sum
from fedrecon.privacy import DistributedNoise, epsilon_of, noisy_secure_sum
from fedrecon.secure_aggregation import (
    FixedPoint,
    LightSecAggSetup,
    SecAggSetup,
    choose_degree,
    least_threshold,
)
from fedrecon.training.codecs import encoded_size, make_codec
from fedrecon.training.components import check_reducer, make_reducer
from fedrecon.training.dotted import parse_options
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError
from fedrecon.types import Task

FLAG = "secure_aggregation"
# What ``--secure_aggregation.NAME=VALUE`` may set, of all protocols.
OPTIONS: dict[str, type] = {
    "threshold": int,
    "neighbors": int,
    "colluders": int,
    "groups": int,
    "bound": float,
    "scalar_bound": float,
}
_ONLY = {"neighbors": "secagg+", "colluders": "lightsecagg"}
# Largest number of an update, scaled by its weight over the largest, unless --clip_norm bounds it.
_BOUND = 8.0
# Of the graph of SecAgg+: fractions of clients that collude with the server, and that drop out.
_CORRUPT, _DROPPED = 0.2, 0.1
# Bytes of public keys, of ML-KEM-768 and of it with X25519.
_QUANTUM_KEY, _KEYS = 1184, 1216


def check_secure(settings: FederationSettings) -> dict[str, Any]:
    """The options of ``--secure_aggregation``, converted.

    Raises:
      FlagError: an option is unknown, of another protocol or out of range; or the settings ask for what needs
        single updates.
    """
    protocol, texts = settings.secure_aggregation, dict(settings.secure_aggregation_options)
    if protocol == "none":
        if texts:
            raise FlagError(FLAG, "a protocol for its options", protocol)
        return {}
    options = parse_options(FLAG, OPTIONS, texts, protocol)
    for name, value in options.items():
        if _ONLY.get(name, protocol) != protocol:
            raise FlagError(f"{FLAG}.{name}", f"it with --{FLAG}={_ONLY[name]} alone", protocol)
        if not value > 0:
            raise FlagError(f"{FLAG}.{name}", "a positive number", value)
    if settings.sampler == "highest_loss":
        expected = f"one that needs no losses of single clients with --{FLAG}"
        raise FlagError("sampler", expected, settings.sampler)
    reducer, grouped = make_reducer(settings) is not None, "groups" in options
    if reducer and not grouped:
        expected = f"mean with --{FLAG}, or --{FLAG}.groups=G, whose means it then sees instead of updates"
        raise FlagError("reduce", expected, settings.reduce if settings.reduce != "mean" else "a screen")
    if grouped and not reducer:
        raise FlagError(f"{FLAG}.groups", "a --reduce of the means of groups with it", options["groups"])
    if grouped and settings.sampler == "poisson":
        raise FlagError("sampler", f"a fixed number of clients with --{FLAG}.groups", "poisson")
    if "bound" in options and settings.clip_norm:
        raise FlagError(f"{FLAG}.bound", "--clip_norm or it, not both", options["bound"])
    return options


def secured(
    algorithm: FederatedAlgorithm,
    settings: FederationSettings,
    task: Task,
    train: ClientData,
    shares: DistributedNoise | None = None,
) -> FederatedAlgorithm:
    """The algorithm with its updates in a secure sum; without ``--secure_aggregation`` the same object.

    With ``shares`` of noise, of `noise_in_shares`, clients clip and noise their updates for the unit "site".

    Raises:
      FlagError: as `check_secure`; too few clients for the protocol; weights that are not known before.
    """
    options = check_secure(settings)
    if settings.secure_aggregation == "none":
        return algorithm
    clients = _cohort(settings, train)
    size = _size(settings, algorithm, task)
    setup = make_setup(settings, options, clients, size)
    if shares is not None:
        return algorithm._replace(channel=_noisy(settings, size - 2, shares, setup))
    bound = settings.clip_norm or options.get("bound", _BOUND)
    modulus = 2**31 - 1 if isinstance(setup, LightSecAggSetup) else 2**32
    try:
        fixed = FixedPoint.finest(bound, clients, modulus=modulus)
    except ArgumentError as error:
        name = "clip_norm" if settings.clip_norm else f"{FLAG}.bound"
        raise FlagError(
            name, f"a bound with which the sum of {clients} clients does not wrap", bound
        ) from error
    limit = fl.clip(bound) if settings.clip_norm else fl.secure_sum.clip_range(bound)
    shared: dict[str, Any] = {
        "largest_weight": _largest_weight(algorithm, settings, train),
        "scalar_bound": options.get("scalar_bound"),
        "neighbors": _neighbors(setup),
        "protocol": _bytes(setup),
    }
    if "groups" not in options:
        first = [limit]
        if (codec := make_codec(settings)) is not None:
            # Encoded numbers are within other bounds than the change.
            clipped = [limit] if settings.clip_norm else []
            first = [*clipped, codec.channel, fl.secure_sum.clip_range(bound)]
        channel = fl.chain(*first, secure_sum(fixed, threshold=_survivors(setup), **shared))
        return algorithm._replace(channel=_named(channel))
    groups = options["groups"]
    check_reducer(dataclasses.replace(settings, clients_per_round=groups), groups)
    try:
        assert isinstance(algorithm.reduce, fl.Reducer)
        channel, reduce = grouped_secure_sum(
            fixed, algorithm.reduce, groups=groups, seed=groups, clip=limit, least=2, **shared
        )
    except ArgumentError as error:
        raise FlagError(f"{FLAG}.{error.name}", error.expected, error.found) from error
    return algorithm._replace(channel=_named(channel), reduce=reduce)


def make_setup(
    settings: FederationSettings, options: dict[str, Any], clients: int, size: int
) -> SecAggSetup | LightSecAggSetup:
    """The protocol among the clients of a round, or of one of its groups.

    Raises:
      FlagError: the numbers do not fit.
    """
    clients = clients // options.get("groups", 1)
    threshold, neighbors = options.get("threshold"), options.get("neighbors")
    try:
        if settings.secure_aggregation == "lightsecagg":
            stay = clients - clients // 3 if threshold is None else threshold
            colluders = options.get("colluders", max(1, min(clients // 2, stay - 1)))
            return LightSecAggSetup("training", 0, clients, stay, size, colluders)
        if settings.secure_aggregation == "secagg+" and neighbors is None:
            neighbors, threshold = choose_degree(clients, _CORRUPT, _DROPPED, threshold)
        if threshold is None:
            threshold = least_threshold(clients if neighbors is None else neighbors + 1, False)
        return SecAggSetup("training", 0, clients, threshold, size, neighbors)
    except ArgumentError as error:
        if error.name not in OPTIONS:
            few = settings.secure_aggregation == "secagg+" and "neighbors" not in options
            expected = (
                "secagg, or --secure_aggregation.neighbors, with so few clients" if few else "more clients"
            )
            raise FlagError(FLAG, f"{expected} ({error})", settings.secure_aggregation) from error
        raise FlagError(f"{FLAG}.{error.name}", error.expected, error.found) from error


# Changes of the model may have as many numbers where noise is accounted before the model is known.
_FEWEST_NUMBERS, _MOST_NUMBERS = 2**8, 2**24


def noise_in_shares(
    settings: FederationSettings, clients: int, rounds: int, delta: float
) -> tuple[DistributedNoise, float]:
    """Noise of whole sites inside the sum, and epsilon of all rounds, for models of up to 2^24 numbers.

    It is sized for the clients that may drop out, and solved for ``--dp.epsilon`` unless a multiplier is set.

    Raises:
      FlagError: the sum has a sampler, adaptive clipping or a bound of its own; or no noise meets the budget.
    """
    options = check_secure(settings)
    wrong: dict[str, Any] = {"sampler": "all", "dp_adaptive_clipping": False, "codec": "none"}
    for name, only in wrong.items():
        if (found := getattr(settings, name)) != only:
            raise FlagError(name, f"{only} with noise in shares inside --{FLAG}", found)
    for name in ("bound", "groups", "scalar_bound"):
        if name in options:
            raise FlagError(
                f"{FLAG}.{name}", "none with noise in shares, which brings its own", options[name]
            )
    setup = make_setup(settings, options, clients, 1)
    stay = clients - clients // 3 if _neighbors(setup) else setup.threshold

    def of(multiplier):
        # The fewest numbers leave the least room in the modulus, the most cost the most.
        noise = DistributedNoise.of_multiplier(
            multiplier,
            clip=settings.dp_clipping_norm,
            clients=clients,
            dropouts=clients - stay,
            size=_FEWEST_NUMBERS,
        )
        noise = dataclasses.replace(noise, size=_MOST_NUMBERS)
        return noise, epsilon_of(noise.composed(rounds), delta)

    if settings.dp_noise_multiplier:
        return of(settings.dp_noise_multiplier)
    low, high = 0.0, 1.0
    while of(high)[1] > settings.dp_epsilon:
        low, high = high, 2 * high
        if high > 1e4:
            raise FlagError("dp_epsilon", "a budget that noise in shares can meet", settings.dp_epsilon)
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if of(middle)[1] <= settings.dp_epsilon else (middle, high)
    return of(high)


def _noisy(
    settings: FederationSettings, size: int, shares: DistributedNoise, setup: SecAggSetup | LightSecAggSetup
) -> fl.Channel:
    if size > _MOST_NUMBERS:
        raise FlagError(
            "dp_unit", f"another than site for a model of more than {_MOST_NUMBERS} numbers", size
        )
    own = dataclasses.replace(shares, size=max(size, _FEWEST_NUMBERS))
    exact = settings.dp_noise == "secure"
    return noisy_secure_sum(own, neighbors=_neighbors(setup), protocol=_bytes(setup), exact=exact)


def sums_report(
    settings: FederationSettings, algorithm: FederatedAlgorithm, task: Task, train: ClientData
) -> dict[str, Any]:
    """What a run says of its secure sums, JSON-able; empty without."""
    if settings.secure_aggregation == "none":
        return {}
    options, clients = check_secure(settings), _cohort(settings, train)
    setup = make_setup(settings, options, clients, _size(settings, algorithm, task))
    return {
        "protocol": settings.secure_aggregation,
        "clients": clients,
        "groups": options.get("groups", 1),
        "threshold": setup.threshold,
        "neighbors": _neighbors(setup),
        "bytes_up": setup.bytes_up(),
        "statement": sums_statement(settings),
    }


def sums_statement(settings: FederationSettings) -> str:
    """What is hidden from the server, and what is not; "" without secure sums."""
    if settings.secure_aggregation == "none":
        return ""
    sums = "sums of random groups" if "groups" in dict(settings.secure_aggregation_options) else "their sum"
    return (
        f"Updates, messages and weights of single clients are hidden from the server, which learns {sums} "
        f"({settings.secure_aggregation}). Not hidden: the sum itself and what it tells of single clients, "
        "for instance through entries that only one client fills or through cohorts that differ by one; who "
        "takes part and who drops out; and the losses and norms of single clients in the log of this "
        "simulation, whose masks come from the run's seed. Nobody looks at updates: a client that sends a "
        "poisoned one is not found."
    )


def _named(channel: fl.Channel) -> fl.Channel:
    """The channel whose errors about what is sent name the flag."""

    def init(upload):
        try:
            return channel.init(upload)
        except ArgumentError as error:
            raise FlagError(f"{FLAG}.{error.name}", error.expected, error.found) from error

    return channel._replace(init=init)


def _cohort(settings: FederationSettings, train: ClientData) -> int:
    clients = settings.clients_per_round
    return train.clients if settings.sampler == "poisson" or not clients else clients


def _size(settings: FederationSettings, algorithm: FederatedAlgorithm, task: Task) -> int:
    """Words of a client: the encoded leaves, a weight, and the count of clients beyond their bounds."""
    return 2 + encoded_size(make_codec(settings), algorithm.share_mask, task)


def _largest_weight(algorithm: FederatedAlgorithm, settings: FederationSettings, train: ClientData) -> float:
    """The largest weight of a client, from the public numbers of examples."""
    try:
        weights = [
            algorithm.weighting(
                jnp.float32(count), fl.Context(jnp.int32(0), jax.random.key(0), jnp.int32(client))
            )
            for client, count in enumerate(np.asarray(train.counts))
        ]
        largest = max(float(jnp.max(w)) for w in jax.tree.leaves(weights))
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        expected = f"one whose weights are known before training, with --{FLAG}"
        raise FlagError("algorithm", expected, settings.algorithm) from error
    return largest if largest > 0 else 1.0


def _neighbors(setup: SecAggSetup | LightSecAggSetup) -> int | None:
    if isinstance(setup, LightSecAggSetup):
        return 0
    return setup.neighbors if setup.sparse and setup.neighbors else None


def _survivors(setup: SecAggSetup | LightSecAggSetup) -> int:
    """Clients that must arrive for a sum."""
    if isinstance(setup, SecAggSetup) and setup.sparse:
        return setup.smallest_sum
    return setup.threshold


def _bytes(setup: SecAggSetup | LightSecAggSetup) -> SumBytes:
    """Bytes besides the masked words, and what the server sends: keys, sealed shares, who arrived."""
    up = sum(setup.bytes_up().values()) - 4 * setup.size
    if isinstance(setup, LightSecAggSetup):
        # The pieces and keys of all others in place of one's own.
        return SumBytes(up, up - 4 * setup.block + (setup.clients - 1) * _KEYS + 4 * setup.clients)
    holders = setup.degree + 1
    quantum = setup.bytes_up()["post_quantum"] + setup.degree * 2 * _QUANTUM_KEY
    return SumBytes(up, 72 * holders + 118 * setup.degree + 4 * holders + quantum)
