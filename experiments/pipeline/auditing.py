"""Attacks on a finished run: what is audited, and the three audits."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.export import FinishedRun, read_run, stage_of, task_of
from experiments.pipeline.cohorts import load_cohorts
from experiments.pipeline.configuration import read_configuration
from experiments.pipeline.federated_data import load_data
from experiments.pipeline.federated_run import budget_of, training_key
from experiments.pipeline.run import stage_budgets
from experiments.pipeline.settings import FullStackSettings
from fedrecon import attacks
from fedrecon.data import ClientData, DataError
from fedrecon.federated.mechanism import Mechanism
from fedrecon.tasks import mri_measure
from fedrecon.training import Budget, FlagError, example_of, plan_privacy, released_file
from fedrecon.types import Batch, Task, Variables
from fedrecon.weights import read_weights

EPSILON, SITES, DELTA = 8.0, 8, 1e-5
_MOST_EXAMPLES = 200


class Subject(NamedTuple):
    """What is audited.

    Attributes:
      run: the finished run.
      kind: the task, "classification", "segmentation" or "reconstruction".
      stage: name of the released model.
      task: what was learned.
      models: name -> model that a site may have started a round from.
      train, test: the clients' data.
      budget: of the stage.
    """

    run: FinishedRun
    kind: str
    stage: str
    task: Task
    models: dict[str, Variables]
    train: ClientData
    test: ClientData
    budget: Budget


def open_run(workdir: Path, stage: str | None) -> Subject:
    """The run with its data and models.

    Raises:
      FlagError: there is no such run, or it is none that can be audited; says which.
      DataError: a file of it is missing or damaged.
    """
    run = read_run(workdir)
    if run.settings is None:
        raise FlagError(
            "workdir", "a run of experiments.train_federated or full_stack", "one of fedrecon.run"
        )
    kind, name = stage_of(run, stage)
    if kind not in ("classification", "segmentation", "reconstruction"):
        expected = "a run of classification, segmentation or reconstruction, whose images are known"
        raise FlagError("workdir", expected, f"the task {kind}")
    if isinstance(run.settings, FullStackSettings):
        if kind != "reconstruction":
            raise FlagError("stage", "reconstruction, of a full-stack run", kind)
        split, budget = load_cohorts(run.settings).reconstruction, stage_budgets(run.settings)[kind]
        train, test = split.train, split.test
    else:
        data, chosen = load_data(run.settings), read_configuration(run.workdir)
        budget = budget_of(run.settings, chosen)
        train, test = data.train, data.test
    needed = {"image"} if kind != "reconstruction" else {"kspace", "mask", "coil_maps", "target"}
    if missing := sorted(needed - set(train.examples)):
        expected = "Cartesian MRI" if kind == "reconstruction" else "images"
        raise FlagError("workdir", f"a run on {expected}", f"examples without {', '.join(missing)}")
    task = task_of(run, kind, example_of(train))
    file = released_file(workdir, name)
    if not file.exists():
        expected = "a run with a model that is handed out, which attackers see"
        raise FlagError("workdir", expected, f"--algorithm={run.config['algorithm']} and no {file.name}")
    try:
        released = jax.tree.map(jnp.asarray, read_weights(file)[0])
    except Exception as error:
        # Whatever a damaged archive raises.
        raise DataError(file, None, "a released model", error) from error
    key = training_key(int(run.config["seed"]), int(run.config.get("member", 0)))
    first = task.init(jax.random.fold_in(key, 1))
    return Subject(run, kind, name, task, {"first": first, "last": released}, train, test, budget)


class Recovered(NamedTuple):
    """What an attacker makes of the update of one example.

    Attributes:
      pictures: name -> (ny, nx) magnitudes: "original" and each protection.
      matches: protection -> `attacks.Match`.
      model: "first" or "last", whose update showed more.
      site, others: whose update it was, and how many sites were in the secure sum.
      noises: protection by noise -> noise multiplier and clipping norm.
      kspace_error: relative error of the recovered measurement by protection; of reconstructions.
      labels: the label that the update gives away, and the true one; of classifications.
    """

    pictures: dict[str, np.ndarray]
    matches: dict[str, attacks.Match]
    model: str
    site: str
    others: int
    noises: dict[str, tuple[float, float]]
    kspace_error: dict[str, float]
    labels: tuple[int, int] | None


def invert_update(
    subject: Subject,
    site: str | None,
    *,
    iterations: int,
    seed: int,
    noises: Mapping[str, tuple[float, float]] | None = None,
) -> Recovered:
    """Recovers one example of a site: unprotected, from a secure sum of up to ``SITES``, and with noise.

    The worst case: the update is one step on one example, and the attacker knows model, task, and of
    reconstructions sampling and coil maps; it starts near the mean image of the other sites.

    Args:
      subject: the run.
      site: whose example; the first with examples by default.
      iterations, seed: of each attack.
      noises: name of a protection -> noise multiplier and clipping norm; "noise", that of ``EPSILON``, by
        default.

    Raises:
      FlagError: there is no such site, or it has no example.
    """
    names = list(subject.train.names)
    if site is not None and site not in names:
        raise FlagError("site", f"one of {', '.join(names[:20])}", repr(site))
    filled = [i for i in range(len(names)) if np.any(subject.train.valid[i])]
    victim = names.index(site) if site is not None else filled[0]
    if victim not in filled:
        raise FlagError("site", "one with examples", repr(site))
    order = [victim, *(i for i in filled if i != victim)][:SITES]
    batches = [_first_example(subject.train, i) for i in order]
    public = _public_images(subject, victim)
    settings = _attack_settings(subject, batches[0], public)
    update = attacks.gradient_update(subject.task)
    guess = settings.update or update
    send = jax.jit(update)

    @jax.jit
    def attack(seen: Any, variables: Variables, key: jax.Array) -> tuple[Batch, jax.Array]:
        found = attacks.invert(
            guess,
            seen,
            variables,
            settings.unknown,
            key,
            signs=False,
            prior_weight=settings.prior,
            rate=settings.rate,
            iterations=iterations,
        )
        return found.batch, found.distance

    original, key = settings.shown(batches[0]), jax.random.key(seed)
    found: dict[str, tuple[attacks.Match, Batch, float]] = {}
    for name, variables in subject.models.items():
        batch = attack(send(variables, batches[0]), variables, key)[0]
        found[name] = (attacks.match(settings.shown(batch), original, public=public), batch, 0.0)
    model = max(found, key=lambda name: float(found[name][0].psnr[0]))
    variables = subject.models[model]
    noises = {"noise": _noise_of(subject)} if noises is None else noises
    sent = [send(variables, batch) for batch in batches]
    seen = {"secure sum": attacks.mean_update(sent)} if len(sent) > 1 else {}
    for name, (multiplier, norm) in noises.items():
        seen[name] = attacks.clipped_and_noised(sent[0], key, norm=norm, noise_multiplier=multiplier)
    recovered = {"unprotected": found[model][1]} | {n: attack(x, variables, key)[0] for n, x in seen.items()}
    shown = {n: settings.shown(batch) for n, batch in recovered.items()}
    labels = None
    if subject.kind == "classification" and "head" in sent[0]:
        labels = (attacks.labels_of(sent[0]["head"])[0], int(batches[0]["label"][0]))
    errors = {}
    if subject.kind == "reconstruction":
        errors = {n: _kspace_error(b["kspace"], batches[0]["kspace"]) for n, b in recovered.items()}
    return Recovered(
        {n: _plane(x) for n, x in {"original": original, **shown}.items()},
        {n: attacks.match(x, original, public=public) for n, x in shown.items()},
        model,
        names[victim],
        len(sent),
        dict(noises),
        errors,
        labels,
    )


class _AttackSettings(NamedTuple):
    unknown: attacks.Unknown
    update: Any
    prior: float
    rate: float
    shown: Any


def _attack_settings(subject: Subject, batch: Batch, public: np.ndarray) -> _AttackSettings:
    mean = jnp.asarray(public.mean(0))
    if subject.kind == "reconstruction":
        data_range = float(np.median(public.max((1, 2))))
        unknown = attacks.measurements(batch, mri_measure, data_range=data_range, guess=mean)
        smooth = attacks.gradient_update(attacks.smoothed(subject.task))
        # Updates hold no scale, since networks and losses are normalized.
        return _AttackSettings(unknown, smooth, 1e-2, 0.03, lambda b: _normalized(b["target"]))
    low, high = float(public.min()), float(public.max())
    unknown = attacks.images(batch, low, high, guess=mean)
    return _AttackSettings(unknown, None, 1e-3, 0.02 * (high - low), lambda b: b["image"])


def _kspace_error(found: jax.Array, true: jax.Array) -> float:
    """Relative error of a measurement but for its scale: the sine of the angle between the two."""
    cosine = jnp.real(jnp.vdot(found, true)) / (jnp.linalg.norm(found) * jnp.linalg.norm(true))
    return float(jnp.sqrt(jnp.maximum(1 - jnp.maximum(cosine, 0) ** 2, 0)))


def _normalized(images: jax.Array) -> jax.Array:
    """Images (n, ny, nx) of root mean square 1."""
    return images / jnp.sqrt(jnp.maximum(jnp.square(images).mean((1, 2), keepdims=True), 1e-12))


def _first_example(clients: ClientData, client: int) -> Batch:
    number = int(np.flatnonzero(np.asarray(clients.valid[client]))[0])
    batch = {name: jnp.asarray(x[client][number][None]) for name, x in clients.examples.items()}
    return {**batch, "valid": jnp.ones(1, bool)}


def _public_images(subject: Subject, victim: int) -> np.ndarray:
    """Images of the other sites; of the test of all where there is no other."""
    name = "target" if subject.kind == "reconstruction" else "image"
    valid = np.asarray(subject.train.valid).copy()
    valid[victim] = False
    clients = subject.train
    if not valid.any():
        clients, valid = subject.test, np.asarray(subject.test.valid)
    images = np.asarray(clients.examples[name])[valid][:_MOST_EXAMPLES]
    return np.asarray(_normalized(images)) if subject.kind == "reconstruction" else images


def _plane(images: jax.Array) -> np.ndarray:
    image = np.asarray(images[0])
    return image if image.ndim == 2 else image.mean(-1)


def _mechanism(subject: Subject, epsilon: float) -> tuple[Mechanism, dict[str, Any]]:
    """The mechanism of the run's settings at this epsilon, and its report."""
    federation = dataclasses.replace(subject.run.settings.federation, dp_epsilon=epsilon)  # type: ignore[union-attr]
    plan = plan_privacy(federation, [(subject.train, {subject.kind: subject.budget})])
    spending = plan.noise[subject.kind]
    assert spending is not None, "an epsilon was asked for"
    return spending.mechanism, plan.report


