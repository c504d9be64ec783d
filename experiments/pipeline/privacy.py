"""The privacy plan of a run: one noise multiplier a data set, calibrated before anything is trained."""

from typing import Any, NamedTuple

from experiments.pipeline.cohorts import Cohorts
from experiments.pipeline.federation import Budget, Federation, Privacy, padded_batch_size
from experiments.pipeline.settings import Settings
from fedrecon.privacy import calibrate_noise_multiplier

STAGES = ("reconstruction", "segmentation", "classification")


class Plan(NamedTuple):
    """How private the stages are.

    Attributes:
      noise: stage -> noise of DP-SGD, or None without privacy.
      report: "statement", "noise_multiplier" (data set -> multiplier), "epsilon" and "delta" (site -> value);
        empty without privacy.
    """

    noise: dict[str, Privacy | None]
    report: dict[str, Any]


def plan_privacy(
    settings: Settings, cohorts: Cohorts, budgets: dict[str, Budget], federation: Federation
) -> Plan:
    """Calibrates the noise so that all stages on a site's data together stay within ``--dp_epsilon``.

    Stages that train on the same patients compose: their steps are accounted as one run.

    Raises:
      ValueError: the budget cannot be met, or an option excludes privacy.
    """
    if not settings.dp_epsilon:
        return Plan(dict.fromkeys(STAGES), {})
    data = {
        "reconstruction": cohorts.reconstruction.train,
        "segmentation": cohorts.segmentation.train,
        "classification": cohorts.classification.train,
    }
    groups = [STAGES] if cohorts.shared_images else [(stage,) for stage in STAGES]
    noise, report = {}, {"noise_multiplier": {}, "epsilon": {}, "delta": {}}
    for stages in groups:
        clients = data[stages[0]]
        steps = sum(budgets[s].rounds * federation.steps_per_round(clients, budgets[s]) for s in stages)
        calibration = calibrate_noise_multiplier(
            settings.dp_epsilon,
            steps=steps,
            examples=[int(n) for n in clients.counts],
            expected_batch_size=settings.dp_batch_size,
            padded_batch_size=padded_batch_size(settings.dp_batch_size),
            delta=settings.dp_delta or None,
        )
        noise |= dict.fromkeys(stages, Privacy(calibration.noise_multiplier, settings.dp_clipping_norm))
        report["noise_multiplier"]["+".join(stages)] = calibration.noise_multiplier
        report["epsilon"] |= dict(zip(clients.names, calibration.epsilons, strict=True))
        report["delta"] |= dict(zip(clients.names, calibration.deltas, strict=True))
    compared = " The local-only and centralised comparators are trained without it." * settings.comparators
    report["statement"] = (
        "Example-level differential privacy of each site's federated training by DP-SGD: Poisson sampling, "
        "one example is one image or slice, PLD accounting, zero-out neighbours, target ε "
        f"{settings.dp_epsilon:g} over all stages that use a site's data. A patient has several slices and "
        "is protected less. Noise comes from JAX's threefry generator, which is not a cryptographic source: "
        f"this is the accounting of a simulation.{compared}"
    )
    return Plan(noise, report)
