"""Faults at clients, through the experiment: named in the log, and without effect on the model."""

import math

import jax
import numpy as np
import optax
import pytest

from experiments.compare import plan
from experiments.pipeline.federated_data import load_data, make_task
from experiments.pipeline.federated_run import budget_of
from experiments.pipeline.federated_settings import TrainSettings, check_settings
from fedrecon import federated as fl
from fedrecon.federated.mechanism import Mechanism
from fedrecon.training.budgets import Budget, Spending
from fedrecon.training.catalog_algorithms import algorithms, check_method, comparator, make_algorithm
from fedrecon.training.components import make_schedule, rate_by_round
from fedrecon.training.faults import KINDS, full_record, inject, parse_faults
from fedrecon.training.federation_settings import SERVER_OPTIMIZERS, FederationSettings
from fedrecon.training.model_files import example_of
from fedrecon.training.options import changed
from fedrecon.training.stage import local_work
from tests.experiments import quadratics
from tests.federated.conftest import LINEAR

SETTINGS = changed(
    TrainSettings(),
    rounds=3,
    clients=9,
    examples_per_client=24,
    classes=2,
    image_size=8,
    channels=2,
    pools=1,
    batch_size=6,
    screen_norm=10.0,
    screen_cosine=-0.2,
)


@pytest.mark.slow
def test_faulty_clients_are_named_and_the_model_is_as_if_they_were_not_there(tmp_path, monkeypatch):
    """Six of ten clients send nothing or nonsense; the model is that of the other four alone.

    One of these is a straggler, which counts for the single step that it takes.
    """
    kinds = {
        "d": "straggler",
        "e": "crashed",
        "f": "empty",
        "g": "nan",
        "h": "exploding",
        "i": "flipped",
        "j": "inf",
    }
    b = np.array([3.0, -2.0], np.float32) + np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    a, counts = np.linspace(0.5, 1.5, 10, dtype=np.float32), np.array([3, 5, 4, 6, 3, 4, 5, 4, 4, 3])
    settings = changed(quadratics.SETTINGS, screen_norm=10.0, screen_cosine=0.0)
    faulty = changed(settings, fault=",".join(f"{kind}:{name}" for name, kind in kinds.items()))
    results, _, log = quadratics.run(
        monkeypatch, tmp_path / "faulty", faulty, quadratics.clients(a=a, b=b, counts=counts)
    )
    assert [record["excluded"] for record in log] == [["g", "h", "i", "j"]] * 3
    assert results.course.missing == dict.fromkeys("ef", 3)
    assert results.course.excluded == dict.fromkeys("ghij", 3)
    assert [record["missing"] for record in log] == [["e", "f"]] * 3
    assert [record["stragglers"] for record in log] == [["d"]] * 3
    assert not any("applied" in record for record in log)
    there = changed(settings, fault="straggler:d")
    honest = quadratics.clients(a=a[:4], b=b[:4], counts=counts[:4])
    expected, _, log = quadratics.run(monkeypatch, tmp_path / "there", there, honest)
    assert not any("excluded" in record or "missing" in record for record in log)
    for name in "abcd":
        found = results.released[name]["objective"]
        assert math.isfinite(found) and found == pytest.approx(expected.released[name]["objective"], rel=1e-5)


def test_faults_are_read_and_wrong_ones_named():
    assert parse_faults("", ("a",)) == {}
    assert parse_faults("nan:b,straggler:a:1", ("a:1", "b")) == {1: "nan", 0: "straggler"}
    for text, message in {
        "nan": "--fault: expected KIND:CLIENT with one of nan, inf",
        "tired:a": "found 'tired:a'",
        "nan:c": "--fault: expected one of the clients a, b, found 'c'",
        "nan:a,inf:a": "one fault a client, found 'a' twice",
    }.items():
        with pytest.raises(ValueError, match=message):
            parse_faults(text, ("a", "b"))
    algorithm = object()
    assert inject(algorithm, {}) is algorithm and inject(algorithm, {0: "straggler"}) is algorithm
    assert len(set(KINDS)) == 7


def test_records_name_who_something_was_wrong_with():
    names, flags = ("a", "b", "c", "d"), [False, True, False, False]
    metrics = {
        "loss": (np.array([1.0, 0, 0, 2]), np.array([2.0, 0, 0, 2])),
        "steps": (np.array([4.0, 0, 0, 3]), np.array([1.0, 0, 0, 1])),
    }
    info = fl.RoundInfo(
        {name: (total.sum(), count.sum()) for name, (total, count) in metrics.items()},
        metrics,
        np.array([True] * 4),
        np.array(flags),
        np.bool_(False),
        np.ones(4),
        np.ones(4),
        np.ones(4),
        ((), ()),
    )
    record = full_record(info, names, np.array([4, 4, 4, 4]), np.array([1.0, 1, 1, 3]))
    assert record["excluded"] == ["b"] and record["missing"] == ["c"] and record["stragglers"] == ["d"]
    assert record["steps"] == 3.25
    assert record["applied"] is False and record["loss"] == 0.75 and record["clients"] == 4


