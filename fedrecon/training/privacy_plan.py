"""The privacy plan of a run: one noise multiplier a data set, calibrated before anything is trained."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedrecon.data import ClientData
from fedrecon.errors import ArgumentError
from fedrecon.privacy import calibrate_noise_multiplier
from fedrecon.training.budgets import Budget, Noise
from fedrecon.training.catalog_algorithms import padded_batch_size
from fedrecon.training.components import full_steps
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError


class PrivacyPlan(NamedTuple):
    """How private the stages are.

    Attributes:
      noise: stage -> noise of DP-SGD, or None without privacy.
      report: "statement", "noise_multiplier" (data set -> multiplier), "epsilon" and "delta" (site -> value);
        empty without privacy.
    """

    noise: dict[str, Noise | None]
    report: dict[str, Any]


def plan_privacy(
    settings: FederationSettings,
    data: Sequence[tuple[ClientData, Mapping[str, Budget]]],
    *,
    comparators: bool = False,
) -> PrivacyPlan:
    """Calibrates the noise so that all stages on a client's data together stay within ``--dp_epsilon``.

    Stages that train on the same patients compose: their steps are accounted as one run. Every client is
    taken to join every round, even if absent or slow; asynchronous clients to send every update.

    Args:
      settings: of the federation.
      data: each data set with the stages that train on it.
      comparators: whether comparators are trained, too, for the statement.

    Raises:
      FlagError: the budget cannot be met, or its delta allows to disclose an example.
    """
    if not settings.dp_epsilon:
        return PrivacyPlan({stage: None for _, stages in data for stage in stages}, {})
    smallest = min(int(n) for clients, _ in data for n in clients.counts if n)
    if settings.dp_delta * smallest >= 1:
        expected = (
            f"less than 1 / {smallest}, of the client with the fewest examples, one of which it gives away"
        )
        raise FlagError("dp_delta", expected, settings.dp_delta)
    noise: dict[str, Noise | None] = {}
    report: dict[str, Any] = {"noise_multiplier": {}, "epsilon": {}, "delta": {}}
    for clients, stages in data:
        steps = sum(
            most_participations(settings, budget.rounds) * int(full_steps(budget, clients).max())
            for budget in stages.values()
        )
        try:
            calibration = calibrate_noise_multiplier(
                settings.dp_epsilon,
                steps=steps,
                examples=[int(n) for n in clients.counts],
                expected_batch_size=settings.dp_batch_size,
                padded_batch_size=padded_batch_size(settings.dp_batch_size),
                delta=settings.dp_delta or None,
            )
        except ArgumentError as error:
            raise FlagError(
                "dp_epsilon", f"a budget that noise can meet ({error})", settings.dp_epsilon
            ) from error
        noise |= dict.fromkeys(stages, Noise(calibration.noise_multiplier, settings.dp_clipping_norm))
        report["noise_multiplier"]["+".join(stages)] = calibration.noise_multiplier
        report["epsilon"] |= dict(zip(clients.names, calibration.epsilons, strict=True))
        report["delta"] |= dict(zip(clients.names, calibration.deltas, strict=True))
    compared = " The local-only and centralized comparators are trained without it." * comparators
    report["statement"] = (
        "Example-level differential privacy of each client's federated training by DP-SGD: Poisson sampling, "
        "one example is one image or slice, PLD accounting, zero-out neighbors, target ε "
        f"{settings.dp_epsilon:g} over all stages that use a client's data. A patient has several slices and "
        "is protected less. Noise comes from JAX's threefry generator, which is not a cryptographic source: "
        f"this is the accounting of a simulation.{compared}"
    )
    if settings.initialize_from:
        report["statement"] += " It does not cover the model that the training started from."
    return PrivacyPlan(noise, report)


def most_participations(settings: FederationSettings, rounds: int) -> int:
    """The most turns that one client can take in these rounds."""
    return rounds * (settings.buffer_size if settings.topology == "asynchronous" else 1)
