"""Submits a program as a job of a Slurm cluster, or rehearses the job with processes on this machine.

The program and its flags stand after those of the job. Every task is a process of one run: the program has
to take --distributed, and its --workdir has to be on a file system that all nodes share. A job that is
preempted or reaches its time is submitted again, and continues from the last checkpoint. What tasks print is
in --logs. It needs the extra slurm (submitit).

  python -m experiments.submit --nodes=2 --tasks_per_node=4 --gpus_per_node=4 --minutes=480 --partition=gpu
      experiments.train_federated --workdir=$SCRATCH/runs/first --cohort=retina --data_dir=$SCRATCH/data
  python -m experiments.submit --cluster=local --tasks_per_node=2
      experiments.train_federated --workdir=runs/two --preset=smoke
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from experiments.pipeline.cluster_job import Job
from fedrecon.errors import ArgumentError
from fedrecon.runtime import parse_flags, run_program

# Seconds between looks at a job that is waited for.
_LOOK = 0.5


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    # Flags after the program are the program's.
    flags.FLAGS.set_gnu_getopt(False)
    clusters = ["auto", "slurm", "local"]
    flags.DEFINE_enum("cluster", "auto", clusters, "Where to: auto is slurm where there is srun, else local.")
    flags.DEFINE_string("logs", "runs/jobs", "Folder of what tasks print.")
    flags.DEFINE_string("name", "fedrecon", "Name of the job.")
    flags.DEFINE_integer("nodes", 1, "Machines.", 1)
    flags.DEFINE_integer("tasks_per_node", 1, "Processes on each: one for each GPU, or one for CPUs.", 1)
    flags.DEFINE_integer("gpus_per_node", 0, "GPUs of each machine, all seen by each of its tasks.", 0)
    flags.DEFINE_integer("cpus_per_task", 2, "Processors of a task.", 1)
    flags.DEFINE_integer("minutes", 60, "Longest time until the job is submitted again.", 1)
    flags.DEFINE_integer("restarts", 3, "How often a job that reached its time is submitted again.", 0)
    flags.DEFINE_string("partition", "", "Partition of Slurm.")
    flags.DEFINE_list("options", [], "Other options of sbatch, as account=NAME,constraint=h100.")
    flags.DEFINE_bool("wait", False, "Wait for the end of the job; always on this machine.")


def cluster_of(chosen: str, nodes: int) -> str:
    """slurm or local.

    Raises:
      ArgumentError: there is no Slurm, or several machines are asked of one.
    """
    found = shutil.which("srun") is not None
    cluster = chosen if chosen != "auto" else "slurm" if found else "local"
    if cluster == "slurm" and not found:
        raise ArgumentError("--cluster", "local, or a machine with srun", "slurm, and no srun")
    if cluster == "local" and nodes > 1:
        raise ArgumentError("--nodes", "1 with --cluster=local", nodes)
    return cluster


def submit(job: Job, cluster: str, values: Any) -> Any:
    """Submits a job; returns submitit's.

    Raises:
      ImportError: without the extra ``slurm``.
      ArgumentError: an option is not NAME=VALUE, or one of Slurm is given on this machine.
    """
    for name in ("partition", "options"):
        if cluster == "local" and (given := getattr(values, name)):
            raise ArgumentError(f"--{name}", "none with --cluster=local", given)
    try:
        import submitit
    except ImportError as error:
        raise ImportError("experiments.submit needs submitit: pip install 'fedrecon[slurm]'") from error

    options = dict(_named(text) for text in values.options)
    restarts = {"slurm_max_num_timeout": values.restarts} if cluster == "slurm" else {}
    executor = submitit.AutoExecutor(folder=Path(values.logs), cluster=cluster, **restarts)
    resources = {"gpus_per_node": values.gpus_per_node} if values.gpus_per_node else {}
    if cluster == "slurm":
        # Proxies may hang the start of several processes.
        resources["slurm_setup"] = ["unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY"]
        resources |= {"slurm_partition": values.partition} if values.partition else {}
        resources |= {"slurm_additional_parameters": options} if options else {}
    executor.update_parameters(
        name=values.name,
        nodes=values.nodes,
        tasks_per_node=values.tasks_per_node,
        cpus_per_task=values.cpus_per_task,
        timeout_min=values.minutes,
        **resources,
    )
    # On this machine submitit's own process prints a traceback when it is told to end.
    with _errors_to(Path(values.logs) / "submitit.log") if cluster == "local" else contextlib.nullcontext():
        return executor.submit(job)


@contextlib.contextmanager
def _errors_to(path: Path) -> Iterator[None]:
    """What processes started in the block print as errors is in a file."""
    kept = os.dup(2)
    try:
        with path.open("ab") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ArgumentError("--options", "NAME=VALUE,...", text)
    return name.removeprefix("--"), value


def program_of(words: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Program and command line of the words after the flags.

    Raises:
      ArgumentError: there are none, or no such module.
    """
    expected = "a program after the flags, as experiments.train_federated --workdir=DIR"
    if not words:
        raise ArgumentError("command line", expected, "none")
    program = words[0]
    try:
        known = importlib.util.find_spec(program) is not None
    except (ImportError, ValueError):
        known = False
    if not known:
        raise ArgumentError("command line", expected, repr(program))
    return program, tuple(words[1:])


def wait(job: Any, tasks: int) -> None:
    """Waits for all tasks of a job.

    Raises:
      ArgumentError: a task failed; the message names its log.
    """
    while not job.done():
        time.sleep(_LOOK)
    for number in range(tasks):
        part = job.task(number) if tasks > 1 else job
        if part.exception() is not None:
            log = part.paths.stderr
            raise ArgumentError("job", "all tasks to end with status 0", f"task {number} did not, see {log}")


def main(words: list[str]) -> None:
    values = flags.FLAGS
    program, arguments = program_of(words[1:])
    cluster = cluster_of(values.cluster, values.nodes)
    with socket.socket() as listener:
        # A port that is free now; process 0 says if it is not any more.
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    job = submit(Job(program, arguments, port), cluster, values)
    logs = f"{job.paths.folder}/{job.job_id}_TASK_log.out and .err"
    print(f"job {job.job_id}: {program}, what its tasks print is in {logs}", flush=True)
    if cluster == "slurm" and not values.wait:
        return
    tasks = values.nodes * values.tasks_per_node
    try:
        wait(job, tasks)
    except KeyboardInterrupt:
        job.cancel()
        raise
    first = job.task(0).paths if tasks > 1 else job.paths
    lines = Path(first.stdout).read_text().splitlines()
    print("\n".join(line for line in lines if not line.startswith("submitit ")))


if __name__ == "__main__":
    define_flags()
    run_program(main, partial(parse_flags, positional=True))
