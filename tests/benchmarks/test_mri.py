"""The MRI benchmark: its reference, its adapters, its timing, and a run in small."""

import dataclasses
import json
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import command as benchmark_command
from benchmarks import measure
from benchmarks.command import chosen_workloads
from benchmarks.measure import Operation, format_table, relative_error, round_robin
from benchmarks.mri import problems as mri_problems
from benchmarks.mri.__main__ import MRIOptions, run
from benchmarks.mri.problems import WORKLOADS, Workload, make_problem
from benchmarks.mri.registry import LIBRARIES, Library
from benchmarks.mri.run import compare, describe
from fedrecon.errors import ArgumentError

pytestmark = pytest.mark.slow

PROBLEMS = {
    "one": WORKLOADS["tiny"],
    "images": Workload("", lambda: mri_problems._radial((12, 10), 5, 16, 3, images=2)),
    "trajectories": Workload("", lambda: mri_problems._radial((12, 10), 5, 16, 3, frames=2)),
    "space": Workload("", lambda: mri_problems._kooshball((8, 6, 10), 9, 12)),
    "grid": WORKLOADS["tiny-f"],
}


@pytest.fixture(scope="module")
def problems():
    return {name: make_problem(workload) for name, workload in PROBLEMS.items()}


def dense(problem, t):
    """The matrix (coils * samples, pixels) of one trajectory, element by element."""
    shape = problem.shape
    grid = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij"), -1)
    if problem.trajectory is None:
        points = grid.reshape(-1, len(shape)) / np.array(shape)
        kept = np.broadcast_to(problem.mask, shape).ravel()
    else:
        points, kept = problem.trajectory[t].astype(np.float64), 1.0
    fourier = np.exp(-2j * np.pi * points @ grid.reshape(-1, len(shape)).T) / math.sqrt(math.prod(shape))
    fourier = (kept * fourier.T).T
    return np.concatenate([fourier * m.ravel() for m in problem.maps.astype(np.complex128)])


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_reference_is_the_dense_matrix(problems, name):
    problem, reference = problems[name]
    frames, images = problem.image.shape[:2]
    for t in range(frames):
        A = dense(problem, t)
        for b in range(images):
            x, y = problem.image[t, b].ravel(), problem.samples[t, b].ravel()
            expected = {"forward": A @ x, "adjoint": A.conj().T @ y, "gram": A.conj().T @ (A @ x)}
            expected["gradient"] = 2 * (expected["gram"] - expected["adjoint"])
            for operation, value in expected.items():
                assert relative_error(reference[operation][t, b].ravel(), value) < 1e-10, operation


