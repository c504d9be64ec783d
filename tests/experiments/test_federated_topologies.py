"""Topologies, streaming and fine-tuning by flags."""

import json
import math

import jax
import numpy as np
import optax
import pytest

from experiments.pipeline.federated_run import budget_of
from fedrecon import federated as fl
from fedrecon.runtime import compiled
from fedrecon.training import streaming
from fedrecon.training.execution import Execution, choose_parallel, resolve_parallel
from fedrecon.training.options import changed
from fedrecon.training.stage import Stage, fine_tuned
from fedrecon.training.streaming import open_clients, store_clients
from fedrecon.training.topologies import mesh_of, open_rounds
from fedrecon.types import Variables
from tests.experiments import quadratics
from tests.federated.conftest import TAU, A, B

KEY = jax.random.key(3)
START = Variables({"w": quadratics.START}, {})
ONE = fl.client_mesh(jax.devices()[:1])


def averaging(**options):
    return fl.fedavg(quadratics.TASK, optax.sgd(0.05), **options)


def options_of(monkeypatch, maker, settings):
    """The keyword arguments that the settings give to a function of the engine."""
    given = {}
    monkeypatch.setattr(
        fl.topologies, maker, lambda algorithm, *positional, **options: given.update(options, more=positional)
    )
    data = quadratics.clients().train
    given_rounds = (settings.federation, budget_of(settings), averaging(), START, data, None)
    with open_rounds(*given_rounds, mesh=ONE, parallel=2, batch_size=1, epochs=1):
        return given


def test_flags_of_topologies_reach_the_engine(monkeypatch):
    base = quadratics.SETTINGS
    ring = changed(base, topology="ring", visits="shuffled", handover="optimizer")
    expected = {"order": "shuffled", "carry_optimizer": True, "batch_size": 1, "epochs": 1, "more": ()}
    assert options_of(monkeypatch, "make_ring_round", ring) == expected
    gossip = changed(base, topology="gossip", mixing="matching")
    found = options_of(monkeypatch, "make_gossip_round", gossip)
    assert found["more"] == ("matching",) and found["parallel"] == 2 and found["mesh"] is ONE
    late = changed(
        base,
        topology="asynchronous",
        concurrency=3,
        buffer_size=2,
        delay="constant",
        discount=1.0,
        fault="straggler:c",
    )
    found = options_of(monkeypatch, "make_asynchronous_round", late)
    assert found["buffer_size"] == 2 and found["mixing"] is None
    assert [float(found["durations"](KEY, client)) for client in range(4)] == [1, 1, 10, 1]
    assert float(found["discount"](np.int32(3))) == 0.25


@pytest.mark.slow
def test_a_single_pass_visits_everybody_once(tmp_path, monkeypatch):
    """In closed form: gradient descent at one client after the other."""
    settings = changed(quadratics.SETTINGS, topology="single_pass", rounds=1)
    results, _, log = quadratics.run(monkeypatch, tmp_path, settings)
    w = quadratics.START
    for a, b, steps in zip(A, B, TAU, strict=True):
        w = b + (1 - 0.05 * a) ** steps * (w - b)
    for name, a, b in zip("abcd", A, B, strict=True):
        assert results.released[name]["objective"] == pytest.approx(a / 2 * ((w - b) ** 2).sum(), rel=1e-5)
    assert len(log) == 1 and log[0]["clients"] == 4 and log[0]["bytes_up"] == 4 * 8


@pytest.mark.slow
def test_gossip_and_fine_tuning_give_everybody_a_model(tmp_path, monkeypatch):
    """Fine-tuned for so long that everybody arrives at its own optimum, where gossip does not."""
    settings = changed(quadratics.SETTINGS, topology="gossip", mixing="complete", rounds=2)
    own, _, _ = quadratics.run(monkeypatch, tmp_path / "gossip", settings)
    for name in "abcd":
        # Everybody mixed with all: the models are the released one.
        assert own.own[name]["objective"] == pytest.approx(own.released[name]["objective"], rel=1e-5)
    tuned = changed(settings, topology="star", mixing="ring", fine_tune=300)
    results, _, _ = quadratics.run(monkeypatch, tmp_path / "tuned", tuned)
    assert max(scores["objective"] for scores in results.own.values()) < 1e-4
    assert min(scores["objective"] for scores in results.released.values()) > 0.01


@pytest.mark.slow
def test_asynchronous_clients_arrive_as_they_finish(tmp_path, monkeypatch):
    """Constant delays: only the straggler is stale, which arrives at ten times the others' time."""
    settings = changed(
        quadratics.SETTINGS,
        topology="asynchronous",
        concurrency=4,
        buffer_size=3,
        delay="constant",
        rounds=12,
        fault="straggler:c",
    )
    results, _, log = quadratics.run(monkeypatch, tmp_path, settings)
    late = [record["round"] for record in log if "stragglers" in record]
    assert late and log[late[0] - 1]["clock"] == 10 and log[late[0] - 1]["staleness"] > 0
    assert [record["clock"] for record in log[:9]] == list(range(1, 10))
    assert all(record["staleness"] == 0 for record in log[:9])
    assert all(record["staleness_counts"] == {"0": 3} for record in log[:9])
    # The straggler was sent the first model.
    assert log[late[0] - 1]["staleness_counts"].get("9") == 1
    assert math.isfinite(results.released["a"]["objective"])


