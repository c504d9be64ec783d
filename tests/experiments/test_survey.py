"""The review's rows: what is trained, what the page says, and that an interrupted survey goes on."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from experiments import survey
from experiments.pipeline import survey_report, survey_runs
from experiments.pipeline.survey_besides import figure
from experiments.pipeline.survey_problems import PRESETS, PROBLEMS
from experiments.pipeline.survey_rows import TABLES
from experiments.pipeline.survey_tables import ROWS
from fedrecon import catalog
from fedrecon.training import FlagError

ROOT = Path(__file__).parents[2]


def test_every_row_is_in_the_catalog_and_of_one_table():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert sorted(names) == sorted(entry.survey_row for entry in catalog.entries() if entry.survey_row)
    assert len(names) == 44
    for row in ROWS:
        assert row.table in TABLES and row.purpose.endswith(".") and row.reported and row.paper_data
        assert all(name in PROBLEMS for name in row.problems)


def test_public_problems_have_a_simulated_one_in_their_place():
    for problem in PROBLEMS.values():
        if problem.public:
            assert not PROBLEMS[problem.simulated].public and PROBLEMS[problem.simulated].labels <= 1


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("data_dir", ["", "somewhere"])
def test_settings_of_all_rows_fit(preset, data_dir):
    for row in ROWS:
        names = survey.trained(row, data_dir, preset)
        assert len(names) == 1 if preset == "smoke" else names
        for name in names:
            planned = survey_runs.plan(row, name, preset, data_dir)
            assert next(iter(planned)) == row.name and survey_runs.FEDAVG in planned
            plain = planned[survey_runs.FEDAVG].settings
            if preset != "smoke" and PROBLEMS[name].public:
                rivals = {label for label, of in row.rivals.items() if name in of.get("on", row.problems)}
                assert rivals == set(row.rivals) & set(planned)
                assert all(set(of.get("on", ())) <= set(row.problems) for of in row.rivals.values())
            for label, training in planned.items():
                settings = training.settings
                turns = row.turns if label == row.name else 1
                assert (settings.rounds, settings.epochs) == (turns * plain.rounds, plain.epochs), label
                assert (settings.cohort, settings.image_size) == (plain.cohort, plain.image_size)
            # Rows share the directory of a training, and no two trainings have the same.
            folders = [training.folder for training in planned.values()]
            assert len(set(folders)) == len(folders)


def test_trainings_of_a_folder_are_the_same_for_all_rows():
    found = {}
    for row in ROWS:
        for name in row.problems:
            for training in survey_runs.plan(row, name, "small", "somewhere").values():
                key = (name, training.folder)
                assert found.setdefault(key, (training.settings, training.start)) == training[:2], key


def test_unknown_rows_are_refused_by_name():
    assert [row.name for row in survey.chosen(["harmofl", "FedCE"], "")] == ["HarmoFL", "FedCE"]
    assert {row.table for row in survey.chosen([], "privacy")} == {"privacy"}
    for names, table in ((["nobody"], ""), (["FedCE", "fedce"], ""), (["FedCE"], "privacy")):
        with pytest.raises(FlagError, match="row: expected distinct ones of"):
            survey.chosen(names, table)


def _figures(values, difference=None, verdict=""):
    mean, width = values
    interval = {"mean": mean, "half_width": width}
    return {
        "values": {"0": mean, "1": mean},
        "interval": interval,
        "difference": {}
        if difference is None
        else dict(zip(("mean", "half_width"), difference, strict=True)),
        "verdict": verdict,
        "worst": mean,
        "worst_difference": {},
        "bytes": 2e6,
        "clock": None,
        "seconds": 1.0,
    }


def test_the_page_says_what_was_measured(tmp_path):
    rows = {
        "FedCE": _figures((0.61, 0.02), (0.03, 0.01), "better"),
        "FedAvg": _figures((0.58, 0.02)),
        "each alone": _figures((0.5, 0.1), (-0.08, 0.1), "no difference shown"),
        "pooled": _figures((0.7, 0.01), (0.12, 0.01), "better"),
    }
    result = {"row": "FedCE", "problem": "vessels", "metric": "dice", "rows": rows, "trivial": 0.2}
    survey_report.write(tmp_path, {"FedCE/vessels": result}, "small")
    page = (tmp_path / "survey.md").read_text()
    assert "| [FedCE](#fedce) | vessels | 0.610 ± 0.020 | 0.580 ± 0.020 | +0.030 ± 0.010 | better |" in page
    assert "| 0.610 |  | 2.0 | – |" in page
    assert "| each alone | 0.500 ± 0.100 | -0.080 ± 0.100 | no difference shown |" in page
    assert "2 seeds: +0.030 ± 0.010, better." in page and "| without training | 0.200 |" in page
    assert "The review: Dice 0.831 (+0.048), on fundus photographs." in page
    assert (tmp_path / "survey_frameworks.png").stat().st_size > 5000
    assert not (tmp_path / "survey_privacy.png").exists()
    assert "Measured besides" not in page
    # What is there already stays when more rows come.
    kept = survey_report.read(tmp_path)
    survey_report.write(tmp_path, {**kept, "HarmoFL/vessels": {**result, "row": "HarmoFL", "rows": {
        **rows, "HarmoFL": rows["FedCE"]}}}, "small")  # fmt: skip
    assert list(survey_report.read(tmp_path)) == ["FedCE/vessels", "HarmoFL/vessels"]


def test_the_page_has_what_was_measured_besides(tmp_path):
    rows = {"FedCE": _figures((0.61, 0.02), (0.03, 0.01), "better"), "FedAvg": _figures((0.58, 0.02))}
    besides = {
        "weight": figure({"FedCE": {0: 0.2, 1: 0.25}, "FedAvg": {0: 0.1, 1: 0.3}}),
        "kappa": figure({"FedCE": {0: 0.5, 1: 0.5}, "FedAvg": {0: 0.4, 1: 0.4}}, "FedAvg"),
    }
    result = {"row": "FedCE", "problem": "corrupted", "metric": "dice", "rows": rows, "trivial": 0.2}
    survey_report.write(tmp_path, {"FedCE/corrupted": result | {"besides": besides}}, "small")
    page = (tmp_path / "survey.md").read_text()
    assert "|  | weight | seed by seed | kappa | minus FedAvg |\n" in page
    assert "| FedCE | 0.225 ± 0.318 | 0.200, 0.250 | 0.500 ± 0.000 | +0.100 ± 0.000 better |" in page
    assert "| FedAvg | 0.200 ± 1.271 | 0.100, 0.300 | 0.400 ± 0.000 |  |" in page


def test_the_page_names_what_a_row_does_not_have_in_common():
    by_name = {row.name: row for row in ROWS}

    def own(name):
        row = by_name[name]
        return survey_report.own_settings(row, {name, *row.rivals, *row.starts})

    assert own("FedCE") == ""
    assert own("Elayan").startswith("Elayan: unlabeled=0.5, unfreeze=3, a start from as many rounds")
    assert "FedAvg, same start: a start from as many rounds without labels (simclr)" in own("Elayan")
    alone = "HarmoFL with SCAFFOLD: optimizer=sgd, learning_rate=0.1"
    assert own("HarmoFL") == f"{alone}; HarmoFL, mean intensity alone: window=0"
    assert survey_report.own_settings(by_name["HarmoFL"], {"HarmoFL with SCAFFOLD"}) == alone
    assert "3 times the rounds" in own("BrainTorrent")
    assert own("Pan").endswith("all: network=separated-unet")


def test_what_needs_no_training_is_of_the_row_s_own_data(tmp_path):
    """Wang divides the patients of a problem that others train on with its sites."""
    by_name = {row.name: row for row in ROWS}
    found = {}
    for name in ("Nalawade", "Wang"):
        plain = survey_runs.plan(by_name[name], "lesions", "smoke", "")[survey_runs.FEDAVG]
        problem = PROBLEMS["lesions"]
        load = functools.partial(survey_runs._data, problem, (0,))
        (tmp_path / plain.folder / "seed-0").mkdir(parents=True)
        found[name] = survey_runs._trivial(problem, plain, tmp_path, load, [0])
        again = survey_runs._trivial(problem, plain, tmp_path, lambda settings: None, [0])
        assert again == found[name] and 0 < found[name] < 1
    assert found["Nalawade"] != found["Wang"]


def test_a_process_that_is_ended_from_outside_ends_the_survey(monkeypatch):
    def broken(pool, *arguments, **options):
        raise BrokenProcessPool

    monkeypatch.setattr(survey.ProcessPoolExecutor, "submit", broken)
    found = survey.solve_all({"patterns": ["Singh"]}, Path("nowhere"), 2, preset="smoke")
    with pytest.raises(FlagError, match=r"^--jobs: expected 2 processes that come to an end by themselves"):
        next(found)


def _run(folder, *flags, **options):
    command = [sys.executable, "-m", "experiments.survey", f"--workdir={folder}", "--preset=smoke", *flags]
    environment = {k: v for k, v in os.environ.items() if k not in ("FEDRECON_DATA", "XLA_FLAGS")}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, problem in PROBLEMS.items() if not problem.public])
def test_simulated_problems_have_data_for_every_client(name):
    row = next(row for row in ROWS if any(name in (p, PROBLEMS[p].simulated) for p in row.problems))
    for preset in ("smoke", "small"):
        settings = survey_runs.plan(row, name, preset, "")[survey_runs.FEDAVG].settings
        data = survey_runs._data(PROBLEMS[name], (0,), survey_runs.with_seed(settings, 0))
        # A site with wrong masks is not tested.
        assert data.train.valid.any(1).all() and data.test.valid.any()


@pytest.mark.slow
def test_a_killed_survey_goes_on_to_the_same_numbers(tmp_path):
    whole = _run(tmp_path / "whole", "--row=FedDropoutAvg,Singh", "--json")
    document = json.loads(whole.communicate()[0])
    assert whole.returncode == 0 and len(document["results"]) == 2
    killed = _run(tmp_path / "killed", "--row=FedDropoutAvg,Singh", "--json")
    log = tmp_path / "killed" / "patterns" / "feddropoutavg" / "seed-0" / "metrics.jsonl"
    while killed.poll() is None and not log.exists():
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    again = _run(tmp_path / "killed", "--row=FedDropoutAvg,Singh", "--json", "--jobs=2")
    found = json.loads(again.communicate()[0])["results"]
    scores = [
        {key: {label: row["values"] for label, row in result["rows"].items()} for key, result in each.items()}
        for each in (document["results"], found)
    ]
    assert again.returncode == 0 and scores[0] == scores[1]
    # A ledger changes no number.
    singh = found["Singh/small_patterns"]["rows"]
    assert singh["Singh"]["values"] == singh["FedAvg"]["values"]


@pytest.mark.slow
def test_an_interrupted_survey_leaves_no_process(tmp_path):
    """The main process alone gets the signal, as from a scheduler."""
    options = {
        "stderr": subprocess.STDOUT,
        # Shells let what runs in the background ignore the signal.
        "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    run = _run(tmp_path / "run", "--row=FedDropoutAvg,Singh", "--jobs=2", **options)
    while run.poll() is None and not list((tmp_path / "run").glob("*/*/seed-0/config.json")):
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    # Processes that are left would keep the pipe open.
    output = run.communicate(timeout=60)[0]
    assert run.returncode == 130 and "The same command" in output