@pytest.mark.parametrize("name", PROBLEMS)
# The plain JAX backend differs by one argument, and compiles slowly.
@pytest.mark.parametrize("library", [name for name in LIBRARIES if name != "fedrecon-jax"])
def test_every_route_of_every_library_computes_the_reference(problems, library, name):
    problem, reference = problems[name]
    adapter = LIBRARIES[library]
    if adapter.missing() or adapter.cartesian not in (None, problem.mask is not None):
        pytest.skip("not installed, or of the other kind")
    setting = {} if problem.mask is not None else adapter.settings[len(adapter.settings) // 2]
    made = adapter.operations(problem, **setting)
    assert {"forward", "adjoint", "gram"} <= set(made)
    assert {"gradient"} & set(made) or "gradient" in adapter.absent
    for operation, routes in made.items():
        for route in routes:
            result = route.result(route.call())
            if operation in reference:
                assert relative_error(result, reference[operation]) < 5e-3, (operation, route.route)


def test_a_wrong_reference_is_refused(monkeypatch):
    true = mri_problems._reference_operator
    monkeypatch.setattr(mri_problems, "_reference_operator", lambda *a: 1.001 * true(*a))
    with pytest.raises(RuntimeError, match=r"differs from the direct sum by 1\.0e-03"):
        make_problem(WORKLOADS["tiny"])


def test_calls_take_turns_until_the_time_is_up():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = round_robin(calls, repeats=5, limit=60)
    assert all(len(t) == 5 for t in times.values())
    rounds = [order[i : i + 3] for i in range(0, 15, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds) and len({tuple(r) for r in rounds}) > 1
    times = round_robin({"slow": lambda: time.sleep(0.02)}, repeats=50, limit=0.0)
    assert len(times["slow"]) == 3 and min(times["slow"]) >= 0.02


def test_memory_is_the_peak_not_what_is_left():
    code = (
        "from benchmarks.measure import peak_memory, reset_peak_memory\n"
        "import numpy as np\n"
        "before = peak_memory()\nnp.ones(25_000_000)\nprint(peak_memory() - before)\n"
        "reset_peak_memory()\nprint(peak_memory() - before)"
    )
    command = [sys.executable, "-c", code]
    root = measure.REPOSITORY
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout.split()
    assert 190 < float(found[0]) < 260
    assert sys.platform != "linux" or float(found[1]) < 60


def test_tables_align():
    assert format_table(["a", "bb"], [["long", "1"], ["x", "22.5"]]).splitlines() == [
        "a       bb",
        "----  ----",
        "long     1",
        "x     22.5",
    ]
    assert [measure.format_ms(v) for v in (0.01234, 12.345, 12345.6)] == ["0.0123", "12.3", "12346"]


def test_a_failing_library_leaves_a_reason_and_not_a_number(problems, monkeypatch):
    problem, reference = problems["one"]
    true = LIBRARIES["fedrecon"].operations

    def broken(problem, eps):
        if eps > 1e-2:
            raise RuntimeError("no such\ntolerance")

        def fail():
            raise ValueError("out of luck")

        made = true(problem, eps)
        wrong = Operation(lambda: 1.1 * made["adjoint"][0].call())
        return {"forward": made["forward"], "adjoint": [Operation(fail)], "gram": [wrong]}

    absent = {"gradient": "not implemented"}
    monkeypatch.setitem(LIBRARIES, "broken", Library(broken, ({"eps": 1e-4},), (), absent=absent))
    monkeypatch.setitem(LIBRARIES, "never", Library(broken, ({"eps": 0.1},), ()))
    monkeypatch.setitem(LIBRARIES, "rough", Library(true, ({"eps": 0.3},), ()))
    tier, _ = compare(problem, reference, ["broken", "never", "rough"], 2, 1.0)
    assert set(tier["libraries"]) == {"broken"}
    reasons = {(name, operation): reason for name, operation, reason in tier["notes"]}
    assert reasons["broken", "adjoint"] == "ValueError: out of luck"
    assert reasons["broken", "gradient"] == "not implemented"
    assert reasons["never", ""] == "RuntimeError: no such tolerance"
    assert "no setting errs less" in reasons["rough", ""]
    assert "not compared" in reasons["broken", "gram"]
    assert not tier["libraries"]["broken"]["operations"]["gram"]["accurate"]
    # The process of its own does not know it.
    assert "KeyError" in reasons["broken", "own process"]
    (row,) = [line.split() for line in describe(tier).splitlines() if line.startswith("broken")]
    assert (
        row[4].startswith("-[")
        and row[5].endswith("]")
        and row[6].startswith("-[")
        and row[-2:] == ["-", "-"]
    )


def test_a_run_in_small_reports_everything_it_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(
        LIBRARIES, "elsewhere", dataclasses.replace(LIBRARIES["fedrecon"], modules=("no_such_module",))
    )
    few = tuple({"eps": eps} for eps in (2e-3, 1e-5))
    monkeypatch.setitem(LIBRARIES, "fedrecon", dataclasses.replace(LIBRARIES["fedrecon"], settings=few))
    path = tmp_path / "r.json"
    run(MRIOptions(["tiny"], ["fedrecon", "elsewhere", "jnp"], str(path), repeats=3))
    printed = capsys.readouterr().out
    assert printed.count("skipped elsewhere: no_such_module not installed\n") == 1
    report = json.loads(path.read_text())
    assert set(report["workloads"]) == {"tiny", "tiny-f"} and report["machine"]["cores"] >= 1
    tiers = report["workloads"]["tiny"]["tiers"] + report["workloads"]["tiny-f"]["tiers"]
    assert [set(tier["libraries"]) for tier in tiers] == [{"fedrecon"}, {"fedrecon"}, {"fedrecon", "jnp"}]
    for tier in tiers:
        assert tier["limit_ms"] > 0 and not tier["notes"]
        for name, entry in tier["libraries"].items():
            assert entry["error"] <= tier["bound"] and entry["first_call_s"]["forward"] > 0
            assert 0 < entry["peak_mb"] < 2000
            for measured in entry["operations"].values():
                assert measured["median_ms"] == np.median(measured["samples_ms"]) > 0
                assert len(measured["samples_ms"]) == 3 and measured["accurate"], name
    assert {"trajectory gradient", "gram gradient"} < set(tiers[0]["libraries"]["fedrecon"]["operations"])
    assert "fedrecon / best peer: forward" in printed and "(jnp)" in printed


def test_wrong_options_are_refused_by_name(tmp_path):
    for options, found in (
        (MRIOptions(workloads=["z"]), "--workloads: expected some of a, .* found 'z'"),
        (MRIOptions(libraries=["fftw"]), "--libraries: expected some of fedrecon, .* found 'fftw'"),
        (MRIOptions(["tiny"], ["fedrecon"], str(tmp_path / "no" / "r.json")), "--json: .*existing folder"),
    ):
        with pytest.raises(ValueError, match=found):
            run(options)


def test_names_stand_for_all_their_variants():
    assert chosen_workloads(["e", "b", "e-own"], WORKLOADS) == ["e-shared", "e-own", "b"]
    assert chosen_workloads(["tiny-f"], WORKLOADS) == ["tiny-f"]


def test_settings_errors_are_one_line_and_internal_errors_keep_their_traceback(monkeypatch):
    def main(error):
        def run(options):
            raise error

        benchmark_command._main("mri", dataclasses.make_dataclass("Options", []), run, False, ["mri"])

    with pytest.raises(SystemExit) as ended:
        main(ArgumentError("--workloads", "some of\na", "'z'"))
    assert ended.value.code == "mri: --workloads: expected some of a, found 'z'"
    with pytest.raises(ValueError, match="operands"):
        main(ValueError("operands could not be broadcast"))
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended:
            main(KeyboardInterrupt())
    finally:
        # A program that ends takes no further interrupts.
        signal.signal(signal.SIGINT, handler)
    assert ended.value.code == 130
