"""One stack for every program: which algorithm settings build, with privacy, and flags without an effect."""

import dataclasses
import functools
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.pipeline.cohorts import Cohorts, Split
from experiments.pipeline.federated_data import make_task
from experiments.pipeline.federated_settings import (
    PRESETS,
    TrainSettings,
    check_settings,
    network_norm,
    norm_note,
)
from experiments.pipeline.federated_settings import resolve as resolve_training
from experiments.pipeline.run import plan_stages, stage_budgets
from experiments.pipeline.settings import FullStackSettings, resolve
from fedrecon import Task, Variables, catalog
from fedrecon.data import select_clients, stack_clients
from fedrecon.errors import ArgumentError
from fedrecon.federated import History
from fedrecon.federated.mechanism import Mechanism
from fedrecon.federated.methods.remembering import Memory
from fedrecon.privacy import read_ledger
from fedrecon.runtime import Workdir, read_log
from fedrecon.training.budgets import Budget, Spending
from fedrecon.training.catalog_algorithms import algorithms, check_method, fitted, make_algorithm
from fedrecon.training.execution import Execution
from fedrecon.training.federation_checks import check_federation
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError, changed, flat
from fedrecon.training.privacy_plan import most_participations, plan_privacy
from fedrecon.training.stage import Stage, train_stage

WIDTH, BUDGET = 4000, Budget(rounds=1, epochs=3, batch_size=4, learning_rate=0.5)
NOISE = Spending(
    Mechanism(0.1, 2.0, 4, 12, steps=6), dict.fromkeys("abc", 5), dict.fromkeys("abc", 1e-3), target=1e3
)
LEAKING = {
    "lc_fed",
    "elayan",
    "ewc",
    "fedmoco",
    "wu_dermatology",
    "wu_volumetric",
    "harmofl",
    "harmofl_scaffold",
    "feddg",
    "qfedavg",
    "afl",
    "pfedme",
    "medisecfed",
    "lai",
    "fedce",
    "prr_fl",
    "braintorrent",
    "local_only",
    "centralized",
}
LEAKING |= {"li_moe", "fl_mrcm", "vafl", "tuladhar", "fedacs"}
LEAKING |= {"wei", "priya", "roth"}
LEAKING |= {"nalawade", "kades", "pati"}
LEAKING |= {"pan", "fedsim"}
LEAKING |= {"fedala", "feddg_ga"}
# By times of clients.
TIMED = ("ji", "fednorm")


def loss(params, stats, batch, key):
    """Pulls "w" and "head" nowhere, and "norm" to the mean of the examples."""
    seen = jnp.where(batch["valid"], (params["norm"].sum() - batch["x"]) ** 2, 0).sum()
    return seen / jnp.maximum(batch["valid"].sum(), 1) + 0 * (params["w"].sum() + params["head"].sum()), (
        stats,
        {},
    )


def metrics(params, stats, batch):
    return {"loss": (loss(params, stats, batch, None)[0], jnp.float32(1))}


TASK = Task(
    init=lambda key: Variables({"w": jnp.zeros(WIDTH), "head": jnp.zeros(3), "norm": jnp.zeros(2)}, {}),
    loss=loss,
    metrics=metrics,
    predict=lambda params, stats, batch: batch["x"],
    normalization=Variables({"w": False, "head": False, "norm": True}, {}),
)
CLIENTS = stack_clients([{"x": np.full(n, float(n), np.float32)} for n in (6, 8, 5)], ("a", "b", "c"))


def represent(params, stats, batch):
    return params["w"][:2] + batch["x"][:, None]


def trained(folder, federation, noise=NOISE, budget=BUDGET):
    keys = jax.random.key(1), jax.random.key(2)
    stage = Stage("stage", TASK, TASK.init(None), CLIENTS, *keys, represent, memory=Memory())
    with Workdir(folder, {}) as workdir:
        result = train_stage(stage, federation, budget, workdir, Execution("scan"), noise)
    return result, read_log(folder / "metrics.jsonl")


