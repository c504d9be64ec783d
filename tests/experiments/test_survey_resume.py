"""Each of the review's methods is interrupted in the middle of its rounds, and goes on to the same bits."""

import json
from pathlib import Path

import pytest

from experiments import survey
from experiments.pipeline import survey_runs, sweep
from experiments.pipeline.federated_run import run
from experiments.pipeline.pretraining import pretrained
from experiments.pipeline.survey_problems import PROBLEMS
from experiments.pipeline.survey_tables import ROWS
from fedrecon.runtime import Workdir, describe_environment
from fedrecon.runtime import training as loop
from fedrecon.training import Execution, changed, flat

# Those whose rounds differ: by exchanges, curricula, versions, schedules, clocks or queues.
_NAMES = {
    "Ji",
    "FedACS",
    "Li-MoE",
    "FedMoCo",
    "HarmoFL",
    "PRR-FL",
    "BrainTorrent",
    "Elayan",
}
METHODS = [row for row in ROWS if row.name in _NAMES]


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    """What is compiled for the first run is not compiled for the second."""
    sweep.share_programs(tmp_path_factory.mktemp("programs"))


def _stop(stage: str) -> None:
    if stage.endswith("round 2"):
        raise KeyboardInterrupt


def _numbers(folder: Path) -> tuple:
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return json.loads((folder / "results.json").read_text()), [
        {name: value for name, value in record.items() if "seconds" not in name or "clock" in name}
        for record in log
    ]


@pytest.mark.slow
@pytest.mark.parametrize("row", METHODS, ids=lambda row: row.name)
def test_an_interrupted_training_is_the_one_that_was_not(row, tmp_path, monkeypatch):
    monkeypatch.setattr(loop._Due, "now", lambda self: True)
    (name,) = survey.trained(row, "", "smoke")
    training = survey_runs.plan(row, name, "smoke", "")[row.name]
    settings = changed(training.settings, rounds=3, validate_every=0, clients=3)
    data = survey_runs._data(PROBLEMS[name], (0,), settings)
    start = training.start if row.method else ""

    def train(folder, report=lambda stage: None):
        if start:
            execution = Execution("scan", 1, report)
            pretrained(settings, lambda: data, folder, rounds=3, rate=1e-3, way=start, execution=execution)
            return
        with Workdir(folder, flat(settings), describe_environment()) as workdir:
            run(settings, workdir, parallel="scan", data=data, report_stage=report)

    train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", _stop)
    assert len((tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()) == 1
    train(tmp_path / "parts")
    whole, parts = (_numbers(tmp_path / folder) for folder in ("whole", "parts"))
    assert whole == parts
