"""The privacy plan of a run: one noise multiplier a data set, calibrated before anything is trained."""

import inspect
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedrecon.data import ClientData
from fedrecon.errors import ArgumentError
from fedrecon.federated.mechanism import Mechanism
from fedrecon.privacy import (
    ACCOUNTANT,
    RENYI_ACCOUNTANT,
    DistributedNoise,
    buffered_strategy_of,
    calibrate_noise_multiplier,
    composed,
    default_delta,
    epsilon_of,
    strategy_of,
    with_noise,
)
from fedrecon.training.budgets import Budget, Spending
from fedrecon.training.catalog_algorithms import check_method, method
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError
from fedrecon.training.secure import noise_in_shares
from fedrecon.training.spending import spent

# Clients below which the noise of whole sites drowns what they have in common.
FEW_SITES = 50


class PrivacyPlan(NamedTuple):
    """How private the stages are.

    Attributes:
      noise: stage -> what it may release, or None without privacy.
      report: "statement", "noise_multiplier" (data set -> multiplier), "unit" (data set -> unit), "epsilon",
        "delta" and "units" (site -> value), "neighbors" and "accountant"; empty without privacy.
    """

    noise: dict[str, Spending | None]
    report: dict[str, Any]

    def spent(self, folder: Path) -> dict[str, Any]:
        """The report with the epsilons of what was released, by the ledger of the run in ``folder``."""
        found = spent(folder, [spending for spending in self.noise.values() if spending is not None])
        # Data sets with clients of one name tell them apart by the stages before a colon.
        return {**self.report, "epsilon": found} if found else self.report


def plan_privacy(
    settings: FederationSettings,
    data: Sequence[tuple[ClientData, Mapping[str, Budget]]],
    *,
    comparators: bool = False,
) -> PrivacyPlan:
    """Calibrates the noise so that all stages on a client's data together stay within ``--dp.epsilon``.

    Stages that train on the same patients compose: their releases are accounted as one run. Every client is
    taken to join every round, even if absent or slow; asynchronous clients to send every update. A sample of
    sites is drawn where the unit is the site.

    Args:
      settings: of the federation.
      data: each data set with the stages that train on it.
      comparators: whether comparators are trained, too, for the statement.

    Raises:
      FlagError: the budget cannot be met, or its delta allows to disclose a unit.
    """
    if not settings.dp_epsilon:
        return PrivacyPlan({stage: None for _, stages in data for stage in stages}, {})
    noise: dict[str, Spending | None] = {}
    report: dict[str, Any] = {
        name: {} for name in ("noise_multiplier", "unit", "epsilon", "delta", "units", "mechanism")
    }
    seen = Counter(name for clients, _ in data for name in clients.names)
    for clients, stages in data:
        unit = unit_of(settings, clients)
        sizes = count_units(clients, unit)[0]
        _check_delta(settings, unit, [n for n in sizes if n])
        # A client without units has nothing to protect; it is accounted as one with a single unit.
        units = [max(n, 1) for n in sizes]
        parts = [
            (make_mechanism(settings, budget, clients), most_participations(settings, budget.rounds))
            for budget in stages.values()
        ]
        multiplier, epsilons, deltas, shares = _calibrate(settings, parts, units)
        label = "+".join(stages)
        names = [name if seen[name] == 1 else f"{label}:{name}" for name in clients.names]
        allowed = Spending(
            with_noise(parts[0][0], multiplier),
            dict(zip(names, units, strict=True)),
            dict(zip(names, deltas, strict=True)),
            settings.dp_epsilon,
            settings.dp_noise == "secure",
            most_participations(settings, 1),
            _selection(settings),
            shares,
        )
        for stage, (mechanism, _) in zip(stages, parts, strict=True):
            noise[stage] = allowed._replace(mechanism=with_noise(mechanism, multiplier))
        report["noise_multiplier"][label] = multiplier
        report["unit"][label] = unit
        report["mechanism"][label] = parts[0][0].describe()
        report["epsilon"] |= dict(zip(names, epsilons, strict=True))
        report["delta"] |= dict(zip(names, deltas, strict=True))
        report["units"] |= dict(zip(names, sizes, strict=True))
    report |= {"neighbors": "zero-out of one unit", "accountant": ACCOUNTANT}
    if any(spending is not None and spending.shares for spending in noise.values()):
        report["accountant"] = RENYI_ACCOUNTANT
    report["statement"] = _statement(settings, report, comparators)
    return PrivacyPlan(noise, report)


def unit_of(settings: FederationSettings, clients: ClientData) -> str:
    """What is protected: that of the algorithm, --dp.unit, or the patient where the data tell them apart."""
    if unit := method(settings.algorithm).unit:
        return unit
    if settings.dp_unit != "auto":
        return settings.dp_unit
    return "patient" if "volume" in getattr(clients, "examples", ()) else "example"


def count_units(clients: ClientData, unit: str) -> tuple[list[int], int]:
    """The clients' numbers of units (of the unit "site" that of clients), and most examples of one unit."""
    if unit == "site":
        return [clients.clients] * clients.clients, 1
    counts = [int(n) for n in clients.counts]
    if unit == "example" or "volume" not in clients.examples:
        return counts, 1
    owned = [
        np.unique(np.asarray(ids)[np.asarray(valid)], return_counts=True)[1]
        for ids, valid in zip(clients.examples["volume"], clients.valid, strict=True)
    ]
    return [len(n) for n in owned], max(int(n.max()) for n in owned if len(n))


def _selection(settings: FederationSettings) -> float:
    """Epsilon of the choices by validation patients in each step; 0 where there are none."""
    entry = method(settings.algorithm)
    if not entry.selection:
        return 0.0
    default = inspect.signature(entry.recipe).parameters[entry.selection].default
    return float(check_method(settings, ()).get(entry.selection, default))


