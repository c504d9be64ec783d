"""Several processes: starting them, equal results, checkpoints, and what happens when one dies or hangs."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from fedrecon.runtime import DistributedError, PeerError, Watchdog, crash_report, read_log, start, watchdog
from fedrecon.runtime.distributed import check_same

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "--clients=4 --examples_per_client=12 --classes=2 --image_size=8 --channels=2 --pools=1 --batch_size=4 "
    "--rounds=36 --algorithm=fedbn"
).split()


# Files of processes are up to a second old.
PLACE = r"(compiling|fedbn, round \d+)"


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"coordinator": "host"}, "--coordinator: expected HOST:PORT, found 'host'"),
        ({"coordinator": "host:99999"}, "--coordinator: expected HOST:PORT"),
        ({"coordinator": "host:1"}, "--processes: expected their number with --coordinator, found none"),
        ({"coordinator": "host:1", "processes": 2}, "--process_id: expected 0 to 1 .* found none"),
        ({"coordinator": "host:1", "processes": 2, "process_id": 2}, "--process_id: expected 0 to 1 .* 2$"),
        ({"processes": 2}, "--processes: expected none without --coordinator"),
        ({"process_id": 0}, "--process_id: expected none without --coordinator"),
        ({"coordinator": "host:1", "automatic": True}, "--coordinator: expected none with --distributed"),
        ({"start_seconds": 0}, "--start_seconds: expected a positive number, found 0"),
    ],
)
def test_flags_that_do_not_fit_are_named(flags, message):
    with pytest.raises(DistributedError, match=message):
        start(**flags)


def test_a_port_in_use_and_a_silent_coordinator_are_named():
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(DistributedError, match=f"localhost:{port}: expected a free port .*in use"):
            start(f"localhost:{port}", 2, 0)
    with pytest.raises(DistributedError, match=r"to answer there within 1 s \(--start_seconds\).*refused"):
        start(f"localhost:{port}", 2, 1, start_seconds=1)


def test_settings_that_differ_are_named(monkeypatch):
    texts = ['{"jax": "1", "rounds": 3}', '{"jax": "1", "rounds": 4}', '{"jax": "2", "rounds": 3}']
    monkeypatch.setattr("fedrecon.runtime.distributed.gather_text", lambda text: texts)
    with pytest.raises(
        DistributedError, match="--rounds is 3 on process 0 and 4 on 1, version of jax is '1'"
    ):
        check_same({})


class Peer:
    """A working directory with the file of process 1, which this test writes."""

    def __init__(self, path):
        self.path = path / "processes"
        self.path.mkdir()
        (self.path / "token").write_text("abc")
        self.beat = 0

    def write(self, **content):
        self.beat += 1
        defaults = {"run": "abc", "host": "h", "pid": 7, "beat": self.beat, "arrivals": 0, "place": "round 6"}
        (self.path / "1.json").write_text(json.dumps({**defaults, "ended": "", **content}))


@pytest.fixture
def peer(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    return Peer(tmp_path)


def report_with(words, capfd):
    """What was written to stderr until these words were."""
    errors, until = "", time.monotonic() + 60
    while words not in errors and time.monotonic() < until:
        time.sleep(0.01)
        errors += capfd.readouterr().err
    return errors


def test_a_stall_is_reported_with_stacks_and_who_is_behind(peer, tmp_path, capfd):
    peer.write()
    with Watchdog(tmp_path, stall_seconds=0.2, silent_seconds=60, period=0.02) as dog:
        dog.report_stage("round 7")
        errors = report_with("test_distributed.py", capfd)
    assert re.search(r"round 7 has been going on for \d+ s \(--stall_seconds\)", errors)
    assert "not arrived: process 1 (h, pid 7), in round 6" in errors
    assert "Current thread" in errors and "time.sleep" not in errors and "test_distributed.py" in errors
    assert json.loads((peer.path / "0.json").read_text())["ended"] == "done"


def test_a_stall_names_who_arrived_and_went_silent(peer, tmp_path, capfd):
    peer.write(arrivals=1, place="round 7")
    with Watchdog(tmp_path, stall_seconds=0.3, silent_seconds=60, period=0.02) as dog:
        dog.report_stage("round 7")
        errors = report_with("silent: process 1", capfd)
    expected = r"not arrived: nobody; silent: process 1 \(h, pid 7\), for \d+ s, in round 7\n"
    assert re.search(expected, errors)


def test_a_failure_of_communication_names_who_is_gone(peer, tmp_path):
    peer.write(ended="was interrupted")
    before = signal.getsignal(signal.SIGTERM)
    dog = Watchdog(tmp_path, period=0.02)
    dog._end = lambda *arguments, **options: None
    with (
        pytest.raises(
            PeerError, match=r"process 1 \(h, pid 7\) was interrupted; this was process 0 .*round 7"
        ),
        dog,
    ):
        dog.report_stage("round 7")
        raise RuntimeError("connection closed")
    assert signal.getsignal(signal.SIGTERM) is before and signal.set_wakeup_fd(-1) == -1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_silence_ends_the_process(peer, tmp_path, monkeypatch, capfd):
    left = []

    def leave(status):
        left.append(status)
        raise SystemExit

    monkeypatch.setattr(watchdog, "leave", leave)
    peer.write()
    with contextlib.suppress(SystemExit), Watchdog(tmp_path, silent_seconds=0.1, period=0.02) as dog:
        dog._thread.join(60)
    assert left == [1]
    assert re.search(
        r"process 1 \(h, pid 7\) has not been heard of for \d+ s, last in round 6", capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("said", "message"),
    [("farewell\n", ""), ("", "process 0 (h, pid 7) died, last in round 6; this was me")],
)
def test_the_crash_report_names_a_dead_coordinator(said, message, tmp_path):
    (tmp_path / "0.json").write_text('{"host": "h", "pid": 7, "beat": 1, "place": "round 6", "ended": ""}')
    files = [str(tmp_path / "1.json"), str(tmp_path / "0.json")]
    process = subprocess.run(
        [sys.executable, "-S", "-E", crash_report.__file__, "me", *files, "0.1"],
        input=said,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert process.stderr.strip() == message


class Job:
    """A run of train_federated over ``processes``, with four CPU devices in all."""

    def __init__(self, workdir, processes, *flags, each=lambda number: ()):
        self.workdir, port = workdir, free_port()
        self.processes = []
        for number in range(processes):
            command = [sys.executable, "-m", "experiments.train_federated", f"--workdir={workdir}"]
            command += [*TINY, f"--devices={4 // processes}", *flags, *each(number)]
            if processes > 1:
                command += [
                    f"--coordinator=localhost:{port}",
                    f"--processes={processes}",
                    f"--process_id={number}",
                ]
            self.processes.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                )
            )

    def wait_for_rounds(self, count):
        deadline = time.monotonic() + 300
        while len(read_log(self.workdir / "metrics.jsonl")) < count:
            assert all(p.poll() is None for p in self.processes), self.end()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def end(self, timeout=300):
        """(status, standard output, standard error) of each process."""
        found = []
        for process in self.processes:
            try:
                output, errors = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                output, errors = process.communicate()
            found.append((process.returncode, output, errors))
        return found


@pytest.mark.slow
def test_dead_stuck_and_interrupted_processes_and_resuming_on_other_numbers(tmp_path):
    path = tmp_path / "run"

    # Stopped: reported as stuck, then the job ends.
    job = Job(path, 2, "--stall_seconds=4")
    job.wait_for_rounds(2)
    stopped = job.processes[1]
    stopped.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    job.processes[0].wait(60)
    assert time.monotonic() - began < 60
    stopped.kill()
    status, _, errors = job.end()[0]
    name = rf"process 1 \({re.escape(socket.gethostname())}, pid {stopped.pid}\)"
    assert status == 1
    # It may have arrived in the round before it was stopped, but is silent in any case.
    assert re.search(
        rf"process 0 .*fedbn, round \d+ has been going on .*not arrived: (nobody|{name}, in {PLACE}); "
        rf"silent: {name}, for \d+ s, in {PLACE}",
        errors,
    )
    assert re.search(rf"{name} has not been heard of for \d+ s, last in {PLACE}", errors)
    assert "Thread 0x" in errors and "fedrecon/runtime/training.py" in errors
    assert not (path / "results.json").exists()

    # Killed, and it was the coordinator.
    done = len(read_log(path / "metrics.jsonl"))
    job = Job(path, 2)
    job.wait_for_rounds(done + 2)
    killed = job.processes[0]
    killed.kill()
    status, _, errors = job.end(60)[1]
    assert status not in (0, None) and status != -signal.SIGKILL
    assert re.search(rf"process 0 \(.*, pid {killed.pid}\) died, last in {PLACE}", errors)

    # The checkpoint of two processes goes on with one, and back.
    done = len(read_log(path / "metrics.jsonl"))
    job = Job(path, 1)
    job.wait_for_rounds(done + 2)
    job.processes[0].kill()
    job.end()

    # Interrupted: one of two.
    done = len(read_log(path / "metrics.jsonl"))
    assert done <= 32
    job = Job(path, 2)
    job.wait_for_rounds(done + 1)
    job.processes[1].send_signal(signal.SIGTERM)
    (status, _, errors), (other_status, _, other_errors) = job.end(60)
    assert other_status == 130
    assert other_errors.strip().splitlines()[-1].startswith("Interrupted. The same command with --workdir=")
    assert status == 1 and re.search(r"process 1 \(.*\) was interrupted", errors), errors

    found = Job(path, 2).end()
    assert [status for status, *_ in found] == [0, 0], found
    assert "worst client" in found[0][1] and "worst client" not in found[1][1]
    ((status, *_),) = Job(tmp_path / "alone", 1).end()
    assert status == 0
    logs = [read_log(p / "metrics.jsonl") for p in (path, tmp_path / "alone")]
    for one, other in zip(*logs, strict=True):
        assert one["round"] == other["round"] and one["bytes_up"] == other["bytes_up"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5, abs=1e-5)
    results = [
        json.loads((p / "results.json").read_text().replace("null", "NaN"))
        for p in (path, tmp_path / "alone")
    ]
    for kind in ("own", "released"):
        for client, scores in results[0][kind].items():
            assert scores == pytest.approx(results[1][kind][client], rel=1e-5, abs=1e-5, nan_ok=True)


@pytest.mark.slow
def test_processes_that_do_not_agree_end_with_a_line(tmp_path):
    flags = ["--rounds=3", "--rounds=4"]
    for number, (status, _, errors) in enumerate(
        Job(tmp_path / "run", 2, each=lambda i: flags[i : i + 1]).end()
    ):
        assert status == 1
        line = errors.strip().splitlines()[-1]
        assert line.startswith(f"train_federated, process {number}: ")
        assert "--rounds is 3 on process 0 and 4 on 1" in line
    assert not (tmp_path / "run").exists()

    # The same path, which is not the same directory: process 1 goes by another name of it.
    (tmp_path / "0").mkdir(), (tmp_path / "1").mkdir()
    script = (
        "import os, sys; os.chdir(sys.argv.pop(1)); sys.path.insert(0, sys.argv.pop(1));"
        "import jax; from fedrecon.runtime import *; jax.config.update('jax_platforms', 'cpu');"
        "start(sys.argv[1], 2, int(sys.argv[2])); open_workdir('run', {}, {})"
    )
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / f"{i}"), str(ROOT), f"localhost:{port}", str(i)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "WorkdirError: --workdir=run: expected a directory that all processes share" in errors
        assert f"found no {tmp_path}/1/run/processes/token of process 0 on process 1" in errors


@pytest.mark.slow
@pytest.mark.parametrize("which", ["few", pytest.param("all", marks=pytest.mark.nightly)])
def test_every_algorithm_on_two_processes_equals_one(which, tmp_path):
    # Compiling is nearly all of the time, and less thorough this way.
    flags = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0 --xla_cpu_max_isa=AVX"
    environment = {**os.environ, "XLA_FLAGS": flags}
    port = free_port()

    def run(output, processes):
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.runtime.two_processes", str(tmp_path / output),
                 f"localhost:{port}", str(processes), str(number), which],
                cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True,
            )
            for number in range(processes)
        ]  # fmt: skip
        for process in started:
            _, errors = process.communicate(timeout=500)
            assert process.returncode == 0, errors
        return [np.load(tmp_path / f"{output}.{number}.npz") for number in range(processes)]

    parts, (whole,) = run("two", 2), run("one", 1)
    names = [name for name in whole.files if not name.endswith(":held")]
    assert {"fedavg:0", "afl:0", "screen, vectorised:0", "ring:0", "streaming:0", "copied:0"} <= set(names)
    for name in names:
        (first, held), (second, also) = ((part[name], part[f"{name}:held"]) for part in parts)
        assert (held | also).all(), name
        np.testing.assert_array_equal(first[held & also], second[held & also], err_msg=name)
        found = np.where(held, first, second)
        if re.match("ring|asynchronous|streaming|own|copied|five", name):
            np.testing.assert_array_equal(found, whole[name], err_msg=name)
        np.testing.assert_allclose(found, whole[name], rtol=1e-5, atol=1e-5, err_msg=name)
