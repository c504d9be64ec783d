"""Trainings of a stream of blocks by several methods, scored on every block's test data after each block."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.pipeline import sweep
from experiments.pipeline.federated_data import FederatedData
from experiments.pipeline.federated_run import METRICS, budget_of, stage_of, with_seed
from experiments.pipeline.federated_settings import TrainSettings, check_settings
from fedrecon.data import ClientData
from fedrecon.evaluation import transfer
from fedrecon.reporting import mean_interval
from fedrecon.runtime import Workdir, decode_numbers, describe_environment, host_copy, read_log, rounds_done
from fedrecon.tasks import lower_is_better
from fedrecon.training import (
    Dotted,
    Execution,
    FlagError,
    Scores,
    as_json,
    changed,
    check_method,
    flat,
    method,
    site_scores,
)
from fedrecon.training.streams import (
    Block,
    Federation,
    Member,
    block_data,
    check_stream,
    domain_data,
    joined,
    train_block,
    without_site,
)
from fedrecon.types import Variables

# Training on all blocks so far, and on each alone: by the first method, from its initial weights.
COMPARATORS = ("joint", "alone")
SCENARIOS = ("sites_arrive", "data_arrive", "scanner_replaced", "site_leaves", "incremental", "cyclic")
_SCORES = "scores.json"


class Plan(NamedTuple):
    """A stream.

    Attributes:
      settings: of each method, and of `COMPARATORS` those of the first one.
      blocks: of the stream.
      scanners: strength of the shifts of scanners that replace others.
      keep: whether sites that are away keep their states.
      metric: by which blocks are compared; by default the task's first.
    """

    settings: Mapping[str, TrainSettings]
    blocks: tuple[Block, ...]
    scanners: float
    keep: bool
    metric: str = ""


class Run(NamedTuple):
    """A method and a seed.

    Attributes:
      scores: (blocks, blocks), of block j after block t.
      domains: after each block the scores of every site and scanner of the stream.
      untrained: (blocks,), of the initial model.
      bytes_up, bytes_down: of all blocks.
    """

    scores: np.ndarray
    domains: list[Scores]
    untrained: np.ndarray
    bytes_up: int
    bytes_down: int


def scenario_text(scenario: str, sites: Sequence[str]) -> str:
    """The blocks of a scenario, as text.

    Raises:
      FlagError: it wants more sites.
    """
    if len(sites) < 2:
        raise FlagError("scenario", "two sites or more", len(sites))
    half = max(1, len(sites) // 2)
    if scenario == "sites_arrive":
        return "; ".join([",".join(sites[:half]), *(f"+{site}" for site in sites[half:])])
    if scenario == "data_arrive":
        return "all:1/3; all:2/3; all:3/3"
    if scenario == "scanner_replaced":
        return f"all; +{sites[0]}~1; " + ",".join(f"+{site}~1" for site in sites[1 : half + 1])
    if scenario == "site_leaves":
        return f"all; -{sites[-1]}; +{sites[-1]}"
    # Sheller et al. 2020: institutional incremental learning, once or in cycles.
    return "; ".join(list(sites) * (1 if scenario == "incremental" else 2))


def plan_methods(base: TrainSettings, names: Sequence[str], dotted: Dotted) -> dict[str, TrainSettings]:
    """Settings of each method, checked; without names those of the base, EWC, LwF and `COMPARATORS`.

    Raises:
      FlagError: a method is unknown, given twice or not for streams; names the flag.
    """
    first = base.federation.algorithm
    lwf = ["lwf"] if base.task in METRICS and base.task != "reconstruction" else []
    names = list(names) or list(dict.fromkeys([first, "ewc", *lwf, *COMPARATORS]))
    if len(set(names)) != len(names):
        raise FlagError("methods", "distinct methods", ",".join(names))
    if base.configure != "flags":
        raise FlagError("configure", "flags in a stream, whose network does not change", base.configure)
    planned = {}
    for name in names:
        federation = base.federation
        if name not in (*COMPARATORS, first):
            federation = changed(federation, algorithm=method(name).name, algorithm_options=())
        if own := dotted.get(name, ()):
            federation = changed(federation, algorithm_options=own)
        settings = check_settings(changed(base, federation=federation))
        check_stream(federation)
        check_method(federation, (base.task,), blocks=True)
        planned[name] = settings
    return planned


def trained(plan: Plan, name: str, data: FederatedData, seed: int, folder: Path, execution: Execution) -> Run:
    """Trains a method, or reads what is finished of it."""
    settings = with_seed(plan.settings[name], seed)
    domains = _domains(plan, data.test, seed)
    # Before hours of training.
    start = _untrained(settings, data, domains)
    metric = metric_of(settings.task, start, plan.metric)
    if name in COMPARATORS:
        after = list(_apart(plan, name, settings, data, domains, folder, execution))
    else:
        after = list(_in_turn(plan, settings, data, domains, folder, execution))
    return _run(metric, plan.blocks, after, start)


def replayed(
    plan: Plan, name: str, data: FederatedData, seed: int, folder: Path, site: str, execution: Execution
) -> tuple[Run, dict[str, Any]]:
    """The stream as if a site had never been there, from the last checkpoint before it joined.

    Args:
      plan: the stream with the site, which was trained in ``folder``.
      name, data, seed, folder, execution: as in `trained`.
      site: who is to be removed.

    Returns:
      The run, and what the replay started from: "site", "from", "rounds_kept", "rounds_replayed".

    Raises:
      FlagError: the site is in no block or alone in all, or the checkpoint is missing.
    """
    first, rest = joined(plan.blocks, site), without_site(plan.blocks, site)
    settings = with_seed(plan.settings[name], seed)
    place = _block_folder(folder, first - 1) if first else None
    rounds = [_rounds(settings, block) for block in rest]
    if place is not None and rounds_done_in(place, settings) < rounds[first - 1]:
        raise FlagError("without", f"a checkpoint before {site} joined, in {place}", "none")
    shorter = plan._replace(blocks=rest)
    domains = _domains(plan, data.test, seed)
    own = folder / f"without-{_spelled(site)}"
    after = list(_in_turn(shorter, settings, data, domains, own, execution, first, folder))
    found = {
        "site": site,
        "from": "the initial weights" if place is None else str(place.relative_to(folder)),
        "rounds_kept": sum(rounds[:first]),
        "rounds_replayed": sum(rounds[first:]),
    }
    start = _untrained(settings, data, domains)
    return _run(metric_of(settings.task, start, plan.metric), rest, after, start), found


def rounds_done_in(folder: Path, settings: TrainSettings) -> int:
    """Rounds of the newest checkpoint of a block; 0 without any."""
    return rounds_done(Workdir.joined(folder), settings.federation.algorithm) if folder.exists() else 0


def _in_turn(
    plan: Plan,
    settings: TrainSettings,
    data: FederatedData,
    domains: ClientData,
    folder: Path,
    execution: Execution,
    first: int = 0,
    earlier: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """What was found after each block; blocks before ``first`` are those in the folder ``earlier``."""
    folders = [_block_folder(folder if t >= first else earlier or folder, t) for t in range(len(plan.blocks))]
    missing = [t for t, place in enumerate(folders) if not (place / _SCORES).exists()]
    federation: Federation | None = None
    for t, block in enumerate(plan.blocks):
        place = folders[t]
        about = {"block": str(block), "blocks_before": [str(b) for b in plan.blocks[:t]]}
        about |= {"scanners": plan.scanners, "keep_left": plan.keep}
        with _opened(place, settings, about) as workdir:
            if missing and t <= missing[-1]:
                members = [[member] for member in block.members]
                federation, scores = _trained_block(
                    plan,
                    settings,
                    data,
                    members,
                    _rounds(settings, block),
                    t,
                    workdir,
                    execution,
                    domains,
                    federation,
                )
                _write(workdir, scores)
            yield _read(workdir)


def _apart(
    plan: Plan,
    name: str,
    settings: TrainSettings,
    data: FederatedData,
    domains: ClientData,
    folder: Path,
    execution: Execution,
) -> Iterator[dict[str, Any]]:
    """The same of `COMPARATORS`: every block from the initial weights."""
    for t in range(len(plan.blocks)):
        blocks = plan.blocks[: t + 1] if name == "joint" else plan.blocks[t : t + 1]
        about = {"blocks": [str(b) for b in blocks], "scanners": plan.scanners}
        with _opened(_block_folder(folder, t), settings, about) as workdir:
            if not (workdir / _SCORES).exists():
                members = _united(blocks, data.train.names)
                rounds = sum(_rounds(settings, block) for block in blocks)
                _, scores = _trained_block(
                    plan, settings, data, members, rounds, t, workdir, execution, domains, None
                )
                _write(workdir, scores)
            yield _read(workdir)


def _trained_block(
    plan: Plan,
    settings: TrainSettings,
    data: FederatedData,
    members: Sequence[Sequence[Member]],
    rounds: int,
    t: int,
    workdir: Workdir,
    execution: Execution,
    domains: ClientData,
    before: Federation | None,
) -> tuple[Federation, dict[str, Any]]:
    chosen = block_data(members, data.train, seed=settings.seed, strength=plan.scanners)
    stage = stage_of(settings, data._replace(train=chosen, validation=None))
    stage = stage._replace(key=jax.random.fold_in(stage.key, t))
    budget = budget_of(settings)._replace(rounds=rounds)
    result, federation = train_block(
        stage, settings.federation, budget, workdir, execution, before, keep=plan.keep
    )
    assert result.released is not None
    scores = _scores(stage.task.metrics, result.released, domains)
    log = read_log(workdir / "metrics.jsonl")
    sent = {name: sum(record[name] for record in log) for name in ("bytes_up", "bytes_down")}
    return federation, {"scores": scores, "rounds": rounds, **sent}


def _rounds(settings: TrainSettings, block: Block) -> int:
    return block.rounds or settings.rounds


def _united(blocks: Sequence[Block], sites: Sequence[str]) -> list[list[Member]]:
    """Of every site of the blocks all distinct data that it had."""
    found: dict[str, list[Member]] = {site: [] for site in sites}
    for member in dict.fromkeys(member for block in blocks for member in block.members):
        found[member.site].append(member)
    return [own for own in found.values() if own]


def _domains(plan: Plan, test: ClientData, seed: int) -> ClientData:
    members = [member for block in plan.blocks for member in block.members]
    return domain_data(members, test, seed=seed, strength=plan.scanners)


def _untrained(settings: TrainSettings, data: FederatedData, domains: ClientData) -> Scores:
    stage = stage_of(settings, data._replace(validation=None))
    return _scores(stage.task.metrics, stage.variables, domains)


def _scores(metrics: Any, model: Variables, domains: ClientData) -> Scores:
    run = jax.jit(metrics)
    found = []
    for i in range(domains.clients):
        batch = {name: x[i] for name, x in domains.examples.items()}
        found.append(host_copy(run(model.params, model.stats, {**batch, "valid": domains.valid[i]})))
    return site_scores(jax.tree.map(lambda *x: np.stack(x), *found), domains.names)


def _opened(place: Path, settings: TrainSettings, about: Mapping[str, Any]) -> Workdir:
    return Workdir(place, {**flat(settings), **about}, describe_environment())


def _block_folder(folder: Path, t: int) -> Path:
    return folder / f"block-{t + 1}"


def _spelled(site: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in site)


def _write(workdir: Workdir, found: Mapping[str, Any]) -> None:
    sweep.write_json(workdir / _SCORES, found)


def _read(workdir: Workdir) -> dict[str, Any]:
    found = decode_numbers(json.loads((workdir / _SCORES).read_text()))
    scores = {
        site: {metric: float("nan") if value is None else value for metric, value in values.items()}
        for site, values in found["scores"].items()
    }
    return {**found, "scores": scores}


def metric_of(task: str, scores: Scores, wanted: str = "") -> str:
    """The figure by which blocks are compared: the task's first, or the loss of an own task.

    Raises:
      FlagError: the one that is wanted is none.
    """
    names = list(next(iter(scores.values())))
    if wanted and wanted not in names:
        raise FlagError("metric", f"one of {', '.join(sorted(names))}", repr(wanted))
    if wanted:
        return wanted
    return METRICS[task][0] if task in METRICS else sorted(names, key=lambda n: (n != "loss", n))[0]


def _run(metric: str, blocks: Sequence[Block], after: Sequence[Mapping[str, Any]], start: Scores) -> Run:
    def of_blocks(scores: Scores) -> list[float]:
        values = [[scores[m.domain].get(metric, np.nan) for m in block.members] for block in blocks]
        return [float(np.nanmean(own)) if not np.isnan(own).all() else float("nan") for own in values]

    return Run(
        np.asarray([of_blocks(found["scores"]) for found in after]),
        [found["scores"] for found in after],
        np.asarray(of_blocks(start)),
        sum(found["bytes_up"] for found in after),
        sum(found["bytes_down"] for found in after),
    )


def summarized(metric: str, name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Figures of a method over seeds: the mean matrix, and means of `Transfer` with intervals over seeds.

    Comparators learn no block after another: of these only what is learned, and of "joint" the last row.
    """
    down = lower_is_better(metric)
    found = [transfer(run.scores, run.untrained, lower_is_better=down)._asdict() for run in runs]
    kept = {"joint": ("final",), "alone": ("learned",)}.get(name, tuple(found[0]))
    figures = {}
    for figure in kept:
        values = [each[figure] for each in found]
        half = mean_interval(values).half_width if len(values) > 1 else None
        figures[figure] = {"mean": float(np.mean(values)), "half_width": half}
    return {
        "scores": np.mean([run.scores for run in runs], 0).tolist(),
        "untrained": np.mean([run.untrained for run in runs], 0).tolist(),
        "transfer": figures,
        "bytes_up": float(np.mean([run.bytes_up for run in runs])),
        "bytes_down": float(np.mean([run.bytes_down for run in runs])),
        "seeds": [as_json({"scores": run.scores.tolist(), "domains": run.domains}) for run in runs],
    }
