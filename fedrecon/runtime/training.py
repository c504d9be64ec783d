"""The loop over federated rounds: restore, dispatch, log, checkpoint."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from fedrecon.runtime.checkpoint import Checkpointer
from fedrecon.runtime.distributed import host_copy, is_lead
from fedrecon.runtime.log import RunLog
from fedrecon.runtime.progress import Progress
from fedrecon.runtime.workdir import Workdir

PyTree = Any
Dispatch = Callable[[PyTree, PyTree, jax.Array], tuple[PyTree, PyTree]]


def train(
    workdir: Workdir,
    stage: str,
    state: PyTree,
    data: PyTree,
    key: jax.Array,
    *,
    rounds: int,
    dispatch: Callable[[int], Dispatch],
    rounds_per_dispatch: int = 1,
    summarize: Callable[[PyTree], list[dict[str, Any]]],
    report_stage: Callable[[str], None] = lambda stage: None,
    finished: Callable[[PyTree], bool] = lambda state: False,
    permit: Callable[[int, int], int] = lambda done, count: count,
    annotate: Callable[[int, list[dict[str, Any]]], list[dict[str, Any]]] = lambda done, records: records,
) -> PyTree:
    """Runs the rounds of one stage, from its newest checkpoint where there is one.

    Each dispatch is logged, and checkpointed unless saving would take more than a twentieth of the time: a
    killed run loses the dispatch in flight and twenty times what a checkpoint takes, at most. Several
    processes save after every dispatch. The state carries its round number and the randomness is derived from
    it, so a resumed run repeats the uninterrupted one bit for bit on the same devices. With several processes
    all of them call it, and process 0 writes the log; the checkpoint of any number of processes is restored
    on any other.

    Args:
      workdir: where ``metrics.jsonl`` and ``checkpoints/<stage>`` are.
      stage: name of the stage; ``/`` separates levels.
      state: initial state, placed on its devices; also the template for restoring.
      data: passed to every dispatch.
      key: typed PRNG key of the whole stage.
      rounds: number of rounds in all.
      dispatch: ``dispatch(n)`` returns the function ``(state, data, key) -> (state, info)`` that runs ``n``
        rounds, where every leaf of ``info`` has a leading axis of ``n`` rounds.
      rounds_per_dispatch: rounds compiled into one call.
      summarize: turns the host copy of ``info`` into one JSON-able dict a round.
      report_stage: called with the name of each round that begins, as in `Watchdog`.
      finished: whether a state needs no further rounds, the same on all processes.
      permit: ``permit(done, count)`` is asked before each dispatch how many of the ``count`` rounds after
        ``done`` may run, the same on all processes; with 0 the training ends.
      annotate: ``annotate(done, records)`` is given the records of the rounds after ``done``, and returns
        what is logged.

    Returns:
      The state after ``rounds`` rounds, or the first that is finished, or the last that was permitted.

    Raises:
      KeyboardInterrupt: on Ctrl-C, at the latest after the dispatch in flight.
    """
    checkpointer = Checkpointer(_checkpoints(workdir, stage))
    log = RunLog(workdir / "metrics.jsonl", write=is_lead())
    try:
        restored = checkpointer.restore(state)
        done, state = restored if restored is not None else (0, state)
        log.drop_after(stage, done)
        with (
            Progress(stage, total=rounds, done=done, shown=is_lead()) as progress,
            _Interrupts() as interrupts,
        ):
            due = _Due()
            saved = done
            while done < rounds and not finished(state):
                count = permit(done, min(rounds_per_dispatch, rounds - done))
                if not count:
                    break
                report_stage(f"{stage}, round {done + 1}")
                start = time.perf_counter()
                state, info = dispatch(count)(state, data, key)
                info = host_copy(info)
                seconds = (time.perf_counter() - start) / count
                for offset, record in enumerate(annotate(done, summarize(info))):
                    log.append(stage, done + offset + 1, **record, seconds=round(seconds, 4))
                done += count
                # Clocks differ between processes, and all save together or none.
                if done >= rounds or jax.process_count() > 1 or finished(state) or due.now():
                    with due.saving():
                        _save(checkpointer, interrupts, done, state)
                    saved = done
                progress.advance(count, **{k: v for k, v in record.items() if isinstance(v, float)})
                interrupts.check()
            if saved != done:
                _save(checkpointer, interrupts, done, state)
    except BaseException:
        # A save waits for all processes, one of which may be gone.
        if jax.process_count() == 1:
            with contextlib.suppress(OSError):
                checkpointer.close()
        raise
    checkpointer.close()
    return state


def rounds_done(workdir: Workdir, stage: str) -> int:
    """Rounds of the newest checkpoint of a stage, 0 without one; it may be damaged, which `train` finds."""
    folder = _checkpoints(workdir, stage)
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def _checkpoints(workdir: Workdir, stage: str) -> Path:
    return workdir / "checkpoints" / stage.replace("/", "-")


def _save(checkpointer: Checkpointer, interrupts: "_Interrupts", done: int, state: PyTree) -> None:
    checkpointer.wait()
    # Orbax would leave threads behind that wait for what the rest of it does.
    with interrupts.held():
        checkpointer.save(done, state)


class _Due:
    """Whether it is time for a checkpoint: saving shall take a twentieth of the time at most."""

    def __init__(self) -> None:
        self._next = -math.inf

    def now(self) -> bool:
        return time.perf_counter() >= self._next

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        end = time.perf_counter()
        self._next = end + 19 * (end - start)


class _Interrupts:
    """Signals that interrupt, with none lost: Python drops what finalizers raise.

    Use as a context manager, in the main thread; elsewhere it does nothing.
    """

    def __init__(self) -> None:
        self._interrupted = self._held = False
        self._handlers: dict[int, Callable] = {}

    def __enter__(self) -> "_Interrupts":
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            self._handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
        for number in self._handlers:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if self._held:
            self._interrupted = True
            return
        try:
            self._handlers[number](number, frame)
        except KeyboardInterrupt:
            self._interrupted = True
            raise

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal had, or came while they were held back."""
        if self._interrupted:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds signals back until the end of the block, which is not to be left half-way."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.check()
