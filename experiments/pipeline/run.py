"""The stages of the full-stack experiment in order."""

import time

import jax
import numpy as np

from experiments.pipeline.cohorts import Cohorts, load_cohorts
from experiments.pipeline.downstream import make_task as make_downstream
from experiments.pipeline.downstream import run_downstream, with_images
from experiments.pipeline.outcome import Outcome, Provenance
from experiments.pipeline.reconstruction import checks, run_reconstruction
from experiments.pipeline.reconstruction import make_task as make_reconstruction
from experiments.pipeline.report import print_tables, write_page, write_results
from experiments.pipeline.settings import FullStackSettings
from experiments.pipeline.stages import Run, courses, traffic
from experiments.pipeline.start import start_notes
from fedrecon.learned import save_network
from fedrecon.runtime import Workdir
from fedrecon.training import (
    Budget,
    Execution,
    FlagError,
    PrivacyPlan,
    choose_parallel,
    example_of,
    initial_tasks,
    initial_variables,
    parse_faults,
    plan_privacy,
    schedule_name,
)

STAGES = ("reconstruction", "segmentation", "classification")


def run(
    settings: FullStackSettings,
    workdir: Workdir,
    *,
    parallel: str = "auto",
    rounds_per_dispatch: int = 1,
    command: str = "",
) -> Outcome:
    """Trains and evaluates everything, or what an interrupted run left to do, and writes the report.

    Args:
      settings: of the experiment.
      workdir: where everything is written.
      parallel: how clients run on a device; see `choose_parallel`.
      rounds_per_dispatch: rounds compiled into one call.
      command: the command line, for the page.

    Raises:
      ValueError: a setting, a file or the data do not fit; names the flag, file or key.
    """
    start = time.perf_counter()
    execution = Execution(str(choose_parallel(parallel)), rounds_per_dispatch)
    cohorts = load_cohorts(settings)
    budgets = stage_budgets(settings)
    plan = plan_stages(settings, cohorts, budgets)
    check_initial(settings, cohorts)
    stages = tuple(cohorts.splits())
    trainings = {
        stage: Run(settings, workdir, execution, budgets[stage], plan.noise[stage]) for stage in stages
    }
    for stage, why in cohorts.left_out.items():
        print(f"no stage of {stage}: {why}")
    if plan.report:
        print(plan.report["statement"])
    federation = settings.federation
    _say(f"{len(cohorts.reconstruction.train.names)} sites ready", start)
    print(f"{federation.algorithm}, clients with {federation.optimizer}, rates {schedule_name(federation)}")

    reconstruction = run_reconstruction(trainings["reconstruction"], cohorts)
    _say("reconstruction done", start)
    source = cohorts.reconstruction
    save_network(workdir / "network.npz", reconstruction.network)
    checked = checks(reconstruction, source)
    for site, strange in checked.items():
        for notice in strange:
            print(f"WARNING: {site}: {notice}")
    cohorts = _with_reconstructions(cohorts, reconstruction)
    results = {}
    for kind, cohort in cohorts.splits().items():
        if kind == "reconstruction":
            continue
        pretrained = reconstruction.network.variables if cohorts.shared_images else None
        about = {"preparation": p} if (p := cohorts.preparations.get(kind)) else {}
        results[kind] = run_downstream(kind, trainings[kind], cohort, pretrained, about)
        _say(f"{kind} done", start)
    outcome = Outcome(
        reconstruction=reconstruction,
        segmentation=results.get("segmentation"),
        classification=results.get("classification"),
        tests={stage: split.test for stage, split in cohorts.splits().items()},
        unseen=cohorts.reconstruction.unseen,
        checks=checked,
        sites=cohorts.sites,
        notes=(*cohorts.notes, *start_notes(settings)),
        courses=courses(workdir, budgets, federation.patience),
        traffic=[traffic(workdir, f"{stage}/federated") for stage in stages],
        privacy=plan.spent(workdir.path),
    )
    write_results(workdir, settings, outcome)
    print_tables(outcome)
    provenance = Provenance(command, time.perf_counter() - start)
    page = write_page(workdir, settings, outcome, provenance)
    _say(f"report: {page}", start)
    return outcome


def check_initial(settings: FullStackSettings, cohorts: Cohorts) -> None:
    """Refuses models of ``initialize_from`` that do not fit, before the first training.

    Raises:
      FlagError: a stage's model is of another network; names the leaves.
    """
    splits = cohorts.splits()
    for stage in initial_tasks(settings.federation.initialize_from):
        if stage not in splits:
            continue
        train = splits[stage].train
        if stage == "reconstruction":
            task = make_reconstruction(settings, example_of(train))
        else:
            if cohorts.shared_images:
                train = with_images(train, np.broadcast_to(np.float32(0), train.examples["target"].shape))
            task = make_downstream(stage, settings, example_of(train))
        drawn = jax.eval_shape(task.init, jax.random.key(0))
        initial_variables(settings.federation, f"{stage}/federated", drawn)


def stage_budgets(settings: FullStackSettings) -> dict[str, Budget]:
    """What each stage may spend; under differential privacy all stages have one batch size, to compose."""
    federation = settings.federation
    fine_tuning = Budget(
        settings.finetune_rounds,
        settings.finetune_epochs,
        federation.expected_batch_size(settings.finetune_batch_size),
        settings.finetune_learning_rate,
    )
    batch_size = federation.expected_batch_size(settings.batch_size)
    reconstruction = Budget(settings.rounds, settings.epochs, batch_size, settings.learning_rate)
    return {"reconstruction": reconstruction, "segmentation": fine_tuning, "classification": fine_tuning}


def plan_stages(settings: FullStackSettings, cohorts: Cohorts, budgets: dict[str, Budget]) -> PrivacyPlan:
    """The privacy plan of all stages, composed where they train on the same patients.

    Raises:
      FlagError: the budget of privacy cannot be met, a fault is of no client of a stage, or no stage has so
        many clients as there should be in a round.
    """
    asked, clients = settings.federation.clients_per_round, {}
    splits = cohorts.splits()
    for stage, split in splits.items():
        train = split.train
        parse_faults(settings.federation.fault, train.names)
        clients[stage] = train.clients
    if asked > (most := max(clients.values())):
        raise FlagError("clients_per_round", f"at most the {most} sites of the cohort", asked)
    for stage, count in clients.items():
        if count < asked:
            print(f"{stage} has {count} sites, fewer than --clients_per_round={asked}: all join every round")
    groups = [tuple(splits)] if cohorts.shared_images else [(stage,) for stage in splits]
    data = [(splits[stages[0]].train, {stage: budgets[stage] for stage in stages}) for stages in groups]
    return plan_privacy(settings.federation, data, comparators=settings.comparators)


def _with_reconstructions(cohorts: Cohorts, reconstruction) -> Cohorts:
    """Where the tasks share the patients, they see the federated model's images."""
    if not cohorts.shared_images:
        return cohorts
    source = cohorts.reconstruction
    images = {
        split: with_images(data, reconstruction.reconstructed[split][0])
        for split, data in source._asdict().items()
        if data is not None
    }
    downstream = source._replace(**images)
    stages = {stage: downstream for stage in cohorts.splits() if stage != "reconstruction"}
    return cohorts._replace(**stages)


def _say(message: str, start: float) -> None:
    print(f"[{time.perf_counter() - start:6.1f} s] {message}", flush=True)
