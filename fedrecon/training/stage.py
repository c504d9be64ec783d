"""The training stage of every experiment: one task, by one federated algorithm or comparator."""

import dataclasses
import types
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedrecon import federated as fl
from fedrecon.alignment import Contrast
from fedrecon.data import ClientData, pool
from fedrecon.errors import ArgumentError
from fedrecon.federated import FederatedAlgorithm, RoundState
from fedrecon.federated.methods.remembering import Memory
from fedrecon.federated.phases import Beforehand, with_private
from fedrecon.privacy import check_examples_apart
from fedrecon.runtime import Workdir, host_copy, is_lead, read_log, rounds_done, train
from fedrecon.training.before_rounds import charged, own_start, run_before
from fedrecon.training.budgets import Budget, Spending
from fedrecon.training.catalog_algorithms import has_own_models, in_topology, make_algorithm, method
from fedrecon.training.clocks import clocked, write_clock
from fedrecon.training.components import make_optimizer, make_schedule
from fedrecon.training.execution import CompiledRounds, Execution, resolve_parallel
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.finetuning import Tuning, finetuned
from fedrecon.training.initial import initial_variables
from fedrecon.training.memory import Demand, demand
from fedrecon.training.model_files import example_of, note_stage, save_released
from fedrecon.training.options import FlagError
from fedrecon.training.progress import Course, check_course, course
from fedrecon.training.scores import Scores, site_scores
from fedrecon.training.secure import sums_report
from fedrecon.training.spending import NoPurse, Purse, naming_messages
from fedrecon.training.topologies import evaluation, mesh_of, open_rounds
from fedrecon.training.validation import with_validation
from fedrecon.types import Task, Variables


class Stage(NamedTuple):
    """What is trained.

    Attributes:
      name: in the log and among the checkpoints.
      task: what is learned.
      variables: the initial model of every client.
      clients: the training data.
      key: of the rounds.
      tuning_key: of fine-tuning after them.
      represent: the network's representation, for algorithms that contrast it; None without one.
      validation: the clients' validation split, for the curve; None without one.
      about: what is kept with the released model besides what is known here, JSON-able.
      method: of the clients that train, what the task itself needs there and at the server, such as
        `interface_balance`; it sees their validation split. None without.
      memory: of the blocks of a stream before this one, empty for the first; None outside of streams.
      contrast: views and network, of a pre-training by contrast; None otherwise.
      carry: ``carry(state) -> state``, what of an earlier training the first state has. None without.
    """

    name: str
    task: Task
    variables: Variables
    clients: ClientData
    key: jax.Array
    tuning_key: jax.Array
    represent: Callable | None = None
    validation: ClientData | None = None
    about: Mapping[str, Any] = types.MappingProxyType({})
    method: Callable[[ClientData], fl.Method] | None = None
    memory: Memory | None = None
    contrast: Contrast | None = None
    carry: Callable[[RoundState], RoundState] | None = None


class Trained(NamedTuple):
    """What a training stage leaves.

    Attributes:
      algorithm: whose models the state holds; that of fine-tuning where there was some.
      state: afterwards.
      released: the one model that is handed out; None where nothing is shared.
      own: whether clients evaluate with models of their own.
      evaluate: as in `federated_topologies.Rounds`.
      mesh: the devices.
      compile_seconds: spent compiling.
      course: of the rounds.
      tuning: what was trained of the model.
    """

    algorithm: FederatedAlgorithm
    state: RoundState
    released: Variables | None
    own: bool
    evaluate: Callable
    mesh: Mesh
    compile_seconds: float
    course: Course
    tuning: Tuning

    def models(self, count: int) -> list[Variables | None]:
        """The model that each of ``count`` clients evaluates with."""
        if not self.own:
            return [self.released] * count
        own = [fl.client_variables(self.algorithm, self.state, i) for i in range(count)]
        return [self.tuning.whole(model) for model in own]

    def scores(self, task: Task, test: ClientData) -> tuple[Scores, Scores]:
        """Metrics of each client's own model, and of the released one ({} where there is none)."""
        released = {} if self.released is None else self.released_scores(task, test)
        return (self._scores(task, self.state, test) if self.own else released), released

    def released_scores(self, task: Task, test: ClientData) -> Scores:
        """Metrics of the released model, also on clients that never trained."""
        return self._scores(task, self.released, test)

    def _scores(self, task: Task, model: RoundState | Variables | None, test: ClientData) -> Scores:
        metrics = self.tuning.metrics_of(task) if isinstance(model, RoundState) else task.metrics
        return site_scores(host_copy(self.evaluate(metrics, model, test)), test.names)