def _noise_of(subject: Subject) -> tuple[float, float]:
    mechanism, _ = _mechanism(subject, EPSILON)
    return mechanism.noise_multiplier, mechanism.clipping_norm


def infer_members(subject: Subject) -> attacks.Membership:
    """The loss attack on the released model: training examples against those of the test patients."""
    groups = []
    for clients in (subject.train, subject.test):
        valid = np.asarray(clients.valid)
        chosen = {n: jnp.asarray(np.asarray(x)[valid][:_MOST_EXAMPLES]) for n, x in clients.examples.items()}
        groups.append(attacks.loss_scores(subject.task, subject.models["last"], chosen))
    members = np.repeat([True, False], [len(g) for g in groups])
    return attacks.membership_figures(np.concatenate(groups), members)


class Claim(NamedTuple):
    """What the run claims of one site.

    Attributes:
      epsilon, delta, unit, site: of the ledger, or of the report; for a run without privacy those that the
        same settings would have at ``EPSILON``.
      claimed: whether the run claims it.
      source: where it stands.
    """

    epsilon: float
    delta: float
    unit: str
    site: str
    claimed: bool
    source: str


def claim_of(subject: Subject) -> Claim:
    """The largest epsilon that the run's ledger or report names."""
    ledger = subject.run.workdir / "ledger.jsonl"
    if ledger.exists():
        try:
            lines = [json.loads(line) for line in ledger.read_text().splitlines() if line.strip()]
            worst = max(lines, key=lambda line: line["epsilon"])
            names = ("epsilon", "delta", "unit", "site")
            return Claim(*(worst[name] for name in names), True, "ledger.jsonl")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(ledger, None, "a ledger of releases", error) from error
    report: Mapping[str, Any] = subject.run.results.get("privacy") or {}
    claimed, source = bool(report), "results.json"
    if not claimed:
        _, report = _mechanism(subject, EPSILON)
        source = f"the same settings with --dp.epsilon={EPSILON:g}"
    site = max(report["epsilon"], key=lambda name: report["epsilon"][name])
    unit = next(iter(report["unit"].values())) if report.get("unit") else "example"
    return Claim(report["epsilon"][site], report["delta"][site], unit, site, claimed, source)


def audit_noise(subject: Subject, claim: Claim, seed: int) -> attacks.CanaryAudit | str:
    """A canary audit of the run's mechanism for its rounds, or why there is none.

    The mechanism trains on canaries in the place of the site's units, as many as it has.
    """
    from experiments.pipeline.canary_run import run_canaries

    epsilon = subject.run.settings.federation.dp_epsilon if claim.claimed else EPSILON  # type: ignore[union-attr]
    mechanism, report = _mechanism(subject, epsilon)
    units = int(report["units"].get(claim.site, 0))
    if mechanism.unit == "site":
        return "the unit is a whole site: with so few of them no attack proves anything"
    if units < 20:
        return f"{claim.site} has {units} units, too few for a bound: 20 or more are needed"
    return run_canaries(mechanism, subject.budget.rounds, units, delta=claim.delta, seed=seed)