@pytest.mark.slow
def test_a_streamed_run_is_the_run_and_tells_its_time(tmp_path, monkeypatch):
    """With models of their own at clients, two of four on the device at a time, resumed in the middle."""
    settings = changed(
        quadratics.SETTINGS,
        algorithm="ditto",
        stream=2,
        stream_from="hdf5",
        sampler="uniform",
        clients_per_round=2,
    )
    expected, cost, log = quadratics.run(
        monkeypatch, tmp_path / "device", changed(settings, stream=0, stream_from="memory")
    )
    assert cost.clients_per_second == pytest.approx(2 * cost.rounds_per_second)
    record, seen = streaming.full_record, []

    def interrupted(*arguments):
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return record(*arguments)

    monkeypatch.setattr(streaming, "full_record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quadratics.run(monkeypatch, tmp_path / "streamed", settings)
    found, cost, streamed = quadratics.run(monkeypatch, tmp_path / "streamed", settings)
    assert len(seen) == 4 and cost.compile_seconds > 0
    for kind in ("own", "released"):
        for name, scores in getattr(expected, kind).items():
            assert getattr(found, kind)[name]["objective"] == pytest.approx(scores["objective"], rel=1e-6)
    assert (found.bytes_up, found.bytes_down) == (expected.bytes_up, expected.bytes_down)
    assert [record["round"] for record in streamed] == [1, 2, 3]
    for one, other in zip(streamed, log, strict=True):
        assert one["clients"] == other["clients"] == 2 and one["loss"] == pytest.approx(
            other["loss"], rel=1e-6
        )
        assert one["clients_per_second"] > 0 and one["data_seconds"] >= 0 and one["compute_seconds"] > 0


def test_stored_clients_are_read_in_any_choice(tmp_path):
    data = quadratics.clients().train
    store_clients(tmp_path / "clients.h5", data)
    with open_clients(tmp_path / "clients.h5") as stored:
        examples, valid = fl.topologies.load_from(stored)(np.array([0, 2, 3], np.int32))
    expected = fl.topologies.load_from(data)(np.array([0, 2, 3]))
    for found, given in zip(jax.tree.leaves((examples, valid)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(found, given)


def test_topologies_name_the_flag_that_does_not_fit(tmp_path):
    cases = [
        (
            {"topology": "asynchronous", "concurrency": 5},
            averaging(),
            "--concurrency: expected .* from 1 to 4",
        ),
        (
            {"topology": "ring"},
            fl.scaffold(quadratics.TASK, 0.1),
            "--topology=ring with --algorithm=fedavg: algo",
        ),
        ({"stream": 2}, averaging(), "--stream: expected the 4 clients of --sampler=all"),
    ]
    data = quadratics.clients().train
    for changes, algorithm, message in cases:
        settings = changed(quadratics.SETTINGS, **changes)
        with (
            pytest.raises(ValueError, match=message),
            open_rounds(
                settings.federation,
                budget_of(settings),
                algorithm,
                START,
                data,
                tmp_path,
                mesh=ONE,
                parallel="scan",
                batch_size=1,
                epochs=1,
            ) as rounds,
        ):
            rounds.compile(1, KEY)
    settings = changed(quadratics.SETTINGS, fine_tune=1)
    stage = Stage("tuned", quadratics.TASK, START, data, KEY, KEY)
    for changes, message in [
        ({"fine_tune_head": "nose"}, "--fine_tune_head: .*nose"),
        ({"stream": 4}, "--fine_tune: expected 0 with --stream"),
    ]:
        with pytest.raises(ValueError, match=message):
            fine_tuned(changed(settings.federation, **changes), budget_of(settings), stage, averaging(), None)


@pytest.mark.slow
def test_the_way_of_a_run_is_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDRECON_CACHE", str(tmp_path / "cache"))
    settings, auto = quadratics.SETTINGS, Execution()
    federation, data = settings.federation, quadratics.clients().train
    given = (federation, budget_of(settings), averaging(), START, data, tmp_path, mesh_of(federation))
    assert resolve_parallel(Execution("2"), *given) == 2
    with pytest.raises(ValueError, match="--parallel: expected auto"):
        choose_parallel("often")
    # As many devices as clients leave nothing to choose.
    assert resolve_parallel(auto, *given) == "scan"
    assert not (tmp_path / "parallel.json").exists()
    chosen = resolve_parallel(auto, *given[:-1], ONE)
    assert chosen in ("scan", "vmap")
    assert json.loads((tmp_path / "parallel.json").read_text()) == {"parallel": chosen}
    (tmp_path / "parallel.json").write_text('{"parallel": 3}')
    assert resolve_parallel(auto, *given[:-1], ONE) == 3
    # Another run finds the choice in the user's cache.
    (tmp_path / "parallel.json").unlink()
    monkeypatch.setattr("fedrecon.federated.parallelism.measure_parallel", None)
    assert resolve_parallel(auto, *given[:-1], ONE) == chosen


def test_an_option_that_the_compiler_no_longer_knows_is_left_out():
    class Lowered:
        def compile(self, options=None):
            if options:
                raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")
            return "compiled"

    assert compiled(Lowered()) == "compiled"


@pytest.mark.slow
def test_averaged_models_resume_bit_for_bit(monkeypatch, tmp_path):
    """What the average has seen of earlier rounds is on disk, too."""
    settings = changed(quadratics.SETTINGS, rounds=5, average=0.7)
    whole, _, _ = quadratics.run(monkeypatch, tmp_path / "whole", settings)
    quadratics.run(monkeypatch, tmp_path / "parts", changed(settings, rounds=2))
    (tmp_path / "parts" / "config.json").unlink()
    (tmp_path / "parts" / "results.json").unlink(missing_ok=True)
    parts, _, log = quadratics.run(monkeypatch, tmp_path / "parts", settings)
    plain, _, _ = quadratics.run(monkeypatch, tmp_path / "plain", changed(settings, average=0.0))
    assert parts.released == whole.released and plain.released != whole.released
    assert [record["round"] for record in log] == [1, 2, 3, 4, 5]
