"""The federated benchmark: its problems, networks, yardstick, goals, and a run in small."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import benchmarks.federated.__main__ as program
from benchmarks.federated import run as federated_run
from benchmarks.federated.__main__ import FederatedOptions, run
from benchmarks.federated.files import FederatedProblem, Recorder
from benchmarks.federated.models import (
    WORKLOADS,
    flatten,
    make_loss,
    make_problem,
    operations_per_round,
    task_of,
    unflatten,
)
from benchmarks.federated.ours import make_sgd, measure
from benchmarks.federated.registry import ENGINES, OURS, SGD, Engine
from benchmarks.federated.run import describe, run_engine
from benchmarks.measure import REPOSITORY
from fedrecon.federated import client_mesh

ROUNDS = 2


@pytest.fixture(scope="module")
def problem():
    return make_problem("small", ROUNDS)


def reference(problem, federated=True):
    """Federated averaging (or every client on its own) step by step in numpy, double precision."""
    start = {name: value.astype(np.float64) for name, value in problem.weights.items()}
    clients = [start] * problem.clients
    for round in range(problem.rounds):
        for client in range(problem.clients):
            weights = dict(clients[client])
            for x, y in problem.batches(round, client):
                hidden = np.maximum(x @ weights["dense1/kernel"] + weights["dense1/bias"], 0)
                logits = hidden @ weights["dense2/kernel"] + weights["dense2/bias"]
                chances = np.exp(logits - logits.max(1, keepdims=True))
                error = (chances / chances.sum(1, keepdims=True) - np.eye(10)[y]) / len(x)
                back = (error @ weights["dense2/kernel"].T) * (hidden > 0)
                gradients = {
                    "dense1/kernel": x.T @ back,
                    "dense1/bias": back.sum(0),
                    "dense2/kernel": hidden.T @ error,
                    "dense2/bias": error.sum(0),
                }
                weights = {n: w - problem.learning_rate * gradients[n] for n, w in weights.items()}
            clients[client] = weights
        if federated:
            mean = {n: np.mean([c[n] for c in clients], 0) for n in start}
            clients = [mean] * problem.clients
    return clients


def test_a_problem_survives_its_file(problem, tmp_path):
    problem.save(tmp_path / "p.npz")
    found = FederatedProblem.load(tmp_path / "p.npz")
    for field in dataclasses.fields(FederatedProblem):
        jax.tree.map(np.testing.assert_array_equal, getattr(found, field.name), getattr(problem, field.name))
    assert [len(x) for x, _ in found.batches(ROUNDS, 1)] == [5, 5]
    assert np.array_equal(flatten(unflatten(found.weights))["dense1/bias"], found.weights["dense1/bias"])
    assert (np.sort(found.orders) == np.arange(10)).all() and len(np.unique(found.orders, axis=1)) > 1


def test_another_network_is_refused(problem):
    problem.check_output(problem.output * (1 + 1e-5))
    with pytest.raises(RuntimeError, match=r"small: expected the output .* to 1e-04, found .* 1\.0e-03"):
        problem.check_output(problem.output * 1.001)


def test_rounds_of_fedrecon_are_federated_averaging_in_the_given_order(problem, tmp_path):
    measure(problem, tmp_path, {**ENGINES[OURS].job, "devices": 2, "parallel": "vmap"})
    expected = reference(problem)[0]
    with np.load(tmp_path / "weights.npz") as found:
        assert set(found.files) == set(expected)
        for name in found.files:
            np.testing.assert_allclose(found[name], expected[name], atol=2e-6)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["devices"] == 2 and result["parallel"] == "vmap" and len(result["stamps"]) > 2


def test_rounds_in_one_call_divide_all_rounds(problem, tmp_path):
    odd = dataclasses.replace(problem, orders=problem.orders[:1])
    with pytest.raises(ValueError, match="rounds: expected a multiple of 2, found 1"):
        measure(odd, tmp_path, {**ENGINES[OURS].job, "devices": 1, "parallel": "vmap"})


@pytest.mark.parametrize("parallel", ["vmap", "scan"])
def test_pure_sgd_takes_the_same_steps(problem, parallel):
    workload = dataclasses.replace(WORKLOADS["small"], dispatch=ROUNDS)
    stored = dataclasses.replace(problem, orders=np.broadcast_to(np.arange(10), problem.orders.shape))
    mesh = client_mesh(jax.devices()[:1])
    steps, start, batches = make_sgd(stored, workload, mesh, parallel)
    found = flatten(steps(start, batches))
    if parallel == "scan":
        # One chain works through all clients.
        orders = np.broadcast_to(np.arange(40), (ROUNDS, 1, 40))
        x, y = stored.x.reshape(1, 40, 32), stored.y.reshape(1, 40)
        stored = dataclasses.replace(stored, x=x, y=y, orders=orders)
    for client, expected in enumerate(reference(stored, federated=False)):
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][client], value, atol=2e-6)


def test_pure_sgd_needs_full_lanes(problem):
    with pytest.raises(ValueError, match="parallel: expected a divisor of 4 clients of a device, found 3"):
        make_sgd(problem, WORKLOADS["small"], client_mesh(jax.devices()[:1]), 3)


@pytest.mark.slow
def test_loss_is_the_mean_over_all_examples(problem):
    task = task_of(WORKLOADS["small"])
    batch = {
        "image": jnp.asarray(problem.x.reshape(40, 32)),
        "label": jnp.asarray(problem.y.ravel()),
        "valid": jnp.ones(40, bool),
    }
    total, count = task.metrics(unflatten(problem.weights), {}, batch)["loss"]
    assert make_loss(problem)(problem.weights) == pytest.approx(float(total / count), rel=1e-5)


def test_operations_are_counted():
    # The products of both layers forward and for the kernels, and back through the second.
    assert operations_per_round(WORKLOADS["small"]) == 4 * 10 * 2 * (32 * 64 * 2 + 64 * 10 * 3)
    conv = 2 * 28 * 28 * 25 * 32 * 2 + 2 * 14 * 14 * 25 * 32 * 64 * 3
    dense = 2 * (7 * 7 * 64 * 512 + 512 * 10) * 3
    assert operations_per_round(WORKLOADS["cnn"]) == 64 * 100 * (conv + dense)


def test_quick_rounds_are_repeated(tmp_path, monkeypatch):
    times = iter([0.0, *np.arange(1.0, 2.0, 0.01)])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    recorder = Recorder(tmp_path, rounds_per_stamp=3)
    recorder.stamp(), recorder.stamp()
    more = 0
    while recorder.wants_more():
        recorder.stamp()
        more += 1
    recorder.write({"a": np.ones(2)}, parallel=8)
    result = json.loads((tmp_path / "result.json").read_text())
    assert more == 11 and len(result["stamps"]) == 13
    assert result["rounds_per_stamp"] == 3 and result["parallel"] == 8 and result["peak_mb"] > 0


def entry(seconds, loss, **more):
    return {"round_s": seconds, "loss": loss, "cold_s": 3.0, "peak_mb": 800.0, **more}


def test_goals_are_judged():
    ours = entry(0.5, 1.0, after_s=0.6, warm_s=2.5, tried=[])
    engines = {OURS: ours, SGD: entry(0.49, None), "torch": entry(1.0, 1.0005), "pfl": entry(0.7, 1.0)}
    result = {"operations": 1e9, "initial_loss": 2.0, "rounds": 4, "engines": engines, "notes": []}
    result["notes"] = [("flower", "exit 1: no output")]
    text = describe("cnn", result, 4e9)
    for line in (
        "rounds/s against pfl 1.40 (goal >= 1.5: missed)",
        "round / pure SGD with identical layers 1.02 (goal <= 1.05: met)",
        "cold start without the round itself, s 2.50 (goal <= 4: met)",
        "the same with the compilation cache, s 1.90 (goal <= 2: met)",
        "peak memory, MB 800 (goal <= 700: missed)",
        "loss 2.00000 at the start, after 4 rounds engines differ by 5.0e-04 (goal <= 0.001: met)",
        "left out: flower: exit 1: no output",
    ):
        assert line in text.splitlines(), text
    row = next(line.split() for line in text.splitlines() if line.startswith("torch"))
    assert row == ["torch", "1", "2.00", "25%", "3.0", "800", "1.00050"]
    assert "rounds/s against pfl 1.40 (goal >= 80: missed)" in describe("tiny", result, 4e9)


def test_a_failing_engine_leaves_a_reason(tmp_path):
    broken = Engine("benchmarks.no_such_module", (), ("no_such_module",), "nothing")
    found = run_engine(broken, tmp_path / "p.npz", {}, sys.executable)
    assert set(found) == {"error"} and found["error"].startswith("exit 1: ")
    assert "no_such_module" in found["error"] and broken.missing() == ["no_such_module"]
    with_path = federated_run._descendants(1)
    assert 1 in with_path and (not sys.platform.startswith("linux") or len(with_path) > 1)


@pytest.mark.slow
def test_a_run_in_small_reports_everything_it_measured(tmp_path, capsys, monkeypatch):
    # Compiling is most of the time.
    flags = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
    monkeypatch.setenv("XLA_FLAGS", flags)
    absent = dataclasses.replace(ENGINES["torch"], modules=("no_such_module",))
    monkeypatch.setitem(ENGINES, "elsewhere", absent)
    path = tmp_path / "r.json"
    run(FederatedOptions(["small"], [OURS, SGD, "elsewhere"], devices=["1"], rounds=3, json=str(path)))
    printed = capsys.readouterr().out
    assert "skipped elsewhere: no_such_module not installed; pip install torch numpy\n" in printed
    report = json.loads(path.read_text())
    result = report["workloads"]["small"]
    assert not result["notes"] and set(result["engines"]) == {OURS, SGD}
    ours = result["engines"][OURS]
    assert result["rounds"] == 4 and ours["loss"] < result["initial_loss"]
    assert ours["warm_s"] > 0 and ours["tried"][0]["choose_s"] > 0 and ours["devices"] == 1
    assert result["engines"][SGD]["loss"] is None
    assert "fedrecon on 1 devices, parallel=" in printed and "pure SGD with identical layers" in printed


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ENGINES if n not in (OURS, SGD)])
def test_peers_take_the_same_steps(problem, tmp_path, name):
    if ENGINES[name].missing():
        pytest.skip("not installed")
    problem.save(tmp_path / "p.npz")
    found = run_engine(ENGINES[name], tmp_path / "p.npz", ENGINES[name].job, sys.executable)
    assert "error" not in found, found
    for leaf, value in reference(problem)[0].items():
        np.testing.assert_allclose(found["weights"][leaf], value, atol=2e-6)


def test_wrong_options_are_refused_by_name(tmp_path):
    for options, found in (
        (FederatedOptions(workloads=["z"]), "--workloads: expected some of cnn, .* found 'z'"),
        (FederatedOptions(engines=["fate"]), "--engines: expected some of fedrecon, .* found 'fate'"),
        (
            FederatedOptions(pythons=["torch=no/python"]),
            "--pythons: expected engine=interpreter, .*'torch=no/python'",
        ),
        (FederatedOptions(devices=["0"]), "--devices: expected positive numbers, found '0'"),
        (
            FederatedOptions(parallel="all"),
            "--parallel: expected auto, scan, pmap, vmap or a chunk size, found 'all'",
        ),
        (
            FederatedOptions(["small"], [OURS], json=str(tmp_path / "no" / "r.json")),
            "--json: .*existing folder",
        ),
    ):
        with pytest.raises(ValueError, match=found):
            run(options)
    assert program._parallel("auto") is None and program._parallel("8") == 8


@pytest.mark.slow
def test_wrong_flags_end_with_one_line():
    command = [sys.executable, "-m", "benchmarks.federated", "--workloads=z"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert found.returncode == 1 and not found.stdout
    (line,) = found.stderr.splitlines()
    assert line.startswith("benchmarks.federated: --workloads: expected some of cnn") and "'z'" in line
