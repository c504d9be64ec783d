"""The privacy plan of the full-stack experiment."""

from types import SimpleNamespace

import pytest

from experiments.pipeline.run import plan_stages
from experiments.pipeline.settings import FullStackSettings
from fedrecon.privacy import Calibration
from fedrecon.training import privacy_plan
from fedrecon.training.budgets import Budget
from fedrecon.training.options import changed

ROUNDS = {"reconstruction": 3, "segmentation": 10, "classification": 4}
# Steps a round of the clients of each stage: batches of 8.
STEPS = {"reconstruction": 2, "segmentation": 5, "classification": 7}


@pytest.mark.parametrize(
    "shared, expected",
    [
        (True, {"reconstruction+segmentation+classification": 3 * 2 + 10 * 2 + 4 * 2}),
        (False, {"reconstruction": 3 * 2, "segmentation": 10 * 5, "classification": 4 * 7}),
    ],
)
def test_stages_on_the_same_patients_compose(monkeypatch, shared, expected):
    """The noise is calibrated for the sum of the steps of all stages that use a site's data."""
    calls = []

    def calibrate(epsilon, parts, *, units, delta):
        calls.append((sum(rounds * mechanism.steps for mechanism, rounds in parts), units))
        sites = len(units)
        return Calibration(len(calls), (epsilon,) * sites, (1e-3,) * sites)

    monkeypatch.setattr(privacy_plan, "calibrate_noise_multiplier", calibrate)
    counts = {stage: [8 * steps - 7, 5] for stage, steps in STEPS.items()}
    data = {
        stage: SimpleNamespace(clients=2, counts=counts[stage], names=[f"{stage} a", f"{stage} b"])
        for stage in STEPS
    }
    splits = {stage: SimpleNamespace(train=clients) for stage, clients in data.items()}
    cohorts = SimpleNamespace(shared_images=shared, splits=lambda: splits)
    settings = changed(FullStackSettings(), dp_epsilon=4.0, dp_clipping_norm=1.0, comparators=False)
    budgets = {stage: Budget(rounds, 1, 8, 0.1) for stage, rounds in ROUNDS.items()}
    plan = plan_stages(settings, cohorts, budgets)
    assert calls == list(zip(expected.values(), counts.values(), strict=False))
    assert plan.report["noise_multiplier"] == {name: i + 1 for i, name in enumerate(expected)}
    multipliers = [plan.noise[stage].mechanism.noise_multiplier for stage in ROUNDS]
    assert multipliers == ([1, 1, 1] if shared else [1, 2, 3])