def test_the_full_stack_builds_the_algorithm_that_flags_name():
    """FedBN under DP-SGD keeps normalization private, samples by Poisson and reports no loss."""
    settings = resolve({"preset": "smoke", "algorithm": "fedbn", "dp_epsilon": 8.0})
    budget = stage_budgets(settings)["reconstruction"]
    assert budget.batch_size == settings.federation.dp_batch_size
    build = partial(make_algorithm, settings.federation, budget, TASK, CLIENTS)
    private, plain = build(noise=NOISE), build()
    for algorithm in (private, plain):
        assert algorithm.share_mask.params == {"w": True, "head": True, "norm": False}
    assert private.client.batching is not None and plain.client.batching is None
    examples, valid = jax.tree.map(lambda x: x[1], (CLIENTS.examples, CLIENTS.valid))
    index, _ = private.client.batching(examples, jnp.asarray(valid), jax.random.key(0))
    # The mechanism's steps of a Poisson batch each, padded.
    assert index.shape == (6, 12)
    # Clients keep Adam's state from round to round.
    assert jax.tree.leaves(private.client.init(TASK.init(None)).optimizer)


def test_sizes_count_once_where_clients_are_drawn_by_size():
    """Every client jumps to its own mean: over many draws the model's mean is near that of all examples."""
    counts, means = np.array([6.0, 8.0, 5.0]), np.array([0.0, 1.0, 0.0])
    settings = FederationSettings(sampler="weighted", clients_per_round=2)
    algorithm = make_algorithm(settings, BUDGET, TASK, CLIENTS)
    keys = jax.random.split(jax.random.key(0), 4000)
    history = History(jnp.zeros(3, jnp.int32), jnp.full(3, -1, jnp.int32), jnp.full(3, jnp.inf))
    drawn = np.asarray(jax.vmap(lambda key: algorithm.sampler(key, jnp.int32(0), history))(keys))
    models = (drawn * means).sum(1) / drawn.sum(1)
    assert models.mean() == pytest.approx(8 / 19, abs=0.02)
    for weighting, expected in (("default", np.ones(3)), ("examples", counts)):
        algorithm = make_algorithm(changed(settings, weighting=weighting), BUDGET, TASK, CLIENTS)
        np.testing.assert_array_equal(algorithm.weighting(jnp.asarray(counts), None), expected)


@pytest.mark.slow
def test_private_training_adds_the_stated_noise_and_nothing_else(tmp_path):
    """Where the gradient is zero, weights move by the noise alone: Z C / B in each of the steps."""
    federation = FederationSettings(algorithm="fedbn", dp_epsilon=1.0, weighting="equal")
    result, log = trained(tmp_path, federation)
    moved = np.asarray(result.released.params["w"])
    steps = 3 * 2
    expected = 0.5 * 2.0 * 0.1 / 4 * np.sqrt(steps / 3)
    assert np.std(moved) == pytest.approx(expected, rel=0.05) and abs(np.mean(moved)) < 4 * expected / 60
    norms = [np.asarray(model.params["norm"]) for model in result.models(3)]
    assert not np.allclose(norms[0], norms[1]) and result.own
    private = {"epsilon", "delta", "unit", "neighbors", "accountant"}
    plain = {"stage", "round", "clients", "bytes_up", "bytes_down", "seconds", "steps", "memory_bytes"}
    assert set(log[0]) == plain | private and log[0]["unit"] == "example"
    # Each client's release is in the ledger, and the worst of them in the log.
    lines = read_ledger(tmp_path / "ledger.jsonl")
    assert [line["site"] for line in lines] == ["a", "b", "c"]
    assert log[0]["epsilon"] == max(line["epsilon"] for line in lines) > 0
    # One step moves "norm" by half the clipped gradient of an expected batch, and the noise.
    assert max(np.abs(n).max() for n in norms) < 0.5 * steps * (0.1 * 3 + 5 * 0.05)


@pytest.mark.parametrize("name", algorithms())
def test_algorithms_that_send_more_than_noised_gradients_are_refused_under_privacy(name):
    clock = "wait" if name in TIMED else "none"
    private = FederationSettings(algorithm=name, dp_epsilon=8.0, clock=clock)
    needs = catalog.lookup(name).needs
    task = next((need for need in ("classification", "segmentation", "reconstruction") if need in needs), "")
    check = functools.partial(check_method, private, (task or "classification",), blocks="memory" in needs)
    if name not in LEAKING:
        check()
        return
    with pytest.raises(FlagError, match=r"^--dp.epsilon: expected 0") as found:
        check()
    assert found.value.flag == "dp_epsilon" and name in str(found.value)


def test_other_pairs_that_would_leak_or_have_no_effect_are_refused():
    cases = [
        (
            {"algorithm": "scaffold", "algorithm_options": (("option", "1"),)},
            "--dp.epsilon: .*gradient of all",
        ),
        ({"sampler": "highest_loss", "clients_per_round": 1}, "--sampler: expected one that needs no loss"),
    ]
    for changes, message in cases:
        settings = FederationSettings(dp_epsilon=8.0, **changes)
        with pytest.raises(ValueError, match=message):
            check_federation(settings)
            check_method(settings)
    for given, message in [
        ({"algorithm": "ditto"}, "--algorithm: expected one without models that sites train without noise"),
        ({"fine_tune": 1}, "--fine_tune: expected one without models"),
        ({"algorithm": "moon", "dp_epsilon": 0.0}, "--algorithm=moon: expected --task=classification"),
    ]:
        with pytest.raises(ValueError, match=message):
            resolve({"dp_epsilon": 8.0, **given})


# Virtual samples of fedvss are images, which the examples here are not.
PRIVATE = sorted(n for n in set(algorithms()) - LEAKING - {"fedvss"} if catalog.lookup(n).task is None)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRIVATE)
def test_every_other_algorithm_trains_under_privacy(name, tmp_path):
    federation = FederationSettings(algorithm=name, dp_epsilon=1.0)
    options = {"fedprox": (("strength", "0.1"),), "fednorm": (("adaptation_steps", "0"),)}.get(name, ())
    federation = changed(federation, clock="wait" if name in TIMED else "none")
    unit = catalog.lookup(name).unit or "example"
    noise = NOISE._replace(mechanism=dataclasses.replace(NOISE.mechanism, unit=unit, units=8))
    result, log = trained(tmp_path, changed(federation, algorithm_options=options), noise)
    own, released = result.scores(TASK, CLIENTS)
    assert all(np.isfinite(scores["loss"]) for scores in (*own.values(), *released.values()))
    assert np.asarray(result.released.params["w"]).std() > 0 and "loss" not in log[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"topology": "ring"},
        {"topology": "gossip", "mixing": "complete"},
        {"topology": "asynchronous", "buffer_size": 2},
        {"stream": 2, "sampler": "uniform", "clients_per_round": 2},
        {"reduce": "median", "screen_norm": 20.0, "clip_norm": 1.0, "stragglers": 0.5},
        {"fine_tune": 1},
    ],
)
def test_topologies_and_reducers_train_under_privacy(changes, tmp_path):
    result, _ = trained(tmp_path, FederationSettings(dp_epsilon=1.0, **changes))
    assert np.asarray(result.released.params["w"]).std() > 0
    assert np.isfinite([scores["loss"] for scores in result.scores(TASK, CLIENTS)[0].values()]).all()


