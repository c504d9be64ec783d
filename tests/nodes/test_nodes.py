"""Nodes: what is approved runs, what its owner asks for holds, and rounds are those of the simulation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.federated.methods.fedbiomed import fedbiomed
from fedrecon.nodes import Approvals, Job, Node, Plan, Policy, Registry, averaged, identity, run_round
from fedrecon.nodes.plans import made_task
from fedrecon.types import Variables

SOURCE = """import jax.numpy as jnp
from fedrecon.types import Task, Variables


def task(example, config):
    def loss(params, stats, batch, key):
        error = jnp.square(batch["x"] @ params["w"] - batch["y"])
        valid = batch["valid"]
        return config["scale"] * jnp.where(valid, error, 0).sum() / jnp.maximum(valid.sum(), 1), (stats, {})

    return Task(
        init=lambda key: Variables({"w": jnp.zeros(example["x"].shape[-1])}, {}),
        loss=loss,
        metrics=lambda params, stats, batch: {},
        predict=lambda params, stats, batch: batch["x"] @ params["w"],
        normalization=Variables({"w": False}, {}),
    )
"""
CONFIG = {"learning_rate": 0.1, "batch_size": 2, "epochs": 2, "scale": 0.5}
PLAN = Plan(SOURCE, CONFIG)
COUNTS = (5, 3, 4)
TAGS = frozenset({"toy"})


def examples(site):
    rng = np.random.default_rng(site)
    x = rng.normal(size=(COUNTS[site], 3)).astype(np.float32)
    return {"x": x, "y": (x.sum(1) + site).astype(np.float32)}


def node(site, plan=PLAN, **policy):
    registry, approvals = Registry(), Approvals()
    registry.add("regression", ["toy", f"site{site}"], examples(site))
    if plan is not None:
        approvals.approve(plan, "owner")
    return Node(f"site{site}", registry, approvals, Policy(**policy))


START = Variables({"w": jnp.asarray([0.1, -0.2, 0.3])}, {})


def test_a_change_of_one_character_is_refused_and_does_not_run(tmp_path):
    """Anywhere in source or configuration, however small; line ends of other systems are no change."""
    site = node(0)
    ran = tmp_path / "ran"
    assert site.train(Job(PLAN, TAGS, START)).status == "trained"
    crlf = PLAN._replace(source=SOURCE.replace("\n", "\r\n"))
    assert identity(crlf) == identity(PLAN)
    reordered = PLAN._replace(config=dict(reversed(CONFIG.items())))
    assert identity(reordered) == identity(PLAN)
    others = {identity(PLAN)}
    rng = np.random.default_rng(0)
    for place in rng.choice(len(SOURCE), 40, replace=False):
        for changed in (SOURCE[:place] + SOURCE[place + 1 :], SOURCE[:place] + " " + SOURCE[place:]):
            plan = PLAN._replace(source=changed)
            if changed != SOURCE:
                others.add(identity(plan))
                assert identity(plan) != identity(PLAN)
    side_effect = PLAN._replace(source=f"open({str(ran)!r}, 'w')\n" + SOURCE)
    longer, other = PLAN._replace(source=SOURCE + " "), PLAN._replace(config={**CONFIG, "scale": 0.51})
    for plan in (side_effect, longer, other):
        reply = site.train(Job(plan, TAGS, START))
        assert (reply.status, reply.params, reply.examples) == ("refused", None, 0)
        assert "is not approved at site0" in reply.reason
    assert not ran.exists() and len(others) > 40
    # What moves from the source to the configuration is another plan.
    assert identity(Plan("ab", {})) != identity(Plan("a", {})) != identity(Plan("", {"a": ""}))


def test_approvals_are_kept_and_withdrawn(tmp_path):
    file = tmp_path / "approvals.json"
    digest = Approvals(file).approve(PLAN, "owner")
    assert digest in Approvals(file)
    Approvals(file).withdraw(digest)
    assert digest not in Approvals(file)
    with pytest.raises(ValueError, match=r"^config: expected JSON of finite numbers"):
        identity(PLAN._replace(config={"scale": float("nan")}))


@pytest.mark.parametrize(("minimum", "status"), [(5, "trained"), (6, "unavailable")])
def test_too_few_examples_are_unavailable(minimum, status):
    reply = node(0, minimum=minimum).train(Job(PLAN, TAGS, START))
    assert reply.status == status
    # It tells nobody how few they are.
    assert status == "trained" or (reply.examples == 0 and "5" not in reply.reason)
    assert node(0).train(Job(PLAN, frozenset({"other"}), START)).status == "unavailable"
    registry = Registry()
    registry.add("a", ["toy"], examples(0))
    registry.add("b", ["toy"], examples(1))
    approvals = Approvals()
    approvals.approve(PLAN, "owner")
    assert Node("two", registry, approvals).train(Job(PLAN, TAGS, START)).status == "unavailable"


def test_searches_find_all_tags_and_tell_no_numbers():
    site = node(1)
    (found,) = site.search(["toy", "site1"])
    assert found.name == "regression" and found.shapes["x"].shape == (1, 3)
    assert not site.search(["toy", "site0"])
    registry = Registry()
    registry.add("a", ["t"], examples(0))
    for arguments, message in (
        (("a", ["t"], examples(0)), "name: expected a name that is not registered"),
        (("b", [], examples(0)), "tags: expected tags"),
        (("b", ["t"], {"x": np.zeros(3), "y": np.zeros(2)}), "examples: expected arrays of as many"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            registry.add(*arguments)


class Clients(NamedTuple):
    examples: dict
    valid: jax.Array


def simulation():
    size = max(COUNTS)
    x, y = np.zeros((3, size, 3), np.float32), np.zeros((3, size), np.float32)
    for site, count in enumerate(COUNTS):
        x[site, :count], y[site, :count] = examples(site).values()
    valid = jnp.arange(size)[None] < jnp.asarray(COUNTS)[:, None]
    return Clients({"x": jnp.asarray(x), "y": jnp.asarray(y)}, valid)


@pytest.mark.parametrize("minimum", [1, 4])
def test_rounds_of_nodes_are_those_of_the_compiled_simulation(minimum):
    """Full batches, so that the order of examples within padding does not matter."""
    plan = PLAN._replace(config={**CONFIG, "batch_size": 5})
    nodes = [node(site, plan, minimum=minimum) for site in range(3)]
    task = made_task(plan, {"x": jax.ShapeDtypeStruct((1, 3), jnp.float32)})
    algorithm = fedbiomed(task, optax.sgd(0.1), minimum=minimum)
    round = fl.make_round(algorithm, batch_size=5, epochs=2, donate=False)
    state, params = fl.init_state(algorithm, START, simulation()), START
    for number in range(2):
        found = run_round(nodes, plan, TAGS, params, round=number, seed=7)
        params = found.params
        state, _ = round(state, simulation(), jax.random.key(7))
        np.testing.assert_allclose(params.params["w"], state.variables.params["w"], atol=1e-6)
    statuses = [reply.status for reply in found.replies]
    assert statuses == ["trained", "trained" if minimum == 1 else "unavailable", "trained"]
    assert np.abs(params.params["w"] - START.params["w"]).max() > 0.01


def test_batches_are_those_of_the_round_and_the_place():
    """With small batches, bit for bit those of the simulation where a node has as many examples as any."""
    site, task = node(0), made_task(PLAN, {"x": jax.ShapeDtypeStruct((1, 3), jnp.float32)})
    only = simulation()._replace(valid=simulation().valid.at[1:].set(False))
    algorithm = fl.fedavg(task, optax.sgd(0.1))
    round, params = fl.make_round(algorithm, batch_size=2, epochs=2, donate=False), START
    state = fl.init_state(algorithm, START, only)
    for number in range(2):
        params = site.train(Job(PLAN, TAGS, params, number, 7, 0, 3)).params
        state, _ = round(state, only, jax.random.key(7))
        np.testing.assert_array_equal(params.params["w"], state.variables.params["w"])
    here, there = (site.train(Job(PLAN, TAGS, START, 0, 7, place, 3)).params for place in (0, 1))
    assert not np.array_equal(here.params["w"], there.params["w"])


@pytest.mark.slow
def test_a_minimum_of_one_is_averaging_bit_for_bit():
    task = made_task(PLAN, {"x": jax.ShapeDtypeStruct((1, 3), jnp.float32)})
    states = []
    for algorithm in (fedbiomed(task, optax.sgd(0.1)), fl.fedavg(task, optax.sgd(0.1))):
        round = fl.make_round(algorithm, batch_size=2, epochs=1)
        state = fl.init_state(algorithm, START, simulation())
        states.append(round(state, simulation(), jax.random.key(0))[0])
    np.testing.assert_array_equal(*(state.variables.params["w"] for state in states))
    with pytest.raises(ValueError, match=r"^minimum: expected at least 1 example, found 0"):
        fedbiomed(task, optax.sgd(0.1), minimum=0)


def test_the_owner_caps_epochs_and_forces_noise():
    capped = node(0, epochs=1).train(Job(PLAN, TAGS, START))
    once = PLAN._replace(config={**CONFIG, "epochs": 1})
    free = node(0, once).train(Job(once, TAGS, START))
    assert (capped.epochs, node(0).train(Job(PLAN, TAGS, START)).epochs) == (1, 2)
    np.testing.assert_array_equal(capped.params.params["w"], free.params.params["w"])
    # Noise is of the node's own key: the same job gives other numbers each time, as large as asked for.
    site = node(0, noise_multiplier=1e3, epochs=1)
    replies = [site.train(Job(PLAN, TAGS, START)) for _ in range(2)]
    assert all(reply.private and reply.status == "trained" for reply in replies)
    gap = replies[0].params.params["w"] - replies[1].params.params["w"]
    assert np.abs(gap).max() > 1
    for policy in ({"minimum": 0}, {"epochs": 0}, {"clipping_norm": 0.0}, {"noise_multiplier": -1.0}):
        with pytest.raises(ValueError, match=f"^{next(iter(policy))}: expected"):
            Policy(**policy)


def test_plans_that_do_not_fit_are_refused_in_words():
    for plan, words in (
        (PLAN._replace(source="x = 1\n"), "a function task"),
        (PLAN._replace(config={**CONFIG, "optimizer": "magic"}), "one of sgd, adam"),
        (PLAN._replace(config={**CONFIG, "learning_rate": 1e30}), "not finite"),
        (PLAN._replace(config={"scale": 1.0}), "'epochs'"),
    ):
        reply = node(0, plan).train(Job(plan, TAGS, START))
        assert reply.status == "refused" and words in reply.reason, reply
    with pytest.raises(ValueError, match=r"^nodes: expected one that trains, found refused"):
        run_round([node(0, None)], PLAN, TAGS, START)
    with pytest.raises(ValueError, match=r"^replies: expected a node that has trained, found none"):
        averaged([])
