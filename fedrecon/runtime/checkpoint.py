"""Checkpoints of one stage of a run, through orbax."""

import os
from pathlib import Path
from typing import Any

import jax

from fedrecon.errors import ArgumentError

PyTree = Any


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


class Checkpointer:
    """Saves a pytree of arrays after each round and restores the newest complete one.

    Saving is asynchronous and commits by renaming a directory, so a killed process leaves the previous
    checkpoint intact. Every process of a run must call every method; what any number of processes saved, any
    other number restores.

    Args:
      directory: one directory per stage; created when absent.
      keep: number of newest checkpoints kept.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 2) -> None:
        # Not above: importing it takes half as long as importing JAX, and not every program saves.
        import orbax.checkpoint as ocp

        self._ocp = ocp
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
        """Starts saving ``state`` as checkpoint ``step``; the arrays are copied before this returns."""
        self._manager.save(step, args=self._ocp.args.StandardSave(_named_leaves(state)), force=True)

    def restore(self, template: PyTree) -> tuple[int, PyTree] | None:
        """The newest checkpoint as ``(step, state)``, or None when there is none.

        Args:
          template: pytree with the structure, shapes, dtypes and shardings to restore into.

        Raises:
          ValueError: the checkpoint's leaves or shapes are not those of ``template``; names the first one.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        named = _named_leaves(template)
        found = dict(self._manager.item_metadata(step).items())
        for name in sorted(named.keys() | found.keys()):
            expected_shape = tuple(named[name].shape) if name in named else "no such leaf"
            found_shape = tuple(found[name].shape) if name in found else "no such leaf"
            if expected_shape != found_shape:
                raise ArgumentError(
                    f"{self.directory}/{step}: leaf {name!r}", f"{expected_shape}", found_shape
                )
        abstract = {name: self._ocp.utils.to_shape_dtype_struct(leaf) for name, leaf in named.items()}
        restored = self._manager.restore(step, args=self._ocp.args.StandardRestore(abstract))
        return step, jax.tree.unflatten(jax.tree.structure(template), [restored[name] for name in named])

    def wait(self) -> None:
        """Blocks until the last save is complete on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Completes the last save and releases the manager's threads."""
        self._manager.wait_until_finished()
        self._manager.close()