def train_stage(
    stage: Stage,
    settings: FederationSettings,
    budget: Budget,
    workdir: Workdir,
    execution: Execution,
    noise: Spending | None = None,
) -> Trained:
    """Trains one stage, or finishes what an interrupted run left of it.

    Args:
      stage: what is trained.
      settings: how clients train together; checked by `check_federation` and `check_method`.
      budget: rounds and steps, the same for every algorithm and comparator.
      workdir: of the run.
      execution: how.
      noise: what may be released, from `plan_privacy`; None trains without privacy.

    Raises:
      ValueError: the settings or the data do not go together, or no round changed the model; names the flag.
    """
    settings = in_topology(settings)
    check_private(stage, settings)
    stage, algorithm, tuning, clients, before, work = prepared(stage, settings, budget, noise)
    entry, mesh = method(settings.algorithm), mesh_of(settings)
    hidden = sums_report(settings, algorithm, stage.task, stage.clients)
    note_stage(workdir.path, "secure_aggregation", stage.name, hidden)
    execution.report_stage("compiling")
    run = (settings, budget, algorithm, stage.variables, clients, workdir.path)
    with naming_messages(settings):
        parallel = resolve_parallel(execution, *run, mesh, tuning.frozen)
    key = noise_key(stage, settings)
    purse = NoPurse() if noise is None else Purse(workdir.path, stage.name, noise, key)
    seen = stage.validation if entry.validates or stage.method else None
    if seen is not None and entry.pooled:
        seen = pool(seen)
    opened = open_rounds(*run, mesh=mesh, parallel=parallel, validation=seen, frozen=tuning.frozen, **work)
    with naming_messages(settings), opened as rounds:
        if before is not None:
            rounds = rounds._replace(state=with_private(rounds.state, before.own))
        if stage.carry is not None:
            rounds = rounds._replace(state=stage.carry(rounds.state))
        rounds = with_validation(rounds, settings, entry, budget, stage.task.metrics, stage.validation)
        dispatch = CompiledRounds(rounds.compile, key, fresh=noise is not None and noise.secure)
        # Compiled before the first round, so that its time is not in the log.
        needed = None
        if rounds_done(workdir, stage.name) < budget.rounds:
            first = dispatch.compiled(min(execution.rounds_per_dispatch, budget.rounds))
            needed = demand(first.memory, rounds.data, rounds.state, mesh)
            announce(execution, needed, parallel)

        def annotated(done: int, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
            records = charged(before, done, purse.records(done, records))
            if needed is None or done or not records:
                return records
            return [records[0] | {"memory_bytes": needed.total}, *records[1:]]

        state = train(
            workdir,
            stage.name,
            rounds.state,
            rounds.data,
            key,
            rounds=budget.rounds,
            dispatch=dispatch,
            rounds_per_dispatch=execution.rounds_per_dispatch,
            summarize=rounds.records,
            report_stage=execution.report_stage,
            finished=rounds.finished,
            permit=purse.permit,
            annotate=annotated,
        )
        taken = course(read_log(workdir / "metrics.jsonl"), stage.name, budget.rounds, settings.patience)
        check_course(taken)
        execution.report_stage("the scores")
        algorithm, state = rounds.algorithm, rounds.federation(state)
        write_clock(workdir.path, stage.name, state, stage.clients)
        released = rounds.average(state) if entry.exchanges and entry.releases else None
        if entry.pooled:
            released = fl.client_variables(algorithm, state, 0)
        released = tuning.whole(released)
        if released is not None and is_lead():
            save_released(workdir.path, stage, released, private=bool(settings.dp_epsilon))
        evaluate = rounds.evaluate
        if settings.fine_tune:
            algorithm, state = fine_tuned(
                settings, budget, stage, algorithm, state, mesh=mesh, parallel=parallel
            )
            evaluate = evaluation(algorithm, mesh)
    own = has_own_models(settings)
    return Trained(algorithm, state, released, own, evaluate, mesh, dispatch.seconds, taken, tuning)


def announce(execution: Execution, needed: Demand | None, parallel: str | int) -> None:
    """Says what a round occupies, and what to reduce where that does not fit; nothing where nobody knows."""
    if needed is None or not is_lead():
        return
    execution.announce(needed.sentence())
    if warning := needed.warning(parallel):
        execution.announce(warning)


class Prepared(NamedTuple):
    """What a stage is before its first round.

    Attributes:
      stage: with the model that it starts from, and the task that the algorithm makes of it.
      algorithm: that the settings name.
      tuning: what is trained of the model.
      clients: that train; of a pooling comparator the pooled one.
      before: what clients exchanged before the rounds; None where there is nothing.
      work: what `make_round` is told of a client's steps.
    """

    stage: Stage
    algorithm: FederatedAlgorithm
    tuning: Tuning
    clients: ClientData
    before: Beforehand | None
    work: dict[str, Any]


def prepared(
    stage: Stage, settings: FederationSettings, budget: Budget, noise: Spending | None = None
) -> Prepared:
    """The algorithm of a stage, with what its clients exchange before the rounds.

    Args:
      stage, budget, noise: as in `train_stage`.
      settings: of `in_topology`.

    Raises:
      ValueError: as `train_stage`.
    """
    stage, tuning = started(stage, settings)
    entry, mesh = method(settings.algorithm), mesh_of(settings)
    if "memory" in entry.needs and stage.memory is None:
        raise FlagError("algorithm", "experiments.continual, whose blocks it remembers", settings.algorithm)
    clients = pool(stage.clients) if entry.pooled else stage.clients
    before = run_before(settings, stage.task, stage.variables, stage.clients, stage.key, mesh)
    if before is not None:
        stage = stage._replace(variables=before.variables)
        tuning = tuning._replace(variables=before.variables).with_frozen(before.frozen)
    given: dict[str, Any] = {"represent": stage.represent, "own": stage.method and stage.method(clients)}
    given |= {"memory": stage.memory, "exchanged": before and before.exchanged, "contrast": stage.contrast}
    algorithm = make_algorithm(settings, budget, stage.task, clients, noise=noise, tuning=tuning, **given)
    algorithm = clocked(algorithm, settings, budget, clients, stage.variables)
    tuning = tuning.with_frozen_of(algorithm, settings)
    work = local_work(settings, budget, stage.clients, algorithm)
    return Prepared(stage, algorithm, tuning, clients, before, work)


def started(stage: Stage, settings: FederationSettings) -> tuple[Stage, Tuning]:
    """The stage with the model that it starts from and what is trained of it, and the same by itself.

    Of runs of several stages those are fine-tuned that start from a model of their own.

    Raises:
      FlagError: the model is of another network, or has no such leaves.
    """
    task, start, beside = own_start(
        settings, stage.task, stage.variables, example_of(stage.clients), stage.key
    )
    stage = stage._replace(task=task, variables=start)
    variables = initial_variables(settings, stage.name, start, beside)
    if variables is start:
        settings = dataclasses.replace(settings, finetune="full", finetune_options=())
    tuning = finetuned(settings, stage.task, variables, example_of(stage.clients), stage.name)
    represent = stage.represent
    if represent is not None and tuning.task is not stage.task:
        plain = represent

        def represent(params, stats, batch):
            return plain(tuning.release(params), stats, batch)

    return stage._replace(task=tuning.task, variables=tuning.variables, represent=represent), tuning


def noise_key(stage: Stage, settings: FederationSettings) -> jax.Array:
    """The key of a stage's rounds: its own, or made of --dp.seed and the stage's name."""
    if settings.dp_seed < 0:
        return stage.key
    return jax.random.fold_in(jax.random.key(settings.dp_seed), zlib.crc32(stage.name.encode()))


def check_private(stage: Stage, settings: FederationSettings) -> None:
    """Refuses differential privacy of a network that mixes examples, which is tried on two of them.

    Raises:
      FlagError: the two are asked for.
    """
    if not settings.dp_epsilon:
        return
    if jax.tree.leaves(stage.variables.stats):
        expected = "0 with a network that has running statistics, which mix examples"
        raise FlagError("dp_epsilon", expected, settings.dp_epsilon)
    if settings.dp_unit != "site":
        client = int(np.argmax(stage.clients.counts))
        places = np.resize(np.flatnonzero(np.asarray(stage.clients.valid[client])), 2)
        batch = {
            name: jnp.asarray(np.asarray(x[client])[places]) for name, x in stage.clients.examples.items()
        }
        try:
            check_examples_apart(stage.task, stage.variables, batch, jax.random.key(0))
        except ArgumentError as error:
            raise FlagError("dp_epsilon", f"0, or {error.expected}", error.found) from error


def local_work(
    settings: FederationSettings, budget: Budget, sites: ClientData, algorithm: FederatedAlgorithm
) -> dict[str, Any]:
    """What `make_round` is told of a client's steps in a round.

    A pooling comparator sees as many examples a round as the sampled clients have on average, or takes the
    steps of one client where these are given.
    """
    if algorithm.client.batching is not None:
        return {}
    if method(settings.algorithm).pooled and settings.clients_per_round and not budget.steps:
        examples = settings.clients_per_round / sites.clients * int(np.sum(sites.counts))
        steps = max(1, round(budget.epochs * examples / budget.batch_size))
        return {"batch_size": budget.batch_size, "steps": steps}
    return budget.work


def fine_tuned(
    settings: FederationSettings,
    budget: Budget,
    stage: Stage,
    algorithm: FederatedAlgorithm,
    state: RoundState,
    **execution: Any,
) -> tuple[FederatedAlgorithm, RoundState]:
    """What `fine_tune` makes of a state, by the flags --fine_tune and --fine_tune_head.

    Raises:
      ValueError: the network has no such part, or the clients are streamed.
    """
    if settings.stream:
        raise FlagError("fine_tune", "0 with --stream", settings.fine_tune)
    head, alone = None, dataclasses.replace(settings, stragglers=0.0)
    if settings.fine_tune_head:
        shapes = jax.eval_shape(stage.task.init, jax.random.key(0))
        try:
            head = fl.leaves_under(shapes, (settings.fine_tune_head,))
        except ArgumentError as error:
            raise FlagError("fine_tune_head", error.expected[:300], error.found) from error
    return fl.fine_tune(
        algorithm,
        state,
        stage.task,
        make_optimizer(settings, budget),
        stage.clients,
        stage.tuning_key,
        batch_size=budget.batch_size,
        epochs=settings.fine_tune,
        head=head,
        schedule=make_schedule(alone, budget._replace(rounds=1), stage.clients),
        **execution,
    )
