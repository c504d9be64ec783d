"""Budgets: releases are in the ledger before they happen, and end before the target would be exceeded."""

import dataclasses
import os
from types import SimpleNamespace

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrecon.data import stack_clients
from fedrecon.federated.mechanism import Mechanism
from fedrecon.privacy import buffered_strategy_of, read_ledger
from fedrecon.runtime import Workdir, read_log, train
from fedrecon.training.budgets import Budget, Spending
from fedrecon.training.federation_checks import check_federation
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError
from fedrecon.training.privacy_plan import count_units, make_mechanism, plan_privacy
from fedrecon.training.spending import Purse, fresh_key

KEY = jax.random.key(7)
FULL = Mechanism(1.0, 3.0, 10, 10, sampling="fixed", epochs=2)
BUDGET = Budget(rounds=4, epochs=2, batch_size=2, learning_rate=0.1)
PATIENTS = stack_clients(
    [
        {"x": np.zeros(6, np.float32), "volume": np.array([0, 0, 1, 1, 1, 2], np.int32)},
        {"x": np.zeros(3, np.float32), "volume": np.array([4, 4, 9], np.int32)},
    ],
    ("a", "b"),
)


def spending(mechanism=FULL, target=5.0, **changes):
    return Spending(mechanism, {"a": 30, "b": 12}, {"a": 1e-5, "b": 1e-4}, target, **changes)


def independent(rounds, delta):
    """Epsilon of rounds of two Gaussian mechanisms each, composed here."""
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    event = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(3.0), 2 * rounds)
    return dp_accounting.pld.PLDAccountant(relation).compose(event).get_epsilon(delta)


def test_rounds_are_permitted_up_to_the_last_within_the_budget(tmp_path):
    target, most = 0.5 * (independent(4, 1e-5) + independent(5, 1e-5)), 4
    purse = Purse(tmp_path, "stage", spending(target=target), KEY)
    assert purse.permit(0, 1) == 1 and purse.permit(1, 8) == most - 1 and purse.permit(most, 1) == 0
    records = purse.records(0, [{"loss": 1.0}] * most)
    for number in (1, 2, most):
        np.testing.assert_allclose(records[number - 1]["epsilon"], independent(number, 1e-5), rtol=0.01)
    assert records[0]["unit"] == "example" and records[0]["delta"] == 1e-4 and "loss" in records[0]
    lines = read_ledger(tmp_path / "ledger.jsonl")
    assert [(line["round"], line["site"]) for line in lines[:4]] == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    assert len(lines) == 2 * most and lines[0]["neighboring_relation"] == "REPLACE_SPECIAL"


@pytest.mark.parametrize("secure", [False, True])
def test_restarts_compose_exactly(tmp_path, secure):
    """A simulation repeats its noise and counts it once; noise of the operating system counts again."""
    epsilons = []
    for done, count in ((0, 3), (1, 2), (3, 2)):
        purse = Purse(tmp_path, "stage", spending(target=20.0, secure=secure), KEY)
        assert purse.permit(done, count) == count
        epsilons.append(purse.records(done, [{}] * count)[-1]["epsilon"])
    expected = (3, 5, 7) if secure else (3, 3, 5)
    sources = {line["noise"] for line in read_ledger(tmp_path / "ledger.jsonl")}
    assert len(sources) == 1 and sources.pop().startswith("secure: Threefry" if secure else "simulation")
    np.testing.assert_allclose(epsilons, [independent(n, 1e-5) for n in expected], rtol=0.01)
    other = Purse(tmp_path, "stage", spending(target=20.0), jax.random.key(8))
    assert other.permit(0, 1) and len(read_ledger(tmp_path / "ledger.jsonl")) == 2 * (expected[-1] + 1)


def test_correlated_noise_is_paid_once_for_all_rounds(tmp_path):
    matrix = dataclasses.replace(FULL, noise_multiplier=1.0, strategy=(1.0,), factors=(1.0,) * 4)
    for done in (0, 2):
        purse = Purse(tmp_path, "stage", spending(matrix, target=6.0), KEY)
        assert purse.permit(done, 2) == 2
        relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
        accountant = dp_accounting.pld.PLDAccountant(relation).compose(dp_accounting.GaussianDpEvent(1.0))
        found = [record["epsilon"] for record in purse.records(done, [{}, {}])]
        np.testing.assert_allclose(found, accountant.get_epsilon(1e-5), rtol=0.01)
    assert len(read_ledger(tmp_path / "ledger.jsonl")) == 2


def test_a_training_ends_with_the_last_round_that_is_permitted(tmp_path):
    """Its state is kept, the ledger has a round before it runs, and the same call goes no further."""
    runs = []

    def dispatch(count):
        def run(state, data, key):
            assert len(read_ledger(tmp_path / "ledger.jsonl")) == 2 * (len(runs) + 1)
            runs.append(count)
            return state + count, SimpleNamespace(count=count)

        return run

    for _ in range(2):
        with Workdir(tmp_path, {}) as workdir:
            purse = Purse(tmp_path, "s", spending(target=independent(3, 1e-5) * 1.02), KEY)
            state = train(
                workdir, "s", jnp.int32(0), (), KEY, rounds=9, dispatch=dispatch,
                summarize=lambda info: [{}], permit=purse.permit, annotate=purse.records,
            )  # fmt: skip
        assert int(state) == 3 and runs == [1, 1, 1]
    log = read_log(tmp_path / "metrics.jsonl")
    assert [record["round"] for record in log] == [1, 2, 3] and log[-1]["epsilon"] > log[0]["epsilon"]


