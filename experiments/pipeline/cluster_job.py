"""A task of a cluster's job: one process of a program, told its number among the others."""

import dataclasses
import subprocess
import sys
from typing import Any

# Seconds in which a program that is told to end does so.
_ENDING = 30.0


@dataclasses.dataclass(frozen=True)
class Job:
    """What every task of a job runs; submitit calls it.

    Attributes:
      program: a module, as in ``python -m PROGRAM``.
      arguments: its command line.
      port: at which process 0 listens where the tasks are those of one machine.
    """

    program: str
    arguments: tuple[str, ...]
    port: int = 0

    def command(self, tasks: int, number: int, slurm: bool) -> list[str]:
        """The command line of one of ``tasks``.

        Under Slurm JAX asks the environment, and gives a task the accelerator of its local number; elsewhere
        tasks are processes of one machine.
        """
        words = [sys.executable, "-m", self.program, *self.arguments]
        if tasks == 1:
            return words
        if slurm:
            return [*words, "--distributed"]
        return [
            *words,
            f"--coordinator=localhost:{self.port}",
            f"--processes={tasks}",
            f"--process_id={number}",
        ]

    def __call__(self) -> None:
        """Runs the program to its end.

        Raises:
          RuntimeError: it ended with another status than 0.
        """
        import submitit

        place = submitit.JobEnvironment()
        slurm = place.cluster == "slurm"
        child = subprocess.Popen(self.command(place.num_tasks, place.global_rank, slurm))
        try:
            status = child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(_ENDING)
                except subprocess.TimeoutExpired:
                    child.kill()
        if status:
            raise RuntimeError(f"{self.program} ended with status {status}")

    def checkpoint(self, *_: Any, **__: Any) -> Any:
        """The same again: what is submitted anew after a preemption continues from the working directory."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)
