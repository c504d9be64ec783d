"""The processes of a deployment on one machine: started, watched and ended together."""

import contextlib
import functools
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from fedrecon.deployment import Command

# Seconds that processes have to end by themselves.
_PATIENCE = 5.0
# Of each process that trains.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class Processes:
    """The server and sites of one machine; a context, which ends all of them and what they have started.

    Args:
      command: ``command(folder, name)`` of a party, "server" or the name of a site.
      kits: folder with the folders of server and sites.
      logs: folder of their output, ``NAME.log``.
    """

    def __init__(self, command: Callable[[Path, str], Command], kits: Path, logs: Path) -> None:
        self._command, self._kits, self._logs = command, Path(kits), Path(logs)
        self._running: dict[str, subprocess.Popen] = {}
        self._seen: dict[int, psutil.Process] = {}
        self._handler: Any = None
        self._logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Processes":
        # Whoever ends this process ends all of them: the default would leave them alone.
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, _leave)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
            self._handler = None

    def start(self, name: str, *, kit: str = "") -> None:
        """Starts a party, "server" or the name of a site, from the folder ``kit`` or that of its name."""
        command = self._command(self._kits / (kit or name), name)
        with (self._logs / f"{name}.log").open("ab") as log:
            # A group of its own: Ctrl-C reaches this process alone, which then ends all of them.
            self._running[name] = subprocess.Popen(
                command.arguments,
                cwd=command.folder,
                env={**os.environ, **_ENVIRONMENT, **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def alive(self, name: str) -> bool:
        """Whether the party's process runs."""
        running = self._running.get(name)
        return running is not None and running.poll() is None

    def pids(self, name: str) -> list[int]:
        """The party's process and all that it has started."""
        if name not in self._running:
            return []
        return [process.pid for process in self._family(self._running[name].pid)]

    def kill(self, name: str) -> None:
        """Ends a party at once, as a power failure would."""
        for process in self._family(self._running.pop(name).pid):
            _quietly(process.kill)

    def signal(self, name: str, number: int) -> None:
        """Sends a signal to a party and all that it has started."""
        for process in self._family(self._running[name].pid):
            _quietly(functools.partial(process.send_signal, number))

    def stop(self) -> None:
        """Ends all parties."""
        family = [p for running in list(self._running.values()) for p in self._family(running.pid)]
        family += [process for process in list(self._seen.values()) if process not in family]
        for process in family:
            _quietly(process.terminate)
        _, left = psutil.wait_procs(family, timeout=_PATIENCE)
        for process in left:
            _quietly(process.kill)
        psutil.wait_procs(left, timeout=_PATIENCE)
        for running in self._running.values():
            running.wait()
        self._running, self._seen = {}, {}

    def look(self) -> None:
        """Remembers what parties have started, to end it even if its parent is not there any more."""
        # Others may kill a party meanwhile.
        for running in list(self._running.values()):
            self._family(running.pid)

    def log_end(self, name: str, lines: int = 5, start: int = 0) -> str:
        """The last lines of a party's log after so many bytes, without colors."""
        file = self._logs / f"{name}.log"
        written = file.read_bytes()[start:] if file.exists() else b""
        text = re.sub(r"\x1b\[[0-9;]*m", "", written.decode(errors="replace"))
        return "\n".join(text.splitlines()[-lines:])

    def _family(self, pid: int) -> list[psutil.Process]:
        try:
            process = psutil.Process(pid)
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        self._seen |= {member.pid: member for member in family}
        return family


def wait_until(condition: Callable[[], bool], seconds: float, period: float = 0.2) -> bool:
    """Whether the condition holds within this time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(period)
    return condition()


def _leave(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)


def _quietly(action: Callable[[], object]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        action()