def steps_of(settings, rounds=range(5), faults=None):
    data = load_data(settings).train
    schedule = make_schedule(settings.federation, budget_of(settings), data, faults or {})

    @jax.jit
    @jax.vmap
    def at(round, client):
        key = jax.random.fold_in(jax.random.key(1), 100 * round + client)
        return schedule(fl.Context(round, key, client)).steps

    where = np.stack(np.meshgrid(rounds, np.arange(data.clients), indexing="ij")).reshape(2, -1)
    return np.asarray(at(*where)).reshape(len(rounds), -1)


def rates_of(settings, part=0.5):
    rate = rate_by_round(settings.federation, settings.rounds)
    return np.asarray([rate(number, part) for number in range(settings.rounds)])


def test_rates_fall_to_the_final_rate_and_stragglers_take_a_part_of_their_steps():
    base = changed(SETTINGS, rounds=5, epochs=2, final_rate=0.2)
    constant = changed(base, final_rate=0.1)
    assert make_schedule(constant.federation, budget_of(constant), load_data(base).train) is None
    linear = changed(base, rate_schedule="linear")
    np.testing.assert_allclose(rates_of(linear), [1, 0.8, 0.6, 0.4, 0.2], rtol=1e-6)
    assert steps_of(linear).min() == np.iinfo(np.int32).max
    late = steps_of(changed(base, stragglers=0.5), range(40), {3: "straggler"})
    others = np.delete(late, 3, axis=1)
    assert rate_by_round(base.federation, 5) is None and (late[:, 3] == 1).all()
    assert set(np.unique(others)) == {1, 2, 3, 4, 5, 6}  # two passes of three batches
    assert 0.4 < (others < 6).mean() / (5 / 6) < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cosine", "exponential"])
def test_other_rates_fall_as_they_are_called(name):
    settings = changed(SETTINGS, rounds=5, final_rate=0.25, rate_schedule=name)
    expected = {
        "cosine": 0.25 + 0.75 * (1 + np.cos(np.pi * np.arange(5) / 4)) / 2,
        "exponential": 0.25 ** (np.arange(5) / 4),
    }
    np.testing.assert_allclose(rates_of(settings), expected[name], rtol=1e-5)


@pytest.mark.slow
def test_every_server_optimizer_and_the_bound_on_norms_reach_the_algorithm():
    data = load_data(SETTINGS)
    task = make_task(SETTINGS, example_of(data.train))
    ones = {"w": np.ones(2, np.float32)}
    for name in SERVER_OPTIMIZERS:
        settings = changed(SETTINGS, server_optimizer=name, clip_norm=0.5)
        algorithm = make_algorithm(settings.federation, budget_of(settings), task, data.train)
        update, _ = algorithm.server_optimizer.update(*(ones, algorithm.server_optimizer.init(ones), ones))
        assert (update["w"] < 0).all()
        upload = fl.Upload({"w": np.full(4, 1.0, np.float32)}, fl.Message(), np.float32(1))
        clipped, *_ = algorithm.channel.encode(
            upload, algorithm.channel.init(upload)[0], fl.Context(0, jax.random.key(0))
        )
        np.testing.assert_allclose(clipped.delta["w"], 0.25, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"screen_norm": 0.5}, "--screen_norm: expected 0 or at least 1"),
        ({"screen_cosine": 1.5}, "--screen_cosine: expected a number from -1 to 1"),
        ({"stragglers": 2.0}, "--stragglers: expected a number from 0 to 1"),
        ({"server_learning_rate": 0.1}, "--server_learning_rate: expected a --server_optimizer"),
        ({"final_rate": 0.5}, "--final_rate: expected a --rate_schedule"),
        ({"mixing": "complete"}, "--mixing: expected --topology=gossip"),
        ({"topology": "ring"}, "--screen_norm: expected --topology=star with it, found"),
        (
            {"topology": "asynchronous", "screen_norm": 0.0, "screen_cosine": -1.0, "reduce": "median"},
            "--reduce: expected --topology=star with it, found 'median'",
        ),
        ({"algorithm": "fedadam", "server_optimizer": "adam"}, "--server_optimizer: expected default, which"),
        ({"algorithm": "local_only"}, "--screen_norm: expected 0.0, which local_only implies"),
        (
            {"topology": "ring", "algorithm": "fedyogi", "screen_norm": 0.0, "screen_cosine": -1.0},
            "--topology: expected one with a server, which .*, found ring with --algorithm=fedyogi",
        ),
        ({"stream": 2, "sampler": "uniform", "clients_per_round": 3}, "--stream: expected at least the 3"),
    ],
)
def test_flags_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        settings = changed(SETTINGS, **changes)
        check_settings(settings)
        check_method(settings.federation, (settings.task,))


