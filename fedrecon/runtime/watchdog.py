"""Watchdog over the processes of one run: names dead and stuck ones, and ends the job."""

import contextlib
import faulthandler
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import jax

_DONE = "done"
# A file that has not changed for this many periods is reported.
_MISSED_BEATS = 2.5


class PeerError(RuntimeError):
    """Another process of the run died, ended or was interrupted; the message names it."""


class Watchdog:
    """Keeps a file for each process, ``processes/NUMBER.json`` in the working directory, and reads others.

    A thread renews the file each ``period`` and looks at the other files: process 0 at all, the others at
    process 0's, so that nothing grows with the square of the number. A process whose file does not change
    for ``silent_seconds`` is dead or stopped, which ends this one with status 1, a line that names the other
    and the stacks of all threads. So does one that ended before the run was done. A process that does not
    call `report_stage` for ``stall_seconds`` is reported with the stacks, with the processes that have called
    it less often and those that have gone silent; that ends nothing, for it may be compiling. Clocks of
    different machines are not compared.

    JAX aborts the others at once when process 0, its coordinator, dies; `crash_report` then says that it did.
    Also makes SIGTERM a KeyboardInterrupt, and ends a process that still waits for others 5 s after SIGTERM
    or Ctrl-C. With one process it does nothing at all.

    Use as a context manager, in the main thread, after all processes have opened the working directory.

    Args:
      directory: the working directory, which all processes share.
      stall_seconds: see above.
      silent_seconds: see above.
      period: seconds between two looks.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        stall_seconds: float = 300,
        silent_seconds: float = 20,
        period: float = 1,
    ) -> None:
        self._directory = Path(directory).absolute()
        self._stall, self._silent, self._period = stall_seconds, silent_seconds, period
        self._me, self._count = jax.process_index(), jax.process_count()
        self._run = ""
        self._place, self._arrivals, self._arrived = "the start", 0, time.monotonic()
        self._reported = self._arrived
        self._beats, self._ended = 0, ""
        # The last content of every other process's file, and when that was new.
        self._heard: dict[int, tuple[dict[str, Any], float]] = {}
        self._signaled: float | None = None
        self._lock = threading.Lock()
        self._left = False
        # Process 0 follows all the others, they follow it.
        self._all = [i for i in range(self._count) if i != self._me]
        self._followed = self._all if self._me == 0 else [0]

    def report_stage(self, stage: str) -> None:
        """Says that this process begins ``stage``, as "round 7"; all processes do so in the same order."""
        self._place, self._arrived = stage, time.monotonic()
        self._reported = self._arrived
        self._arrivals += 1

    def __enter__(self) -> "Watchdog":
        if self._count == 1:
            return self
        self._run = (self._directory / "processes" / "token").read_text()
        self._arrived = self._reported = now = time.monotonic()
        self._heard = {other: ({}, now) for other in self._all}
        self._beat()
        self._stop = os.pipe()
        for end in self._stop:
            os.set_blocking(end, False)
        self._old_wakeup = signal.set_wakeup_fd(self._stop[1], warn_on_full_buffer=False)
        self._old_handler = signal.signal(signal.SIGTERM, _interrupt)
        if self._me != 0:
            self._say = subprocess.Popen(
                [sys.executable, "-S", "-E", str(Path(__file__).with_name("crash_report.py")), self._name(),
                 str(self._file(self._me)), str(self._file(0)), str(4 * self._period)],
                stdin=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        self._thread = threading.Thread(target=self._watch, name="fedrecon-watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: Any, value: BaseException | None, traceback: Any) -> None:
        if self._count == 1:
            return
        try:
            if isinstance(value, Exception):
                self._explain(value)
            self._leave(_DONE if value is None else self._reason(value))
        finally:
            signal.set_wakeup_fd(self._old_wakeup)
            signal.signal(signal.SIGTERM, self._old_handler)

    def _explain(self, error: Exception) -> None:
        """Raises `PeerError` if it was another process's end that made this one's communication fail."""
        if isinstance(error, ValueError):
            return
        now = time.monotonic()
        self._heard = {other: (self._heard[other][0], now) for other in self._all}
        while time.monotonic() < now + 8 * self._period:
            self._listen(self._all)
            if gone := self._gone(self._all, 5 * self._period):
                self._leave(gone)
                raise PeerError(f"{gone}; this was {self._name()} in {self._place}") from error
            time.sleep(self._period / 4)

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, KeyboardInterrupt):
            return "was interrupted"
        return f"ended with {type(error).__name__}: {' '.join(str(error).split())[:300]}"

    def _leave(self, words: str) -> None:
        if self._left:
            return
        self._left = True
        with self._lock:
            self._ended = words
        self._farewell()
        os.write(self._stop[1], b"\0")

    def _watch(self) -> None:
        while True:
            ready, _, _ = select.select([self._stop[0]], [], [], self._period)
            numbers = os.read(self._stop[0], 64) if ready else b""
            if 0 in numbers:
                return
            if self._signaled is None and {signal.SIGINT, signal.SIGTERM} & set(numbers):
                self._signaled = time.monotonic()
            self._beat()
            self._listen(self._followed)
            if self._signaled is not None and time.monotonic() > self._signaled + 5:
                line = f"\nInterrupted. The same command with --workdir={self._directory} continues."
                self._end(130, line, "was interrupted", stacks=False)
            if gone := self._gone(self._followed, self._silent):
                self._end(1, f"{gone}; this is {self._name()}, in {self._place}", gone)
            self._report_stall()

    def _beat(self) -> None:
        with self._lock:
            self._beats += 1
            content = {
                "run": self._run,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "beat": self._beats,
                "arrivals": self._arrivals,
                "place": self._place,
                "ended": self._ended,
            }
            temporary = self._directory / "processes" / f".{self._me}.json"
            try:
                temporary.write_text(json.dumps(content))
                temporary.replace(self._file(self._me))
            except OSError as error:
                print(f"{self._file(self._me)}: expected a writable file, found: {error}", file=sys.stderr)

    def _listen(self, others: list[int]) -> None:
        for other in others:
            with contextlib.suppress(OSError, ValueError):
                content = json.loads(self._file(other).read_text())
                if content["run"] == self._run and content != self._heard[other][0]:
                    self._heard[other] = (content, time.monotonic())

    def _gone(self, others: list[int], seconds: float) -> str:
        """Who of the others is not there any more, as words; "" if all are."""
        now, words = time.monotonic(), []
        for other in others:
            content, when = self._heard[other]
            ended = content.get("ended", "")
            if ended == _DONE:
                continue
            if ended:
                words.append(f"{self._name(other)} {ended}" if not ended.startswith("process ") else ended)
            elif now - when > seconds:
                place = content.get("place", "the start")
                words.append(
                    f"{self._name(other)} has not been heard of for {now - when:.0f} s, last in {place}: "
                    "killed, stopped or cut off"
                )
        return "; ".join(dict.fromkeys(words))

    def _report_stall(self) -> None:
        now = time.monotonic()
        if now - self._reported < self._stall:
            return
        waited, self._reported = now - self._arrived, now
        self._listen(self._all)
        behind = [
            f"{self._name(other)}, in {content.get('place', 'the start')}"
            for other, (content, _) in self._heard.items()
            if content.get("arrivals", 0) < self._arrivals and content.get("ended") != _DONE
        ]
        silent = [
            f"{self._name(other)}, for {now - when:.0f} s, in {content.get('place', 'the start')}"
            for other, (content, when) in self._heard.items()
            if now - when > _MISSED_BEATS * self._period and content.get("ended") != _DONE
        ]
        line = f"{self._name()}: {self._place} has been going on for {waited:.0f} s (--stall_seconds)"
        line += f"; not arrived: {'; '.join(behind) or 'nobody'}"
        if silent:
            line += f"; silent: {'; '.join(silent)}"
        print(line, file=sys.stderr, flush=True)
        faulthandler.dump_traceback(sys.stderr)

    def _end(self, status: int, line: str, words: str, stacks: bool = True) -> NoReturn:
        print(line, file=sys.stderr, flush=True)
        if stacks:
            faulthandler.dump_traceback(sys.stderr)
        with self._lock:
            self._ended = words
        self._farewell()
        # Nothing else ends a thread that waits for another machine.
        leave(status)

    def _farewell(self) -> None:
        self._beat()
        if self._me != 0:
            with contextlib.suppress(OSError):
                self._say.communicate(b"farewell\n")
        elif self._ended != _DONE:
            # Without the coordinator the others are aborted: let them read first why.
            time.sleep(3 * self._period)

    def _file(self, number: int) -> Path:
        return self._directory / "processes" / f"{number}.json"

    def _name(self, number: int | None = None) -> str:
        if number is None or number == self._me:
            return f"process {self._me} ({socket.gethostname()}, pid {os.getpid()})"
        content = self._heard[number][0]
        where = f" ({content['host']}, pid {content['pid']})" if content else ""
        return f"process {number}{where}"


def leave(status: int) -> NoReturn:
    """Ends this process now, without waiting for the other ones or for threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _interrupt(signum: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt
