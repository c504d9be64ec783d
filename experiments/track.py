"""Mirrors the log of a run in TensorBoard or MLflow, while it goes on or afterwards.

The run is one of experiments.full_stack, train_federated or a method of compare: its rounds with losses and
validation scores by site, bytes and seconds, its settings, and at its end the figures. A mirror only reads
the directory of the run. TensorBoard's event files are written anew by each call, MLflow gets a new run.

  python -m experiments.track --workdir=runs/first --follow
  tensorboard --logdir=runs/first/tensorboard
  python -m experiments.track --workdir=runs/first --mlflow=http://localhost:5000 --experiment=heads
"""

from pathlib import Path

from absl import flags, logging

from fedrecon.errors import ArgumentError
from fedrecon.runtime import ending, run_program
from fedrecon.tracking import mirror, mlflow, read_settings, tensorboard


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
    flags.DEFINE_string(
        "tensorboard", None, "Folder for event files; WORKDIR/tensorboard when neither is given."
    )
    flags.DEFINE_string("mlflow", None, "Address of an MLflow server, in place of TensorBoard.")
    flags.DEFINE_string("experiment", "fedrecon", "Experiment of MLflow that the run belongs to.")
    flags.DEFINE_bool("follow", False, "Wait for further rounds until the run is finished.")


def run(workdir: str, folder: str | None, server: str | None, experiment: str, follow: bool) -> str:
    """Mirrors a run; returns what was done.

    Raises:
      ArgumentError: there is no run, both places are given, or the server does not answer as one.
      ImportError: without the extra of the place.
    """
    path = Path(workdir)
    settings = read_settings(path)
    if folder and server:
        raise ArgumentError("--mlflow", "none with --tensorboard", server)
    if server:
        # One line says that nobody answers, after the tries.
        logging.set_verbosity(logging.ERROR)
        with mlflow(server, experiment, path.resolve().name, settings) as tracker:
            count = mirror(path, tracker, follow=follow)
        return f"{count} records at {server}, experiment {experiment}"
    place = Path(folder) if folder else path / "tensorboard"
    with tensorboard(place, settings) as tracker:
        count = mirror(path, tracker, follow=follow)
    return f"{count} records in {place}: tensorboard --logdir={place}"


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending("records so far were mirrored"):
        print(run(values.workdir, values.tensorboard, values.mlflow, values.experiment, values.follow))


if __name__ == "__main__":
    define_flags()
    run_program(main)
