"""Jobs of a cluster: what Slurm is told, what tasks run, a rehearsal of two of them, and what is refused."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from absl import flags

from experiments import submit
from experiments.pipeline.cluster_job import Job
from fedrecon.errors import ArgumentError
from fedrecon.runtime import read_log

ROOT = Path(__file__).parents[2]
JOB = Job("experiments.train_federated", ("--workdir=runs/a", "--rounds=2"), 1234)


def test_tasks_are_processes_of_one_run():
    alone = [sys.executable, "-m", JOB.program, *JOB.arguments]
    assert JOB.command(1, 0, True) == JOB.command(1, 0, False) == alone
    assert JOB.command(8, 3, True) == [*alone, "--distributed"]
    numbered = ["--coordinator=localhost:1234", "--processes=2", "--process_id=1"]
    assert JOB.command(2, 1, False) == [*alone, *numbered]
    assert submit.program_of(["experiments.train_federated", "--rounds=2"])[1] == ("--rounds=2",)


def test_slurm_is_told_what_flags_say(monkeypatch, tmp_path):
    """By scripts in the place of Slurm's, one of which keeps what is submitted."""
    pytest.importorskip("submitit")
    for name in ("srun", "sbatch"):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\ncp $1 {tmp_path}/submitted\necho Submitted batch job 77\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    for name in ("integer", "enum", "list", "bool", "string"):
        define = getattr(flags, f"DEFINE_{name}")
        monkeypatch.setattr(flags, f"DEFINE_{name}", lambda *a, d=define: d(*a, flag_values=values))
    submit.define_flags()
    values(["submit", f"--logs={tmp_path}/logs", "--nodes=2", "--tasks_per_node=4", "--gpus_per_node=4",
            "--cpus_per_task=8", "--minutes=90", "--partition=gpu", "--options=account=heart",
            "experiments.train_federated", "--nodes=9"])  # fmt: skip
    assert submit.cluster_of("auto", 2) == "slurm"
    assert submit.submit(JOB, "slurm", values).job_id == "77"
    lines = (tmp_path / "submitted").read_text().splitlines()
    wanted = ("nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=8", "time=90",
              "partition=gpu", "account=heart", "job-name=fedrecon")  # fmt: skip
    assert {f"#SBATCH --{text}" for text in wanted} <= set(lines)
    assert any(line.startswith("unset http_proxy") for line in lines)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: submit.program_of([]), "found none"),
        (lambda: submit.program_of(["experiments.trane"]), "experiments.trane"),
        (lambda: submit.program_of(["--rounds=2"]), "--rounds=2"),
        (lambda: submit.cluster_of("slurm", 1), "no srun"),
        (lambda: submit.cluster_of("local", 2), "--nodes"),
        (lambda: submit._named("account"), "NAME=VALUE"),
    ],
)
def test_what_is_wrong_is_said(monkeypatch, call, named):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ArgumentError, match=named):
        call()


@pytest.mark.slow
def test_two_tasks_on_this_machine_are_one_run(tmp_path):
    pytest.importorskip("submitit")
    command = ["--cluster=local", "--tasks_per_node=2", f"--logs={tmp_path}/jobs",
               "experiments.train_federated", f"--workdir={tmp_path}/run", "--preset=smoke"]  # fmt: skip
    words = [sys.executable, "-m", "experiments.submit"]
    call = partial(subprocess.run, capture_output=True, text=True, cwd=ROOT, timeout=300)
    ended = call([*words, *command])
    assert ended.returncode == 0 and "mean of clients" in ended.stdout and "submitit" not in ended.stdout
    assert [record["round"] for record in read_log(tmp_path / "run" / "metrics.jsonl")] == [1, 2]
    failed = call([*words, *command[:-1], "--preset=none"])
    assert failed.returncode == 1 and "task 0 did not, see" in failed.stderr
