"""Checkpoints of one stage of a run, through orbax."""

import contextlib
import errno
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax

from fedrecon.errors import ArgumentError
from fedrecon.runtime.distributed import is_lead

PyTree = Any
# Held from a save until it is on disk: orbax tells the saves of a process apart by names of the process.
_turn = threading.Lock()


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    """Leaves by their path; a flat dict restores into any structure that has the same paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _processes(ocp: Any) -> Any:
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    # Naming the processes makes their background threads wait for each other through the coordinator. By
    # default they do so through collectives on the devices, which then cross those of the rounds.
    return ocp.options.MultiprocessingOptions(active_processes=set(range(jax.process_count())))


def _describe(leaf: Any) -> str:
    if leaf is None:
        return "no such leaf"
    return f"{getattr(leaf.dtype, 'name', leaf.dtype)} {tuple(leaf.shape)}"


class _Quiet:
    """Keeps the tracebacks to itself that orbax logs, or leaves in threads, of errors that it also raises.

    The hooks are those of the process: the first of several at once sets them, the last puts them back.
    """

    _lock = threading.Lock()
    _open: ClassVar[set["_Quiet"]] = set()
    _hooks: tuple[Callable, Callable] = threading.excepthook, sys.unraisablehook

    def __init__(self) -> None:
        logging.getLogger("absl").addFilter(self)
        with self._lock:
            if not self._open:
                _Quiet._hooks = threading.excepthook, sys.unraisablehook
                threading.excepthook, sys.unraisablehook = self._in_thread, self._in_finalizer
            self._open.add(self)

    def filter(self, record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    @staticmethod
    def _in_thread(raised: threading.ExceptHookArgs) -> None:
        if not type(raised.thread).__module__.startswith("orbax"):
            _Quiet._hooks[0](raised)

    @staticmethod
    def _in_finalizer(raised: Any) -> None:
        if raised.exc_type is KeyboardInterrupt:
            _Quiet._hooks[1](raised)

    def others(self) -> bool:
        """Whether other checkpointers are open."""
        return len(self._open) > 1

    def close(self) -> None:
        logging.getLogger("absl").removeFilter(self)
        with self._lock:
            if self in self._open:
                self._open.remove(self)
                if not self._open:
                    threading.excepthook, sys.unraisablehook = self._hooks


@contextlib.contextmanager
def _naming_full_disks(directory: Path) -> Iterator[None]:
    """Orbax tells of a full disk in the text of various errors."""
    try:
        yield
    except Exception as error:
        for number in (errno.ENOSPC, errno.EDQUOT):
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(directory)) from error
        raise


class Checkpointer:
    """Saves a pytree of arrays after each round and restores the newest complete one.

    Saving is asynchronous and commits by renaming a directory, so a killed process leaves the previous
    checkpoint intact. Every process of a run must call every method; what any number of processes saved, any
    other number restores. Checkpointers in several threads take turns in saving.

    Args:
      directory: one directory per stage; created when absent.
      keep: number of newest checkpoints kept.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 2) -> None:
        # Not above: importing it takes half as long as importing JAX, and not every program saves.
        import orbax.checkpoint as ocp

        self._ocp, self._quiet, self._has_turn = ocp, _Quiet(), False
        self.directory = Path(directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            create=False,
            multiprocessing_options=_processes(ocp),
        )
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_handlers=ocp.StandardCheckpointHandler()
        )

    def save(self, step: int, state: PyTree) -> None:
        """Starts saving ``state`` as checkpoint ``step``; the arrays are copied before this returns.

        Raises:
          OSError: the disk is full, now or in the save before.
        """
        if not self._has_turn:
            _turn.acquire()
            self._has_turn = True
        with _naming_full_disks(self.directory):
            self._manager.save(step, args=self._ocp.args.StandardSave(_named_leaves(state)), force=True)
        if self._quiet.others():
            # Nobody shall wait for the rounds of another thread.
            self.wait()

    def restore(self, template: PyTree) -> tuple[int, PyTree] | None:
        """The newest sound checkpoint as ``(step, state)``, or None when there is none.

        Damaged newer ones are named on stderr and deleted.

        Args:
          template: pytree with the structure, shapes, dtypes and shardings to restore into.

        Raises:
          ArgumentError: the checkpoint's leaves, shapes or dtypes are not those of ``template`` (names the
            first one), or all checkpoints are damaged.
        """
        named = _named_leaves(template)
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                self._check_leaves(step, named)
                leaves = self._read(step, named)
            except ArgumentError:
                raise
            # Orbax has no error of its own for damage: whatever the decoders raise.
            except Exception as error:
                damaged[step] = " ".join(str(error).split())[:200] or type(error).__name__
                error.__traceback__ = None
                gc.collect()
                continue
            for other, reason in damaged.items():
                if is_lead():
                    text = f"{self.directory}/{other}: damaged checkpoint left out, round {step} restored"
                    print(f"{text} ({reason})", file=sys.stderr)
                self._manager.delete(other)
            return step, jax.tree.unflatten(jax.tree.structure(template), leaves)
        if damaged:
            step, reason = max(damaged.items())
            expected = "a readable checkpoint (delete the folder to train from the start)"
            raise ArgumentError(f"{self.directory}/{step}", expected, reason)
        return None

    def _check_leaves(self, step: int, named: dict[str, Any]) -> None:
        metadata = self._manager.item_metadata(step)
        if metadata is None:
            raise FileNotFoundError("no _METADATA")
        found = dict(metadata.items())
        for name in sorted(named.keys() | found.keys()):
            expected_leaf, found_leaf = (_describe(tree.get(name)) for tree in (named, found))
            if expected_leaf != found_leaf:
                raise ArgumentError(f"{self.directory}/{step}: leaf {name!r}", expected_leaf, found_leaf)

    def _read(self, step: int, named: dict[str, Any]) -> list[Any]:
        abstract = {name: self._ocp.utils.to_shape_dtype_struct(leaf) for name, leaf in named.items()}
        restored = self._manager.restore(step, args=self._ocp.args.StandardRestore(abstract))
        return [restored[name] for name in named]

    def wait(self) -> None:
        """Blocks until the last save is complete on disk.

        Raises:
          OSError: the disk is full; the checkpoint before is intact.
        """
        try:
            with _naming_full_disks(self.directory):
                self._manager.wait_until_finished()
        finally:
            if self._has_turn:
                self._has_turn = False
                _turn.release()

    def close(self) -> None:
        """Completes the last save, as `wait`, and releases the manager's threads."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception), _naming_full_disks(self.directory):
                self._manager.close()
            self._quiet.close()
