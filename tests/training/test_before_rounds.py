"""What a method does before its rounds, through a whole training stage."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import catalog
from fedrecon import federated as fl
from fedrecon.catalog import Entry
from fedrecon.data import stack_clients
from fedrecon.federated.methods.prepared import prepared
from fedrecon.runtime import Workdir, read_log
from fedrecon.training import (
    Budget,
    Execution,
    FederationSettings,
    FlagError,
    Stage,
    check_method,
    train_stage,
)
from fedrecon.training.before_rounds import own_start
from fedrecon.training.finetuning import released_task
from fedrecon.types import Task, Variables
from fedrecon.weights import read_weights

CLIENTS = stack_clients(
    [{"x": np.arange(float(n), dtype=np.float32)[:, None] + n} for n in (3, 5, 2)], ("a", "b", "c")
)


def loss(params, stats, batch, key):
    away = jnp.where(batch["valid"], (params["w"] - batch["x"][:, 0]) ** 2, 0).sum()
    return away / jnp.maximum(batch["valid"].sum(), 1), (stats, {})


TASK = Task(
    init=lambda key: Variables({"w": jnp.float32(0)}, {}),
    loss=loss,
    metrics=lambda params, stats, batch: {
        "x": (jnp.where(batch["valid"], batch["x"][:, 0], 0).sum(), jnp.float32(1))
    },
    predict=lambda params, stats, batch: batch["x"],
    normalization=Variables({"w": False}, {}),
)


def centered(task, example, *, scale: float = 1.0):
    """Examples from which ``scale`` times a center is taken."""
    if "x" not in example:
        raise ValueError("never")
    return prepared(
        task,
        "center",
        lambda: jnp.zeros(1),
        lambda center, batch: {**batch, "x": batch["x"] - scale * center},
    )


def center(task, variables, clients, key, mesh, *, again: int = 1):
    def compute(payload, row, client, key):
        x = jnp.where(row.valid[:, None], row.examples["x"], 0).sum(0) / jnp.maximum(row.valid.sum(), 1)
        return fl.Message(summed=x)

    found = fl.phases.make_exchange(compute, mesh=mesh)((), fl.place(clients, mesh), key)
    mean = again * found.message.summed / found.participants
    start = Variables(variables.params, {**variables.stats, "center": mean})
    return fl.phases.Beforehand(start, mean, found.bytes_up, 2 * found.bytes_up, frozen=("center",))


def recipe(task, optimizer, *, exchanged, **options):
    return fl.fedavg(task, optimizer, **options)


ENTRY = Entry(
    "centering",
    recipe,
    "Nobody 2026, nowhere",
    "a center is taken away",
    needs=("exchanged",),
    linear=False,
    task=centered,
    before=center,
)


@pytest.fixture(autouse=True)
def _registered():
    with catalog.registered(ENTRY):
        yield


def trained(folder, rounds=2, options=(), initialize_from=""):
    settings = FederationSettings(
        algorithm="centering", algorithm_options=options, initialize_from=initialize_from
    )
    keys = jax.random.key(1), jax.random.key(2)
    stage = Stage("stage", TASK, TASK.init(None), CLIENTS, *keys, about={"task": "own"})
    with Workdir(folder, {}, resume=folder.exists()) as workdir:
        result = train_stage(stage, settings, Budget(rounds, 1, 5, 0.1), workdir, Execution("scan"))
    return result, read_log(folder / "metrics.jsonl")


def test_the_model_starts_from_what_was_exchanged_and_hands_it_out(tmp_path):
    """The bytes are in the first round's record alone, and what everybody has travels no more."""
    result, log = trained(tmp_path / "run")
    means = [CLIENTS.examples["x"][i, :n, 0].mean() for i, n in enumerate((3, 5, 2))]
    np.testing.assert_allclose(result.released.stats["center"], [np.mean(means)], rtol=1e-6)
    kept = read_weights(tmp_path / "run" / "models" / "stage.npz")[0]
    np.testing.assert_array_equal(kept.stats["center"], result.released.stats["center"])
    assert float(result.released.params["w"]) != 0
    # The parameter and the weight up, the parameter down; before: a number up, two down.
    assert [(r["bytes_up"], r["bytes_down"]) for r in log] == [(3 * 12, 3 * 12), (3 * 8, 3 * 4)]
    assert log[0]["bytes_up_before"] == 12 and "bytes_up_before" not in log[1]
    scores, _ = result.scores(result.tuning.released, CLIENTS)
    assert scores["a"]["x"] == pytest.approx(3 * (means[0] - np.mean(means)), abs=1e-5)


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_one_that_was_not_interrupted(tmp_path):
    whole, log = trained(tmp_path / "whole", rounds=3)
    trained(tmp_path / "parts", rounds=1)
    parts, again = trained(tmp_path / "parts", rounds=3)
    jax.tree.map(np.testing.assert_array_equal, parts.released, whole.released)
    assert [r["bytes_up"] for r in again] == [r["bytes_up"] for r in log]


