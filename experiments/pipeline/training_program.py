"""What a program that trains one task does once its settings are known."""

from typing import Any

import jax

from experiments.pipeline.federated_run import print_baselines, print_results, run
from experiments.pipeline.federated_settings import TrainSettings
from experiments.pipeline.learning_curves import save_learning_curves
from fedrecon.runtime import (
    Watchdog,
    describe_environment,
    is_lead,
    open_workdir,
    set_cpu_devices,
    start,
)
from fedrecon.training import check_method, flat, rounds_obstacle


def train(settings: TrainSettings, values: Any) -> None:
    """Trains, or continues, and prints the results.

    Args:
      settings: checked.
      values: of the flags of `define_run_flags` and `define_process_flags`.
    """
    check_method(settings.federation, (settings.task,))
    set_cpu_devices(values.devices)
    start(
        values.coordinator,
        values.processes,
        values.process_id,
        automatic=values.distributed,
        start_seconds=values.start_seconds,
    )
    obstacle = rounds_obstacle(settings.federation, values.rounds_per_dispatch)
    execution = {"parallel": values.parallel, "rounds_per_dispatch": values.rounds_per_dispatch}
    with (
        open_workdir(
            values.workdir,
            flat(settings),
            describe_environment(),
            resume=values.resume,
            growing={"rounds": obstacle},
            execution=execution,
        ) as workdir,
        Watchdog(workdir.path, stall_seconds=values.stall_seconds) as watchdog,
    ):
        reports: dict[str, Any] = {"report_stage": watchdog.report_stage, "announce": _say}
        outcome = run(settings, workdir, baselines=True, **reports, **execution)
        if is_lead():
            save_learning_curves(workdir.path)
    if is_lead():
        print_results(settings, *outcome)
        print_baselines(workdir)
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def _say(sentence: str) -> None:
    print(sentence, flush=True)