def make_mechanism(settings: FederationSettings, budget: Budget, clients: ClientData) -> Mechanism:
    """What a stage releases in each step, or of sites in each round, without noise as yet."""
    unit = unit_of(settings, clients)
    sizes, images = count_units(clients, unit)
    if unit == "site":
        expected = settings.clients_per_round or clients.clients
        return Mechanism(
            settings.dp_clipping_norm,
            0.0,
            float(expected),
            clients.clients if settings.clients_per_round else expected,
            unit="site",
            sampling="poisson" if settings.clients_per_round else "fixed",
            units=clients.clients,
            count_noise=expected / 20 if settings.dp_adaptive_clipping else 0.0,
        )
    size, micro = budget.batch_size, settings.dp_microbatch_size
    fixed = settings.dp_sampling == "fixed"
    padded = size if fixed else padded_batch_size(size)
    options: dict[str, Any] = {}
    passes = most_participations(settings, budget.rounds) * budget.epochs
    steps = [-(-n // size) for n in sizes]
    if settings.dp_mechanism == "matrix":
        strategy, factors = strategy_of(steps, passes, settings.dp_bands)
        options = {"strategy": strategy, "factors": factors}
    if settings.dp_mechanism == "blt":
        scales, decays, factors = buffered_strategy_of(steps, passes, settings.dp_buffers)
        options = {"strategy": scales, "decays": decays, "factors": factors}
    return Mechanism(
        settings.dp_clipping_norm,
        0.0,
        size,
        math.ceil(padded / micro) * micro if micro else padded,
        steps=budget.epochs * max(1, math.ceil(max(sizes) / size)),
        unit=unit,
        sampling=settings.dp_sampling,
        epochs=budget.epochs,
        units=max(sizes),
        images=images,
        microbatch_size=micro or None,
        **options,
    )


def padded_batch_size(expected: int) -> int:
    """Room for random batches: they are truncated beyond it, which the accountant knows."""
    return 2 * expected + 4


def most_participations(settings: FederationSettings, rounds: int) -> int:
    """The most turns that one client can take in these rounds."""
    return rounds * (settings.buffer_size if settings.topology == "asynchronous" else 1)


def _check_delta(settings: FederationSettings, unit: str, sizes: Sequence[int]) -> None:
    smallest = min(sizes)
    if settings.dp_delta * smallest >= 1:
        expected = (
            f"less than 1 / {smallest}, of the client with the fewest {unit}s, one of which it gives away"
        )
        raise FlagError("dp_delta", expected, settings.dp_delta)


def _calibrate(
    settings: FederationSettings, parts: list[tuple[Mechanism, int]], units: list[int]
) -> tuple[float, Sequence[float], Sequence[float], DistributedNoise | None]:
    """The noise multiplier, epsilon and delta of each client for all rounds, and shares inside a sum."""
    delta = settings.dp_delta or None
    try:
        if settings.secure_aggregation != "none" and parts[0][0].unit == "site":
            rounds = sum(rounds for _, rounds in parts)
            clients, least = len(units), default_delta(delta, len(units))
            shares, epsilon = noise_in_shares(settings, clients, rounds, least)
            return shares.noise_multiplier, [epsilon] * clients, [least] * clients, shares
        if multiplier := settings.dp_noise_multiplier:
            noised = [(with_noise(mechanism, multiplier), rounds) for mechanism, rounds in parts]
            deltas = [default_delta(delta, n) for n in units]
            by_size = {n: epsilon_of(composed(noised, n), default_delta(delta, n)) for n in set(units)}
            return multiplier, [by_size[n] for n in units], deltas, None
        return *calibrate_noise_multiplier(settings.dp_epsilon, parts, units=units, delta=delta), None
    except ArgumentError as error:
        if error.name == "count_noise":
            expected = "off where the noise of the count is too small for the budget, as with few sites"
            raise FlagError("dp_adaptive_clipping", expected, "on") from error
        raise FlagError(
            "dp_epsilon", f"a budget that noise can meet ({error})", settings.dp_epsilon
        ) from error


def _statement(settings: FederationSettings, report: Mapping[str, Any], comparators: bool) -> str:
    told = "; ".join(
        f"{what} ({label})" if len(report["mechanism"]) > 1 else what
        for label, what in report["mechanism"].items()
    )
    epsilons, units = report["epsilon"].values(), set(report["unit"].values())
    sentences = [
        f"Differential privacy of each client's federated training, {told}; accountant: "
        f"{report['accountant']}; target ε {settings.dp_epsilon:g} over all stages that use a client's data, "
        f"noise multiplier {', '.join(f'{z:.4g}' for z in report['noise_multiplier'].values())}, largest δ "
        f"{max(report['delta'].values()):.3g}."
    ]
    if max(epsilons) > settings.dp_epsilon:
        sentences.append(
            f"All rounds would cost ε {max(epsilons):.4g}: the training stops before the target."
        )
    if "example" in units:
        sentences.append("A patient with several slices is protected less.")
    if settings.dp_unit == "auto":
        sentences.append(f"The unit ({', '.join(sorted(units))}) was chosen by the data; --dp.unit sets it.")
    if "site" in units and max(report["units"].values()) < FEW_SITES:
        sentences.append(
            f"With fewer than {FEW_SITES} sites the noise of this unit drowns nearly all that they have in "
            "common: prefer --dp.unit=patient."
        )
    if settings.secure_aggregation != "none" and "site" in units:
        sentences.append(
            "Every client adds a share of the noise inside the secure sum, sized for as many as must stay."
        )
    if settings.dp_noise == "secure" and settings.secure_aggregation != "none" and "site" in units:
        sentences.append(
            "Shares come from an exact discrete sampler and the operating system's cryptographic generator."
        )
    elif settings.dp_noise == "secure":
        sentences.append(
            "Noise and batches come from Threefry keys with 64 bits of the operating system's entropy, "
            "fresh for every dispatch; noise is rounded to floating point, and from no discrete distribution."
        )
    else:
        sentences.append(
            "Noise comes from JAX's threefry generator and the run's seed, which is not a cryptographic "
            "source: this is the accounting of a simulation."
        )
    if comparators:
        sentences.append("The local-only and centralized comparators are trained without it.")
    if settings.initialize_from:
        sentences.append("It does not cover the model that the training started from.")
    return " ".join(sentences)
