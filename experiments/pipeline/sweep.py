"""Many trainings by one program: each point has settings, and with each seed a directory of its own."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags, logging
from matplotlib.figure import Figure

from experiments.pipeline.federated_data import FederatedData, load_data
from experiments.pipeline.federated_run import run, with_seed
from experiments.pipeline.federated_settings import TrainSettings
from fedrecon.files import replacing, write_atomically
from fedrecon.runtime import Workdir, describe_environment
from fedrecon.training import (
    Cost,
    FederationSettings,
    FlagError,
    Results,
    as_json,
    changed,
    fields,
    flat,
    is_finished,
)


class Done(NamedTuple):
    """A training that has come to its end.

    Attributes:
      point, settings: its name, and its settings with the seed.
      folder: its directory.
      data: what it was trained on, loaded on demand.
      results, cost: as `run` returns them.
    """

    point: str
    settings: TrainSettings
    folder: Path
    data: Callable[[], FederatedData]
    results: Results
    cost: Cost


def trainings(
    planned: Mapping[str, TrainSettings],
    seeds: Sequence[int],
    place: Callable[[str, int], Path],
    *,
    load: Callable[[TrainSettings], FederatedData] = load_data,
    growing: Callable[[TrainSettings], Mapping[str, str]] = lambda settings: {},
    named: str = "",
    **execution: Any,
) -> Iterator[Done]:
    """Trains every point with every seed, or reads what is finished; data are those of all points of a seed.

    Args:
      planned: the settings of each point, which have the same data.
      seeds: of the trainings, the first ones first.
      place: directory of a point and a seed.
      load: the data of settings; called at most once a seed, and only if something is to be trained.
      growing: what settings may be continued with, see `Workdir`.
      named: the flag whose place in messages the name of a point takes.
      **execution: ``parallel`` and ``rounds_per_dispatch`` as in `run`.

    Raises:
      ValueError: as `run`.
    """
    environment = describe_environment()
    for seed in seeds:
        kept: list[FederatedData] = []

        def data(settings: TrainSettings, kept: list[FederatedData] = kept) -> FederatedData:
            if not kept:
                kept.append(load(settings))
            return kept[0]

        for point, settings in planned.items():
            settings, folder = with_seed(settings, seed), place(point, seed)
            ready = is_finished(folder, settings.rounds)
            try:
                with Workdir(folder, flat(settings), environment, growing=growing(settings)) as directory:
                    found = run(settings, directory, data=None if ready else data(settings), **execution)
            except FlagError as error:
                if not named:
                    raise
                raise error.renamed(named, point) from error
            yield Done(point, settings, folder, lambda s=settings, data=data: data(s), *found)


def execution_of(values: flags.FlagValues) -> dict[str, Any]:
    """How trainings are carried out, by the flags of all programs."""
    return {"parallel": values.parallel, "rounds_per_dispatch": values.rounds_per_dispatch}


def seeds_of(count: int, first: int) -> list[int]:
    """That many seeds from the first on."""
    return list(range(first, first + count))


def share_programs(folder: Path) -> None:
    """Keeps compiled programs in the folder: trainings with arrays of the same shapes have the same ones."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def compile_quickly(level: int = 1) -> None:
    """Optimizes programs less, unless the environment says how: small trainings compile longer than they run.

    Before the first use of a device.

    Args:
      level: of optimization, 0 for runs of a few steps.
    """
    flags = f"--xla_backend_optimization_level={level} --xla_llvm_disable_expensive_passes=true"
    # An XLA that does not know a flag ends the process.
    if level == 0 and jax.__version_info__ < (0, 11):
        flags += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags)


def without_privacy(federation: FederationSettings) -> FederationSettings:
    """The same without a budget, and without what means nothing without one."""
    plain = {field.name: field.default for field, _ in fields(federation) if field.name.startswith("dp_")}
    return changed(federation, **plain)


def with_unit(federation: FederationSettings, unit: str, epsilon: float) -> FederationSettings:
    """The same with a budget of the unit, and without what means nothing of that unit."""
    private = changed(federation, dp_epsilon=epsilon, dp_unit=unit)
    unfit = {
        field.name: field.default
        for field, _ in fields(private)
        if field.name.startswith("dp_") and not all(need.holds(private) for need in field.metadata["needs"])
    }
    return changed(private, **unfit)


def budgets(flag: str, texts: Sequence[str]) -> list[float]:
    """Distinct positive numbers of a flag that is a list.

    Raises:
      FlagError: one is none, or they are not distinct.
    """
    values = []
    for text in texts:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise FlagError(flag, "positive numbers", repr(text))
        values.append(value)
    if len(set(values)) != len(values):
        raise FlagError(flag, "distinct positive numbers", ",".join(texts))
    return values


@contextlib.contextmanager
def only_json(wanted: bool) -> Iterator[None]:
    """Where JSON is wanted, what is printed goes to the standard error, and logs are silent."""
    if not wanted:
        yield
        return
    logging.set_verbosity(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):
        yield


def write_json(path: Path, document: Any) -> Any:
    """Writes a document as JSON, and returns it as it was written."""
    found = as_json(document)
    write_atomically(path, (json.dumps(found, indent=2) + "\n").encode())
    return found


def save_figure(path: Path, figure: Figure) -> None:
    """Writes a figure as a PNG file."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