def test_comparators_have_no_exchange_and_no_faults():
    base = changed(
        SETTINGS,
        fault="nan:client0",
        server_optimizer="adam",
        server_learning_rate=0.1,
        clip_norm=1.0,
        rate_schedule="cosine",
        fine_tune=1,
        fine_tune_head="head",
        stream=10,
    )
    planned = plan(
        base, ["fedavg", "local_only", "centralized"], {name: () for name in (*algorithms(), "reduce")}
    )
    assert planned["fedavg"] == base
    kept = changed(FederationSettings(), rate_schedule="cosine", algorithm="centralized")
    for field in (
        "fault",
        "server_optimizer",
        "clip_norm",
        "screen_norm",
        "fine_tune",
        "stream",
        "rate_schedule",
    ):
        assert getattr(planned["centralized"].federation, field) == getattr(kept, field)
    assert planned["local_only"].federation.stream == 10 and planned["local_only"].federation.fault == ""


def test_a_reducer_that_would_apply_no_round_is_refused():
    settings = changed(SETTINGS, clients=6, reduce="bulyan")
    data = load_data(settings)
    task = make_task(settings, example_of(data.train))
    with pytest.raises(ValueError, match=r"--reduce.byzantine: expected at most 0, since bulyan .* 4 f \+ 3"):
        make_algorithm(settings.federation, budget_of(settings), task, data.train)
    settings = changed(settings, reduce="krum")
    assert make_algorithm(settings.federation, budget_of(settings), task, data.train).reduce is not None


def warmup_cosine(time, final=0.02):
    """optax's schedule of 20 000 steps at a part of them."""
    return float(optax.warmup_cosine_decay_schedule(0.1, 1.0, 1000, 20000, final)(round(20000 * time)))


def test_adam_cosine_has_one_rate_at_a_time_whatever_the_size_of_a_client():
    """Against optax's own schedule, by the part of the training that is over; comparators have the same."""
    settings = changed(SETTINGS, rounds=10, optimizer="adam_cosine")
    for part in (0.0, 0.25, 0.5, 1.0):
        expected = [warmup_cosine((number + part) / 10) for number in range(10)]
        np.testing.assert_allclose(rates_of(settings, part), expected, rtol=1e-4)
    found = {}
    for name in ("fedavg", "local_only", "centralized"):
        other = comparator(settings.federation, name) if name != "fedavg" else settings.federation
        assert rate_by_round(other, 10)(7, 0.5) == rate_by_round(settings.federation, 10)(7, 0.5)
        found[name] = other.optimizer
    assert set(found.values()) == {"adam_cosine"}
    falling = changed(settings, rate_schedule="linear")
    np.testing.assert_allclose(rates_of(falling)[[0, -1]], [1, 0.1], rtol=1e-6)


@pytest.mark.parametrize("private", [False, True])
def test_clients_of_all_sizes_move_by_the_rates_of_the_round(private):
    """Along a constant gradient Adam moves by its rate: distances are sums of closed-form rates.

    Two of three clients join a round, so that each is absent now and then; neither absence nor privacy
    starts anything afresh.
    """
    rounds, counts = 6, np.array([1, 4, 8])
    data = quadratics.clients(a=np.ones(3), b=np.tile([[1.0, 0.0]], (3, 1)), counts=counts).train
    settings = changed(
        SETTINGS.federation, optimizer="adam_cosine", sampler="uniform", clients_per_round=2, screen_norm=0.0
    )
    settings = changed(settings, screen_cosine=-1.0)
    budget, noise = Budget(rounds, 1, 1, 0.01), None
    if private:
        # Every example is in every batch of each of the four steps.
        budget, counts = Budget(rounds, 4, 8, 0.01), np.array([4, 4, 4])
        noise = Spending(Mechanism(10.0, 0.0, 8, 20, steps=4), {}, {}, 1.0)
    algorithm = make_algorithm(settings, budget, LINEAR, data, noise=noise)
    round_ = fl.make_round(algorithm, **local_work(settings, budget, data, algorithm))
    state = fl.init_state(algorithm, LINEAR.init(jax.random.key(0)), data)
    joined = np.zeros(3, int)
    for number in range(rounds):
        state, info = round_(state, data, jax.random.key(0))
        for client in np.flatnonzero(info.participated):
            steps = counts[client]
            times = (number + (np.arange(steps) + 0.5) / steps) / rounds
            expected = 0.01 * sum(warmup_cosine(time) for time in times)
            np.testing.assert_allclose(info.delta_norm[client], expected, rtol=2e-3)
        joined += np.asarray(info.participated)
    assert 0 < joined.min() < rounds
