"""The simulated clock by flags: what it writes, that it resumes, and what is refused."""

import json

import numpy as np
import pytest

from experiments.pipeline.federated_run import budget_of
from fedrecon.federated.clock import ClockState
from fedrecon.training import FlagError, check_method
from fedrecon.training.clocks import clock_summary, clocked_sampler
from fedrecon.training.components import full_steps
from fedrecon.training.options import changed, flat
from tests.experiments import quadratics
from tests.federated.conftest import TAU

BUDGET = budget_of(quadratics.SETTINGS)
EQUAL = (("speed_spread", "0"),)
LOG = ("clock", "clock_seconds", "late", "away", "seconds", "validation_seconds", "memory_bytes")


def with_clock(policy, options=(), **settings):
    return changed(quadratics.SETTINGS, clock=policy, clock_options=tuple(options), **settings)


def without(record, *names):
    return {name: value for name, value in record.items() if name not in names}


@pytest.mark.slow
def test_waiting_for_equal_clients_is_fedavg_bit_for_bit(monkeypatch, tmp_path):
    plain, _, log = quadratics.run(monkeypatch, tmp_path / "plain", quadratics.SETTINGS)
    clocked, _, timed = quadratics.run(monkeypatch, tmp_path / "clock", with_clock("wait", EQUAL))
    assert clocked.own == plain.own
    assert [without(r, *LOG) for r in timed] == [without(r, *LOG) for r in log]
    # A round takes the eight steps of the largest client.
    assert [record["clock"] for record in timed] == [8.0, 16.0, 24.0]
    found = json.loads((tmp_path / "clock" / "clock.json").read_text())["fedavg"]
    assert found["seconds"] == 24
    assert [found["clients"][name]["bias"] for name in "abcd"] == pytest.approx([1] * 4)
    assert not (tmp_path / "plain" / "clock.json").exists()
    assert "clock" not in flat(quadratics.SETTINGS) and flat(with_clock("wait"))["clock"] == "wait"


@pytest.mark.slow
def test_late_clients_are_named_and_it_resumes_bit_for_bit(monkeypatch, tmp_path):
    options = (*EQUAL, ("seconds", "6"), ("leave", "0.3"))
    settings = with_clock("deadline", options, rounds=5)
    _, _, whole = quadratics.run(monkeypatch, tmp_path / "whole", settings)
    quadratics.run(monkeypatch, tmp_path / "parts", changed(settings, rounds=2))
    (tmp_path / "parts" / "config.json").unlink(missing_ok=True)
    (tmp_path / "parts" / "results.json").unlink(missing_ok=True)
    _, _, parts = quadratics.run(monkeypatch, tmp_path / "parts", settings)
    assert [without(r, "seconds", "validation_seconds") for r in parts] == [
        without(r, "seconds", "validation_seconds") for r in whole
    ]
    assert whole[0]["late"] == ["d"] and whole[0]["clock_seconds"] == 6 and whole[0]["clients"] == 3
    assert any("away" in record for record in whole)
    found = json.loads((tmp_path / "whole" / "clock.json").read_text())["fedavg"]["clients"]
    assert found["d"]["bias"] == 0 and found["d"]["seconds"] == 8


@pytest.mark.slow
def test_more_clients_are_invited_than_waited_for(monkeypatch, tmp_path):
    data = quadratics.clients().train
    options = ("factor", "1.5"), *EQUAL
    settings = with_clock("overselect", options, sampler="uniform", clients_per_round=2)
    sampler = clocked_sampler(settings.federation, BUDGET, data)
    assert sampler.count == 3
    _, _, log = quadratics.run(monkeypatch, tmp_path, settings)
    assert {record["clients"] for record in log} == {2} and all(len(r["late"]) == 1 for r in log)


