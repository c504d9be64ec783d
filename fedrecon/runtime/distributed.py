"""Several processes as one run: starting them, agreeing on the run, and reading results on each."""

import functools
import json
import os
import secrets
import socket
import time
import types
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedrecon.files import write_atomically
from fedrecon.runtime.workdir import Workdir, WorkdirError

PyTree = Any

# The watchdog is quicker and says more; this ends what it cannot see, well within a minute.
HEARTBEAT_SECONDS = 40
SHUTDOWN_SECONDS = 30


class DistributedError(ValueError):
    """The processes could not be started, or do not run the same; the message names the flag."""


def start(
    coordinator: str = "",
    processes: int = 0,
    process_id: int = -1,
    *,
    automatic: bool = False,
    start_seconds: int = 120,
) -> None:
    """Joins the processes of a run through `jax.distributed.initialize`; nothing for one process.

    Call it on every process before anything touches a JAX device, and after `set_cpu_devices`, whose number
    is that of each process. Afterwards ``jax.devices()`` are those of all processes.

    Args:
      coordinator: HOST:PORT at which process 0 listens; "" is a run of one process, unless ``automatic``.
      processes: their number.
      process_id: the number of this one, from 0.
      automatic: take all three from the environment, which JAX knows how to read for Slurm, Open MPI, Cloud
        TPU and, with the package kubernetes, Jobs and JobSets.
      start_seconds: how long to wait for the others.

    Raises:
      DistributedError: an argument is missing or out of range, the port is in use, or not all processes came
        in time; names the flag.
    """
    _check_flags(coordinator, processes, process_id, automatic, start_seconds)
    if not coordinator and not automatic:
        return
    # Its handler would swallow SIGTERM, which is to end the run.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    began = time.monotonic()
    chosen: dict[str, Any] = {}
    if coordinator:
        host, port = _host_and_port(coordinator)
        if process_id == 0:
            _check_port(coordinator, port)
        else:
            _await_port(coordinator, host, port, start_seconds)
        chosen = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process_id}
    try:
        jax.distributed.initialize(
            **chosen,
            initialization_timeout=max(1, round(start_seconds - (time.monotonic() - began))),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        if not coordinator:
            raise DistributedError(
                f"--distributed: expected a cluster that JAX recognizes, found: {error}"
            ) from error
        raise DistributedError(
            f"--coordinator={coordinator}: expected {processes} processes within {start_seconds} s "
            f"(--start_seconds), found: {error}"
        ) from error
    counts = Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{n} on process {i}" for i, n in sorted(counts.items()))
        raise DistributedError(f"--devices: expected the same number on every process, found {found}")


def is_lead() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def host_copy(tree: PyTree) -> PyTree:
    """NumPy arrays of a pytree, whole on every process; all must call it in the same order."""
    if jax.process_count() > 1:
        tree = _replicate(tree)
    return jax.tree.map(np.asarray, jax.device_get(tree))


def agreed(value: bool) -> bool:
    """What process 0 says; all must call it in the same order."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.int32(value)))


def gather_text(text: str) -> list[str]:
    """The texts of all processes in order; all must call it in the same order."""
    if jax.process_count() == 1:
        return [text]
    content = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(content)))
    padded = np.pad(content, (0, int(lengths.max()) + 1 - len(content)))
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def check_same(settings: dict[str, Any]) -> None:
    """Compares JAX's version and the settings of all processes.

    Args:
      settings: JSON-able values by flag.

    Raises:
      DistributedError: they are not the same everywhere; names the flags, on every process.
    """
    found = [json.loads(text) for text in gather_text(json.dumps({**settings, "jax": jax.__version__}))]
    lines = []
    for number, other in enumerate(found):
        for name in sorted(found[0].keys() | other.keys()):
            if found[0].get(name) != other.get(name):
                flag = "version of jax" if name == "jax" else f"--{name}"
                lines.append(
                    f"{flag} is {found[0].get(name)!r} on process 0 and {other.get(name)!r} on {number}"
                )
    if lines:
        raise DistributedError(f"expected the same command on every process: {', '.join(lines)}")


def open_workdir(
    path: str | os.PathLike,
    config: dict[str, Any],
    environment: dict[str, Any],
    *,
    resume: bool = True,
    growing: Mapping[str, str] = types.MappingProxyType({}),
    execution: dict[str, Any] | None = None,
    visible_seconds: float = 10,
) -> Workdir:
    """`Workdir` for all processes of a run: process 0 holds the lock and writes, the others read.

    Args:
      path, config, environment, resume, growing: as in `Workdir`.
      execution: further JSON-able settings by flag that must be the same on all processes.
      visible_seconds: how long a file of process 0 may take to be seen by the others.

    Raises:
      DistributedError: the settings differ between processes.
      WorkdirError: on every process, if it is raised at process 0, or if another one does not find the same
        directory at this path.
    """
    if jax.process_count() == 1:
        return Workdir(path, config, environment, resume=resume, growing=growing)
    check_same({**config, **(execution or {}), "workdir": os.fspath(path), "resume": resume})
    workdir, refusal, token = None, "", secrets.token_hex(8)
    if is_lead():
        try:
            workdir = Workdir(path, config, environment, resume=resume, growing=growing)
            (workdir / "processes").mkdir(exist_ok=True)
            write_atomically(workdir / "processes" / "token", token.encode())
        except (WorkdirError, OSError) as error:
            refusal = str(error)
    refusal, token = json.loads(gather_text(json.dumps([refusal, token]))[0])
    if refusal:
        raise WorkdirError(refusal)
    unseen = ""
    if workdir is None:
        file = Path(path).absolute() / "processes" / "token"
        if not _sees(file, token, visible_seconds):
            unseen = (
                f"--workdir={path}: expected a directory that all processes share, found no {file} of "
                f"process 0 on process {jax.process_index()} ({socket.gethostname()})"
            )
    problems = [text for text in gather_text(unseen) if text]
    if problems:
        raise WorkdirError(problems[0])
    return workdir or Workdir.joined(path)


@functools.cache
def _replicator():
    everywhere = NamedSharding(Mesh(np.asarray(jax.devices()), ("all",)), P())
    return jax.jit(lambda tree: tree, out_shardings=everywhere)


def _replicate(tree: PyTree) -> PyTree:
    return _replicator()(tree)


def _check_flags(
    coordinator: str, processes: int, process_id: int, automatic: bool, start_seconds: float
) -> None:
    if start_seconds < 1:
        raise DistributedError(f"--start_seconds: expected a positive number, found {start_seconds}")
    if automatic or not coordinator:
        why = "with --distributed" if automatic else "without --coordinator"
        for flag, found, unset in (
            ("coordinator", coordinator, ""),
            ("processes", processes, 0),
            ("process_id", process_id, -1),
        ):
            if found != unset:
                raise DistributedError(f"--{flag}: expected none {why}, found {found}")
        return
    _host_and_port(coordinator)
    if processes < 1:
        raise DistributedError(
            f"--processes: expected their number with --coordinator, found {processes or 'none'}"
        )
    if not 0 <= process_id < processes:
        found = "none" if process_id == -1 else process_id
        raise DistributedError(
            f"--process_id: expected 0 to {processes - 1} with --processes={processes}, found {found}"
        )


def _host_and_port(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise DistributedError(f"--coordinator: expected HOST:PORT, found {coordinator!r}")
    return host.strip("[]"), int(port)


def _check_port(coordinator: str, port: int) -> None:
    # The coordinator itself would share a port with a stranger.
    family, everywhere = (socket.AF_INET6, "::") if socket.has_ipv6 else (socket.AF_INET, "")
    try:
        probe = socket.socket(family)
    except OSError:
        family, everywhere = socket.AF_INET, ""
        probe = socket.socket(family)
    with probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((everywhere, port))
        except OSError as error:
            raise DistributedError(
                f"--coordinator={coordinator}: expected a free port for process 0, found: {error}"
            ) from error


def _await_port(coordinator: str, host: str, port: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, deadline - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() + 0.2 >= deadline:
                raise DistributedError(
                    f"--coordinator={coordinator}: expected process 0 to answer there within {seconds} s "
                    f"(--start_seconds), found: {error}"
                ) from error
        time.sleep(0.2)


def _sees(file: Path, token: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if file.read_text() == token:
                return True
        except OSError:
            pass
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)