@pytest.mark.slow
def test_options_of_task_and_exchange_are_flags(tmp_path):
    options = (("scale", "0"), ("again", "2"))
    result, _ = trained(tmp_path / "run", options=options)
    plain, _ = trained(tmp_path / "plain")
    np.testing.assert_allclose(result.released.stats["center"], 2 * plain.released.stats["center"])
    assert result.scores(result.tuning.released, CLIENTS)[0]["a"]["x"] == CLIENTS.examples["x"][0].sum()
    with pytest.raises(FlagError, match="expected one of centering's options"):
        check_method(FederationSettings(algorithm="centering", algorithm_options=(("scales", "1"),)), ())


@pytest.mark.slow
def test_a_model_of_the_network_alone_or_of_the_same_method_may_start_it(tmp_path):
    first, _ = trained(tmp_path / "first")
    again, _ = trained(tmp_path / "again", initialize_from=str(tmp_path / "first"))
    assert float(again.released.params["w"]) != float(first.released.params["w"])
    plain = FederationSettings(algorithm="fedavg")
    stage = Stage("stage", TASK, TASK.init(None), CLIENTS, jax.random.key(1), jax.random.key(2))
    with Workdir(tmp_path / "plain", {}) as workdir:
        train_stage(stage, plain, Budget(1, 1, 5, 0.1), workdir, Execution("scan"))
    started, _ = trained(
        tmp_path / "started", initialize_from=str(tmp_path / "plain" / "models" / "stage.npz")
    )
    assert "center" in started.released.stats


def test_the_network_starts_as_given_and_the_rest_as_drawn():
    settings, example = FederationSettings(algorithm="centering"), {"x": jax.ShapeDtypeStruct((1, 1), float)}
    given = Variables({"w": jnp.float32(7)}, {})
    _, start, beside = own_start(settings, TASK, given, example, jax.random.key(0))
    assert start.params["w"] == 7 and start.stats["center"] == 0 and beside == ("center",)


def test_another_network_starts_from_itself_alone():
    """Nothing of the network that it takes the place of is in its model, or in a message."""
    other = TASK._replace(init=lambda key: Variables({"v": jnp.float32(3)}, {}))

    def replaced(task, example):
        return other

    row = Entry("replacing", fl.fedavg, "Nobody 2026, nowhere", "another network", task=replaced)
    with catalog.registered(row):
        settings = FederationSettings(algorithm="replacing")
        found = own_start(settings, TASK, TASK.init(None), {"x": jnp.zeros((1, 1))}, jax.random.key(0))
    assert found == (other, Variables({"v": jnp.float32(3)}, {}), ())


def test_who_reads_a_released_model_gets_its_task(tmp_path):
    settings = FederationSettings(algorithm="centering")
    task = released_task(settings, TASK, {"x": jax.ShapeDtypeStruct((1, 1), jnp.float32)})
    seen = task.predict({}, {"center": jnp.ones(1)}, {"x": jnp.zeros((2, 1))})
    np.testing.assert_array_equal(seen, -np.ones((2, 1)))


@pytest.mark.parametrize(
    ("changes", "blocks", "message"),
    [
        (
            {"dp_epsilon": 1.0},
            False,
            "dp.epsilon: expected 0 with .*, whose clients exchange",
        ),
        ({"stream": 2}, False, "stream: expected 0 with --algorithm=centering"),
        ({"secure_aggregation": "secagg"}, False, "algorithm: expected one that sends nothing but sums"),
        ({}, True, "algorithm: expected one that needs nothing before its rounds"),
    ],
)
def test_what_does_not_go_with_an_exchange_is_refused(changes, blocks, message):
    with pytest.raises(FlagError, match=message):
        check_method(FederationSettings(algorithm="centering", **changes), (), blocks=blocks)


def test_rows_say_what_an_exchange_brings():
    fields = {"name": "mine", "recipe": recipe, "reference": "Nobody 2026", "changes": "nothing"}
    with pytest.raises(ValueError, match="before: expected a function"):
        Entry(**fields, needs=("exchanged",))
    with pytest.raises(ValueError, match="linear: expected False"):
        Entry(**fields, needs=("exchanged",), before=center)


def test_private_leaves_start_from_each_clients_own():
    algorithm = fl.fedavg(TASK, optax.sgd(0.1), share_mask=Variables(True, True))._replace(
        share_mask=Variables({"w": False}, True)
    )
    state = fl.init_state(algorithm, TASK.init(None), CLIENTS)
    own = Variables({"w": np.array([1.0, 2.0, 3.0], np.float32)}, {})
    changed = fl.phases.with_private(state, own)
    np.testing.assert_array_equal(changed.private.params["w"], [1, 2, 3])
    shared = fl.init_state(algorithm._replace(share_mask=Variables(True, True)), TASK.init(None), CLIENTS)
    with pytest.raises(ValueError, match="own: expected leaves that stay at clients"):
        fl.phases.with_private(shared, own)
