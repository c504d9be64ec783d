"""Finished runs with more rounds: what a run begun with them gives, or a refusal."""

import json

import pytest

from experiments.pipeline.federated_run import run
from experiments.pipeline.growth import full_stack_obstacles
from experiments.pipeline.settings import FullStackSettings
from fedrecon.runtime import RunLog, Workdir, WorkdirError
from fedrecon.training import is_finished, rounds_obstacle
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import changed, flat
from tests.experiments.test_train_federated import TINY


def train(path, settings, **execution):
    growing = {"rounds": rounds_obstacle(settings.federation, 1)}
    with Workdir(path, flat(settings), growing=growing) as workdir:
        return run(settings, workdir, **execution)[0]


def losses(path):
    """Every figure of the log but times."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in line.items() if "seconds" not in name} for line in lines]


CASES = {
    "scaffold": {"algorithm": "scaffold", "sampler": "uniform", "clients_per_round": 2, "stragglers": 0.5},
    "asynchronous": {"topology": "asynchronous", "concurrency": 2, "fine_tune": 1},
    "patience": {"patience": 1, "validation_part": 0.3, "learning_rate": 0.5},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["scaffold", "patience", pytest.param("asynchronous", marks=pytest.mark.nightly)]
)
def test_more_rounds_continue_a_finished_run_as_if_begun_with_them(case, tmp_path):
    settings = changed(TINY, **CASES[case])
    assert train(tmp_path / "grown", changed(settings, rounds=2)).course.planned == 2
    assert not is_finished(tmp_path / "grown", 4)
    train(tmp_path / "grown", changed(settings, rounds=4))
    train(tmp_path / "whole", changed(settings, rounds=4))
    assert is_finished(tmp_path / "grown", 4)
    assert losses(tmp_path / "grown") == losses(tmp_path / "whole")
    assert (tmp_path / "grown/results.json").read_text() == (tmp_path / "whole/results.json").read_text()
    with pytest.raises(WorkdirError, match="--rounds: expected at least 4"):
        train(tmp_path / "grown", changed(settings, rounds=3))


@pytest.mark.parametrize(
    ("given", "rounds_per_dispatch", "words"),
    [
        ({}, 3, ""),
        ({"optimizer": "adam"}, 1, ""),
        ({"algorithm": "prr_fl"}, 1, "another thing in each round"),
        ({"patience": 2}, 1, ""),
        ({"rate_schedule": "cosine"}, 1, "rates of cosine"),
        ({"optimizer": "adam_cosine"}, 1, "rates of warmup_cosine"),
        ({"dp_epsilon": 8.0}, 1, "noise of --dp.epsilon"),
        ({"patience": 2}, 2, "--patience"),
        ({"patience": 4, "validate_every": 2}, 1, "--patience"),
    ],
)
def test_what_depends_on_the_number_of_rounds_is_not_continued(given, rounds_per_dispatch, words):
    found = rounds_obstacle(FederationSettings(**given), rounds_per_dispatch)
    assert words in found and bool(words) == bool(found)


def test_stages_that_used_the_images_of_a_reconstruction_hold_its_rounds(tmp_path):
    settings = changed(FullStackSettings(), optimizer="adam")
    log = RunLog(tmp_path / "metrics.jsonl")
    assert full_stack_obstacles(settings, str(tmp_path), 1) == {"rounds": "", "finetune_rounds": ""}
    log.append("reconstruction/federated", 1)
    assert full_stack_obstacles(settings, str(tmp_path), 1) == {"rounds": "", "finetune_rounds": ""}
    log.append("segmentation/federated", 1)
    found = full_stack_obstacles(settings, str(tmp_path), 1)
    assert "later stages" in found["rounds"] and not found["finetune_rounds"]
    measured = changed(settings, cohort="measured", data_dir="x")
    assert full_stack_obstacles(measured, str(tmp_path), 1)["rounds"] == ""
    default = full_stack_obstacles(FullStackSettings(), str(tmp_path), 1)
    assert "warmup_cosine" in default["rounds"] and "warmup_cosine" in default["finetune_rounds"]
