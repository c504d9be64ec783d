"""Learning curves, the table of trainings, scores of sites that never trained, the rate on pooled data."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.pipeline import stages
from experiments.pipeline.learning_curves import learning_curves, training_table
from experiments.pipeline.run import stage_budgets
from experiments.pipeline.settings import resolve
from fedrecon.training.progress import course
from fedrecon.training.scores import foreign_scores


def record(kind, round, a, b, loss=1.0):
    validation = {"A": {"loss": 1 / a, "psnr": a}, "B": {"loss": 1 / b if b else None, "psnr": b}}
    return {
        "stage": f"reconstruction/{kind}",
        "round": round,
        "loss": loss,
        "steps": 3,
        "validation": validation,
    }


def test_curves_are_of_sites_and_of_their_mean():
    log = [
        record("local", 1, 20.0, 30.0),
        record("federated", 1, 21.0, None),
        record("federated", 2, 22.0, 34.0),
    ]
    log.append({"stage": "segmentation/federated", "round": 1, "loss": math.inf})
    curves = learning_curves(log)
    # A task whose only value is not finite has nothing to draw.
    assert list(curves) == ["reconstruction"]
    mean, loss, sites = curves["reconstruction"].values()
    assert mean == {"each site alone": [(1, 25.0)], "federated": [(1, 21.0), (2, 28.0)]}
    assert sites == {"A": [(1, 21.0), (2, 22.0)], "B": [(2, 34.0)]}
    assert loss["federated"] == [(1, 1.0), (2, 1.0)]


def test_the_table_of_trainings_counts_steps_and_says_what_has_converged():
    falling = [record("federated", r, 20.0 + 2 * r, 20.0 + 2 * r) for r in range(1, 13)]
    settled = [record("local", r, min(30.0, 20.0 + 2 * r), 30.0) for r in range(1, 13)]
    logs = {"federated": falling, "local": settled, "centralized": []}
    names = {f"reconstruction/{kind}": log for kind, log in logs.items()}
    courses = {name: course(log, name, 12) for name, log in names.items()}
    rows = training_table(courses).rows
    assert rows[0][:3] == ["reconstruction: federated", "12 of 12", "36"] and rows[0][-1] == "no"
    assert rows[1][0] == "reconstruction: each site alone" and rows[1][-1] == "yes"
    assert rows[2][1:3] == ["0 of 12", "0"] and rows[2][-3:] == ["–", "–", "?"]


def test_scores_abroad_are_means_over_models_and_name_the_median_one():
    total = np.array([[60.0, 10.0], [40.0, 30.0], [80.0, 20.0]])
    scores, median = foreign_scores({"psnr": (total, np.full((3, 2), 2.0))}, ("X", "Y"), "psnr")
    assert scores == {"X": {"psnr": 30.0}, "Y": {"psnr": 10.0}} and median == 0


@pytest.mark.parametrize("kind", ["centralized", "local", "federated"])
def test_only_pooled_data_take_the_rate_and_the_epochs_of_their_own(monkeypatch, kind):
    given = {"learning_rate": 0.5, "pooled_learning_rate": 0.25, "epochs": 3, "pooled_epochs": 5}
    settings = resolve({"preset": "smoke", **given})
    seen = []

    def train_stage(stage, settings, budget, *rest):
        seen.append((budget.learning_rate, budget.epochs))
        return SimpleNamespace(course=SimpleNamespace(lines=list))

    monkeypatch.setattr(stages, "train_stage", train_stage)
    monkeypatch.setattr(stages, "_within", lambda settings, clients: settings)
    run = stages.Run(settings, None, None, stage_budgets(settings)["reconstruction"], None)
    run.train("reconstruction", kind, None, None, SimpleNamespace(train=None, validation=None))
    assert seen == [(0.25, 5) if kind == "centralized" else (0.5, 3)]
