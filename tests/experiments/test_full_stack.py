"""The full-stack experiment as its user runs it: one command, a second run, a killed run, bad input."""

import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from experiments.pipeline import run as pipeline
from experiments.pipeline.settings import resolve
from fedrecon.runtime import Workdir, read_log

# A short trial of the smallest networks.
TINY = (
    "--preset=smoke", "--image_size=16", "--cascades=1", "--channels=2", "--finetune_channels=2",
    "--finetune_pools=1", "--devices=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(environment, tmp_path_factory):
    """A run that nothing disturbed, and what it printed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(environment, folder, "--nocomparators", "--rounds=4")


def start(environment, workdir, *flags):
    measured = "--cohort=measured" in flags
    tiny = [flag for flag in TINY if not (measured and flag.startswith("--image_size"))]
    command = [sys.executable, "-m", "experiments.full_stack", f"--workdir={workdir}", *tiny, *flags]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(environment, workdir, *flags):
    process = start(environment, workdir, *flags)
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return output


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


def check_complete(workdir):
    """Everything a finished run leaves, with finite scores for every method and site."""
    found = results(workdir)
    for stage in ("reconstruction", "segmentation", "classification"):
        sites = {row[0].removesuffix(" (unseen)") for row in found["sites"][1:]}
        methods = found[stage] if stage == "reconstruction" else found[stage]["scores"]
        for method, scores in methods.items():
            scores = scores if stage == "reconstruction" else scores["sites"]
            assert scores and set(scores) <= sites, method
            if stage == "reconstruction":
                assert all(values["psnr"] is not None for values in scores.values()), method
    page = (workdir / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 7
    for name in (
        "reconstruction",
        "psnr",
        "patients",
        "worst",
        "segmentation",
        "classification",
        "training",
    ):
        assert (workdir / f"{name}.png").stat().st_size > 5_000
    assert "How it was made" in page and "python -m experiments.full_stack" in page
    assert (workdir / "network.npz").stat().st_size > 1_000
    stages = {record["stage"] for record in read_log(workdir / "metrics.jsonl")}
    assert {f"{s}/federated" for s in ("reconstruction", "segmentation", "classification")} <= stages
    return found


@pytest.mark.slow
def test_one_command_does_everything_and_a_second_run_changes_nothing(environment, whole):
    folder, output = whole
    found = check_complete(folder)
    assert "zero-filled" in output and "report:" in output
    traffic = {t["stage"]: t for t in found["traffic"]}
    assert traffic["reconstruction/federated"]["bytes_up"] > 0
    before = (folder / "results.json").read_bytes(), (folder / "metrics.jsonl").read_bytes()
    changes = {"--rounds=3": "--rounds: expected at least 4", "--epochs=7": "--epochs: was ",
               "--noresume": "--noresume"}  # fmt: skip
    flags = [f"--workdir={folder}", *TINY, "--nocomparators", "--rounds=4"]
    calls = [["experiments.full_stack", [*flags, *more]] for more in ([], *([change] for change in changes))]
    command = [sys.executable, "-m", "tests.experiments.call_programs"]
    done = subprocess.run(command, input=json.dumps(calls), env=environment, capture_output=True, text=True)
    again, *others = json.loads(done.stdout)
    assert again[0] == 0, again[1]
    assert before == ((folder / "results.json").read_bytes(), (folder / "metrics.jsonl").read_bytes())
    for (status, output), words in zip(others, changes.values(), strict=True):
        assert status == 1 and words in output, output


@pytest.mark.slow
def test_comparators_fedbn_clipping_and_sampling(environment, tmp_path):
    run(environment, tmp_path, "--algorithm=fedbn", "--clip_norm=0.5", "--clients_per_round=2")
    found = check_complete(tmp_path)
    trained = {"local-only", "local-only on other sites", "centralized", "federated"}
    assert set(found["reconstruction"]) == {"zero-filled", "CG-SENSE (L2)", "TV"} | trained
    rounds = [r for r in read_log(tmp_path / "metrics.jsonl") if r["stage"] == "reconstruction/federated"]
    assert [r["clients"] for r in rounds] == [2, 2]


@pytest.mark.slow
def test_ct_with_private_normalization_and_privacy_accounting(environment, tmp_path):
    flags = ("--modality=ct", "--nocomparators", "--algorithm=fedbn", "--dp_epsilon=8")
    output = run(environment, tmp_path, *flags)
    found = check_complete(tmp_path)
    assert "FBP" in found["reconstruction"]
    epsilons = found["privacy"]["epsilon"]
    assert len(epsilons) == 3 and all(0 < e <= 8 for e in epsilons.values())
    assert max(epsilons.values()) > 7.5 and "ε" in output
    # Losses are not private, and are not told.
    assert not any("loss" in record for record in read_log(tmp_path / "metrics.jsonl"))
    assert (found["settings"]["algorithm"], found["settings"]["optimizer"]) == ("fedbn", "adam_cosine")


@pytest.mark.nightly
def test_scaffold_sends_control_variates_in_every_stage(environment, whole, tmp_path):
    output = run(environment, tmp_path, "--nocomparators", "--rounds=4", "--algorithm=scaffold")
    assert "scaffold, clients with sgd" in output
    plain, found = results(whole[0]), check_complete(tmp_path)
    for one, other in zip(plain["traffic"], found["traffic"], strict=True):
        # Twice the model, and the weight once.
        assert other["bytes_up"] == 2 * one["bytes_up"] - 4 * 3 * one["rounds"]
        assert other["bytes_down"] == 2 * one["bytes_down"]


@pytest.mark.slow
def test_kill_9_then_the_same_command_gives_the_same_results(environment, whole, tmp_path):
    flags = ("--nocomparators", "--rounds=4")
    for stage, round in (("reconstruction/federated", 2), ("segmentation/federated", 1)):
        process = start(environment, tmp_path, *flags)
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and process.poll() is None:
            done = [r for r in read_log(tmp_path / "metrics.jsonl") if r["stage"] == stage]
            if done and done[-1]["round"] >= round:
                break
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    run(environment, tmp_path, *flags)
    assert (tmp_path / "results.json").read_bytes() == (whole[0] / "results.json").read_bytes()
    logs = [
        [{k: v for k, v in r.items() if "seconds" not in k} for r in read_log(d / "metrics.jsonl")]
        for d in (tmp_path, whole[0])
    ]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_results_do_not_depend_on_devices_or_on_how_clients_run(environment, whole, tmp_path):
    """In chunks on four devices, all rounds at once; the engine's tests go through the other ways."""
    expected = [r["loss"] for r in read_log(whole[0] / "metrics.jsonl")]
    flags = ("--parallel=2", "--devices=4", "--rounds_per_dispatch=4")
    run(environment, tmp_path, "--nocomparators", "--rounds=4", *flags)
    losses = [r["loss"] for r in read_log(tmp_path / "metrics.jsonl")]
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_measured_data(environment, tmp_path, measured_data):
    run(
        environment,
        tmp_path,
        "--nocomparators",
        "--cohort=measured",
        f"--data_dir={measured_data('mri').parent}",
    )
    found = check_complete(tmp_path)
    assert "single subject" in {cell for row in found["sites"] for cell in row}


def _truncated(path):
    path.write_bytes(path.read_bytes()[:2000])


def _without_kspace(path):
    with h5py.File(path, "a") as file:
        del file["kspace"]


def _real_kspace(path):
    with h5py.File(path, "a") as file:
        values = np.abs(file["kspace"][...])
        del file["kspace"]
        file["kspace"] = values


def _nan(path):
    with h5py.File(path, "a") as file:
        file["kspace"][0, 0, 0, 0] = np.nan


def _empty(path):
    path.write_bytes(b"")


def _malformed(folder, damage):
    path = folder / "mri" / "brain_cimax3t_16ch.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = np.ones((1, 16, 8, 8), np.complex64)
        file["reconstruction_rss"] = np.ones((1, 8, 8), np.float32)
    damage(path)
    return path


@pytest.mark.parametrize("damage", [_truncated, _nan, _without_kspace, _real_kspace, _empty])
def test_a_malformed_file_is_named_and_nothing_is_written(tmp_path, damage):
    path = _malformed(tmp_path / "data", damage)
    settings = resolve({"cohort": "measured", "preset": "smoke", "data_dir": str(tmp_path / "data")})
    with Workdir(tmp_path / "run", {}) as workdir, pytest.raises(ValueError, match=path.name):
        pipeline.run(settings, workdir)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".lock", "config.json"]


@pytest.mark.slow
def test_a_malformed_file_ends_the_run_with_one_line(environment, tmp_path):
    path = _malformed(tmp_path / "data", _truncated)
    process = start(environment, tmp_path / "run", "--cohort=measured", f"--data_dir={tmp_path / 'data'}")
    assert process.wait(120) == 1
    errors = process.stderr.read()
    assert path.name in errors and "Traceback" not in errors
    # A run that did not begin leaves nothing.
    assert not (tmp_path / "run").exists()
