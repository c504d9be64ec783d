"""The table of runs with a clock: from logs written by hand, and those of trainings."""

import json

import pytest

from experiments import clocks
from fedrecon.errors import ArgumentError
from tests.experiments import quadratics
from tests.experiments.test_clock_flags import with_clock


def write(folder, scores, seconds, clients=None, metric="dice"):
    folder.mkdir()
    lines = [
        {
            "stage": "s",
            "round": i + 1,
            "clock": seconds * (i + 1),
            "bytes_up": 10,
            "bytes_down": 5,
            "loss": 1.0,
        }
        | ({} if score is None else {"validation": {"a": {metric: score}, "b": {metric: score + 0.2}}})
        for i, score in enumerate(scores)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if clients:
        (folder / "clock.json").write_text(json.dumps({"s": {"seconds": 1, "clients": clients}}))
    return folder


def test_figures_by_hand(tmp_path):
    rows = {
        "a": {"share": 0.5, "examples": 0.5, "bias": 1.0, "seconds": 4.0},
        "b": {"share": 0.5, "examples": 0.5, "bias": 0.5, "seconds": 9.0},
        "c": {"share": 0.0, "examples": 0.0, "bias": None, "seconds": None},
    }
    wait = write(tmp_path / "wait", [0.5, 0.7, 0.7], 10.0)
    late = write(tmp_path / "late", [0.4, None, 0.7, 0.6], 2.0, rows)
    runs = {name: clocks.read_run(path, "", "dice") for name, path in (("wait", wait), ("late", late))}
    found = clocks.compare(runs, "dice", 0.95)
    # The best mean of the sites is .8.
    assert found["target"] == pytest.approx(0.76)
    assert found["runs"]["wait"]["seconds_to_target"] == 20 and found["runs"]["wait"]["bytes_to_target"] == 30
    row = found["runs"]["late"]
    assert (row["seconds_to_target"], row["bytes_to_target"], row["seconds_a_round"]) == (6, 45, 2)
    assert (row["least_bias"], row["most_bias"], row["slowest"], row["slowest_bias"]) == (0.5, 1, "b", 0.5)
    assert row["slowest_score"] == pytest.approx(0.8) and row["best"] == pytest.approx(0.8)
    assert found["runs"]["wait"]["slowest"] is None and found["runs"]["wait"]["mean_staleness"] is None
    text = clocks.table(found)
    assert "Target: dice 0.76" in text and "–" in text.splitlines()[2]
    drawn = clocks.figure(runs, found)
    assert len(drawn.axes[0].lines) == 3 and len(drawn.axes[1].patches) == 2
    # Of a loss less is better; nobody reaches what is never reached.
    found = clocks.compare({"late": clocks.read_run(late, "s", "loss")}, "loss", 1.0)
    assert found["runs"]["late"]["seconds_to_target"] == 2
    strict = clocks.compare({"x": runs["late"], "y": runs["wait"] | {"score": [0.1] * 3}}, "dice", 1.0)
    assert strict["runs"]["y"]["seconds_to_target"] is None and strict["runs"]["y"]["bytes_to_target"] is None


def test_staleness_is_counted_over_all_rounds(tmp_path):
    run = write(tmp_path / "asynchronous", [0.5, 0.6], 1.0)
    first, second = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    first["staleness_counts"], second["staleness_counts"] = {"0": 3}, {"0": 1, "10": 2}
    (run / "metrics.jsonl").write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n")
    found = clocks.compare({"run": clocks.read_run(run, "", "dice")}, "dice", 0.95)
    row = found["runs"]["run"]
    assert row["staleness"] == {"0": 4, "10": 2} and row["mean_staleness"] == pytest.approx(20 / 6)
    assert "3.333" in clocks.table(found)


def test_what_is_no_such_run_is_refused(tmp_path):
    plain = write(tmp_path / "plain", [0.5], 1.0)
    for folder, stage, metric, words in (
        (tmp_path / "nothing", "", "dice", "--runs"),
        (plain, "other", "dice", "--runs"),
        (plain, "", "auc", "--metric: expected one of dice"),
    ):
        with pytest.raises(ArgumentError, match=words):
            clocks.read_run(folder, stage, metric)


@pytest.mark.slow
def test_trainings_with_clocks_are_read(monkeypatch, tmp_path):
    for name, settings in (
        ("wait", with_clock("wait")),
        ("late", with_clock("deadline")),
        ("buffered", with_clock("wait", topology="asynchronous", buffer_size=2)),
    ):
        quadratics.run(monkeypatch, tmp_path / name, settings)
    names = ("wait", "late", "buffered")
    runs = {name: clocks.read_run(tmp_path / name, "", "objective") for name in names}
    assert all(len(run["clock"]) == 3 and run["clock"][0] > 0 for run in runs.values())
    assert runs["wait"]["bias"].keys() == set("abcd") and not runs["buffered"]["bias"]