def test_secure_keys_are_of_the_operating_system(monkeypatch):
    first, second = (jax.random.key_data(fresh_key()) for _ in range(2))
    assert (first != second).any()
    monkeypatch.setattr(os, "urandom", lambda count: bytes(range(count)))
    np.testing.assert_array_equal(jax.random.key_data(fresh_key()), np.frombuffer(bytes(range(8)), np.uint32))


def test_patients_are_counted_and_are_the_unit_where_the_data_tell_them_apart():
    assert count_units(PATIENTS, "patient") == ([3, 2], 3)
    assert count_units(PATIENTS, "example") == ([6, 3], 1)
    assert count_units(PATIENTS, "site") == ([2, 2], 1)
    settings = FederationSettings(dp_epsilon=4.0, dp_noise_multiplier=20.0)
    plan = plan_privacy(settings, [(PATIENTS, {"s": BUDGET})])
    mechanism = plan.noise["s"].mechanism
    assert (mechanism.unit, mechanism.images, mechanism.units) == ("patient", 3, 3)
    # Two passes of two steps of two patients each.
    assert (mechanism.steps, mechanism.expected_batch_size, mechanism.noise_multiplier) == (4, 2, 20.0)
    assert plan.noise["s"].units == {"a": 3, "b": 2} and plan.report["units"] == {"a": 3, "b": 2}
    statement = plan.report["statement"]
    for words in ("one patient", "chosen by the data", "zero-out", "dp-accounting", "δ 1e-05", "Poisson"):
        assert words in statement


def test_sites_few_as_they_are_are_told_that_this_protects_little():
    settings = FederationSettings(dp_epsilon=4.0, dp_unit="site", dp_noise_multiplier=3.0)
    plan = plan_privacy(settings, [(PATIENTS, {"s": BUDGET})])
    mechanism = plan.noise["s"].mechanism
    assert (mechanism.sampling, mechanism.expected_batch_size, mechanism.steps) == ("fixed", 2.0, 1)
    assert "fewer than 50 sites" in plan.report["statement"]
    sampled = dataclasses.replace(settings, sampler="poisson", clients_per_round=1)
    mechanism = make_mechanism(sampled, BUDGET, PATIENTS)
    assert (mechanism.sampling, mechanism.expected_batch_size, mechanism.units) == ("poisson", 1.0, 2)


def test_all_stages_end_at_the_target():
    """What is solved for costs each client no more than the target, the worst nearly all of it."""
    settings = FederationSettings(dp_epsilon=3.0, dp_sampling="fixed", dp_batch_size=2)
    plan = plan_privacy(settings, [(PATIENTS, {"one": BUDGET, "two": BUDGET})])
    assert 2.9 < max(plan.report["epsilon"].values()) <= 3.0
    z = plan.report["noise_multiplier"]["one+two"]
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    event = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(z), 2 * 4 * 2)
    found = dp_accounting.pld.PLDAccountant(relation).compose(event).get_epsilon(1e-5)
    np.testing.assert_allclose(max(plan.report["epsilon"].values()), found, rtol=0.01)


def test_buffered_noise_is_planned_with_the_passes_of_the_whole_training():
    options = {"dp_sampling": "fixed", "dp_mechanism": "blt", "dp_buffers": 1}
    settings = FederationSettings(dp_epsilon=3.0, **options)
    mechanism = make_mechanism(settings, BUDGET, PATIENTS)
    scales, decays, factors = buffered_strategy_of([2, 1], 4 * 2, 1)
    assert (mechanism.strategy, mechanism.decays) == (scales, decays)
    assert mechanism.factors[2] == factors[2] and "Toeplitz" in mechanism.describe()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dp_unit": "site", "reduce": "median"}, r"--reduce: expected mean with --dp\.unit=site"),
        ({"dp_unit": "site", "topology": "gossip"}, "--topology: expected star"),
        ({"dp_unit": "site", "weighting": "examples"}, "--weighting: expected default or equal"),
        ({"dp_unit": "site", "sampler": "uniform", "clients_per_round": 1}, "--sampler: expected all or"),
        ({"dp_mechanism": "matrix"}, r"--dp\.sampling: expected fixed"),
        ({"dp_mechanism": "blt"}, r"--dp\.sampling: expected fixed with --dp\.mechanism=blt"),
        ({"dp_mechanism": "matrix", "dp_sampling": "fixed", "stragglers": 0.5}, "--stragglers: expected 0"),
        (
            {"dp_sampling": "fixed", "dp_microbatch_size": 3},
            r"--dp\.microbatch_size: expected a divisor of --dp\.batch_size=8",
        ),
        ({"patience": 3}, r"--patience: expected 0 with --dp\.epsilon"),
    ],
)
def test_combinations_without_a_guarantee_are_refused(changes, message):
    with pytest.raises(FlagError, match=message):
        check_federation(FederationSettings(dp_epsilon=4.0, **changes))