@pytest.mark.slow
def test_tiers_are_those_of_the_times_of_rounds(monkeypatch, tmp_path):
    data = quadratics.clients().train
    np.testing.assert_array_equal(full_steps(BUDGET, data), TAU)
    settings = with_clock("tiers", (("tiers", "2"), *EQUAL), rounds=6)
    _, _, log = quadratics.run(monkeypatch, tmp_path, settings)
    # Steps are 1, 5, 3 and 8: the fast tier has the first and the third.
    assert {(r["clients"], r["clock_seconds"]) for r in log} == {(2, 3.0), (2, 8.0)}


def test_links_are_megabits_and_bytes_those_of_messages(monkeypatch, tmp_path):
    # 12 bytes up, 8 down, of the two parameters and a weight.
    options = (*EQUAL, ("uplink", "0.000096"), ("downlink", "0.000064"), ("latency", "0.5"))
    _, _, log = quadratics.run(monkeypatch, tmp_path, with_clock("wait", options, rounds=1))
    assert log[0]["clock_seconds"] == pytest.approx(8 + 1 + 1 + 2 * 0.5)
    # The deadline is one and a half times what the median client takes: 1.5 x (4 + 3).
    late = with_clock("deadline", options, rounds=1)
    _, _, log = quadratics.run(monkeypatch, tmp_path / "deadline", late)
    assert log[0]["clock_seconds"] == pytest.approx(10.5) and log[0]["late"] == ["d"]


@pytest.mark.slow
def test_asynchronous_updates_take_the_times_of_the_clock(monkeypatch, tmp_path):
    settings = with_clock("wait", EQUAL, topology="asynchronous", concurrency=4, rounds=2)
    _, _, log = quadratics.run(monkeypatch, tmp_path, settings)
    assert [record["clock"] for record in log] == [1.0, 2.0]


def test_what_does_not_go_together_is_refused():
    for policy, options, changes, words in (
        ("none", EQUAL, {}, r"clock: expected a policy"),
        ("wait", (("factor", "2"),), {}, r"clock\.factor: expected one of wait's options"),
        ("wait", (("leave", "2"),), {}, r"clock\.leave: expected numbers from 0 to 1"),
        ("wait", (("uplink", "-1"),), {}, r"clock\.uplink: expected megabits"),
        ("deadline", (("seconds", "-1"),), {}, r"clock\.seconds"),
        (
            "overselect",
            (("factor", "0.5"),),
            {"sampler": "uniform", "clients_per_round": 2},
            r"clock\.factor",
        ),
        ("tiers", (("tiers", "0"),), {}, r"clock\.tiers"),
        ("overselect", (), {}, "sampler: expected one of uniform"),
        ("tiers", (), {"sampler": "weighted", "clients_per_round": 2}, "sampler: expected all or uniform"),
        ("deadline", (), {"topology": "asynchronous"}, "clock: expected wait with"),
        ("wait", (), {"algorithm": "local_only"}, "clock: expected none"),
        ("tiers", (), {"algorithm": "feddropoutavg"}, "clock: expected none, wait or deadline"),
    ):
        settings = with_clock(policy, options, **changes).federation
        with pytest.raises(FlagError, match=words):
            check_method(settings)
    many = with_clock("tiers", (("tiers", "5"),)).federation
    with pytest.raises(FlagError, match=r"clock\.tiers: expected at most the 4 clients"):
        clocked_sampler(many, BUDGET, quadratics.clients().train)


def test_clients_without_examples_have_no_bias():
    state = ClockState(
        *(np.float32(0), np.ones(3, bool)), np.array([2.0, -1, 3]), np.array([1.0, 0, 3]), np.ones(3, bool)
    )
    found = clock_summary(state, ("a", "b", "c"), np.array([5, 0, 5]))
    assert found["a"] == {"share": 0.25, "examples": 0.5, "bias": 0.5, "seconds": 2.0}
    assert found["b"] == {"share": 0.0, "examples": 0.0, "bias": None, "seconds": None}
    nobody = state._replace(share=np.zeros(3))
    assert clock_summary(nobody, ("a", "b", "c"), np.array([5, 0, 5])) == {}
