"""Many trainings by one loop: data are read once a seed, and only where something is to be trained."""

import json
import sys

import pytest
from matplotlib.figure import Figure

from experiments.pipeline import sweep
from experiments.pipeline.federated_settings import resolve
from fedrecon.training import FederationSettings, FlagError, changed


def planned():
    base = resolve({"preset": "smoke", "rounds": 1})
    return {"a": base, "b": changed(base, learning_rate=0.1)}


def test_data_are_loaded_once_a_seed_and_not_for_what_is_finished(tmp_path, monkeypatch):
    calls, loaded = [], []

    def run(settings, directory, *, data, **execution):
        calls.append((settings.seed, settings.learning_rate, data, execution))
        (directory / "results.json").write_text(json.dumps({"course": {"planned": settings.rounds}}))
        return "results", "cost"

    def load(settings):
        loaded.append(settings.seed)
        return f"data {settings.seed}"

    monkeypatch.setattr(sweep, "run", run)

    def found():
        place = lambda name, seed: tmp_path / name / str(seed)  # noqa: E731
        return list(sweep.trainings(planned(), [3, 5], place, load=load, parallel="scan"))

    done = found()
    assert [(x.point, x.settings.seed) for x in done] == [("a", 3), ("b", 3), ("a", 5), ("b", 5)]
    assert loaded == [3, 5] and [call[2] for call in calls] == ["data 3"] * 2 + ["data 5"] * 2
    assert (
        done[1].folder == tmp_path / "b" / "3" and calls[1][1] == 0.1 and calls[0][3] == {"parallel": "scan"}
    )
    assert json.loads((tmp_path / "b/3/config.json").read_text())["config"]["learning_rate"] == 0.1
    loaded.clear(), calls.clear()
    again = found()
    assert not loaded and [call[2] for call in calls] == [None] * 4
    assert again[3].data() == again[2].data() == "data 5" and loaded == [5], "read on demand, once"


def test_messages_name_the_point_where_asked(tmp_path, monkeypatch):
    def run(*_, **__):
        raise FlagError("algorithm.strength", "a positive number", -1)

    monkeypatch.setattr(sweep, "run", run)
    for named, words in (("algorithm", "--a.strength"), ("", "--algorithm.strength")):
        with pytest.raises(FlagError, match=words):
            list(sweep.trainings(planned(), [0], lambda *_: tmp_path / "x", load=lambda _: None, named=named))


def test_what_belongs_to_a_budget_goes_with_it():
    plain = FederationSettings(clip_norm=1.0)
    private = changed(plain, dp_epsilon=2.0, dp_delta=1e-4, dp_unit="site", dp_adaptive_clipping=True)
    assert sweep.without_privacy(private) == plain
    assert sweep.budgets("epsilons", ["8", "0.5"]) == [8.0, 0.5] and sweep.budgets("epsilons", []) == []


def test_json_stands_alone_on_the_output(capsys, tmp_path):
    with sweep.only_json(True):
        print("progress")
    with sweep.only_json(False):
        print("table")
    found = capsys.readouterr()
    assert found.out == "table\n" and found.err == "progress\n" and sys.stdout is not sys.stderr
    assert sweep.write_json(tmp_path / "x.json", {"a": float("nan")}) == {"a": None}
    sweep.save_figure(tmp_path / "x.png", Figure())
    assert (tmp_path / "x.png").stat().st_size > 100