def test_privacy_counts_every_turn_that_a_client_may_take(monkeypatch):
    """Sampling of clients and absence lower nothing; an asynchronous client may send every update."""
    calls = []

    def calibrate(epsilon, parts, **options):
        calls.append((sum(rounds * mechanism.steps for mechanism, rounds in parts), options["units"]))
        raise ArgumentError("epsilon", "more", epsilon)

    monkeypatch.setattr("fedrecon.training.privacy_plan.calibrate_noise_multiplier", calibrate)
    budget = Budget(rounds=5, epochs=3, batch_size=4, learning_rate=0.1)
    for changes, turns in [
        ({}, 5),
        ({"sampler": "uniform", "clients_per_round": 1, "stragglers": 0.9}, 5),
        ({"topology": "asynchronous", "buffer_size": 4}, 20),
    ]:
        settings = FederationSettings(dp_epsilon=2.0, dp_batch_size=4, **changes)
        assert most_participations(settings, 5) == turns
        with pytest.raises(FlagError, match=r"--dp\.epsilon: expected a budget that noise can meet"):
            plan_privacy(settings, [(CLIENTS, {"one": budget, "two": budget})])
        assert calls[-1] == (2 * turns * 3 * 2, [6, 8, 5])


def test_optimizers_fit_the_algorithm():
    for name, expected in {
        "fedavg": ("adam_cosine", "constant"),
        "fedbn": ("adam_cosine", "constant"),
        "scaffold": ("sgd", "constant"),
        "fednova": ("sgd", "constant"),
        "feddyn": ("adam", "warmup_cosine"),
        "fedrep": ("adam", "warmup_cosine"),
    }.items():
        found = resolve({"algorithm": name}).federation
        assert (found.optimizer, found.rate_schedule) == expected, name
    assert fitted(FederationSettings()) == FederationSettings()
    assert resolve({"algorithm": "scaffold", "optimizer": "sgd"}).federation.optimizer == "sgd"
    with pytest.raises(FlagError, match="--optimizer: expected sgd, which scaffold presumes"):
        resolve({"algorithm": "scaffold", "optimizer": "adam"})
    with pytest.raises(FlagError, match="--optimizer: expected sgd, momentum or adam, since clients"):
        resolve({"algorithm": "feddyn", "optimizer": "adam_cosine"})
    with pytest.raises(FlagError, match="--algorithm: expected one that exchanges something"):
        resolve({"algorithm": "local_only"})


def test_scaffold_is_what_the_full_stack_trains():
    """Control variates travel: an update is twice as large as FedAvg's, and the weight."""
    settings = resolve({"algorithm": "scaffold"})
    algorithm = make_algorithm(settings.federation, BUDGET, TASK, CLIENTS)
    control = algorithm.exchange.broadcast(algorithm.exchange.init(TASK.init(None)))
    assert jax.tree.map(jnp.shape, control) == jax.tree.map(jnp.shape, TASK.init(None).params)


def silent(**changes):
    return changes


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        (silent(concentration=0.05), "concentration"),
        (silent(shards_per_client=1), "shards_per_client"),
        (silent(minimum_examples=50), "minimum_examples"),
        (silent(partition="shards", concentration=0.01), "concentration"),
        (silent(partition="shards", minimum_examples=500), "minimum_examples"),
        (silent(partition="dirichlet", shards_per_client=5), "shards_per_client"),
        (silent(task="segmentation", classes=5), "classes"),
        (silent(task="segmentation", examples_per_client=500), "examples_per_client"),
        (silent(cascades=12), "cascades"),
        (silent(patients_per_site=50), "patients_per_site"),
        (silent(cohort="xray", data_dir="x", classes=7), "classes"),
        (
            silent(cohort="retina", task="segmentation", data_dir="x", patients_per_site=9),
            "patients_per_site",
        ),
        (silent(dp_clipping_norm=1.0), "dp_clipping_norm"),
        (silent(dp_epsilon=8.0, batch_size=7), "batch_size"),
        (silent(stream_from="hdf5"), "stream_from"),
        (silent(reduce="median", weighting="examples"), "weighting"),
        (silent(topology="ring", handover="optimizer"), "handover"),
    ],
)
def test_flags_without_an_effect_are_refused(changes, flag):
    with pytest.raises(FlagError, match="alone") as found:
        check_settings(changed(TrainSettings(), **changes))
    assert found.value.flag == flag


