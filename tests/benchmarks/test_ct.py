"""The CT benchmark: its exact sinograms, its adapters, its processes, and a run in small."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

import benchmarks.ct.__main__ as program
from benchmarks.command import chosen_workloads
from benchmarks.ct import ours
from benchmarks.ct import run as ct_run
from benchmarks.ct.__main__ import CTOptions, run
from benchmarks.ct.problems import WORKLOADS, Ellipsoid, line_integrals, make_problem, rasterize
from benchmarks.ct.registry import PEERS, Library, PreparedLibrary, libraries
from benchmarks.ct.run import compare, describe, psnr_in_disc
from benchmarks.ct.worker import Remote
from benchmarks.measure import REPOSITORY, Operation, relative_error

TINY = {name: workload for name, workload in WORKLOADS.items() if name.startswith("tiny")}


@pytest.fixture(scope="module")
def problems():
    return {name: make_problem(workload) for name, workload in TINY.items()}


def test_chords_of_a_ball_have_the_known_length():
    radius, value, center = 2.0, 0.3, np.array([0.5, -0.2, 0.1])
    ball = Ellipsoid(value, center, np.full(3, radius), 0.4)
    rng = np.random.default_rng(0)
    for d in (2, 3):
        points, directions = rng.normal(size=(2, 50, d))
        to_center = center[:d] - points
        along = np.sum(to_center * directions, -1) / np.linalg.norm(directions, axis=-1)
        distance = np.sum(to_center**2, -1) - along**2
        expected = 2 * value * np.sqrt(np.maximum(radius**2 - distance, 0))
        np.testing.assert_allclose(line_integrals([ball], points, directions), expected, atol=1e-9)


@pytest.mark.parametrize("name", TINY)
def test_every_view_holds_the_mass_of_the_image_where_the_beam_is_parallel(problems, name):
    problem, scan = problems[name], TINY[name].scan
    mass = (
        problem.image.sum(axis=tuple(range(1, problem.image.ndim))) * scan.pixel_size ** problem.image[0].ndim
    )
    area = math.prod(math.pi * axis for axis in problem.phantoms[0][0].axes[:2]) / math.pi
    assert mass[0] > 0.1 * area * problem.phantoms[0][0].value
    if scan.kind == "parallel":
        views = problem.sinogram.sum(-1) * scan.spacing
        np.testing.assert_allclose(views, np.broadcast_to(mass[:, None], views.shape), rtol=0.02)
    assert problem.image.shape[1:] == scan.image_shape and problem.samples.shape[1:] == scan.shape


def test_a_turned_ellipse_is_where_it_should_be():
    # A long ellipse at 45 degrees, up and to the right of the center: row 0 is at the top.
    image = rasterize(
        [Ellipsoid(1.0, np.array([3.0, 3, 0]), np.array([4.0, 1, 1]), math.pi / 4)], (16, 16), 1.0
    )
    y, x = np.mgrid[7.5:-8.5:-1, -7.5:8.5:1]
    assert image.sum() == pytest.approx(4 * math.pi, rel=0.01)
    assert np.sum(x * image) / image.sum() == pytest.approx(3, abs=0.05)
    assert np.sum(y * image) / image.sum() == pytest.approx(3, abs=0.05)
    assert np.sum((x - 3) * (y - 3) * image) > 0


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("library", PEERS)
def test_every_operation_of_every_peer_is_that_of_the_scan(problems, library, name):
    problem, adapter = problems[name], PEERS[library]
    if adapter.missing() or problem.scan.kind not in adapter.kinds:
        pytest.skip("not installed, or for other scans")
    entry, failed = {"operations": {}}, {}
    ct_run._check(problem, adapter.prepare, entry, failed)
    assert not failed and {"forward", "adjoint"} <= set(entry["operations"])
    assert entry["error"] < 0.25 and entry["adjoint_error"] < 0.05
    assert "gradient" not in entry["operations"] or entry["gradient_error"] < 1e-4
    assert "fbp" not in entry["operations"] or entry["psnr"] > 15


def test_quality_is_that_of_the_disc():
    image = np.ones((2, 8, 8))
    found = image.copy()
    found[:, 0, 0] = 100  # outside
    assert psnr_in_disc(found + 0.1, image) == pytest.approx(20)


@pytest.mark.slow
def test_a_library_in_another_process_computes_the_same_and_tells_its_end(problems):
    problem = problems["tiny"]
    here = libraries()["fedrecon"].prepare(problem)
    remote = Remote("fedrecon-jax", problem, sys.executable)
    try:
        there = remote.prepared()
        assert set(there.operations) == set(here.operations) and there.image is None
        for operation, (route,) in there.operations.items():
            (own,) = here.operations[operation]
            assert relative_error(route.result(route.call()), own.result(own.call())) < 1e-4
    finally:
        remote.close()
    assert remote._process.returncode is not None
    with pytest.raises(RuntimeError, match="exit 1: no output"):
        Remote("mbirjax", problem, "/bin/false")


def test_a_failing_library_leaves_a_reason_and_not_a_number(problems, monkeypatch):
    def never(problem):
        raise RuntimeError("no\nmemory")

    def broken(problem):
        made = dict(ours.fedrecon(problem).operations)
        adjoint = made["adjoint"][0]
        made["adjoint"] = [Operation(lambda: 1.1 * adjoint.call())]
        made["fbp"] = [Operation(lambda: 1 / 0)]
        del made["gradient"]
        return PreparedLibrary(made)

    monkeypatch.setattr(ours, "never", never, raising=False)
    monkeypatch.setattr(ours, "broken", broken, raising=False)
    absent = {"gradient": "not implemented"}
    known = {name: Library("ours", name, absent=absent) for name in ("never", "broken")}
    known["elsewhere"] = Library("ours", "fedrecon", kinds=("cone",))
    monkeypatch.setattr(ct_run, "libraries", lambda: known)
    # The process of its own does not know them.
    monkeypatch.setattr(
        ct_run, "fresh_process", lambda problem, jobs, pythons: {n: {"error": "KeyError"} for n in jobs}
    )
    result = compare(problems["tiny"], list(known), 1, 1.0, {}, 1e10)
    assert set(result["libraries"]) == {"broken"}
    reasons = {(name, operation): reason for name, operation, reason in result["notes"]}
    assert reasons == {
        ("never", ""): "RuntimeError: no memory",
        ("broken", "gradient"): "not implemented",
        ("broken", "fbp"): "ZeroDivisionError: division by zero",
        ("broken", "adjoint"): "not the adjoint of its forward operation: not compared",
        ("broken", "own process"): "KeyError",
    }
    assert not result["libraries"]["broken"]["operations"]["adjoint"]["accurate"]
    text = describe(result)
    (row,) = [line.split() for line in text.splitlines() if line.startswith("broken")]
    assert row[5].endswith("]") and row[6].startswith("-[") and row[7].startswith("-[")
    assert row[-2:] == ["-", "-"] and "left out: never [" in text


@pytest.mark.slow
def test_a_run_in_small_reports_everything_it_measured(tmp_path, capsys, monkeypatch):
    known = libraries() | {"elsewhere": Library("peers", "astra", modules=("no_such_module",))}
    monkeypatch.setattr(program, "libraries", lambda: known)
    path = tmp_path / "r.json"
    run(CTOptions(["tiny-e", "tiny-c"], ["fedrecon", "elsewhere"], str(path), repeats=3))
    printed = capsys.readouterr().out
    assert printed.count("skipped elsewhere: no_such_module not installed\n") == 1
    report = json.loads(path.read_text())
    assert list(report["workloads"]) == ["tiny-e", "tiny-c"] and report["bandwidth_gb_per_s"] > 0
    result = report["workloads"]["tiny-e"]
    assert result["title"] in printed and not result["notes"]
    assert set(result["limit_ms"]) == set(ct_run.OPERATIONS) and min(result["limit_ms"].values()) > 0
    (entry,) = result["libraries"].values()
    assert entry["error"] < 0.2 and entry["adjoint_error"] < 1e-5 and entry["gradient_error"] < 1e-5
    assert entry["psnr"] > 15 and 0 < entry["peak_mb"] < 2000
    assert set(entry["first_call_s"]) == set(entry["operations"]) == set(ct_run.OPERATIONS)
    for measured in entry["operations"].values():
        assert measured["median_ms"] == np.median(measured["samples_ms"]) > 0
        assert len(measured["samples_ms"]) == 3 and measured["accurate"]
    assert "gradient / (forward + adjoint)" in printed and "limit by memory bandwidth: forward" in printed


def test_wrong_options_are_refused_by_name(tmp_path):
    for options, found in (
        (CTOptions(workloads=["z"]), "--workloads: expected some of a, .* found 'z'"),
        (CTOptions(libraries=["fftw"]), "--libraries: expected some of fedrecon, .* found 'fftw'"),
        (CTOptions(pythons=["rtk=no/python"]), "--pythons: expected library=interpreter, .*'rtk=no/python'"),
        (CTOptions(["tiny"], ["fedrecon"], str(tmp_path / "no" / "r.json")), "--json: .*existing folder"),
    ):
        with pytest.raises(ValueError, match=found):
            run(options)


@pytest.mark.slow
def test_wrong_flags_end_with_one_line():
    command = [sys.executable, "-m", "benchmarks.ct", "--workloads=z"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert found.returncode == 1 and not found.stdout
    (line,) = found.stderr.splitlines()
    assert line.startswith("benchmarks.ct: --workloads: expected some of a, ") and line.endswith("found 'z'")


def test_names_stand_for_all_their_variants():
    assert chosen_workloads(["d", "b", "d-64"], WORKLOADS) == ["d-64", "d-128", "b"]