def test_more_clients_a_round_than_any_stage_has_are_refused(capsys):
    """Cohorts of measured data have other sites in each stage."""
    few = select_clients(CLIENTS, ("a", "b"))
    splits = [Split(clients, clients, clients) for clients in (CLIENTS, few, few)]
    cohorts = Cohorts(*splits, False, (8, 8), [], ())
    settings = resolve({"cohort": "measured", "data_dir": "x", "clients_per_round": 4})
    with pytest.raises(FlagError, match=r"--clients_per_round: expected at most the 3 sites .*, found 4"):
        plan_stages(settings, cohorts, stage_budgets(settings))
    assert not capsys.readouterr().out
    plan_stages(changed(settings, clients_per_round=3), cohorts, stage_budgets(settings))
    assert capsys.readouterr().out.count("all join every round") == 2


def test_a_delta_that_gives_away_an_example_is_refused():
    smallest = int(np.asarray(CLIENTS.counts).min())
    settings = FederationSettings(dp_epsilon=8.0, dp_delta=1.01 / smallest)
    with pytest.raises(FlagError, match=f"--dp.delta: expected less than 1 / {smallest}"):
        plan_privacy(settings, [(CLIENTS, {"one": Budget(1, 1, 4, 0.1)})])


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_of_trainings_come_below_what_is_given(preset):
    for task in ("classification", "segmentation", "reconstruction"):
        settings = check_settings(resolve_training({"preset": preset, "task": task, "rounds": 7}))
        assert settings.rounds == 7
        for name in set(PRESETS[preset]) - {"rounds"}:
            assert getattr(settings, name) == PRESETS[preset][name]


def test_a_message_besides_the_model_is_refused_in_private_sums(tmp_path):
    site = dataclasses.replace(NOISE.mechanism, unit="site", sampling="fixed", padded_batch_size=4)
    private = FederationSettings(algorithm="scaffold", dp_epsilon=1.0, dp_unit="site")
    with pytest.raises(FlagError, match=r"--algorithm: expected one that sends the model alone.*scaffold"):
        trained(tmp_path, private, NOISE._replace(mechanism=site))


def test_batch_statistics_give_way_to_groups_under_privacy():
    plain = changed(TrainSettings(), norm="batch", task="segmentation")
    private = changed(plain, dp_epsilon=8.0)
    for settings, norm in ((plain, "batch"), (private, "group32")):
        check_settings(settings)
        assert network_norm(settings) == norm
        task = make_task(settings, {"image": np.zeros((1, 8, 8, 1)), "segmentation": np.zeros((1, 8, 8))})
        shapes = jax.eval_shape(task.init, jax.random.key(0))
        assert bool(jax.tree.leaves(shapes.stats)) == (norm == "batch")
        assert bool(norm_note(settings)) == (norm != "batch")


def test_settings_change_by_name_and_are_flat_in_files():
    settings = changed(TrainSettings(), rounds=3, algorithm="fedprox", algorithm_options=(("strength", "2"),))
    assert settings.rounds == 3 and settings.federation.algorithm == "fedprox"
    values = json.loads(json.dumps(flat(settings)))
    assert values["rounds"] == 3 and values["algorithm.strength"] == "2" and "federation" not in values
    with pytest.raises(TypeError):
        changed(settings, nothing=1)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (TrainSettings, "boundary", 0.5),
        (TrainSettings, "configure", "fingerprint"),
        (TrainSettings, "riders", "flagged"),
        (FullStackSettings, "segmentation_network", "residual-unet"),
    ],
)
def test_runs_of_earlier_versions_continue_with_the_defaults_of_later_settings(kind, name, value):
    assert name not in flat(kind())
    assert flat(changed(kind(), **{name: value}))[name] == value


def test_errors_about_flags_of_an_algorithm_are_renamed():
    renamed = FlagError("algorithm.strength", "more", 1).renamed("algorithm", "fedprox")
    assert str(renamed) == "--fedprox.strength: expected more, found 1"
    assert FlagError("rounds", "more", 1).renamed("algorithm", "fedprox").flag == "rounds"
